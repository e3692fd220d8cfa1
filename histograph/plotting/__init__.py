"""Static figures of every stage: slides, graphs, embeddings, clusters, training and comparisons.

Each function draws on `ax` (or on a new figure when none is given) and returns the axes; nothing is shown
or saved for you, no global setting of matplotlib is touched, and space is in micrometres with y pointing
down, as on the slide.
"""

from .clusters import plot_clusters
from .comparison import plot_comparison
from .embedding import plot_embedding
from .graph import plot, plot_graph
from .slide import plot_slide
from .training import plot_training

__all__ = [
    "plot",
    "plot_clusters",
    "plot_comparison",
    "plot_embedding",
    "plot_graph",
    "plot_slide",
    "plot_training",
]

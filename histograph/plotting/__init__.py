"""Static figures of every stage: slides, graphs, embeddings, clusters, prototypes, training and comparisons.

Each function draws on `ax` (or on a new figure when none is given) and returns the axes; nothing is shown
or saved for you, no global setting of matplotlib is touched, and space is in micrometres with y pointing
down, as on the slide.
"""

from .anchors import plot_anchor_attention
from .attention import plot_attention, plot_attention_heads
from .clusters import plot_clusters
from .comparison import plot_comparison
from .embedding import plot_embedding
from .graph import plot, plot_graph
from .outlines import plot_outlines
from .prototypes import plot_prototype_regions, plot_prototypes
from .saliency import plot_saliency
from .slide import plot_slide
from .survival import plot_survival
from .training import plot_training

__all__ = [
    "plot",
    "plot_anchor_attention",
    "plot_attention",
    "plot_attention_heads",
    "plot_clusters",
    "plot_comparison",
    "plot_embedding",
    "plot_graph",
    "plot_outlines",
    "plot_prototype_regions",
    "plot_prototypes",
    "plot_saliency",
    "plot_slide",
    "plot_survival",
    "plot_training",
]

"""Questions put to embeddings: probes, honest splits, intervals and paired comparisons.

Every number here is out of fold (no row is scored by a model that has seen its patient) and comes with an
interval whose unit of resampling is the patient, because patches of one patient are not independent.
"""

from .bootstrap import bootstrap_interval
from .compare import compare
from .probes import knn_probe, linear_probe
from .result import ProbeResult
from .splits import Fold, grouped_split

__all__ = [
    "Fold",
    "ProbeResult",
    "bootstrap_interval",
    "compare",
    "grouped_split",
    "knn_probe",
    "linear_probe",
]

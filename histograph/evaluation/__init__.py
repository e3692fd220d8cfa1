"""Questions put to embeddings: probes, honest splits, intervals and paired comparisons.

Every number here is out of fold (no row is scored by a model that has seen its patient) and comes with an
interval whose unit of resampling is the patient, because patches of one patient are not independent.
"""

from .bootstrap import bootstrap_interval
from .compare import compare, compare_results
from .probes import knn_probe, linear_probe
from .result import ProbeResult
from .saliency import probe_score, saliency
from .split_table import SplitTable, read_split, tcga_patient
from .splits import Fold, check_split, grouped_split, patient_split
from .survival import survival_probe
from .survival_cox import cox_loss
from .survival_metrics import LogRank, concordance_index, log_rank, median_split
from .survival_result import SurvivalResult
from .survival_scores import score_risks
from .survival_table import read_survival_table

__all__ = [
    "Fold",
    "LogRank",
    "ProbeResult",
    "SplitTable",
    "SurvivalResult",
    "bootstrap_interval",
    "check_split",
    "compare",
    "compare_results",
    "concordance_index",
    "cox_loss",
    "grouped_split",
    "knn_probe",
    "linear_probe",
    "log_rank",
    "median_split",
    "patient_split",
    "probe_score",
    "read_split",
    "read_survival_table",
    "saliency",
    "score_risks",
    "survival_probe",
    "tcga_patient",
]

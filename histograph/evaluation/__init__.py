"""Questions put to embeddings: probes, honest splits, intervals and paired comparisons.

Every number here is out of fold (no row is scored by a model that has seen its patient) and comes with an
interval whose unit of resampling is the patient, because patches of one patient are not independent.
"""

from .agreement import prediction_probability
from .attention import class_attention, mass_mask
from .bags import slide_means
from .bootstrap import bootstrap_interval
from .compare import compare, compare_results
from .fold_tables import few_labels, read_folds
from .held_out import held_out_probe, held_out_regression
from .probes import knn_probe, linear_probe
from .regression import regression_probe
from .result import ProbeResult
from .saliency import probe_score, saliency
from .scores import RegressionResult, score_classes, score_values
from .segmentation import SegmentationScores, on_raster, segmentation_scores, segmentation_table
from .slide_probe import SlideProbeResult, fold_scores, mil_probe
from .split_table import SplitTable, read_split, tcga_patient
from .splits import Fold, check_split, grouped_split, patient_split
from .survival import survival_probe
from .survival_cox import cox_loss
from .survival_metrics import LogRank, concordance_index, log_rank, median_split
from .survival_result import SurvivalResult
from .survival_scores import score_risks
from .survival_table import read_survival_table
from .vote import Vote, neighbour_vote

__all__ = [
    "Fold",
    "LogRank",
    "ProbeResult",
    "RegressionResult",
    "SegmentationScores",
    "SlideProbeResult",
    "SplitTable",
    "SurvivalResult",
    "Vote",
    "bootstrap_interval",
    "check_split",
    "class_attention",
    "compare",
    "compare_results",
    "concordance_index",
    "cox_loss",
    "few_labels",
    "fold_scores",
    "grouped_split",
    "held_out_probe",
    "held_out_regression",
    "knn_probe",
    "linear_probe",
    "log_rank",
    "mass_mask",
    "median_split",
    "mil_probe",
    "neighbour_vote",
    "on_raster",
    "patient_split",
    "prediction_probability",
    "probe_score",
    "read_folds",
    "read_split",
    "read_survival_table",
    "regression_probe",
    "saliency",
    "score_classes",
    "score_risks",
    "score_values",
    "segmentation_scores",
    "segmentation_table",
    "slide_means",
    "survival_probe",
    "tcga_patient",
]

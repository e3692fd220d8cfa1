import numpy as np
import pytest
from sklearn import metrics as reference

from histograph.evaluation.metrics import check_metrics, confusion_scores, weighted_auc


@pytest.mark.parametrize("n_classes", [2, 4])
def test_scores_agree_with_sklearn_for_random_counts(n_classes: int) -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, n_classes, 60)
    predicted = np.where(rng.random(60) < 0.5, y, rng.integers(0, n_classes, 60))
    weight = rng.integers(0, 3, size=(5, 60))
    confusion = np.zeros((5, n_classes, n_classes))
    for b in range(5):
        np.add.at(confusion[b], (y, predicted), weight[b])
    found = confusion_scores(confusion, ["accuracy", "balanced_accuracy", "f1", "f1_weighted"])
    for b in range(5):
        rows = np.repeat(np.arange(60), weight[b])
        t, p = y[rows], predicted[rows]
        assert found["accuracy"][b] == pytest.approx(reference.accuracy_score(t, p))
        assert found["balanced_accuracy"][b] == pytest.approx(reference.balanced_accuracy_score(t, p))
        assert found["f1"][b] == pytest.approx(reference.f1_score(t, p, average="macro"))
        assert found["f1_weighted"][b] == pytest.approx(reference.f1_score(t, p, average="weighted"))


def test_classes_that_a_resample_lacks_are_left_out_of_means() -> None:
    confusion = np.zeros((1, 3, 3))
    confusion[0, 0, 0], confusion[0, 1, 0] = 2, 1
    found = confusion_scores(confusion, ["balanced_accuracy", "f1", "f1_weighted"])
    t, p = [0, 0, 1], [0, 0, 0]
    assert found["balanced_accuracy"][0] == pytest.approx(reference.balanced_accuracy_score(t, p))
    assert found["f1"][0] == pytest.approx(reference.f1_score(t, p, average="macro", zero_division=0))
    assert found["f1_weighted"][0] == pytest.approx(
        reference.f1_score(t, p, average="weighted", zero_division=0)
    )


@pytest.mark.parametrize("decimals", [1, 8])
def test_binary_auc_agrees_with_sklearn_with_ties_and_weights(decimals: int) -> None:
    rng = np.random.default_rng(1)
    y = rng.integers(0, 2, 80)
    score = np.round(rng.random(80) + 0.3 * y, decimals) / 2
    weight = rng.integers(0, 4, size=(4, 80)).astype(float)
    found = weighted_auc(y, np.column_stack([1 - score, score]), np.zeros(80, int), weight)
    expected = [reference.roc_auc_score(y, score, sample_weight=w) for w in weight]
    assert found == pytest.approx(expected)


def test_multiclass_auc_is_macro_one_versus_rest() -> None:
    rng = np.random.default_rng(2)
    y = rng.integers(0, 3, 90)
    p = rng.dirichlet(np.ones(3), 90)
    found = weighted_auc(y, p, np.zeros(90, int), np.ones((1, 90)))
    assert found[0] == pytest.approx(reference.roc_auc_score(y, p, multi_class="ovr", average="macro"))


def test_auc_over_strata_counts_pairs_within_each() -> None:
    rng = np.random.default_rng(3)
    y, score, fold = rng.integers(0, 2, 70), rng.random(70), rng.integers(0, 3, 70)
    right = total = 0.0
    for i in np.flatnonzero(y == 1):
        for j in np.flatnonzero((y == 0) & (fold == fold[i])):
            right += (score[i] > score[j]) + 0.5 * (score[i] == score[j])
            total += 1
    found = weighted_auc(y, np.column_stack([1 - score, score]), fold, np.ones((1, 70)))
    assert found[0] == pytest.approx(right / total)
    # Shifting all scores of one fold, as another model might, changes nothing.
    shifted = score + 5.0 * (fold == 1)
    again = weighted_auc(y, np.column_stack([1 - shifted, shifted]), fold, np.ones((1, 70)))
    assert again[0] == pytest.approx(found[0])


def test_auc_without_a_pair_is_nan() -> None:
    assert np.isnan(weighted_auc(np.zeros(3, int), np.ones((3, 2)), np.zeros(3, int), np.ones((1, 3))))[0]


@pytest.mark.parametrize("names", [["acuracy"], [], ["auc", "auc"]])
def test_names_are_checked(names: list[str]) -> None:
    with pytest.raises(ValueError, match="balanced_accuracy"):
        check_metrics(names)

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from histograph.evaluation import (
    Fold,
    compare_results,
    fold_scores,
    grouped_split,
    knn_probe,
    mil_probe,
    slide_means,
)
from histograph.evaluation.bags import as_bags
from histograph.evaluation.slide_training import HeadTraining, _scale
from histograph.nn import AttentionHead, MeanHead

FAST = {"epochs": 5, "lr": 0.01, "n_boot": 50, "batch_size": 4, "folds": 3}


def cohort(patients=24, classes=2, shift=2.0, seed=0, dim=5):
    """Two slides a patient, of 3 to 6 regions; the class is a shift of all regions."""
    rng = np.random.default_rng(seed)
    groups = np.repeat([f"p{i}" for i in range(patients)], 2)
    y = np.repeat(rng.permutation(np.arange(patients) % classes), 2)
    z = [rng.normal(size=(rng.integers(3, 7), dim)) + shift * np.eye(classes, dim)[label] for label in y]
    return z, y, groups


def hidden_signal(slides=60, seed=0):
    """Slides of mean 0, in half of which two regions lie opposite each other."""
    rng = np.random.default_rng(seed)
    y, z = np.arange(slides) % 2, []
    for label in y:
        part = rng.normal(size=(10, 4))
        if label:
            part[:2] = 0.3 * part[:2] + np.array([[6.0, 0, 0, 0], [-6.0, 0, 0, 0]])
        z.append(part - part.mean(axis=0))
    return z, y


@pytest.mark.parametrize("head", ["mean", "attention", "clam", "transformer"])
def test_every_head_learns_a_plain_signal(head):
    z, y, groups = cohort()
    options = {} if head == "mean" else {"dropout": 0.0}
    result = mil_probe(z, y, groups=groups, head=head, hidden_dim=12, **FAST, **options)
    value, low, high = result.metrics["auc"]
    assert value > 0.9 and low <= value <= high
    assert result.probe == head and result.n == 48 and result.n_groups == 24
    table = result.predictions
    assert table["row"].tolist() == list(range(48)) and table["group"].tolist() == groups.tolist()
    np.testing.assert_allclose(table[["p_0", "p_1"]].sum(axis=1), 1)
    for _, part in table.groupby("group"):
        assert part["fold"].nunique() == 1


def test_noise_has_chance_in_its_interval():
    z, y, groups = cohort(shift=0.0)
    result = mil_probe(z, y, groups=groups, head="attention", hidden_dim=8, **FAST | {"n_boot": 300})
    _, low, high = result.metrics["auc"]
    assert low < 0.5 < high


def test_attention_finds_what_the_mean_cannot():
    z, y = hidden_signal()
    settings = FAST | {"epochs": 30, "n_boot": 200}
    means = np.stack([part.mean(axis=0) for part in z])
    np.testing.assert_allclose(means, 0, atol=1e-12)
    blind = mil_probe(z, y, head="mean", hidden_dim=8, metrics=("auc",), **settings)
    seeing = mil_probe(z, y, head="attention", hidden_dim=16, dropout=0.0, metrics=("auc",), **settings)
    assert seeing.metrics["auc"][0] > 0.95
    assert blind.metrics["auc"][1] < 0.6
    frame = compare_results({"mean": blind, "attention": seeing}).set_index("name")
    assert frame.loc["attention", "difference_low"] > 0
    # the regions that tell get more than their share
    table = seeing.attention.assign(place=lambda t: t["row"] % 10, y=lambda t: y[t["slide"]])
    shares = table[table["y"] == 1].groupby("place")["weight"].mean()
    assert shares[[0, 1]].sum() > 0.4


def test_attention_is_of_every_region_once_and_named_by_its_row():
    z, y, groups = cohort()
    plain = FAST | {"hidden_dim": 8, "dropout": 0.0}  # dropout falls on regions in their order
    lists = mil_probe(z, y, groups=groups, head="attention", **plain)
    sums = lists.attention.groupby("slide")["weight"].sum()
    np.testing.assert_allclose(sums, 1, atol=1e-6)
    assert sorted(lists.attention["row"]) == list(range(sum(map(len, z))))
    # the same regions, mixed: the same result, rows by their new numbers
    slide = np.repeat(np.arange(len(z)), [len(part) for part in z])
    order = np.random.default_rng(1).permutation(len(slide))
    mixed = mil_probe(np.concatenate(z)[order], y, slide[order], groups, head="attention", **plain)
    probability = ["p_0", "p_1"]
    np.testing.assert_allclose(mixed.predictions[probability], lists.predictions[probability], atol=1e-4)
    before = lists.attention.set_index("row")["weight"]
    after = mixed.attention.assign(row=order[mixed.attention["row"]]).set_index("row")["weight"]
    np.testing.assert_allclose(after.sort_index(), before.sort_index(), atol=1e-4)


def test_it_is_repeatable_and_leaves_the_generators_alone():
    z, y, groups = cohort()
    state, drawn = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    results = [
        mil_probe(z, y, groups=groups, head="transformer", hidden_dim=6, seed=seed, **FAST)
        for seed in (1, 1, 2)
    ]
    assert torch.equal(state, torch.get_rng_state())
    assert np.array_equal(drawn, np.random.get_state()[1])  # noqa: NPY002
    assert results[0].predictions.equals(results[1].predictions)
    assert results[0].attention.equals(results[1].attention)
    assert not np.allclose(results[0].predictions["p_0"], results[2].predictions["p_0"])


def test_folds_of_ones_own_may_overlap():
    z, y, groups = cohort(12)
    folds = grouped_split(groups, y, 3, seed=0)[:2] + grouped_split(groups, y, 4, seed=1)[:2]
    result = mil_probe(z, y, groups=groups, head="mean", hidden_dim=8, **FAST | {"folds": folds})
    table = result.predictions
    for number, fold in enumerate(folds):
        assert sorted(table.loc[table["fold"] == number, "row"]) == fold.test.tolist()
    assert result.n == len(np.unique(np.concatenate([fold.test for fold in folds]))) < len(table)
    each = fold_scores(result, ("auc", "accuracy"))
    assert each["fold"].tolist() == [0, 1, 2, 3] and each["n"].tolist() == [len(f.test) for f in folds]
    for row in each.itertuples():
        part = table[table["fold"] == row.fold]
        assert row.auc == pytest.approx(roc_auc_score(part["y"], part["p_1"]))
        assert row.accuracy == pytest.approx(np.mean(part["y"] == part["predicted"]))


def test_folds_by_number_are_those_of_the_other_probes():
    z, y, groups = cohort()
    ours = mil_probe(z, y, groups=groups, head="mean", hidden_dim=8, **FAST)
    slide = np.repeat(np.arange(len(z)), [len(part) for part in z])
    theirs = knn_probe(slide_means(np.concatenate(z), slide), y, 5, groups, folds=3, n_boot=50)
    assert ours.predictions["fold"].tolist() == theirs.predictions["fold"].tolist()
    assert len(compare_results({"knn": theirs, "mil": ours})) == 6  # paired, or it would be refused


def test_three_classes_are_scored_one_against_the_rest():
    z, y, groups = cohort(30, classes=3)
    names = np.array(["CCRCC", "PRCC", "CHRCC"])[y]
    folds = [grouped_split(groups, names, 3)[0]]
    result = mil_probe(
        z, names, groups=groups, head="attention", hidden_dim=12, **FAST | {"folds": folds}, metrics=("auc",)
    )
    table = result.predictions
    expected = roc_auc_score(
        table["y"], table[[f"p_{name}" for name in sorted(set(names))]], multi_class="ovr", average="macro"
    )
    assert result.metrics["auc"][0] == pytest.approx(expected)
    assert fold_scores(result)["auc"].iloc[0] == pytest.approx(expected)


def test_a_share_keeps_patients_by_class_and_the_test_part(monkeypatch):
    z, y, groups = cohort(40)
    seen = []
    fit = HeadTraining.fit

    def spy(self, make, bags, slides, *rest):
        seen.append(slides)
        return fit(self, make, bags, slides, *rest)

    monkeypatch.setattr(HeadTraining, "fit", spy)
    settings = FAST | {"epochs": 1}
    full, quarter = (
        mil_probe(z, y, groups=groups, head="mean", hidden_dim=4, share=share, **settings)
        for share in (1.0, 0.25)
    )
    assert full.predictions["fold"].equals(quarter.predictions["fold"])
    for whole, part in zip(seen[:3], seen[3:6], strict=True):
        assert set(part) < set(whole)
        kept = pd.unique(groups[part])
        assert len(kept) == pytest.approx(0.25 * len(pd.unique(groups[whole])), abs=1)
        assert set(np.flatnonzero(np.isin(groups, kept))) == set(part)  # whole patients
        assert abs(np.mean(y[part]) - np.mean(y[whole])) < 0.15
    mil_probe(z, y, groups=groups, head="attention", hidden_dim=4, share=0.25, **settings)
    for first, second in zip(seen[3:6], seen[6:], strict=True):  # every head learns from the same patients
        assert np.array_equal(first, second)


def test_slides_are_drawn_by_the_inverse_frequency_of_their_class():
    code = np.array([0] * 90 + [1] * 10)
    for balance, expected in ((True, 0.5), (False, 0.1)):
        training = HeadTraining(epochs=40, batch_size=8, balance=balance)
        steps = list(training._steps(code, 2, np.random.default_rng(0)))
        assert len(steps) == 40 * 13 and sum(map(len, steps)) == 4000
        assert np.mean(code[np.concatenate(steps)]) == pytest.approx(expected, abs=0.03)
        if not balance:
            assert np.array_equal(np.sort(np.concatenate(steps[:13])), np.arange(100))


def test_columns_are_scaled_by_training_slides_of_equal_weight():
    rng = np.random.default_rng(0)
    z = [rng.normal(size=(n, 3)) * [1, 100, 0] for n in (2, 50, 7)]
    bags = as_bags(z)
    shift, scale = _scale(bags, np.array([0, 1]))
    means = np.mean([part.mean(axis=0) for part in z[:2]], axis=0)
    squares = np.mean([(part**2).mean(axis=0) for part in z[:2]], axis=0)
    np.testing.assert_allclose(shift, means, atol=1e-12)
    np.testing.assert_allclose(scale[:2], np.sqrt(squares - means**2)[:2])
    assert scale[2] == 1


def test_scaling_makes_units_irrelevant():
    z, y, groups = cohort()
    big = [1000 * part + 7 for part in z]
    same = [
        mil_probe(part, y, groups=groups, head="mean", hidden_dim=4, **FAST).predictions["p_1"]
        for part in (z, big)
    ]
    np.testing.assert_allclose(*same, atol=1e-3)
    raw = mil_probe(big, y, groups=groups, head="mean", hidden_dim=4, standardise=False, **FAST)
    assert not np.allclose(raw.predictions["p_1"], same[0], atol=0.05)


def test_a_head_of_ones_own():
    z, y, groups = cohort()
    result = mil_probe(z, y, groups=groups, head=lambda dim, classes: MeanHead(dim, classes, 8), **FAST)
    named = mil_probe(z, y, groups=groups, head="mean", hidden_dim=8, **FAST)
    assert result.predictions.equals(named.predictions)
    with pytest.raises(ValueError, match=r"options \['hidden_dim'\] are for named heads"):
        mil_probe(z, y, head=AttentionHead, hidden_dim=8)


def test_slide_means_are_the_plain_ones():
    rng = np.random.default_rng(0)
    z, slide = rng.normal(size=(30, 4)), rng.permutation(np.arange(30) % 7)
    expected = [z[slide == s].mean(axis=0) for s in range(7)]
    np.testing.assert_allclose(slide_means(z, slide), expected, atol=1e-12)
    np.testing.assert_allclose(slide_means(torch.tensor(z), torch.tensor(slide)), expected, atol=1e-12)
    with pytest.raises(ValueError, match=r"found none of 1 of 8 slides \(first: 7\)"):
        slide_means(z, slide, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": "median"}, "head must be a function or among mean, attention, clam, transformer"),
        ({"share": 0.0}, r"share must be in \(0, 1\], found 0"),
        ({"epochs": 0}, "epochs must be at least 1"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"weight_decay": -1.0}, "weight_decay must be at least 0"),
        ({"folds": []}, "at least one fold"),
        ({"folds": [("a", "b")]}, "two lists of row numbers"),
        ({"folds": [Fold(np.array([0, 1]), np.array([99]))]}, "distinct row numbers from 0 to 47"),
        ({"folds": [Fold(np.arange(10), np.arange(9, 20))]}, r"folds\[0\]: train and test share"),
        ({"metrics": ("kappa",)}, "metrics must be"),
        ({"lr": 1e30, "epochs": 3}, "lower lr"),
    ],
    ids=str,
)
def test_mistakes_are_named(change, message):
    z, y, groups = cohort()
    with pytest.raises((ValueError, FloatingPointError), match=message):
        mil_probe(z, y, groups=groups, **{"head": "mean"} | FAST | change)


def test_a_fold_that_would_train_without_a_class_is_refused():
    z, y, groups = cohort()
    train = np.flatnonzero(y == 0)
    fold = Fold(train[:-2], np.r_[train[-2:], np.flatnonzero(y == 1)])
    with pytest.raises(ValueError, match=r"folds\[0\] would train without class \[1\]"):
        mil_probe(z, y, groups=groups, head="mean", **FAST | {"folds": [fold]})


@pytest.mark.parametrize(
    ("z", "slide", "message"),
    [
        (np.zeros((4, 2)), None, "found one matrix: give slide"),
        ([], None, "found none"),
        ([np.zeros((2, 2)), np.zeros((2, 3))], None, "of one width D"),
        ([np.zeros((2, 2)), np.zeros((0, 2))], None, "found none of 1 of 2 slides"),
        ([np.zeros((2, 2)), np.full((1, 2), np.nan)], None, "z must be finite"),
        (np.zeros((3, 2)), [0, 1], "whole number of the slide of each of 3 rows"),
        (np.zeros((2, 2)), ["a", "b"], "whole number of the slide of each of 2 rows"),
        (np.zeros((2, 2)), [0, 2], "numbers from 0 to 1, found 0 to 2"),
        (np.zeros((2, 2)), [1, 1], "found none of 1 of 2 slides"),
        ([np.zeros((1, 2))], None, "for each of 2 slides, found 1"),
    ],
)
def test_wrong_bags_are_named(z, slide, message):
    with pytest.raises(ValueError, match=message):
        as_bags(z, slide, n=2)

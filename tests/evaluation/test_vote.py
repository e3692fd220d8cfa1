from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from histograph.evaluation import Vote, neighbour_vote, vote

GOLDEN = Path(__file__).parent.parent / "data" / "golden"


@pytest.mark.parametrize("case", ["c0", "c1"])
def test_golden_top_accuracies_of_dino(case: str) -> None:
    with np.load(GOLDEN / "dino" / "knn.npz") as file:
        a = {name[3:]: file[name] for name in file.files if name.startswith(case)}
    found = neighbour_vote(a["train"], a["train_labels"], a["test"], int(a["K"]), float(a["T"]))
    for top in (1, 5):
        assert 100 * found.accuracy(a["test_labels"], top) == pytest.approx(float(a[f"top{top}"]), abs=1e-9)


@pytest.mark.parametrize("case", ["c0", "c1"])
def test_golden_scores_of_gcmae(case: str) -> None:
    with np.load(GOLDEN / "gcmae" / "knn.npz") as file:
        a = {name[3:]: file[name] for name in file.files if name.startswith(case)}
    found = neighbour_vote(a["train"], a["labels"], a["test"], int(a["K"]), 0.07)
    assert np.allclose(found.scores, a["scores"], rtol=1e-5, atol=0)
    assert (found.predicted == a["pred"]).all()


def test_even_votes_are_those_of_sklearn() -> None:
    rng = np.random.default_rng(0)
    train, test, y = rng.normal(size=(90, 4)), rng.normal(size=(40, 4)) + 0.2, rng.integers(0, 6, 90)
    model = KNeighborsClassifier(5).fit(train, y)  # the evaluation of the pathology repository
    found = neighbour_vote(train, y, test, k=5, temperature=None, distance="euclidean")
    assert np.allclose(found.probability, model.predict_proba(test))
    assert (found.predicted == model.predict(test)).all()


def test_blocks_of_test_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    arrays = rng.normal(size=(30, 3)), rng.integers(0, 3, 30), rng.normal(size=(25, 3))
    whole = neighbour_vote(*arrays, k=7)
    monkeypatch.setattr(vote, "_BLOCK", 90)
    assert np.allclose(neighbour_vote(*arrays, k=7).scores, whole.scores, rtol=1e-12)


def test_of_equally_near_rows_the_first_vote_and_of_equal_classes_the_first_wins() -> None:
    train = np.array([[1.0, 0], [1, 0], [2, 0], [1, 0], [0, 1]])
    found = neighbour_vote(train, list("cbaab"), [[1.0, 0]], k=2)
    assert found.scores[0] == pytest.approx([0, np.exp(1 / 0.07), np.exp(1 / 0.07)])
    assert found.predicted.tolist() == ["b"]
    assert found.accuracy(["b"], top=1) == 1 and found.accuracy(["c"], top=1) == 0
    assert found.accuracy(["c"], top=2) == 1


def test_fewer_classes_than_asked_for_are_all_named_and_unknown_ones_are_missed() -> None:
    rng = np.random.default_rng(2)
    found = neighbour_vote(rng.normal(size=(20, 3)), np.arange(20) % 3, rng.normal(size=(10, 3)), k=3)
    assert found.accuracy(np.arange(10) % 3, top=5) == 1.0
    assert found.accuracy(np.full(10, 7), top=5) == 0.0


def test_a_lower_temperature_trusts_the_nearest() -> None:
    train = np.array([[1.0, 0.0], [0.8, 0.6], [0.7, 0.714]])
    cold, warm = (neighbour_vote(train, [0, 1, 1], [[1.0, 0.1]], k=3, temperature=t) for t in (0.05, 5.0))
    assert cold.predicted[0] == 0 and warm.predicted[0] == 1


def test_length_of_a_row_does_not_matter_and_a_row_of_zeros_is_alike_to_nothing() -> None:
    rng = np.random.default_rng(3)
    train, y, test = rng.normal(size=(12, 3)), np.arange(12) % 2, rng.normal(size=(5, 3))
    scaled = neighbour_vote(train * rng.random((12, 1)), y, 9 * test, k=4)
    assert np.allclose(scaled.scores, neighbour_vote(train, y, test, k=4).scores)
    assert neighbour_vote(train, y, np.zeros((1, 3)), k=4).scores.sum() == 4.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "between 1 and the 4"),
        ({"k": 5}, "between 1 and the 4"),
        ({"temperature": 0.0}, "must be positive"),
        ({"temperature": 1e-4}, "at least 0.002"),
        ({"distance": "euclidean"}, "temperature=None"),
        ({"distance": "manhattan"}, "found 'manhattan'"),
    ],
)
def test_mistakes_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        neighbour_vote(np.eye(4), [0, 1, 0, 1], np.eye(4), **{"k": 2, **options})


def test_shapes_must_fit() -> None:
    with pytest.raises(ValueError, match="same number of columns, found 4 and 3"):
        neighbour_vote(np.eye(4), [0, 1, 0, 1], np.eye(3), k=1)
    found = Vote(np.eye(3), np.arange(3))
    with pytest.raises(ValueError, match="one class for each of 3 rows"):
        found.accuracy([0, 1])
    with pytest.raises(ValueError, match="top must be at least 1"):
        found.accuracy([0, 1, 2], top=0)

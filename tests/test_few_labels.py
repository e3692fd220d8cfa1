"""The experiments with few labels: their scores and intervals, and both scripts end to end on tiny made-up data."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import f1_score, roc_auc_score

import histograph as hg

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from hmgdm import crchistophenotypes, few_labels, pcam
from hmgdm.few_labels import Scores, auc, confusion_by_unit, weighted_f1


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_weighted_f1_of_drawn_units_is_that_of_their_rows(rng):
    y, found, unit = rng.integers(0, 4, 200), rng.integers(0, 4, 200), rng.integers(0, 6, 200)
    counts = confusion_by_unit(y, found, unit, 6, 4)
    assert counts.sum() == 200
    weights = np.array([2, 0, 1, 1, 0, 3])
    rows = np.concatenate([np.flatnonzero(unit == i) for i in np.repeat(np.arange(6), weights)])
    assert weighted_f1(counts, weights[None])[0] == pytest.approx(
        f1_score(y[rows], found[rows], average="weighted")
    )


def test_auc_with_ties_and_weights(rng):
    y, score = rng.integers(0, 2, 90), rng.integers(0, 12, 90).astype(float)
    weights = rng.integers(0, 4, 90)
    rows = np.repeat(np.arange(90), weights)
    assert auc((score, y), weights[None])[0] == pytest.approx(roc_auc_score(y[rows], score[rows]))


def test_difference_knows_better_from_equal(rng):
    scores = Scores(auc)
    for seed in range(4):
        y = rng.integers(0, 2, 300)
        for name, signal in (("good", 2.0), ("same", 0.5), ("base", 0.5)):
            scores.add("all", name, seed, (signal * y + rng.normal(size=300), y), 300)
    value, low, high = scores.difference("all", "good", "base")
    assert 0.1 < low < value < high
    _, low, high = scores.difference("all", "same", "base")
    assert low < 0 < high


def test_edges_of_the_penalty_grid_are_not_taken_blindly(rng):
    z = rng.normal(size=(60, 5))
    y = (z[:, 0] > 0).astype(int)
    scale, model = few_labels.fitted(z, y, seed=0)
    assert max(few_labels.PENALTIES) == model.C and (model.predict(scale.transform(z)) == y).mean() > 0.9
    noise = few_labels.fitted(z, rng.integers(0, 2, 60), seed=0)[1]
    assert min(few_labels.PENALTIES) == noise.C
    single = few_labels.fitted(z[:4], np.array([0, 0, 1, 2]), seed=0)[1]  # too few of a class to choose with
    assert few_labels.PENALTIES[2] == single.C


def test_hand_made_features_of_crops_are_those_of_each_crop_alone(rng):
    crops = rng.integers(0, 256, (40, 20, 20, 3), dtype=np.uint8)
    together = crchistophenotypes.hand_made(crops, 8.0)
    assert together.shape == (40, 33)
    np.testing.assert_allclose(crchistophenotypes.hand_made(crops[35:36], 8.0)[0], together[35], rtol=1e-6)


def test_labelled_cells_come_from_training_images_alone(rng):
    image = np.repeat(np.arange(8), 25)
    y = rng.integers(-1, 4, 200)
    train = np.array([1, 2, 5, 7])
    some = crchistophenotypes.labelled(y, image, train, "cells", 0.2, rng)
    assert set(image[some]) <= set(train) and (y[some] >= 0).all() and len(np.unique(some)) == len(some)
    whole = crchistophenotypes.labelled(y, image, train, "images", 0.5, rng)
    chosen = np.unique(image[whole])
    assert len(chosen) == 2 and len(whole) == (np.isin(image, chosen) & (y >= 0)).sum()


def test_around_is_the_mean_of_the_neighbours():
    pos = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [50.0, 0.0]])
    graph = hg.graphs.layer(hg.graphs.example_graph(), "cell")
    graph.pos, graph.x = pos, torch.zeros(4, 1)
    values = np.array([[1.0], [2.0], [3.0], [10.0]])
    found = crchistophenotypes.around(values, [graph])
    np.testing.assert_allclose(found[:, 0], [5.0, 14 / 3, 13 / 3, 2.0])


def blots(side, seed, shade):
    rng = np.random.default_rng(seed)
    image = np.repeat(np.repeat(rng.integers(90, 220, (side // 12, side // 12, 3)), 12, 0), 12, 1)
    return np.clip(image - 60 * shade, 0, 255).astype(np.uint8)


def test_cell_types_end_to_end(tmp_path, capsys):
    (tmp_path / "images").mkdir()
    rng, rows = np.random.default_rng(1), []
    for number in range(8):
        Image.fromarray(blots(180, number, number % 2)).save(tmp_path / "images" / f"img{number}.png")
        for x, y in rng.uniform(10, 170, (30, 2)):
            kind = crchistophenotypes.TYPES[(number + int(x > 90)) % 4]
            rows.append((f"img{number}", x, y, kind))
    table = pd.DataFrame(rows, columns=["image", "x", "y", "cell_type"])
    table.drop(columns="cell_type").to_csv(tmp_path / "detections.csv", index=False)
    table.iloc[::2].to_csv(tmp_path / "classified_nuclei.csv", index=False)
    options = ["--seeds", "1", "--epochs", "1", "--draws", "1", "--codes", "6", "--supervised-epochs", "1"]
    assert crchistophenotypes.main(["--data", str(tmp_path), *options]) == 0
    printed = capsys.readouterr().out
    for name in crchistophenotypes.METHODS:
        assert f"| {name} | " in printed
    assert "not run" not in printed and printed.count(" minus ") == len(crchistophenotypes.COMPARED)


def test_patches_end_to_end(tmp_path, capsys):
    for number in range(36):
        folder = tmp_path / str(number % 2)
        folder.mkdir(exist_ok=True)
        Image.fromarray(blots(96, number, number % 2)).save(folder / f"{number}.png")
    options = ["--patches", "36", "--seeds", "1", "--epochs", "1", "--draws", "1", "--codes", "4"]
    assert pcam.main(["--data", str(tmp_path), *options, "--supervised-epochs", "1"]) == 0
    printed = capsys.readouterr().out
    for name in pcam.METHODS:
        assert f"| {name} | " in printed
    with pytest.raises(SystemExit, match="--patches"):
        pcam.main(["--data", str(tmp_path), "--patches", "60"])


@pytest.mark.parametrize("script", [crchistophenotypes, pcam])
def test_without_data_they_skip(script, capsys):
    assert script.main([]) == 0
    assert capsys.readouterr().out.startswith("skipped: give --data FOLDER")

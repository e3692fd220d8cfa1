"""The scripts of the default weights, on a few made-up patches."""

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from histograph.features import read_encoder

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from weights import ablations, judge, supervised, train


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Dark and light patches, laid out as PatchCamelyon in folders."""
    root = tmp_path_factory.mktemp("pcam")
    rng = np.random.default_rng(0)
    for split, count in (("train", 10), ("valid", 4)):
        for label in (0, 1):
            out = root / split / str(label)
            out.mkdir(parents=True)
            for i in range(count):
                image = rng.integers(60 + 90 * label, 150 + 90 * label, (96, 96, 3), dtype=np.uint8)
                Image.fromarray(image).save(out / f"{i}.png")
    return root


@pytest.mark.parametrize(
    ("main", "arguments"),
    [(train.main, ["gcmae"]), (judge.main, []), (ablations.main, []), (supervised.main, [])],
)
def test_without_data_they_say_what_is_needed(main, arguments, capsys):
    assert main(arguments) == 0
    assert capsys.readouterr().out.startswith("skipped: give --data FOLDER")


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(
        SystemExit, match=r"must be a folder with train.tar or train/0 and train/1 of PatchCamelyon; found "
    ):
        train.main(["dino", "--data", str(tmp_path)])


@pytest.mark.parametrize("method", ["gcmae", "dino"])
def test_what_is_trained_is_judged_and_written(method, folder, tmp_path, capsys):
    train.main([method, "--data", str(folder), "--epochs", "1", "--out", str(tmp_path)])
    assert "20 patches, 1 epochs" in capsys.readouterr().out
    trained = tmp_path / f"{method} epochs=1 seed=0" / "method.safetensors"
    assert trained.is_file() and trained.with_name("log.csv").is_file()
    written = tmp_path / "vit.safetensors"
    judge.main([str(trained), "--data", str(folder), "--write", str(written)])
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    rows = [line.split(" | ")[0].strip("| ") for line in table[2:]]
    assert rows == [judge.HAND, *(f"{trained}, {tokens}" for tokens in judge.CHOICES)]
    assert "1.000" in table[2]  # dark or light is easy
    encoder = read_encoder(written)
    assert (encoder.mpp, encoder.size_px, encoder.step_px) == (judge.MPP, 96 if method == "gcmae" else 64, 8)
    side = encoder.size_px
    assert encoder.encode(np.zeros((2, side, side, 3), np.uint8)).shape[1] in (192, 384)
    assert written.stat().st_size < 25e6


def test_ablations_compare_each_row_with_the_full_method_and_train_once(folder, tmp_path, capsys):
    rows = [ablations.HAND, ablations.UNTRAINED, ablations.FULL, "without contrast"]
    arguments = [
        "--data",
        str(folder),
        "--patches",
        "20",
        "--epochs",
        "1",
        "--seeds",
        "1",
        "--out",
        str(tmp_path),
    ]
    ablations.main([*arguments, "--only", *rows])
    first = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert [line.split(" | ")[0].strip("| ") for line in first[2:6]] == rows
    assert first[4].endswith("+0.000 [+0.000, +0.000] | +0.000 [+0.000, +0.000] |")
    trained = sorted(path.name for path in tmp_path.iterdir())
    assert trained == ["GCMAE_patches=20_epochs=1_seed=0", "without_contrast_patches=20_epochs=1_seed=0"]
    written = (tmp_path / trained[0] / "method.safetensors").stat().st_mtime_ns
    ablations.main([*arguments, "--only", *rows])
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")] == first
    assert (tmp_path / trained[0] / "method.safetensors").stat().st_mtime_ns == written


@pytest.mark.parametrize("start", [[], ["--start", "histograph-vit"]])
def test_with_labels_dark_is_told_from_light(start, folder, capsys):
    arguments = ["--data", str(folder), "--epochs", "3", "--batch", "5", "--lr", "1e-3", *start]
    assert supervised.main(arguments) == 0
    row = capsys.readouterr().out.splitlines()[-1].split(" | ")
    assert row[:2] == [f"| {start[-1] if start else 'random weights'}", "3"]
    assert row[3].startswith("1.000 [1.000")  # in order; the threshold needs more steps

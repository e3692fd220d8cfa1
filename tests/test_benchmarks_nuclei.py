"""The benchmark of nuclei, on corners of two real images."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import nuclei as script

DATA = Path(__file__).parent / "data" / "nuclei"


def cells(line):
    return [cell.strip() for cell in line.strip("| \n").split("|")]


def test_without_data_it_skips(capsys):
    assert script.main([]) == 0
    assert capsys.readouterr().out.startswith("skipped: give --data FOLDER")


def test_table_and_rows(tmp_path, capsys):
    csv, markdown = tmp_path / "rows.csv", tmp_path / "table.md"
    options = ["--mpp", "0.4", "--working-mpp", "0.5", "--csv", str(csv), "--markdown", str(markdown)]
    backends = ["classical", "stardist-torch:no_such_folder"]
    assert script.main(["--data", str(DATA), *options, "--backends", *backends]) == 0
    printed = capsys.readouterr().out
    assert "stardist-torch:no_such_folder: left out, " in printed
    lines = markdown.read_text().splitlines()
    assert "\n".join(lines) in printed
    assert len({line.count("|") for line in lines}) == 1
    head = cells(lines[0])
    assert [cells(line)[:2] for line in lines[2:]] == [["classical", "2"], [script.RECIPE, "2"]]
    rows = pd.read_csv(csv)
    assert rows["image"].tolist() == 2 * sorted(path.name for path in (DATA / "images").iterdir())
    for line, (name, part) in zip(lines[2:], rows.groupby("backend", sort=False)):
        assert cells(line)[0] == name
        for title, column in (("F1@0.5", "f1@0.5"), ("AJI", "aji"), ("Dice", "dice")):
            low, high = sorted(part[column])
            assert cells(line)[head.index(title)] == f"{part[column].mean():.3f} ({low:.3f} to {high:.3f})"
    # these nuclei are dark and apart: what finds nothing near them is broken
    assert rows["dice"].min() > 0.6 and rows["f1@0.5"].min() > 0.3
    assert (rows["s_per_megapixel"] > 0).all()
    labels = [np.asarray(Image.open(path)) for path in sorted((DATA / "labels").iterdir())]
    assert rows["n_truth"].tolist() == 2 * [len(np.unique(label[label > 0])) for label in labels]


def test_only_the_first_images(tmp_path, capsys):
    script.main(["--data", str(DATA), "--mpp", "0.4", "--limit", "1", "--backends", "classical"])
    assert "Means over 1 images" in capsys.readouterr().out


def copied(tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(DATA, folder)
    return folder, sorted((folder / "labels").iterdir())[0]


def test_folders_as_they_come(tmp_path):
    folder, label = copied(tmp_path)
    label.rename(label.with_name("a. b.c.PNG"))
    image = next(path for path in (folder / "images").iterdir() if path.stem == label.stem)
    image.rename(image.with_name(f"a. b.c{image.suffix.upper()}"))
    (folder / "images" / "._a. b.c.png").write_bytes(b"of the system")
    (folder / "images" / "older.png").mkdir()
    found = script.pairs(folder)
    assert len(found) == 2 and "a. b.c.PNG" in {pair.label.name for pair in found}
    for pair in found:
        pixels, labels = pair.read(0.4)
        assert pixels.shape[:2] == labels.shape
    with pytest.raises(SystemExit):  # before hours of work, not after
        script.main(["--data", str(folder), "--csv", str(tmp_path / "nowhere" / "a.csv")])


def test_a_bad_folder_is_named(tmp_path):
    def message(folder):
        with pytest.raises(SystemExit) as stopped:
            script.main(["--data", str(folder), "--mpp", "0.4", "--backends", "classical"])
        return str(stopped.value)

    folder, label = copied(tmp_path)
    assert "found no " in message(tmp_path) and "images" in message(tmp_path)
    Image.fromarray(np.ones((3, 4), np.uint16)).save(label)
    assert "as large as its image, 128 x 112 px; found 4 x 3" in message(folder)
    Image.fromarray(np.ones((112, 128, 3), np.uint8)).save(label)
    assert "one channel of whole numbers" in message(folder)
    label.write_bytes(b"no picture")
    assert f"{label.name}: cannot be read" in message(folder)
    label.unlink()
    assert f"labels lacks {label.name}" in message(folder)
    for path in (folder / "images").iterdir():
        path.unlink()
    assert "found no PNG, TIFF or JPEG" in message(folder)


@pytest.mark.parametrize("option", [("--mpp", "0"), ("--working-mpp", "-1"), ("--limit", "0")])
def test_options_out_of_range(option, capsys):
    with pytest.raises(SystemExit):
        script.main(["--data", str(DATA), *option])
    assert f"{option[0]}: expected" in capsys.readouterr().err


def test_unknown_backend():
    with pytest.raises(SystemExit, match="expected classical, stardist-torch"):
        script.main(["--data", str(DATA), "--backends", "cellpose"])

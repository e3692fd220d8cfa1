"""The TCGA tasks of PAMA run end to end on made-up patch features in the layout of the real ones."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch_geometric.data import Data

import histograph as hg

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from pama import tcga, tcga_egfr, tcga_her2, tcga_lung

h5py = pytest.importorskip("h5py")
SCRIPTS = {"tcga_lung": tcga_lung, "tcga_egfr": tcga_egfr, "tcga_her2": tcga_her2}
SMALL = ["--epochs", "1", "--hidden-dim", "16", "--layers", "2", "--seeds", "1", "--folds", "2"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def name_of(number):
    """Two slides a patient for a third of the patients; the class goes by patient."""
    patient, slide = (number, 1) if number < 24 else (number - 24, 2)
    return f"TCGA-05-{patient:04d}-01Z-00-DX{slide}.AB{number}"


def class_of(number, classes):
    return (number if number < 24 else number - 24) % classes


def features(number, classes):
    """Twelve patches on a grid whose first features tell the class."""
    rng = np.random.default_rng(number)
    x = rng.normal(size=(12, 4)).astype(np.float32)
    x[:, 0] += 3 * class_of(number, classes)
    row, column = np.divmod(np.arange(12), 4)
    return x, np.column_stack([column, row]) * 512


def make_h5(folder, classes=3, count=30):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        x, corner = features(number, classes)
        with h5py.File(folder / f"{name_of(number)}.h5", "w") as file:
            file["features"] = x
            file["coords"] = corner
            file["coords"].attrs["patch_size_level0"] = 512


def make_graphs(folder, classes=2, count=30):
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        x, corner = features(number, classes)
        pos = torch.as_tensor(corner * 0.25 + 64, dtype=torch.float32)
        edge_index, edge_attr = hg.knn_edges(pos, k=2)
        graph = Data(
            x=torch.from_numpy(x),
            pos=pos,
            id=torch.arange(12),
            edge_index=edge_index,
            edge_attr=edge_attr,
            feature_names=list("abcd"),
            edge_attr_names=["length"],
            slide_id=name_of(number),
            mpp=(0.25, 0.25),
        )
        hg.save(graph, folder / f"{name_of(number)}.safetensors")


def labels(path, classes=3, column="label", count=30, **more):
    table = {
        "case_id": [name_of(k)[:12] for k in range(count)],
        "slide_id": [f"{name_of(k)}.svs" for k in range(count)],
    }
    names = ["normal", "LUAD", "LUSC"]
    pd.DataFrame(table | {column: [names[class_of(k, classes)] for k in range(count)]} | more).to_csv(path)
    return path


def cells_of(text):
    lines = [line for line in text.splitlines() if line.startswith("| ")][1:]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {(row[0], row[1]): row[2:] for row in rows}


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_it_runs_on_the_public_layouts(name, tmp_path, capsys):
    lung = name == "tcga_lung"
    (make_h5 if lung else make_graphs)(tmp_path / "data", 3 if lung else 2)
    table = labels(tmp_path / "labels.csv", 3 if lung else 2, "oncotree_code", age=[60] * 30)
    argv = [
        "--data",
        tmp_path / "data",
        "--labels",
        table,
        "--label-column",
        "oncotree_code",
        "--mpp",
        "0.25",
    ]
    argv = [str(a) for a in (*argv, "--cache", tmp_path / "cache", "--tune-epochs", int(lung), *SMALL)]
    assert SCRIPTS[name].main(argv) == 0
    out = capsys.readouterr().out
    assert "30 slides of 24 patients" in out and "secondary source, unverified" in out
    cells = cells_of(out)
    rows, hows = (*tcga.ABLATIONS, tcga.UNTRAINED), (tcga.PROBE, tcga.TUNED)[: 1 + lung]
    assert set(cells) == {(row, how) for row in rows for how in hows} | {(tcga.MEAN, tcga.PROBE)}
    for values in cells.values():
        assert all(0 <= float(value) <= 100 for value in values[1::2])
    assert float(cells[tcga.MEAN, tcga.PROBE][1]) > 95  # the made-up classes can be told
    for how in hows:
        paper = ("98.9", "93.51") if lung else ("not found", "not found")
        assert tuple(cells["PAMA", how][::2]) == paper
        assert tuple(cells["without distance", how][::2]) == ("−2.2", "−6.75")
    trained = sorted((tmp_path / "cache").rglob("method.safetensors"))
    assert len(trained) == 4
    if not lung:  # what is trained is found again
        before = [path.stat().st_mtime_ns for path in trained]
        assert SCRIPTS[name].main(argv) == 0
        assert cells_of(capsys.readouterr().out) == cells
        assert [path.stat().st_mtime_ns for path in trained] == before


def test_a_split_is_used_and_refused_where_it_shares_patients(tmp_path, capsys):
    make_h5(tmp_path / "data", 2)
    numbers = np.arange(30)
    patient = np.where(numbers < 24, numbers, numbers - 24)
    write = {}
    for side, kept in {
        "train": patient < 16,
        "test": patient >= 16,
        "leaky": (patient >= 16) | (numbers > 27),
    }.items():
        names = [name_of(k) for k in numbers[kept]]
        table = {"name": names, "rpath": names, "label": [class_of(k, 2) for k in numbers[kept]]}
        write[side] = tmp_path / f"{side}.csv"
        pd.DataFrame(table).to_csv(write[side], index=False)
    argv = [
        "--data",
        tmp_path / "data",
        "--mpp",
        0.25,
        "--cache",
        tmp_path / "cache",
        "--tune-epochs",
        0,
        *SMALL,
    ]
    argv = [str(a) for a in (*argv, "--split-train", write["train"], "--split-test")]
    assert tcga_lung.main([*argv, str(write["test"])]) == 0
    cells = cells_of(capsys.readouterr().out)
    # 8 slides are tested
    assert all(float(values[3]) * 8 / 100 == int(float(values[3]) * 8 / 100) for values in cells.values())
    with pytest.raises(SystemExit, match=r"share 2 patients .* 2 of 10 in test .*'TCGA-05-0004'"):
        tcga_lung.main([*argv, str(write["leaky"])])


def test_the_probe_sees_neither_the_labels_nor_the_vectors_of_those_tested():
    rng = np.random.default_rng(0)
    y, patients = np.tile(["a", "b"], 30), np.repeat(np.arange(30), 2)
    z = rng.normal(size=(60, 5))
    folds = hg.evaluation.grouped_split(patients, y, 5)
    area, accuracy = tcga.Round(y, patients, folds, 0).probe(z)
    assert 25 < area < 75 and 25 < accuracy < 75
    z[:, 0] += 6 * (y == "b")
    assert tcga.Round(y, patients, folds, 0).probe(z) == (100.0, 100.0)
    # of one fold alone, the scores are of its test part
    test = folds[0].test
    wrong = z.copy()
    wrong[test, 0] *= -1
    wrong[test, 0] += 6
    assert tcga.Round(y, patients, folds[:1], 0).probe(wrong)[1] < 20
    assert tcga.Round(y, patients, folds[1:2], 0).probe(z) == (100.0, 100.0)


@pytest.mark.parametrize("name", SCRIPTS)
def test_without_data_it_skips(name, capsys):
    assert SCRIPTS[name].main([]) == 0
    assert capsys.readouterr().out.startswith("skipped: give --data FOLDER with ")


def test_labels_are_joined_by_slide(tmp_path, capsys):
    path = labels(tmp_path / "a.csv", label=["x"] * 28 + [None] * 2)
    table = tcga.read_labels(path, "label")
    assert len(table) == 28 and table["slide_id"][0] == name_of(0) and table["patient"][0] == "TCGA-05-0000"
    assert "2 rows of" in capsys.readouterr().out
    # without cases the patient is read off the barcode
    (tmp_path / "b.csv").write_text(f",slide_id,label\n0,{name_of(7)}.pt,LUAD\n")
    assert tcga.read_labels(tmp_path / "b.csv", "label")["patient"].tolist() == ["TCGA-05-0007"]
    (tmp_path / "b.csv").write_text(f"case_id,slide_id,label\nc,x,LUAD\n,{name_of(7)}.pt,LUAD\n")
    assert tcga.read_labels(tmp_path / "b.csv", "label")["patient"].tolist() == ["c", "TCGA-05-0007"]
    with pytest.raises(ValueError, match="lacks the column 'stage', found"):
        tcga.read_labels(path, "stage")
    (tmp_path / "c.csv").write_text(f"slide_id,label\n{name_of(7)}.pt,1\n{name_of(7)}.svs,1\n")
    with pytest.raises(ValueError, match="twice"):
        tcga.read_labels(tmp_path / "c.csv", "label")
    with pytest.raises(FileNotFoundError):
        tcga.read_labels(tmp_path / "nowhere.csv", "label")


def test_mistakes_are_named(tmp_path, capsys):
    make_h5(tmp_path / "data", count=2)
    (tmp_path / "empty" / "strange").mkdir(parents=True)
    path = labels(tmp_path / "labels.csv")
    argv = ["--data", str(tmp_path / "data"), "--cache", str(tmp_path / "cache")]
    for wrong in ([], ["--split-train", str(path)], ["--labels", str(path), "--split-train", str(path)]):
        with pytest.raises(SystemExit):
            tcga_lung.main([*argv, *wrong])
        assert "give either --labels, or both" in capsys.readouterr().err
    with pytest.raises(SystemExit, match=r"expected patch features .*found strange/"):
        tcga_lung.main(["--data", str(tmp_path / "empty"), "--labels", str(path)])
    with pytest.raises(SystemExit, match="is no folder"):
        tcga_lung.main(["--data", str(tmp_path / "nowhere"), "--labels", str(path)])
    with pytest.raises(SystemExit, match=r"--labels: .*lacks the column 'stage'"):
        tcga_lung.main([*argv, "--labels", str(path), "--label-column", "stage"])
    (tmp_path / "other.csv").write_text("slide_id,label\nTCGA-99-0001.svs,1\n")
    with pytest.raises(SystemExit, match=r"none of its 1 slides is in --data; the table has 'TCGA-99-0001'"):
        tcga_lung.main([*argv, "--labels", str(tmp_path / "other.csv")])
    with pytest.raises(SystemExit, match="none of 2 files could be read"):  # no --mpp
        tcga_lung.main([*argv, "--labels", str(path)])
    assert "mpp" in capsys.readouterr().out
    (tmp_path / "data" / "deep").mkdir()
    make_h5(tmp_path / "data" / "deep", count=1)
    with pytest.raises(SystemExit, match="are both of slide TCGA-05-0000"):
        tcga_lung.main([*argv, "--labels", str(path)])

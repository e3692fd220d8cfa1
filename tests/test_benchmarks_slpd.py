"""The TCGA tasks of SLPD run end to end on made-up vectors and grids in the layout of the real ones."""

import re
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

import histograph as hg

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from slpd import tcga, tcga_brca, tcga_nsclc, tcga_rcc

SCRIPTS = {"brca": tcga_brca, "nsclc": tcga_nsclc, "rcc": tcga_rcc}
PATIENTS, SLIDES = 24, 30
SMALL = ["--epochs", "3", "--lr", "0.01", "--seed", "1"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def patient_of(number):
    """Two slides a patient for a quarter of the patients."""
    return number % PATIENTS


def name_of(number):
    return f"TCGA-A1-{patient_of(number):04d}-01Z-00-DX{1 + number // PATIENTS}.AB{number}"


def class_of(number, classes):
    return patient_of(number) % classes


def make_vectors(folder, classes, count=SLIDES, dim=6):
    """Three to six regions whose first columns tell the class."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rng = np.random.default_rng(number)
        z = rng.normal(size=(rng.integers(3, 7), dim)).astype(np.float32)
        z[:, class_of(number, classes)] += 3
        torch.save(torch.from_numpy(z), folder / f"{name_of(number)}.pt")


def make_grids(folder, count=SLIDES):
    """Regions of 4 x 4 patches of 5 features."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        rng = np.random.default_rng(number)
        z = rng.normal(size=(rng.integers(2, 5), 5, 4, 4)).astype(np.float32)
        z[:, class_of(number, 2)] += 2
        torch.save(torch.from_numpy(z), folder / f"{name_of(number)}.pt")


def make_labels(path, codes, count=SLIDES):
    """The table of HIPT's layout, with a slide of another class and one without a file."""
    numbers = range(count)
    table = {
        "case_id": [name_of(k)[:12] for k in numbers] + ["TCGA-ZZ-0001", "TCGA-ZZ-0002"],
        "slide_id": [f"{name_of(k)}.svs" for k in numbers]
        + ["TCGA-ZZ-0001-01Z.X.svs", "TCGA-ZZ-0002-01Z.X.svs"],
        "oncotree_code": [codes[class_of(k, len(codes))] for k in numbers] + ["MDLC", codes[0]],
        "site": "A1",
    }
    pd.DataFrame(table).to_csv(path)
    return path


def make_splits(folder, leak=False):
    """Three random draws of patients to test and to validate on, as CLAM draws them: test parts overlap."""
    folder.mkdir()
    for number in range(3):
        order = np.random.default_rng(number).permutation(PATIENTS)
        parts = {"train": order[10:], "val": order[8:10], "test": order[:8]}
        columns = {
            side: [name_of(k) for k in range(SLIDES) if patient_of(k) in patients]
            for side, patients in parts.items()
        }
        if leak:  # of patient 0 one slide is tested, the other trained on
            columns = {
                side: [name for name in names if "-0000-" not in name] for side, names in columns.items()
            }
            columns["test"].append(name_of(0))
            columns["train"].append(name_of(PATIENTS))
        columns = {side: pd.Series(names) for side, names in columns.items()}
        pd.DataFrame(columns).to_csv(folder / f"splits_{number}.csv")
    return folder


def table_of(text):
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in text.splitlines()
        if line[:2] == "| "
    ]
    return rows[0], {tuple(row[:3]): row[3:] for row in rows[1:]}


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_runs_on_the_public_layout(name, tmp_path, capsys):
    script = SCRIPTS[name]
    codes = script.TASK.classes
    make_vectors(tmp_path / "data" / "deep", len(codes))
    labels = make_labels(tmp_path / "labels.csv", codes)
    splits = make_splits(tmp_path / "splits")
    argv = ["--data", tmp_path / "data", "--labels", labels, "--splits", splits, *SMALL]
    assert script.main([str(a) for a in argv]) == 0
    out = capsys.readouterr().out
    assert "1 slides are of other classes and are left out" in out
    assert "1 slides of the table have no file and are left out" in out
    assert f"30 slides of 24 patients: {', '.join(f'{n} {c}' for c, n in counted(codes))}" in out
    assert "3 folds, which test" in out and "SLPD's own table could not be obtained" in out
    head, rows = table_of(out)
    assert head == ["whose", "vectors", "head", "25 % of labels", "100 % of labels"]
    ours = {key: cells for key, cells in rows.items() if key[0] == "here"}
    assert set(ours) == {("here", tcga.GIVEN, how) for how in (tcga.NEIGHBOURS, *tcga.HEADS.values())}
    for cells in ours.values():
        for cell in cells:
            mean, low, high = map(float, re.fullmatch(r"(\S+) ± \S+ \[(\S+), (\S+)\]", cell).groups())
            assert 0 <= low <= high <= 1 and 0 <= mean <= 1
    assert (
        float(ours["here", tcga.GIVEN, tcga.NEIGHBOURS][1].split()[0]) > 0.95
    )  # the made-up classes can be told
    theirs = {
        "brca": [".821 ± .066", ".874 ± .057"],
        "nsclc": [".923 ± .019", ".952 ± .020"],
        "rcc": [".974 ± .011", ".980 ± .012"],
    }
    assert rows["HIPT's files", "–", "HIPT, frozen"] == theirs[name]
    assert (rows["HIPT's files", "–", "HIPT, from scratch"][0] == "–") == (name == "rcc")
    assert (
        rows["HIPT's files", "–", "kNN, ResNet-50"][0]
        == {"brca": ".638", "nsclc": ".696", "rcc": ".862"}[name]
    )


def counted(codes):
    labels = [codes[class_of(k, len(codes))] for k in range(SLIDES)]
    return sorted((code, labels.count(code)) for code in codes)


def test_the_knn_is_that_of_scikit_learn_fold_by_fold(tmp_path, capsys):
    make_vectors(tmp_path / "data", 2)
    labels, splits = make_labels(tmp_path / "labels.csv", ("IDC", "ILC")), make_splits(tmp_path / "splits")
    argv = [
        "--data",
        tmp_path / "data",
        "--labels",
        labels,
        "--splits",
        splits,
        "--share",
        1,
        "--head",
        "mean",
        *SMALL,
    ]
    assert tcga_brca.main([str(a) for a in argv]) == 0
    _, rows = table_of(capsys.readouterr().out)
    names = {name_of(k): k for k in range(SLIDES)}
    means = np.stack([torch.load(tmp_path / "data" / f"{name}.pt").numpy().mean(0) for name in names])
    y = np.array([class_of(k, 2) for k in range(SLIDES)])
    areas = []
    for number in range(3):
        table = pd.read_csv(splits / f"splits_{number}.csv")
        train, test = ([names[name] for name in table[side].dropna()] for side in ("train", "test"))
        model = KNeighborsClassifier().fit(means[train], y[train])
        areas.append(roc_auc_score(y[test], model.predict_proba(means[test])[:, 1]))
    found = rows["here", tcga.GIVEN, tcga.NEIGHBOURS][0].split(" [")[0]
    assert found == f"{np.mean(areas):.3f} ± {np.std(areas):.3f}"


def test_grids_are_read_by_methods_and_by_their_mean(tmp_path, capsys):
    make_grids(tmp_path / "data")
    labels = make_labels(tmp_path / "labels.csv", ("LUAD", "LUSC"))
    torch.manual_seed(0)
    sizes = {"dim": 8, "depth": 1, "heads": 2, "out_dim": 16, "head_dim": 8, "bottleneck_dim": 4}
    method = hg.methods.SLPD(5, region_size=4, global_size=4, local_size=2, local_views=1, **sizes)
    regions = hg.RegionDataset.from_grids(tmp_path / "data")
    method.before_epoch(0, regions)
    method.save(tmp_path / "ours.safetensors")
    argv = [
        "--data",
        tmp_path / "data",
        "--labels",
        labels,
        "--folds",
        3,
        "--share",
        1,
        "--head",
        "attention",
    ]
    argv += ["--method", tmp_path / "ours.safetensors", *SMALL]
    assert tcga_nsclc.main([str(a) for a in argv]) == 0
    _, rows = table_of(capsys.readouterr().out)
    ours = [key[1:] for key in rows if key[0] == "here"]
    assert ours == [
        (vectors, how) for vectors in (tcga.PATCHES, "ours") for how in (tcga.NEIGHBOURS, "attention MIL")
    ]
    # the vectors are those of the method, slide by slide
    options = tcga.options_of(None).parse_args(["--method", str(tmp_path / "ours.safetensors")])
    cases = [
        tcga.Case(tmp_path / "data" / f"{name_of(k)}.pt", name_of(k), name_of(k)[:12], "")
        for k in range(SLIDES)
    ][::-1]
    found = tcga.vectors_of(cases, options)
    z = hg.embed(method, regions, progress=False, nodes=False)
    for case, vectors, means in zip(cases, found["ours"], found[tcga.PATCHES], strict=True):
        number = regions.slide_ids.index(case.name)
        rows = regions.slide.numpy() == number
        np.testing.assert_allclose(vectors, np.asarray(z)[rows], atol=1e-5)
        np.testing.assert_allclose(means, torch.load(case.path).mean((2, 3)).numpy(), atol=1e-6)


def test_shared_patients_are_refused_or_dropped(tmp_path, capsys):
    make_vectors(tmp_path / "data", 2)
    labels = make_labels(tmp_path / "labels.csv", ("IDC", "ILC"))
    splits = make_splits(tmp_path / "splits", leak=True)
    argv = [
        "--data",
        tmp_path / "data",
        "--labels",
        labels,
        "--splits",
        splits,
        "--head",
        "mean",
        "--share",
        1,
    ]
    argv = [str(a) for a in (*argv, *SMALL)]
    with pytest.raises(SystemExit, match=r"--splits: .*share 1 patient.*--drop-shared"):
        tcga_brca.main(argv)
    assert tcga_brca.main([*argv, "--drop-shared"]) == 0
    assert "| here |" in capsys.readouterr().out


def test_without_data_it_skips(capsys):
    assert tcga_rcc.main([]) == 0
    assert capsys.readouterr().out.startswith("skipped: give --data FOLDER with vectors of the regions")


def test_mistakes_are_named(tmp_path, capsys):
    make_vectors(tmp_path / "data", 2)
    labels = make_labels(tmp_path / "labels.csv", ("IDC", "ILC"))
    data, given = ["--data", str(tmp_path / "data")], ["--labels", str(labels)]
    with pytest.raises(SystemExit):
        tcga_brca.main(data)
    assert "give --labels" in capsys.readouterr().err
    for argv, message in (
        (["--data", str(tmp_path / "nowhere"), *given], "is no folder"),
        (["--data", str(tmp_path), "--labels", "nowhere.csv"], "--labels: no table at nowhere.csv"),
        ([*data, *given, "--label-column", "stage"], "--labels: .*lacks the column 'stage'"),
        ([*data, *given, "--splits", str(tmp_path / "data")], r"--splits: no splits_0\.csv"),
        ([*data, *given, "--folds", "20"], "--folds: "),
        ([*data, *given, "--method", "m.pth"], "--method: reads grids of patch features, found vectors in"),
    ):
        with pytest.raises(SystemExit, match=message):
            tcga_brca.main(argv)
    with pytest.raises(SystemExit, match="no slide of LUAD, LUSC; oncotree_code holds IDC, ILC, MDLC"):
        tcga_nsclc.main([*data, *given])
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match=r"expected vectors of the regions.*found nothing"):
        tcga_brca.main(["--data", str(tmp_path / "empty"), *given])
    bad = tmp_path / "data" / f"{name_of(0)}.pt"
    for content, message in (
        (torch.zeros(3), r"found shape \(3,\)"),
        ([1, 2], "must hold a tensor, found list"),
        (torch.zeros(2, 9), r"expected \(regions, 9\) as in the first file, found"),
    ):
        torch.save(content, bad)
        with pytest.raises(SystemExit, match=message):
            tcga_brca.main([*data, *given])
    torch.save(torch.zeros(2, 6), bad)
    for content in (b"broken", bad.read_bytes()[:200], b""):
        bad.write_bytes(content)
        with pytest.raises(SystemExit, match=r"is no file of torch\.save"):
            tcga_brca.main([*data, *given])

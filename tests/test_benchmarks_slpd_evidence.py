"""The evidence for SLPD runs on made-up data in the layout of the real ones."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import r2_score, roc_auc_score

import histograph as hg

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from slpd import evidence, questions, sources

SPAN = sources.ACROSS * sources.SIDE * sources.PATCH_PX


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def crc(tmp_path_factory):
    """Pictures whose left half is dark, with epithelial cells, and whose right half is light, with fibroblasts."""
    root = tmp_path_factory.mktemp("crc")
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for number in range(6):
        image = rng.integers(150, 220, (SPAN + 4, SPAN + 4, 3), dtype=np.uint8)
        image[:, : SPAN // 2] //= 2
        Image.fromarray(image).save(root / "images" / f"img{number}.png")
        for x, y in rng.uniform(2, SPAN + 2, (240, 2)):
            kind = "epithelial" if x < SPAN // 2 else "fibroblast"
            other = rng.random() < 0.15
            rows.append((f"img{number}", "train", x, y, "inflammatory" if other else kind))
        rows.append((f"img{number}", "train", 1.0, 1.0, "others"))  # outside of the regions
    table = pd.DataFrame(rows, columns=["image", "repo_split", "x", "y", "cell_type"])
    table.to_csv(root / "classified_nuclei.csv", index=False)
    return root


@pytest.fixture(scope="module")
def pcam(tmp_path_factory):
    """Dark patches with tumour, light ones without; no two alike."""
    root = tmp_path_factory.mktemp("pcam")
    rng = np.random.default_rng(1)
    for split in ("train", "valid"):
        for label in (0, 1):
            (root / split / str(label)).mkdir(parents=True)
            for i in range(24):
                image = rng.integers(140 - 100 * label, 200 - 100 * label, (16, 16, 3), dtype=np.uint8)
                Image.fromarray(image).save(root / split / str(label) / f"{i}.png")
    return root


def rows_of(out, first):
    lines = [line for line in out.splitlines() if line.startswith("|")]
    start = max(i for i, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = []
    for line in lines[start:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(rows) and len(cells) != len(rows[0]):
            break
        rows.append(cells)
    return rows[0], {row[0]: row[1:] for row in rows[2:]}


@pytest.mark.parametrize("task", ["crc", "pcam", "slides"])
def test_without_data_it_says_what_is_needed(task, capsys):
    assert evidence.main(["--task", task]) == 0
    assert capsys.readouterr().out.startswith("skipped: give --data FOLDER")


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(SystemExit, match=r"classified_nuclei.csv of CRCHistoPhenotypes; found nothing"):
        evidence.main(["--task", "crc", "--data", str(tmp_path)])
    with pytest.raises(SystemExit, match=r"of PatchCamelyon; found nothing"):
        evidence.main(["--task", "pcam", "--data", str(tmp_path), "--out", str(tmp_path / "runs")])


def test_pictures_become_regions_and_counts(crc):
    slides, count = sources.crc(crc, None)
    assert len(slides.regions) == 6 * 16 and slides.regions.slide_ids == [f"img{i}" for i in range(6)]
    assert count[:, 3].sum() == 0 and count.sum() == 6 * 240  # cells outside of the regions are not counted
    share = count[:, 0] / count.sum(1)
    left = slides.regions.pos[:, 0].numpy() < SPAN / 2 * sources.CRC_MPP
    assert share[left].min() > 0.4 and share[~left].max() == 0
    # features of a patch are those of its pixels: the second patch from the left in the third row
    region, picture, px = slides.regions[0], slides.pictures[0], sources.PATCH_PX
    row = int(((region.place == torch.tensor([2, 1])).all(1)).nonzero())
    own = picture[2 + 2 * px : 2 + 3 * px, 2 + px : 2 + 2 * px]
    expected = sources.grid_features(own, px, sources.CRC_MPP)[0, 0]
    assert np.allclose(region.x[row], expected, rtol=1e-5, atol=1e-5)
    assert np.allclose(region.pos[row], np.array([2 + 1.5 * px, 2 + 2.5 * px]) * sources.CRC_MPP, atol=1e-3)


def test_made_up_slides_have_tumour_in_a_focus_of_every_other_one(pcam, tmp_path):
    pool = sources.Pool.read(pcam, "valid", tmp_path)
    slides, y = sources.pieced(pool, 4, 7, "test", pictures=2)
    assert y.tolist() == [0, 1, 0, 1] and len(slides.regions) == 4 * 24 and len(slides.pictures) == 2
    dark = pool.features[pool.y == 1][:, 0].mean()
    light = pool.features[pool.y == 0][:, 0].mean()
    tumour = [
        int((abs(region.x[:, 0] - dark) < abs(region.x[:, 0] - light)).sum()) for region in slides.regions
    ]
    tumour = np.array(tumour).reshape(4, 4, 6)
    assert (tumour[[0, 2]] == 0).all()
    for focus in tumour[[1, 3]]:
        assert sorted(set(focus.ravel())) == [0, 8]
        rows, columns = np.nonzero(focus)
        assert len(rows) == 4 and np.ptp(rows) == np.ptp(columns) == 1
    # the picture and the features are of the same patches, at the same places
    opened = slides.opened()[1]
    region = slides.regions[24 + 5]
    side = sources.SIDE * 16 * slides.mpp
    x, y_um = slides.regions.pos[29].numpy() - side / 2
    image = opened.read_region(x, y_um, side, side)
    again = sources.as_regions(sources.grid_features(image, 16, slides.mpp))[0]
    assert np.allclose(again[:, region.place[:, 0], region.place[:, 1]].T, region.x, rtol=1e-4, atol=1e-4)
    same, _ = sources.pieced(pool, 4, 7, "test")
    assert all(torch.equal(one.x, other.x) for one, other in zip(same.regions, slides.regions, strict=True))


def test_answers_of_seeds_are_scored_together_and_by_group():
    y, group = np.array([0, 1, 0, 1, 0, 1]), np.repeat([0, 1, 2], 2)
    rng = np.random.default_rng(0)
    chance = [rng.random(6) for _ in range(2)]
    answers = [{"q": (np.stack([1 - p, p], 1), np.zeros(6, dtype=int))} for p in chance]
    result = questions.scored(questions.Question("q", "class", y, group), answers)
    assert result.metrics["auc"][0] == pytest.approx(np.mean([roc_auc_score(y, p) for p in chance]))
    assert result.n_groups == 3
    values = [{"q": (p, np.zeros(6, dtype=int))} for p in chance]
    result = questions.scored(questions.Question("q", "value", y.astype(float), group), values)
    assert result.metrics["r2"][0] == pytest.approx(np.mean([r2_score(y, p) for p in chance]))


def test_crc_compares_the_rows_and_trains_once(crc, tmp_path, capsys):
    names = [evidence.HAND, evidence.UNTRAINED, evidence.DINO, evidence.FULL, evidence.GRAPH]
    arguments = [
        "--task",
        "crc",
        "--data",
        str(crc),
        "--seeds",
        "1",
        "--epochs",
        "3",
        "--out",
        str(tmp_path / "r"),
    ]
    arguments += ["--pictures", str(tmp_path / "p"), "--only", *names]
    assert evidence.main(arguments) == 0
    out = capsys.readouterr().out
    head, scores = rows_of(out, "vectors")
    assert list(scores) == names and head[1].startswith("kind of ") and head[2].startswith("epithelial share")
    assert all(float(cells[0].split()[0]) > 0.9 for cells in scores.values())  # dark or light is easy
    _, differences = rows_of(out, "difference")
    assert (
        set(differences) == {f"{a} – {b}" for a, b in evidence.COMPARED if {a, b} <= set(names)}
        and len(differences) == 5
    )
    drawn = sorted(path.name for path in (tmp_path / "p").iterdir())
    assert drawn == ["crc_SLPD_(both).png", "crc_graph_encoder,_SLPD.png"]
    weights = sorted((tmp_path / "r").rglob("method.safetensors"))
    assert len(weights) == 3
    written = [path.stat().st_mtime_ns for path in weights]
    evidence.main(arguments)
    assert capsys.readouterr().out == out
    assert [path.stat().st_mtime_ns for path in weights] == written


def test_each_row_changes_what_its_name_says():
    made = {name: evidence.method_of(name, 5, 2, 12) for name in evidence.CHANGES}
    full = made[evidence.FULL].config

    def changed(name):
        return {key for key, value in made[name].config.items() if value != full[key]}

    assert changed(evidence.DINO) == {"intra_weight", "inter_weight"}
    assert changed(evidence.INTRA) == {"inter_weight"} and changed(evidence.INTER) == {"intra_weight"}
    assert changed(evidence.SINKHORN) == {"assignment"} and changed(evidence.COHERENT) == {"coherence"}
    assert changed(evidence.SELDOM) == {"refresh_every", "warm_start"}
    assert full["start_epoch"] == 4
    graph, plain = made[evidence.GRAPH].config, made[evidence.GRAPH_DINO].config
    assert {key for key in graph if graph[key] != plain[key]} == {"intra_weight", "inter_weight"}
    assert isinstance(made[evidence.GRAPH], hg.methods.GraphSLPD) and graph["encoder"] == "gcn"


def test_pcam_asks_for_slides_with_few_and_all_labels(pcam, tmp_path, capsys):
    arguments = [
        "--task",
        "pcam",
        "--data",
        str(pcam),
        "--seeds",
        "1",
        "--epochs",
        "2",
        "--out",
        str(tmp_path / "r"),
    ]
    names = [evidence.HAND, evidence.FULL]
    arguments += ["--limit", "16", "--heads", "attention", "--only", *names]
    assert evidence.main(arguments) == 0
    head, scores = rows_of(capsys.readouterr().out, "vectors")
    asked = [
        f"{how}, {share} % of labels, AUC"
        for how in ("kNN of means", "attention head")
        for share in (25, 100)
    ]
    assert head[1:-1] == asked and list(scores) == names
    assert float(scores[evidence.HAND][1].split()[0]) > 0.9
    assert len(list((tmp_path / "r" / "pcam").glob("features_*.npy"))) == 2


def test_slides_are_drawn_at_each_size(tmp_path, capsys):
    path = hg.bundled.slide_path()
    arguments = [
        "--task",
        "slides",
        "--data",
        str(path),
        "--epochs",
        "1",
        "--prototypes",
        "2",
        "--out",
        str(tmp_path),
    ]
    assert evidence.main([*arguments, "--patch-um", "32", "40"]) == 0
    out = capsys.readouterr().out
    assert out.count("mean cosine") == 2 and (tmp_path / f"prototypes_{path.stem}.png").is_file()
    with pytest.raises(SystemExit, match=r"--patch-um: .* regions of patches of 200 um, at least 8"):
        evidence.main([*arguments, "--patch-um", "200"])


def test_a_slide_without_a_scale_asks_for_it(tmp_path):
    image = tmp_path / "s.png"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(image)
    with pytest.raises(SystemExit, match="--mpp: "):
        evidence.main(["--task", "slides", "--data", str(image)])

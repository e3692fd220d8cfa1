"""Each experiment of the H-MGDM paper runs end to end on a tiny data set in the layout of the real one."""

import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

import histograph as hg

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from hmgdm import common, ibd, komura, panda, pictures, tcga_esca, tcga_kirc
from hmgdm.pictures import Case, Recipe, graphs_of, sampled, windows_of

SCRIPTS = {"komura": komura, "panda": panda, "ibd": ibd, "tcga_kirc": tcga_kirc, "tcga_esca": tcga_esca}
ROWS = (*common.ABLATIONS, "GraphMAE", "H-MGDM, untrained", "hand-made features")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def picture(side, seed, shade=0):
    """Blots of pink and violet, in class 1 darker."""
    rng = np.random.default_rng(seed)
    blots = rng.integers((150, 60, 120), (220, 130, 190), (side // 16, side // 16, 3)) - 40 * shade
    return np.repeat(np.repeat(blots, 16, axis=0), 16, axis=1).astype(np.uint8)


def write_slide(path, image, mpp=0.5, levels=3):
    """Write a pyramid of tiles with its resolution in the tags, as PANDA's are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    resolution = {"resolution": (1e4 / mpp, 1e4 / mpp), "resolutionunit": "CENTIMETER"}
    with tifffile.TiffWriter(path) as file:
        for level in range(levels):
            part = np.ascontiguousarray(image[:: 2**level, :: 2**level])
            options = resolution if level == 0 else {}
            file.write(part, tile=(64, 64), photometric="rgb", subfiletype=int(level > 0), **options)


def write_picture(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


def make_komura(folder):
    for number in range(12):
        cancer = ("Sarcoma", "Thymoma")[number % 2]
        slide = f"TCGA-A{number % 2}-00{number // 4:02d}-01Z-00-DX1"
        write_picture(folder / cancer / "0" / slide / f"0_{number}_512.jpg", picture(96, number, number % 2))
        write_picture(folder / cancer / "3" / slide / f"0_{number}_512.jpg", picture(96, number))
    return []


def make_panda(folder):
    rows = ["image_id,data_provider,isup_grade,gleason_score"]
    for number in range(6):
        rows.append(f"{number:032x},karolinska,{3 * (number % 2)},0+0")
        image = np.full((384, 384, 3), 245, np.uint8)
        image[:320, :256] = picture(320, number, number % 2)[:, :256]
        write_slide(folder / "train_images" / f"{number:032x}.tiff", image)
    (folder / "train.csv").write_text("\n".join([*rows, "ffff,radboud,5,5+5"]) + "\n")
    return ["--windows", "3"]


def make_ibd(folder):
    for number in range(12):
        name = f"{number // 2}_{number}.png"
        write_picture(folder / ("quiet", "active")[number // 2 % 2] / name, picture(96, number, number % 2))
    return ["--mpp", "0.5"]


def make_tcga(folder):
    rows = ["case_id,slide_id,survival_months,censorship"]
    for number in range(9):
        slide = f"TCGA-XX-00{number - number // 8:02d}-01Z-00-DX{1 + number // 8}.AB{number}"
        write_slide(folder / f"uuid{number}" / f"{slide}.svs", picture(256, number, number % 2))
        case = slide[:12]
        rows.append(f"{case},{slide}.svs,{10 + int(case[-2:])},{int(int(case[-2:]) == 3)}")
    (folder / "survival.csv").write_text("\n".join(rows) + "\n")
    return ["--windows", "2"]


MAKERS = {"komura": make_komura, "panda": make_panda, "ibd": make_ibd}
MAKERS |= {"tcga_kirc": make_tcga, "tcga_esca": make_tcga}


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_runs_on_the_public_layout(name, tmp_path, capsys):
    (tmp_path / "data").mkdir()
    more = MAKERS[name](tmp_path / "data")
    argv = ["--data", tmp_path / "data", "--cache", tmp_path / "cache", "--limit", 10, "--epochs", 1]
    assert SCRIPTS[name].main([str(a) for a in (*argv, "--seeds", 1, "--folds", 2, *more)]) == 0
    table = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    cells = {line.split(" | ")[0][2:]: line.rstrip(" |").split(" | ")[1:] for line in table[1:]}
    assert tuple(cells) == ROWS
    for row, values in cells.items():
        theirs, ours = values[::2], values[1::2]
        expected = common.PAPER[name].get(row, ("–", "–")) if name in common.PAPER else ("not found",)
        assert tuple(theirs) == expected
        assert all(0 <= float(value) <= 100 for value in ours)
    assert len(list((tmp_path / "cache").rglob("method.safetensors"))) == 5


@pytest.mark.parametrize("name", SCRIPTS)
def test_without_data_it_skips(name, capsys):
    assert SCRIPTS[name].main([]) == 0
    assert capsys.readouterr().out.startswith("skipped: give --data FOLDER with ")


@pytest.mark.parametrize("name", SCRIPTS)
def test_another_layout_is_refused(name, tmp_path):
    (tmp_path / "strange").mkdir()
    argv = ["--data", str(tmp_path), *(["--mpp", "0.5"] if name == "ibd" else [])]
    with pytest.raises(SystemExit, match=r"expected .*found .*strange/"):
        SCRIPTS[name].main(argv)
    with pytest.raises(SystemExit, match="is no folder; expected"):
        SCRIPTS[name].main(["--data", str(tmp_path / "nowhere")])


def test_komura_reads_one_level_with_patients(tmp_path):
    make_komura(tmp_path)
    cases = komura.read(tmp_path, 3)
    assert len(cases) == 12 and {case.path.parts[-3] for case in cases} == {"3"}
    assert {(case.label, case.patient[:7]) for case in cases} == {
        ("Sarcoma", "TCGA-A0"),
        ("Thymoma", "TCGA-A1"),
    }
    assert len({case.patient for case in cases}) == 6
    write_picture(tmp_path / "Sarcoma" / "3" / "slide7" / "0.jpg", picture(96, 0))
    with pytest.raises(SystemExit, match="slide7 is not named by a TCGA barcode"):
        komura.read(tmp_path, 3)


def test_panda_leaves_out_missing_images_and_names_wrong_columns(tmp_path, capsys):
    make_panda(tmp_path)
    assert [case.label for case in panda.read(tmp_path)] == ["0", "3"] * 3
    assert "1 of 7 rows" in capsys.readouterr().out
    (tmp_path / "train.csv").write_text("image,grade\na,1\n")
    with pytest.raises(SystemExit, match=r"columns image_id and isup_grade.*found the columns image, grade"):
        panda.read(tmp_path)


def test_ibd_reads_ibdcolepi_and_a_pattern_for_patients(tmp_path):
    tiles = tmp_path / "coli" / "patch-dataset-HE" / "Trainset" / "Images_tif"
    for number in (7, 7, 110):
        write_picture(tiles / f"{number}_HE [d=4,x={number},y=0,w=2048,h=2048].tif", picture(96, number))
    with pytest.raises(SystemExit, match="tells the label of 110_HE"):
        ibd.read(tmp_path / "coli", "")
    with zipfile.ZipFile(tmp_path / "coli" / "TIFF-annotations.zip", "w") as archive:
        archive.writestr("ID-7_HE_active.tiff", b"")
        archive.writestr("ID-110_HE_inactive.tiff", b"")
        archive.writestr("ID-110_CD3_active.tiff", b"")
    found = {(case.patient, case.label) for case in ibd.read(tmp_path / "coli", "")}
    assert found == {("7", "active"), ("110", "inactive")}

    for label in "ab":
        write_picture(tmp_path / "plain" / label / "scan" / f"x{label}-9 p12.png", picture(96, 0))
    assert [case.patient for case in ibd.read(tmp_path / "plain", r"p(\d+)")] == ["12", "12"]
    with pytest.raises(SystemExit, match="finds nothing in xa-9"):
        ibd.read(tmp_path / "plain", r"(patient\d+)")
    with pytest.raises(SystemExit):
        ibd.main(["--data", str(tmp_path / "plain")])


def test_tcga_joins_slides_and_table(tmp_path, capsys):
    from hmgdm import tcga

    make_tcga(tmp_path)
    cases = tcga.read(tmp_path, tmp_path / "survival.csv")
    assert [case.event for case in cases] == [number != 3 for number in range(8)] + [True]
    assert cases[7].patient == cases[8].patient and cases[7].time == cases[8].time == 17
    (tmp_path / "survival.csv").write_text("case_id,slide_id,survival_days,event\nA,A-1.svs,3,1\n")
    with pytest.raises(SystemExit, match=r"none of its 1 slides .*'A-1'"):
        tcga.read(tmp_path, tmp_path / "survival.csv")
    (tmp_path / "survival.csv").write_text("case_id,slide_id,days\nA,A-1.svs,3\n")
    with pytest.raises(SystemExit, match="survival_months"):
        tcga.read(tmp_path, tmp_path / "survival.csv")


def test_windows_are_those_with_most_tissue_on_the_grid_of_the_dataset(tmp_path):
    image = np.full((512, 512, 3), 245, np.uint8)
    image[:256, :256], image[256:, :200] = picture(256, 0), picture(256, 1)[:, :200]
    slide = hg.open_slide(image, mpp=0.5)
    assert windows_of(slide, 64.0, 3).mask.sum() == 3
    chosen = windows_of(slide, 64.0, 99)
    tissue = slide.tissue_mask()
    for (row, column), taken in np.ndenumerate(chosen.mask):
        assert taken == (tissue.fraction(64 * column, 64 * row, 64, 64) >= 0.5)
    write_slide(tmp_path / "s.tiff", image)
    data, items = graphs_of(
        [Case(tmp_path / "s.tiff", "s", "s")], Recipe(window_um=64.0, windows=3), tmp_path
    )
    assert len(items) == len(data) == 3
    places = {(int(x0 // 64), int(y0 // 64)) for x0, y0, *_ in data.windows}
    rows, columns = np.nonzero(windows_of(slide, 64.0, 3).mask)
    assert places == set(zip(columns.tolist(), rows.tolist()))


def test_graphs_are_made_once_and_broken_files_are_named(tmp_path, capsys, monkeypatch):
    cases = []
    for number in range(3):
        write_picture(tmp_path / f"{number}.png", picture(96, number))
        cases.append(Case(tmp_path / f"{number}.png", f"a/{number}", str(number)))
    (tmp_path / "2.png").write_bytes(b"no picture")
    data, items = graphs_of(cases, Recipe(mpp=0.5), tmp_path / "cache")
    assert [case.name for case in items] == data.slide_ids == ["a/0", "a/1"]
    assert "left out: " in (out := capsys.readouterr().out) and "2.png" in out

    def never(*_, **__):
        raise AssertionError("a graph that is there was made again")

    with monkeypatch.context() as patch:
        patch.setattr(pictures.hg, "build_graph", never)
        again, _ = graphs_of(cases[:2], Recipe(mpp=0.5), tmp_path / "cache")
        assert again[0].x.equal(data[0].x)
    write_picture(cases[0].path, picture(128, 7))  # another file of the same name
    assert float(graphs_of(cases[:1], Recipe(mpp=0.5), tmp_path / "cache")[0][0].pos.max()) > 48
    other, _ = graphs_of(cases[:2], Recipe(mpp=1.0), tmp_path / "cache")
    assert float(other[0].pos.max()) > 1.5 * float(data[0].pos.max())
    with pytest.raises(ValueError, match="no graph could be made of 1 files"):
        graphs_of(cases[2:], Recipe(mpp=0.5), tmp_path / "cache")


def test_a_sample_is_balanced_and_spread_over_patients():
    cases = [
        Case(Path("x"), f"{label}{i:02d}", f"{label}{i % 4}", label) for label in "ab" for i in range(20)
    ]
    kept = sampled(cases, 4)
    assert len(kept) == 8 and len({case.patient for case in kept}) == 8
    assert sampled(cases[::-1], 4) == kept and sampled(cases, None) == cases
    assert {case.name for case in kept} < {case.name for case in sampled(cases, 6)}


def test_windows_are_averaged_by_slide():
    one, two = Case(Path("x"), "one", "p"), Case(Path("x"), "two", "p")
    z, cases = common.by_case(torch.tensor([[1.0, 0.0], [5.0, 5.0], [3.0, 4.0]]), [one, two, one])
    assert z.tolist() == [[2.0, 2.0], [5.0, 5.0]] and cases == [one, two]


def test_scores_read_the_outcome():
    rng = np.random.default_rng(0)
    cases = [
        Case(Path("x"), str(i), str(i), "ab"[i % 2], time=float(1 + i % 2 + 0.01 * i), event=True)
        for i in range(40)
    ]
    z = rng.normal(size=(40, 2)) + 4 * (np.arange(40) % 2)[:, None]
    assert (
        min(common.classify(z, cases, 5, 0)) > 90 > 70 > max(common.classify(z[::-1][:, :1] * 0, cases, 5, 0))
    )
    assert common.survive(z, cases, 5, 0)[0] > 65


def test_folds_are_by_patient():
    """Vectors that tell the patient and nothing else tell nothing of an outcome drawn by patient."""
    rng = np.random.default_rng(0)
    outcome = rng.permutation(20)
    cases = [
        Case(
            Path("x"), str(i), f"p{i % 20}", "ab"[outcome[i % 20] % 2], time=1.0 + outcome[i % 20], event=True
        )
        for i in range(80)
    ]
    z = rng.normal(size=(20, 30))[np.arange(80) % 20]
    assert max(common.classify(z, cases, 5, 0)) < 75
    assert common.survive(z, cases, 5, 0)[0] < 75
    alone = [replace(case, patient=case.name) for case in cases]
    assert min(common.classify(z, alone, 5, 0)) > 95 and common.survive(z, alone, 5, 0)[0] > 90


def test_the_untrained_encoder_reads_standardised_features(tmp_path, monkeypatch):
    write_picture(tmp_path / "a.png", picture(96, 0))
    data, _ = graphs_of([Case(tmp_path / "a.png", "a", "a")], Recipe(mpp=0.5), tmp_path)
    seen = []

    def embedded(method, _):
        seen.append(bool(method.node_scale.fitted))

    monkeypatch.setattr(common, "embedded", embedded)
    assert next(common.vectors(data, 0, 1, tmp_path))[0] == "H-MGDM, untrained"
    assert seen == [True]


def test_ablations_differ_in_what_they_say(tmp_path):
    write_picture(tmp_path / "a.png", picture(96, 0))
    data, _ = graphs_of([Case(tmp_path / "a.png", "a", "a")], Recipe(mpp=0.5), tmp_path)
    made = {name: make() for name, make in common.makers(data.node_dim, data.edge_dim).items()}
    assert made["H-MGDM"].edge_latents and not made["without edge latents"].edge_latents
    assert made["H-MGDM"].decoder.skips and not made["without skips"].decoder.skips
    assert made["H-MGDM"].fixed_time is None and made["one noise level"].fixed_time == 500
    widths = {method.eval().encode(data[0]).graph.shape[1] for method in made.values()}
    assert len(widths) == 1  # GraphMAE gives vectors as wide as H-MGDM

"""The evaluation of patch encoders runs end to end on made-up patches in the layouts of the public data sets."""

import io
import sys
import tarfile
from argparse import Namespace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from dino import bcss, breakhis, breastpathq, crc100k, pcam, protocol
from dino import pictures as readers
from gcmae import breakhis as gcmae_breakhis
from gcmae import camelyon16, nct_crc

from histograph.features import PatchEncoder, save_encoder
from histograph.nn import VisionTransformer

SCRIPTS = {
    "dino/crc100k": crc100k,
    "dino/bcss": bcss,
    "dino/breastpathq": breastpathq,
    "dino/pcam": pcam,
    "dino/breakhis": breakhis,
    "gcmae/nct_crc": nct_crc,
    "gcmae/camelyon16": camelyon16,
    "gcmae/breakhis": gcmae_breakhis,
}
CRC = ("ADI", "BACK", "DEB", "LYM", "MUC", "MUS", "NORM", "STR", "TUM")


class Colour(torch.nn.Module):
    """Mean colour of quarters: enough to tell the made-up classes."""

    mean, std, size_px = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), 16

    def forward(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


def make_colour():
    return Colour()


colour = "python:test_benchmarks_dino:make_colour"


@pytest.fixture(autouse=True)
def here(monkeypatch):
    monkeypatch.setitem(sys.modules, "test_benchmarks_dino", sys.modules[__name__])
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def patch(kind, rng, size=(24, 24)):
    """Noise around a colour of the class."""
    base = np.random.default_rng(100 + kind).integers(40, 215, 3)
    return np.clip(base + rng.normal(scale=25, size=(*size, 3)), 0, 255).astype(np.uint8)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def make_crc(folder, normalised=True):
    rng = np.random.default_rng(0)
    name = "NCT-CRC-HE-100K" + ("" if normalised else "-NONORM")
    for part, count in {name: 6, "CRC-VAL-HE-7K": 4}.items():
        for kind, label in enumerate(CRC):
            for row in range(count):
                save(folder / part / label / f"{label}-{row}.tif", patch(kind, rng))


def make_bcss(folder):
    rng = np.random.default_rng(0)
    codes = np.array([1, 2, 3, 4])
    for region in range(6):
        mask = np.repeat(np.repeat(codes.reshape(2, 2), 224, 0), 224, 1).astype(np.uint8)
        pixels = np.vstack(
            [np.hstack([patch(k, rng, (224, 224)) for k in pair]) for pair in ((0, 1), (2, 3))]
        )
        if region % 2:
            mask[:224, :224] = (19, 20, 9)[region // 2]  # still tumour, still tumour, fat: left out
        if region == 0:
            mask[:224, :130] = 0  # most of the tumour patch is outside the region
        name = f"TCGA-A{region}-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500.png"
        save(folder / "0_Public-data" / "masks" / name, np.pad(mask, ((0, 9), (0, 30))))
        save(
            folder / "0_Public-data" / "rgbs_colorNormalized" / name,
            np.pad(pixels, ((0, 9), (0, 30), (0, 0))),
        )


def make_breastpathq(folder, shared=False):
    rng = np.random.default_rng(0)
    for side, table, count, first in (
        ("train", "train_labels.csv", 40, 100),
        ("validation", "../breastpathq-test/val_labels.csv", 16, 102 if shared else 200),
    ):
        rows = []
        for row in range(count):
            slide, value = first + row // 4, rng.integers(0, 21) / 20
            shade = 200 * (1 - value) + rng.normal(scale=9)
            pixels = np.clip(shade + rng.normal(scale=20, size=(24, 24, 3)), 0, 255)
            save(folder / "datasets" / side / f"{slide}_{row}.tif", pixels.astype(np.uint8))
            rows.append((slide, row, value))
        rows.append((first, 999, 0.5))  # a row without picture
        path = folder / "datasets" / table
        path.parent.mkdir(parents=True, exist_ok=True)
        name = "y" if side == "train" else "p1"
        pd.DataFrame(rows, columns=["slide", "rid", name]).to_csv(path, index=False)


def make_pcam_h5(folder, leaking=False):
    h5py = pytest.importorskip("h5py")
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for side, count in {"train": 40, "test": 20}.items():
        y = np.arange(count) % 2
        x = np.stack([patch(kind, rng) for kind in y])
        for what, values in (("x", x), ("y", y.reshape(-1, 1, 1, 1).astype(np.uint8))):
            with h5py.File(folder / f"camelyonpatch_level_2_split_{side}_{what}.h5", "w") as file:
                file[what] = values
        slides = [f"camelyon16_{'train' if leaking else side}_{row // 8}" for row in range(count)]
        pd.DataFrame({"coord_y": 0, "coord_x": 0, "wsi": slides}).to_csv(
            folder / f"camelyonpatch_level_2_split_{side}_meta.csv"
        )


def make_pcam_tar(folder):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for side, count in {"train": 30, "valid": 20}.items():
        with tarfile.open(folder / f"{side}.tar", "w") as archive:
            for row in range(count):
                data = io.BytesIO()
                Image.fromarray(patch(row % 2, rng)).save(data, "png")
                member = tarfile.TarInfo(f"{side}/{row % 2}/{row}.png")
                member.size = data.tell()
                data.seek(0)
                archive.addfile(member, data)


def make_breakhis(folder):
    rng = np.random.default_rng(0)
    for number in range(16):
        kind, code, name = ("B", "A", "adenosis") if number % 2 else ("M", "DC", "ductal_carcinoma")
        group = "benign" if kind == "B" else "malignant"
        patient = f"14-{2000 + number}" + ("AB" if number < 4 else "")
        for scale in (40, 400):
            for row in range(2):
                below = folder / "BreaKHis_v1/histology_slides/breast" / group / "SOB" / name
                file = f"SOB_{kind}_{code}-{patient}-{scale}-{row:03d}.png"
                save(
                    below / f"SOB_{kind}_{code}_{patient}" / f"{scale}X" / file,
                    patch(number % 2, rng, (20, 30)),
                )


MAKERS = {
    "dino/crc100k": make_crc,
    "dino/bcss": make_bcss,
    "dino/breastpathq": make_breastpathq,
    "dino/pcam": make_pcam_h5,
    "dino/breakhis": make_breakhis,
    "gcmae/nct_crc": make_crc,
    "gcmae/camelyon16": make_pcam_tar,
    "gcmae/breakhis": make_breakhis,
}


def run(name, folder, *more, encoder=colour):
    argv = ["--data", folder, "--cache", folder / "cache", "--n-boot", 20, "--folds", 3, "--encoder", encoder]
    return SCRIPTS[name].main([str(word) for word in (*argv, *more)])


def tables_of(text):
    """Give the rows of each Markdown table, by their first cells."""
    found, now = [], None
    for line in text.splitlines():
        if not line.startswith("|"):
            now = None
        elif now is None:
            now = []
            found.append(now)
        elif not line.startswith("|---"):
            now.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


def number(cell):
    return float(cell.split(" [")[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_it_runs_on_the_public_layout(name, tmp_path, capsys):
    MAKERS[name](tmp_path)
    assert run(name, tmp_path) == 0
    out = capsys.readouterr().out
    tables = tables_of(out)
    ours = {row[1]: row[2:] for row in tables[-1] if row[0] == colour}
    if name == "dino/breastpathq":
        assert set(ours) == {protocol.LEAST_SQUARES, protocol.RIDGE}
        for error, right, legacy in ours.values():
            assert number(error) < 0.01 and 0.8 < number(right) < number(legacy)
        assert ["DINO ViT-S/16 (paper)", "least squares", "0.029", "≈ 0.829", "0.854"] in tables[-1]
        assert "1 of 41 rows" in out and "56 pictures of 14 patients" in out
        return
    assert set(ours) == set(protocol.PROBES)
    for (
        how,
        cells,
    ) in ours.items():  # the made-up classes can be told, by few neighbours of a few pictures in order
        assert all(number(cell) > 0.9 for cell in (cells if how == protocol.LINEAR else cells[-1:]))
    if name in ("dino/crc100k", "dino/bcss"):
        assert len(tables) == 2
        paper, mine = ([row for row in tables[0] if ("(paper)" in row[0]) == side] for side in (True, False))
        assert len(paper) == 3 and len(mine) == 1 and {len(row) for row in tables[0]} == {len(paper[0])}
    else:
        assert len(tables) == 1
    rows = {row[0]: row[1:] for row in tables[-1]}
    assert ("GCMAE ViT-B/16 (paper)" in rows) == name.startswith("gcmae")
    if name == "gcmae/camelyon16":
        assert rows["GCMAE ViT-B/16 (paper)"] == ["linear probe", "0.811", *["not found"] * 3]
        assert "20 of them are the official test side" in out


@pytest.mark.parametrize("name", SCRIPTS)
def test_without_data_it_skips(name, capsys):
    assert SCRIPTS[name].main([]) == 0
    assert capsys.readouterr().out.startswith("skipped: give --data FOLDER with ")


def test_crc_merges_muscle_for_dino_alone_and_prints_the_table_of_its_colours(tmp_path, capsys):
    make_crc(tmp_path, normalised=False)
    pictures = readers.crc(tmp_path, normalised=False, merge_muscle=True)
    assert {picture.label for picture in pictures} == set(crc100k.CLASSES)
    assert sum(picture.label == "STR" for picture in pictures if picture.test) == 8
    assert sum(picture.test for picture in pictures) == 36 and len(pictures) == 90
    assert {picture.label for picture in readers.crc(tmp_path, False, False)} == set(CRC)
    run("dino/crc100k", tmp_path, "--colours", "as-scanned")
    rows = {row[0]: row[1:] for row in tables_of(capsys.readouterr().out)[0]}
    assert rows["DINO ViT-S/16 (paper)"] == list(crc100k.PAPER["as-scanned"]["DINO ViT-S/16"])
    assert rows["DINO ViT-S/16 (paper)"][-1] == ".941"
    with pytest.raises(SystemExit, match="lacks the folder NCT-CRC-HE-100K, found CRC-VAL-HE-7K/"):
        run("dino/crc100k", tmp_path)


def test_bcss_patches_have_the_class_of_most_of_them(tmp_path):
    make_bcss(tmp_path)
    pictures = readers.bcss(tmp_path)
    by_region = {}
    for picture in pictures:
        by_region.setdefault(picture.patient, []).append(picture.label)
    rest = ["stroma", "inflammatory", "necrosis"]
    whole = ["tumour", *rest]
    assert by_region == {
        "TCGA-A0-A0SK": rest,  # outside for the most part
        "TCGA-A1-A0SK": whole,
        "TCGA-A2-A0SK": whole,
        "TCGA-A3-A0SK": whole,
        "TCGA-A4-A0SK": whole,
        "TCGA-A5-A0SK": rest,  # fat
    }
    one = next(picture for picture in pictures if picture.label == "inflammatory")
    whole_region = readers.read_file(one.source)
    assert np.array_equal(one.read(), whole_region[224:448, :224])


def test_breastpathq_says_when_slides_are_on_both_sides(tmp_path, capsys):
    make_breastpathq(tmp_path, shared=True)
    assert run("dino/breastpathq", tmp_path) == 0
    assert "the official split has 4 slides on both sides" in capsys.readouterr().out
    (tmp_path / "datasets" / "train_labels.csv").write_text("slide,rid,stars\n1,2,3\n")
    with pytest.raises(SystemExit, match="must have the columns slide, rid and y"):
        run("dino/breastpathq", tmp_path)


def test_pcam_refuses_slides_on_both_sides_and_reads_pictures_by_row(tmp_path):
    make_pcam_h5(tmp_path / "good")
    pictures = readers.pcam(tmp_path / "good")
    assert len(pictures) == 60 and pictures[41].test and pictures[41].patient == "camelyon16_test_0"
    rng = np.random.default_rng(0)
    assert np.array_equal(pictures[1].read(), [patch(kind, rng) for kind in (0, 1)][1])
    make_pcam_h5(tmp_path / "bad", leaking=True)
    with pytest.raises(SystemExit, match="share 3 patients"):
        run("dino/pcam", tmp_path / "bad")
    (tmp_path / "empty").mkdir()
    with pytest.raises(SystemExit, match=r"must hold camelyonpatch_level_2_split_train_x\.h5"):
        run("dino/pcam", tmp_path / "empty")


def test_breakhis_goes_by_patient_and_magnification(tmp_path):
    make_breakhis(tmp_path)
    pictures = readers.breakhis(tmp_path, 40)
    assert len(pictures) == 32 and {picture.label for picture in pictures} == {"benign", "malignant"}
    assert {picture.patient for picture in pictures} == {f"14-{2000 + number}" for number in range(16)}
    assert all("-40-" in picture.name for picture in pictures)
    folds, how = protocol.folds_of(breakhis.TASK, pictures, Namespace(folds=4))
    patients = protocol.patients_of(pictures)
    assert all(not set(patients[train]) & set(patients[test]) for train, test in folds)
    assert how == "4 folds by patient"
    save(tmp_path / "SOB_of_something.png", patch(0, np.random.default_rng(0)))
    with pytest.raises(ValueError, match="not named as in BreakHis"):
        readers.breakhis(tmp_path, 40)


def test_a_limit_keeps_as_many_of_each_class_and_side():
    pictures = [readers.Picture(str(i), Path(), np.zeros, label="ab"[i % 2], test=i >= 20) for i in range(30)]
    kept = readers.sampled(pictures, 3)
    assert [sum(p.label == label and p.test == test for p in kept) for label in "ab" for test in (0, 1)] == [
        3
    ] * 4
    assert kept == readers.sampled(pictures, 3) and [int(p.name) for p in kept] == sorted(
        int(p.name) for p in kept
    )
    assert readers.sampled(pictures, None) == pictures and len(readers.sampled(pictures, 99)) == 30


def test_pictures_are_read_whole_in_their_middle_square():
    image = np.zeros((40, 100, 3), np.uint8)
    image[:, 30:70] = 255  # the middle square, 40 wide
    assert (readers.squared(image, 40) == 255).all()
    assert readers.squared(image, 20).shape == (20, 20, 3) and readers.squared(image, 64).shape == (64, 64, 3)
    assert readers.squared(image.transpose(1, 0, 2), 40).min() == 255
    small = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    assert np.array_equal(readers.squared(small, 16), small)


def test_what_a_mac_adds_is_no_picture(tmp_path):
    rng = np.random.default_rng(0)
    for side in ("train", "test"):
        for kind in ("normal", "tumour"):
            save(tmp_path / side / kind / "1.png", patch(0, rng))
            for extra in (
                f"{side}/{kind}/._1.png",
                f"{side}/__MACOSX/{kind}/._1.png",
                f"{side}/.cache/1.png",
            ):
                (tmp_path / extra).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / extra).write_bytes(b"no picture")
        with tarfile.open(tmp_path / f"{side}.tar", "w") as archive:
            archive.add(tmp_path / side, arcname=side)
    expected = [(kind, side == "test") for side in ("train", "test") for kind in ("normal", "tumour")]
    assert [(p.label, p.test) for p in readers.pcam(tmp_path)] == expected
    (tmp_path / "tars").mkdir()
    for side in ("train", "test"):
        (tmp_path / f"{side}.tar").rename(tmp_path / "tars" / f"{side}.tar")
    assert sorted((p.label, p.test) for p in readers.pcam(tmp_path / "tars")) == sorted(expected)


def test_an_archive_in_a_folder_of_its_own_name(tmp_path):
    rng = np.random.default_rng(0)
    for name in readers.CRC_FOLDERS:
        save(tmp_path / name / name / "ADI" / "1.tif", patch(0, rng))
    assert [picture.label for picture in readers.crc(tmp_path, True, True)] == ["ADI", "ADI"]


def test_regions_that_do_not_fit_their_masks(tmp_path):
    images, masks = tmp_path / "rgbs", tmp_path / "masks"
    save(masks / "TCGA-A1-A0SK-DX1.png", np.full((224, 230), 9, np.uint8))
    save(images / "TCGA-A1-A0SK-DX1.png", np.zeros((224, 230, 3), np.uint8))
    with pytest.raises(ValueError, match="at least half of one of tumour, stroma"):
        readers.bcss(tmp_path)
    save(images / "TCGA-A1-A0SK-DX1.png", np.zeros((224, 229, 3), np.uint8))
    with pytest.raises(ValueError, match="has 229 x 224 pixels and its mask 230 x 224"):
        readers.bcss(tmp_path)


def test_what_is_wrong_with_the_data_is_said_of_the_data(tmp_path):
    make_crc(tmp_path)
    folder = tmp_path / "NCT-CRC-HE-100K"
    (folder / "ADI" / "ADI-0.tif").write_bytes(b"no picture")
    with pytest.raises(SystemExit, match=r"--data: .*ADI-0\.tif cannot be read"):
        run("dino/crc100k", tmp_path)
    (folder / "TUM").rename(tmp_path / "elsewhere")
    with pytest.raises(SystemExit, match="--data: the training side has no picture of TUM"):
        run("dino/crc100k", tmp_path)


def test_other_weights_under_one_name_are_embedded_anew(tmp_path):
    make_pcam_tar(tmp_path)
    pictures = readers.pcam(tmp_path)[:2]
    options = Namespace(batch_size=7, workers=1, cache=tmp_path / "cache")
    found = []
    for value in (1.0, 2.0, 1.0):
        module = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 24), torch.nn.Flatten())
        torch.nn.init.constant_(module[0].weight, value)
        torch.nn.init.zeros_(module[0].bias)
        encoder = PatchEncoder(module, (0, 0, 0), (1, 1, 1), 24, None, "folder")
        found.append(protocol.vectors("hf:/a/folder", encoder, pictures, 1.0, options))
    assert np.allclose(found[1], 2 * found[0], rtol=1e-5) and np.array_equal(found[0], found[2])


def test_vectors_come_in_the_order_of_the_pictures_and_from_the_cache(tmp_path, capsys):
    make_pcam_tar(tmp_path)
    pictures = readers.pcam(tmp_path)
    options = Namespace(batch_size=7, workers=2, cache=tmp_path / "cache", tokens=None)
    encoder = PatchEncoder(Colour(), (0, 0, 0), (1, 1, 1), 24, None, "colour")
    z = protocol.vectors("colour", encoder, pictures, 1.0, options)
    direct = np.concatenate([encoder.encode(picture.read()[None]).numpy() for picture in pictures])
    assert np.allclose(z, direct, atol=1e-6)
    [file] = (tmp_path / "cache").iterdir()
    np.save(file, z + 1)
    assert np.allclose(protocol.vectors("colour", encoder, pictures, 1.0, options), z + 1)
    assert np.allclose(protocol.vectors("colour", encoder, pictures[:9], 1.0, options), z[:9], atol=1e-6)
    assert np.allclose(protocol.vectors("python:x:colour", encoder, pictures, 1.0, options), z, atol=1e-6)
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_encoders_of_files_and_figures(tmp_path, capsys):
    make_pcam_tar(tmp_path / "data")
    network = VisionTransformer(image_size=16, patch_size=8, dim=12, depth=2, heads=3)
    save_encoder(tmp_path / "tiny.safetensors", network, (0.5,) * 3, (0.5,) * 3, mpp=1.0)
    figures = tmp_path / "figures"
    more = ["--encoder", "hand-made", "--figures", figures, "--projection", "pca"]
    assert run("dino/pcam", tmp_path / "data", *more, encoder=tmp_path / "tiny.safetensors") == 0
    out = capsys.readouterr().out
    assert "hand-made has no attention to draw" in out
    drawn = sorted(path.name.replace("_tiny.safetensors", "") for path in figures.iterdir())
    assert sum("attention" in name for name in drawn) == 2 and len(drawn) == 4
    assert {row[0] for row in tables_of(out)[-1]} == {"hand-made", str(tmp_path / "tiny.safetensors")}
    assert "0.97" not in out  # no number of a paper that has none


def test_the_untrained_network_is_the_same_each_time_and_leaves_the_generator_alone():
    options = Namespace(size_px=32, tokens=None, mean=None, std=None, device="cpu")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = (protocol.encoder_of("untrained", options) for _ in range(2))
    assert torch.equal(torch.rand(3), expected)
    image = np.random.default_rng(0).integers(0, 255, (1, 32, 32, 3), dtype=np.uint8)
    assert torch.equal(first.encode(image), second.encode(image)) and first.encode(image).shape == (1, 384)


def test_what_is_tested_does_not_reach_the_fit():
    rng = np.random.default_rng(0)
    pictures = [
        readers.Picture(str(i), Path(), np.zeros, label="ab"[i % 2], patient=f"p{i // 4}") for i in range(80)
    ]
    folds, _ = protocol.folds_of(breakhis.TASK, pictures, Namespace(folds=4))
    who = np.eye(20)[np.arange(80) // 4]
    found = protocol.classified(who, pictures, folds, Namespace(n_boot=50))
    noise = protocol.classified(rng.normal(size=(80, 4)), pictures, folds, Namespace(n_boot=50))
    for how in protocol.PROBES:
        for result in (found[how], noise[how]):
            _, low, high = result.metrics["auc"]
            assert low <= 0.5 <= high


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ("python:nothing", "give python:MODULE:NAME"),
        ("python:nothing_like_this:x", "No module named"),
        ("python:test_benchmarks_dino:nowhere", "has no nowhere"),
        ("/nowhere/weights.pth", "there is no file"),
        ("nonsense", "is not known"),
    ],
)
def test_mistakes_in_encoders_are_named(tmp_path, encoder, message):
    make_pcam_tar(tmp_path)
    with pytest.raises(SystemExit, match=message):
        run("dino/pcam", tmp_path, encoder=encoder)


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        ("dino", "attention_threshold"),
        ("dino", "knn"),
        ("dino", "prediction_probability"),
        ("gcmae", "knn"),
    ],
)
def test_parity_of_the_evaluation(method, kind):
    from importlib import import_module

    from parity import METHODS, check_file

    path = Path(__file__).parent / "data" / "golden" / method / f"{kind}.npz"
    errors, inputs, complaints = check_file(path, import_module(METHODS[method]).KINDS)
    assert not complaints and inputs
    assert len(errors) >= 2 and max(scaled for _, scaled in errors.values()) < 1e-6

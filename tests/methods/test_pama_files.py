"""Graph files of the released PAMA code."""

from pathlib import Path

import numpy as np
import pytest
import torch

from histograph.methods import read_released_slide
from histograph.methods.pama_released_input import ReleasedReader

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "pama"


def content(**changes):
    """Give what a released file holds, for 30 patches in 5 rows of 6."""
    places = np.stack(np.divmod(np.arange(30), 6), axis=1)
    anchors = [np.array([0, 29]), np.array([7])]
    slide = {
        "feature_array": np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32),
        "adj": np.eye(30, dtype=bool),
        "re_dist": np.zeros((30, 30)),
        "npks": [18, 144],
        "kns": [2, 1],
        "k_index": anchors,
        "patch_pos": places,
        "cm": "none",
        "down_factor": 1,
        "polar_pos": {8: {18: np.zeros((2, 30, 2)), 144: np.zeros((1, 30, 2))}},
    }
    slide |= changes
    return {name: value for name, value in slide.items() if value is not None}


def saved(tmp_path, **changes):
    torch.save(content(**changes), tmp_path / "TCGA-1.pth")
    return tmp_path / "TCGA-1.pth"


def test_a_released_file_is_read(tmp_path):
    slide = read_released_slide(saved(tmp_path), patch_um=100.0)
    assert torch.equal(slide.x, torch.from_numpy(content()["feature_array"]))
    assert slide.pos[:2].tolist() == [[50.0, 50.0], [150.0, 50.0]] and slide.pos[6].tolist() == [50.0, 150.0]
    assert slide.pos.dtype == torch.float32 and slide.anchor_index.dtype == torch.int64
    assert slide.anchor_index.tolist() == [7] and slide.slide_id == "TCGA-1"


def test_anchors_are_chosen_by_their_patches(tmp_path):
    path = saved(tmp_path)
    assert read_released_slide(path, patch_um=1, patches_per_anchor=18).anchor_index.tolist() == [0, 29]
    assert "anchor_index" not in read_released_slide(path, patch_um=1, patches_per_anchor=None)
    bare = saved(tmp_path, npks=None, k_index=None)
    assert "anchor_index" not in read_released_slide(bare, patch_um=1, patches_per_anchor=None)


@pytest.mark.parametrize(
    "form", [torch.from_numpy, np.asfortranarray, lambda a: a.astype(a.dtype.newbyteorder(">"))]
)
def test_arrays_come_in_any_form(tmp_path, form):
    changes = {name: form(content()[name]) for name in ("feature_array", "patch_pos")}
    slide = read_released_slide(saved(tmp_path, **changes), patch_um=100.0)
    assert torch.equal(slide.x, torch.from_numpy(content()["feature_array"]))
    assert slide.pos[7].tolist() == [150.0, 150.0]


def test_files_of_numpy_1_are_read(tmp_path):
    path = tmp_path / "old.pth"
    torch.save(content(down_factor=np.int64(1)), path, _use_new_zipfile_serialization=False)
    # the only difference is the name of the package
    path.write_bytes(path.read_bytes().replace(b"numpy._core.", b"numpy.core."))
    assert b"numpy.core.multiarray" in path.read_bytes()
    assert len(read_released_slide(path, patch_um=100.0).x) == 30


def test_the_network_is_given_the_bins_of_the_file(tmp_path):
    with np.load(GOLDEN / "case_b_padded.npz") as file:
        case = dict(file)
    count = len(case["slide1/pos"])
    path = saved(
        tmp_path,
        feature_array=case["feat"][1, :count],
        patch_pos=case["slide1/pos"],
        npks=[9],
        k_index=[case["slide1/kidx"]],
    )
    slide = read_released_slide(path, patch_um=128.0, patches_per_anchor=9)
    slides = ReleasedReader(12, max_patches=48, max_anchors=8).read(slide)
    assert np.array_equal(slides.distance[0], case["rd"][1])
    assert np.array_equal(slides.direction[0], case["polar"][1])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"feature_array": None}, "lacks feature_array of a graph file"),
        ({"patch_pos": None, "k_index": None}, "lacks patch_pos, k_index"),
        ({"patch_pos": np.zeros((29, 2))}, "found 30 rows in feature_array and 29 in patch_pos"),
        ({"feature_array": np.zeros((0, 4)), "patch_pos": np.zeros((0, 2))}, "at least one; found 0 rows"),
        (
            {"patch_pos": np.zeros((30, 3))},
            r"patch_pos .* of shape \(P, 2\), found float64 of shape \(30, 3\)",
        ),
        ({"feature_array": np.zeros(30)}, r"of shape \(P, C\), found float64 of shape \(30,\)"),
        ({"feature_array": np.array([["a"]] * 30)}, "must be numbers"),
        ({"feature_array": np.full((30, 4), np.nan)}, "finite, found NaN or infinity in row 0"),
        (
            {"npks": [18, 36]},
            "patches_per_anchor must be one of those in .*, 18, 36, .*found 144 and 2 lists",
        ),
        ({"npks": [144]}, "found 144 and 2 lists"),
        (
            {"k_index": [[0], np.array([30])]},
            r"rows of its 30 patches, found int64 of shape \(1,\), 30 .. 30",
        ),
        ({"k_index": [[0], np.array([0.5])]}, "found float64"),
        ({"k_index": [[0], np.array([], dtype=int)]}, r"found int64 of shape \(0,\)$"),
    ],
)
def test_broken_files_are_explained(tmp_path, changes, words):
    with pytest.raises(ValueError, match=words):
        read_released_slide(saved(tmp_path, **changes), patch_um=128.0)


class Harmful:
    """Would write a file when unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("harm"),))


def test_files_that_cannot_be_read_are_explained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"is not a file of torch.save.*where you trust it"):
        read_released_slide(saved(tmp_path, cm=Harmful()), patch_um=128.0)
    assert not Path("harm").exists()
    with pytest.raises(FileNotFoundError, match="path: no file at"):
        read_released_slide("nowhere.pth", patch_um=128.0)
    torch.save([1], "list.pth")
    with pytest.raises(ValueError, match="must hold a dictionary, found list"):
        read_released_slide("list.pth", patch_um=128.0)


@pytest.mark.parametrize("patch_um", [0.0, -1.0, np.nan, np.inf])
def test_patch_um_must_be_a_length(tmp_path, patch_um):
    with pytest.raises(ValueError, match="patch_um must be above 0"):
        read_released_slide(saved(tmp_path), patch_um=patch_um)

import hashlib
import io
import zipfile

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from histograph import bundled


def test_slide_is_the_openslide_test_file() -> None:
    assert hashlib.md5(bundled.slide_path().read_bytes()).hexdigest() == "1ad6e35c9d17e4d85fb7e3143b328efe"


def test_patches_are_balanced_and_complete() -> None:
    data = bundled.patches()
    assert data.images.shape == (400, 96, 96, 3) and data.images.dtype == np.uint8
    assert len(data) == len(data.y) == len(data.group) == len(data.names) == 400
    assert np.bincount(data.y).tolist() == [200, 200]
    assert data.mpp == pytest.approx(0.97, abs=0.005)
    assert data.names == sorted(set(data.names))


def test_patches_hold_no_duplicates_and_groups_are_numbered_by_appearance() -> None:
    data = bundled.patches()
    assert len({image.tobytes() for image in data.images}) == 400
    first = pd.unique(data.group)
    assert first.tolist() == list(range(len(first)))
    assert len(first) == 315


def test_overlapping_patches_share_a_group() -> None:
    """Patches that were cut 64 pixels apart match where they overlap; such pairs are in one group."""
    data = bundled.patches()
    grey = data.images.astype(np.float32).mean(axis=-1)
    strip = 32

    def unit(part: np.ndarray) -> np.ndarray:
        rows = part.reshape(len(part), -1)
        rows = rows - rows.mean(axis=1, keepdims=True)
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 100.0)

    found = 0
    for a, b in [
        (grey[:, :, -strip:], grey[:, :, :strip]),
        (grey[:, -strip:], grey[:, :strip]),
    ]:
        correlation = unit(a) @ unit(b).T
        left, right = np.nonzero(correlation > 0.97)
        keep = left != right
        assert np.array_equal(data.group[left[keep]], data.group[right[keep]])
        found += keep.sum()
    assert found > 0


def test_patches_read_the_original_jpeg_files() -> None:
    data = bundled.patches()
    with zipfile.ZipFile(bundled.slide_path().parent / "patches.zip") as archive:
        assert all(info.compress_type == zipfile.ZIP_STORED for info in archive.infolist())
        with Image.open(io.BytesIO(archive.read(data.names[7]))) as image:
            assert image.format == "JPEG"
            assert np.array_equal(np.asarray(image), data.images[7])


def test_the_folder_stays_small_and_says_where_it_comes_from() -> None:
    folder = bundled.slide_path().parent
    files = [path for path in folder.iterdir() if path.suffix in {".svs", ".zip", ".md"}]
    assert sum(path.stat().st_size for path in files) < 4.5e6
    text = (folder / "PROVENANCE.md").read_text(encoding="utf-8")
    for path in files:
        if path.suffix != ".md":
            assert path.name in text
            assert hashlib.md5(path.read_bytes()).hexdigest() in text


def test_missing_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundled, "_SLIDE", "absent.svs")
    with pytest.raises(FileNotFoundError, match=r"absent\.svs"):
        bundled.slide_path()

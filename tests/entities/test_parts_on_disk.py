"""A search that was stopped goes on where it was, gives the same, and never mixes what does not belong together."""

import copy
import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import histograph as hg
from histograph.entities import nuclei
from histograph.entities.parts_on_disk import KeptParts
from histograph.slides import Slide, TissueMask, open_slide
from histograph.slides.image_reader import ArrayReader

DATA = Path(__file__).parent.parent / "data" / "stardist"


class Reader(ArrayReader):
    """An array that counts what is read, and is interrupted after some reads."""

    def __init__(self, image, most=10**9):
        super().__init__(image)
        self.reads, self.most, self.lock = 0, most, threading.Lock()

    def read(self, level, x, y, width, height):
        with self.lock:
            self.reads += 1
            if self.reads > self.most:
                raise KeyboardInterrupt
        return super().read(level, x, y, width, height)


def slide_of(image, most=10**9):
    reader = Reader(image, most)
    return Slide(reader, (0.5, 0.5), "a slide/1"), reader


@pytest.fixture(scope="module")
def image():
    picture = np.asarray(Image.open(DATA / "image.png"))
    row = np.concatenate([picture, picture[:, ::-1]], axis=1)
    return np.concatenate([row, row[::-1]])


@pytest.fixture(scope="module", params=["classical", "stardist-torch"])
def options(request):
    """Both methods, in tiles of which the image has 20 or 12."""
    if request.param == "classical":
        return {"threshold": 0.3, "tile_um": 32.0}
    pytest.importorskip("h5py")
    from histograph.entities.stardist_files import load_stardist

    settings = {"window_px": 176, "prob_thresh": 0.35, "max_radius_um": 12.0, "normalise": (60, 240)}
    model = load_stardist(DATA / "plain")
    return {"segment": "stardist-torch", "model": model, "mpp": 0.5, "tile_um": 32.0, **settings}


def same(a, b):
    assert a.label.tolist() == b.label.tolist() and len(a) > 40
    np.testing.assert_array_equal(a.centroid, b.centroid)
    np.testing.assert_array_equal(a.masks.bits, b.masks.bits)
    assert a.parameters == b.parameters


def working():
    """Return the threads that still find nuclei."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("histograph")]


def stopped(image, folder, options, reads=50):
    """Run until the slide has been read so often; return the tiles that are kept."""
    slide, _ = slide_of(image, reads)
    with pytest.raises(KeyboardInterrupt):
        nuclei(slide, resume=folder, workers=2, **options)
    assert not working()
    return sorted(folder.rglob("tile-*.npz"))


def test_a_run_goes_on_where_it_was_stopped(image, options, tmp_path):
    slide, reader = slide_of(image)
    wanted = nuclei(slide, **options)
    all_reads = reader.reads
    kept = stopped(image, tmp_path / "kept", options, reads=36 + all_reads // 2)
    assert len(kept) >= 4 and not list(tmp_path.rglob("*.tmp"))
    assert kept[0].parent.name == "a slide%2F1.nuclei"
    slide, reader = slide_of(image)
    again = nuclei(slide, resume=tmp_path / "kept", workers=3, **options)
    same(wanted, again)
    assert reader.reads <= 36 + all_reads - len(
        kept
    )  # the 36 places that tell the slide, and what was missing
    assert list((tmp_path / "kept").iterdir()) == []


def test_an_interruption_between_tiles_stops_the_threads(image, options, tmp_path, monkeypatch):
    name = "stardist" if "model" in options else "nuclei"

    def interrupted(parts):
        next(iter(parts))
        next(iter(parts))
        raise KeyboardInterrupt

    monkeypatch.setattr(import_module(f"histograph.entities.{name}"), "collect", interrupted)
    with pytest.raises((KeyboardInterrupt, StopIteration)) as caught:
        nuclei(slide_of(image)[0], resume=tmp_path, **options)
    assert not working()  # while the traceback holds all frames, as in a notebook
    assert caught.value is not None and list(tmp_path.rglob("tile-*.npz"))


def test_what_a_kill_leaves_of_a_file_is_removed_and_what_is_not_ours_stays(image, options, tmp_path):
    kept = stopped(image, tmp_path, options)
    folder = kept[0].parent
    (folder / ".tile-9-9.npz.1-ab.tmp").write_bytes(b"half")
    (folder / "notes.txt").write_text("mine")
    nuclei(slide_of(image)[0], resume=tmp_path, **options)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]


def changed(options):
    """Arguments that make other tiles, with the word that the message must have."""
    mask = TissueMask(np.ones((40, 40), bool), 4.0)
    yield {**options, "tile_um": 64.0}, "tile_um 32.0, now 64.0"
    yield {**options, "mask": mask}, "mask None, now"
    if "threshold" in options:
        yield {**options, "threshold": 0.4}, "threshold 0.3, now 0.4"
        yield {**options, "min_area_um2": 3.0}, "min_area_um2"
    else:
        network = copy.deepcopy(options["model"].network)
        next(network.parameters()).data += 0.01
        yield {**options, "model": replace(options["model"], network=network)}, "weights"
        yield {**options, "prob_thresh": 0.4}, "prob_thresh 0.35, now 0.4"


def test_tiles_of_other_arguments_are_refused(image, options, tmp_path):
    kept = stopped(image, tmp_path, options)
    before = [path.read_bytes() for path in kept]
    for other, match in changed(options):
        with pytest.raises(ValueError, match=f"resume: .*{match}.* or delete this one"):
            nuclei(slide_of(image)[0], resume=tmp_path, **other)
    darker = image.copy()
    darker[:40, :40] //= 2
    with pytest.raises(ValueError, match="slide pixels"):
        nuclei(slide_of(darker)[0], resume=tmp_path, **options)
    with pytest.raises(ValueError, match="slide size"):
        nuclei(slide_of(image[:-1])[0], resume=tmp_path, **options)
    assert [path.read_bytes() for path in kept] == before


def test_a_damaged_tile_is_named(image, options, tmp_path):
    kept = stopped(image, tmp_path, options)
    kept[0].write_bytes(kept[0].read_bytes()[:100])
    with pytest.raises(ValueError, match=rf"{kept[0].name} is damaged .*delete it"):
        nuclei(slide_of(image)[0], resume=tmp_path, **options)
    kept[0].unlink()
    same(nuclei(slide_of(image)[0], **options), nuclei(slide_of(image)[0], resume=tmp_path, **options))


def test_tiles_of_unknown_arguments_are_refused(image, options, tmp_path):
    about = stopped(image, tmp_path, options)[0].parent / "about.json"
    for text in (about.read_text()[:50], "[]"):
        about.write_text(text)
        with pytest.raises(ValueError, match=r"about.json is damaged .*delete the folder"):
            nuclei(slide_of(image)[0], resume=tmp_path, **options)
    about.unlink()
    with pytest.raises(ValueError, match=r"holds tiles but no about.json"):
        nuclei(slide_of(image)[0], resume=tmp_path, **options)


def test_a_folder_that_cannot_be_made_is_named(image, options, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="resume: cannot make this folder"):
        nuclei(slide_of(image)[0], resume=tmp_path / "file", **options)


def test_a_folder_that_another_process_removed_is_named(tmp_path):
    kept = KeptParts.open(tmp_path, "a", {})
    other = KeptParts.open(tmp_path, "a", {})
    other.get("0-0", lambda: {"x": np.zeros(2)})
    other.remove()
    with pytest.raises(FileNotFoundError, match=r"a\.nuclei has been removed .*another process"):
        kept.get("0-1", lambda: {"x": np.zeros(2)})
    assert list(tmp_path.iterdir()) == []


_SLOW = """
import signal, sys, time
import numpy as np
from histograph.entities import nuclei
from histograph.slides import Slide
from histograph.slides.image_reader import ArrayReader

class Slow(ArrayReader):
    def read(self, *place):
        time.sleep(0.15)
        return super().read(*place)

signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background have it switched off
slide = Slide(Slow(np.load(sys.argv[1])), (0.5, 0.5), "a slide/1")
nuclei(slide, resume=sys.argv[2], threshold=0.3, tile_um=32.0)
"""


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_is_interrupted_or_killed_leaves_whole_tiles(image, kind, tmp_path):
    options, kept = {"threshold": 0.3, "tile_um": 32.0}, tmp_path / "kept"
    np.save(tmp_path / "image.npy", image)
    words = [sys.executable, "-c", _SLOW, tmp_path / "image.npy", kept]
    with subprocess.Popen(words, stderr=subprocess.PIPE) as process:
        for _ in range(1200):
            if len(list(kept.rglob("tile-*.npz"))) >= 3 or process.poll() is not None:
                break
            time.sleep(0.05)
        process.send_signal(kind)
        told = process.communicate(timeout=30)[1].decode()
    assert process.returncode != 0 and ("KeyboardInterrupt" in told) == (kind == signal.SIGINT), told
    tiles = list(kept.rglob("tile-*.npz"))
    assert 3 <= len(tiles) < 20
    if kind == signal.SIGINT:
        assert not list(kept.rglob("*.tmp"))
    same(nuclei(slide_of(image)[0], **options), nuclei(slide_of(image)[0], resume=kept, **options))
    assert list(kept.iterdir()) == []


def test_graphs_and_the_command_line_pass_it_on(image, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from histograph.cli import app

    Image.fromarray(image).save(tmp_path / "s.png")
    slide = open_slide(tmp_path / "s.png", mpp=0.5)
    plain = hg.build_graph(slide, {"cell": {}}, features={"cell": ("shape",)}, progress=False)
    asked = {"cell": {"resume": tmp_path / "kept"}}
    graph = hg.build_graph(slide, asked, features={"cell": ("shape",)}, progress=False)
    # where tiles are kept does not decide the graph, so it is not part of what says whether one is complete
    assert graph.provenance["parameters_hash"] == plain.provenance["parameters_hash"]
    assert list((tmp_path / "kept").iterdir()) == []
    with pytest.raises(ValueError, match="resume"):
        hg.build_graph(slide, {"patch": {"resume": tmp_path}}, progress=False)

    folders = []
    module = import_module("histograph.entities.nuclei")  # not the function of this name
    monkeypatch.setattr(module, "keep_parts", lambda folder, *_: folders.append(folder))
    words = ["build", str(tmp_path / "s.png"), "--out", str(tmp_path / "out"), "--mpp", "0.5", "--resume"]
    done = CliRunner().invoke(app, [*words, "--entities", "cell"])
    assert done.exit_code == 0 and folders == [tmp_path / "out" / "unfinished"], done.output
    assert CliRunner().invoke(app, [*words, "--entities", "patch"]).exit_code == 2


def test_what_tiles_were_made_with_can_be_read(image, options, tmp_path):
    kept = stopped(image, tmp_path, options)
    about = json.loads((kept[0].parent / "about.json").read_text())
    assert about["slide"] == "a slide/1" and about["tile_um"] == 32.0 and about["slide size"] == [292, 260]

"""The evidence for PAMA: its predictors and sources by hand, and both scripts end to end on tiny made-up data."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch_geometric.data import Data

import histograph as hg

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from hmgdm import vectra_lung
from pama import guesses, networks, reconstruction, slide_task, sources

SMALL = ["--seeds", "1", "--epochs", "1", "--hidden", "16", "--batch-size", "8"]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def grid(side, columns=3, seed=0, smooth=False):
    """A full square of patches of 10 um; smooth, its features are waves."""
    draw = torch.Generator().manual_seed(seed)
    row, column = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    pos = torch.stack([column, row], -1).reshape(-1, 2) * 10.0 + 5
    x = torch.randn(side * side, columns, generator=draw)
    if smooth:
        x = torch.sin(pos @ torch.rand(2, columns, generator=draw) / 30) + 0.1 * x
    return Data(x=x, pos=pos)


def test_hidden_patches_are_counted_as_pama_counts_them():
    slides = [grid(5), grid(6)]
    (first, second), again = guesses.hide(slides, 0.75, 3), guesses.hide(slides, 0.75, 3)
    assert int(first.sum()) == 6 and int(second.sum()) == 9 and torch.equal(first, again[0])
    assert not torch.equal(first, guesses.hide(slides, 0.75, 4)[0])


def test_means_of_visible_patches_by_hand():
    pos = torch.tensor([[0.0, 0], [10, 0], [30, 0], [20, 0]])
    slide = Data(x=torch.tensor([[1.0], [2.0], [6.0], [99.0]]), pos=pos)
    found = guesses.near_means(slide, torch.tensor([True, True, True, False]))
    assert float(found[guesses.TRAINING_MEAN]) == 0
    assert float(found[guesses.MEAN]) == float(found[guesses.AROUND]) == pytest.approx(3)
    assert float(found[guesses.NEAREST]) in (2.0, 6.0)
    weight = np.array([1 / 400, 1 / 100, 1 / 100])
    assert float(found[guesses.WEIGHTED]) == pytest.approx(weight @ [1, 2, 6] / weight.sum())
    weight = np.exp(-(np.array([2.0, 1, 1]) ** 2) / 2)
    assert float(found["Gaussian 1"]) == pytest.approx(weight @ [1, 2, 6] / weight.sum(), rel=1e-5)


def test_no_predictor_reads_a_hidden_patch():
    slides = [grid(7, smooth=True, seed=s) for s in range(4)]
    visible = guesses.hide(slides, 0.6, 0)
    ridge = guesses.fit_ridge(slides, 0.6, 1)
    options = SimpleNamespace(hidden=16, patches_per_anchor=4.0, slopes=True)
    method = networks.network(3, "PAMA", 0, options)
    for slide, seen in zip(slides, visible, strict=True):
        other = Data(x=torch.where(seen[:, None], slide.x, slide.x + 5), pos=slide.pos)
        before, after = guesses.guess(slide, seen, ridge), guesses.guess(other, seen, ridge)
        assert list(before) == list(guesses.GUESSES)
        before["PAMA"] = reconstruction.restored(method, slide, seen)
        after["PAMA"] = reconstruction.restored(method, other, seen)
        for name, values in before.items():
            assert values.shape == (int((~seen).sum()), 3) and torch.equal(values, after[name]), name


def test_ridge_beats_the_means_it_is_made_of_on_smooth_slides():
    slides = [grid(9, smooth=True, seed=s) for s in range(12)]
    ridge = guesses.fit_ridge(slides[:8], 0.5, 0)
    error = dict.fromkeys(guesses.GUESSES, 0.0)
    for slide, visible in zip(slides[8:], guesses.hide(slides[8:], 0.5, 1), strict=True):
        for name, values in guesses.guess(slide, visible, ridge).items():
            error[name] += float((values - slide.x[~visible]).square().mean())
    assert min(error, key=error.get) == guesses.RIDGE


def test_step_of_a_grid():
    pos = grid(4).pos
    assert guesses.grid_step(pos) == 10 and guesses.grid_step(pos[:1]) == 1
    assert guesses.grid_step(pos[[0, 2, 8]] + torch.tensor([3e-5, 0.0])) == pytest.approx(20)


def test_cells_are_counted_in_their_patch():
    pos = np.array([[0, 0], [1, 1], [5, 5], [12, 3], [25, 25], [26, 25.0]])
    slide = sources.cell_patches(pos, np.array([0, 0, 1, 2, 1, 0]), 3, 10.0)
    assert slide.pos.tolist() == [[5, 5], [15, 5], [25, 25]]
    # pairs in the first patch: 0-1 of one kind, 1-2 of two; the nearest other cell of the second is in another patch
    expected = [[2, 1, 0, 1, 1], [0, 0, 1, 0, 0], [1, 1, 0, 0, 1]]
    np.testing.assert_allclose(slide.x.numpy() ** 2, expected, atol=1e-6)
    assert sources.cell_patches(pos[:1], np.array([2]), 3, 10.0).x.tolist() == [[0, 0, 1, 0, 0]]


def test_windows_share_no_patch_and_lose_only_small_ones():
    whole = grid(20)
    windows = sources.windows_of(whole, 100.0)
    assert [w.num_nodes for w in windows] == [100] * 4
    rows = torch.cat([w.pos for w in windows])
    assert len(rows.unique(dim=0)) == 400
    assert len(sources.windows_of(whole, 150.0)) == 3  # the fourth has 25 patches


def test_scale_is_that_of_the_training_slides_and_answers_are_left_behind():
    slides = [grid(6, seed=s) for s in range(3)]
    slides[0].group, slides[2].x = "a", slides[2].x + 100
    ready = sources.scaled(slides, [0, 1])
    known = torch.cat([s.x for s in ready[:2]])
    assert known.mean(0).abs().max() < 0.05 and (known.std(0) - 1).abs().max() < 0.05
    assert float(ready[2].x.min()) == sources.CUT and "group" not in ready[0]


def test_splits_keep_groups_together_and_take_few_in_turn():
    groups = [i // 3 for i in range(30)]
    train, test = sources.split(groups, 0)
    assert sorted(train + test) == list(range(30)) and len(test) == 6
    assert not {groups[i] for i in train} & {groups[i] for i in test}
    three = ["a", "a", "b", "c"]
    assert [sources.split(three, seed)[1] for seed in range(4)] == [[0, 1], [2], [3], [0, 1]]


def test_slopes_reach_from_the_whole_slide_to_a_neighbour():
    options = SimpleNamespace(hidden=16, patches_per_anchor=4.0, slopes=True)
    method, plain = (
        networks.network(3, "PAMA", 0, SimpleNamespace(**{**vars(options), "slopes": slopes}))
        for slopes in (True, False)
    )
    change = method.blocks[0].attention.distance - plain.blocks[0].attention.distance
    assert change[:, 0].abs().max() == 0
    torch.testing.assert_close(change[:, -1], -torch.tensor([1.0, 4, 16, 64])[: len(change)])
    assert networks.network(3, "without distance", 0, options).blocks[0].attention.distance is None


def test_error_of_drawn_units_is_that_of_their_rows(rng):
    total, count = rng.random(5), rng.integers(1, 9, 5).astype(float)
    weights = np.array([[1.0] * 5, [2, 0, 0, 1, 0]])
    expected = [total.sum() / count.sum(), (2 * total[0] + total[3]) / (2 * count[0] + count[3])]
    np.testing.assert_allclose(reconstruction.error((total, count), weights), expected)


def test_auc_draws_patients_with_all_their_slides(rng):
    score, y, unit = rng.random(40), rng.integers(0, 2, 40), np.arange(40) // 4
    weights = rng.integers(0, 3, 10)
    rows = np.repeat(np.arange(40), weights[unit])
    found = slide_task.drawn_auc((score, y, unit), weights[None])[0]
    assert found == pytest.approx(roc_auc_score(y[rows], score[rows]))


def test_labelled_groups_are_whole_and_of_both_answers(rng):
    group, y = np.arange(60) // 3, (np.arange(60) // 3 > 16).astype(int)
    rows = np.arange(6, 60)
    for part in (0.05, 0.5, 1.0):
        taken = slide_task.labelled(y, group, rows, part, rng)
        assert set(taken) <= set(rows) and len(set(taken)) == len(taken)
        assert all((taken // 3 == name).sum() == 3 for name in group[taken])
        assert min(len(set(group[taken][y[taken] == a])) for a in (0, 1)) >= 2
    assert len(slide_task.labelled(y, group, rows, 1.0, rng)) == len(rows)


def test_mixing_tells_nests_from_mixed_cells(rng):
    pos = rng.random((400, 2)) * 200
    mixed, nests = rng.integers(0, 2, 400), (pos[:, 0] > 100).astype(int)
    values = [slide_task.mixing(vectra_lung.graph_of(pos, kind)) for kind in (mixed, nests)]
    assert values[0] == pytest.approx(1, abs=0.1) and values[1] < 0.4
    assert np.isnan(slide_task.mixing(vectra_lung.graph_of(pos, 0 * mixed)))


def test_pooling_that_forgets_places_cannot_see_shuffled_slides():
    slides = [grid(6, seed=s) for s in range(6)]
    moved = slide_task.shuffled(slides, 0)
    for slide, other in zip(slides, moved, strict=True):
        assert not torch.equal(slide.x, other.x) and torch.equal(slide.pos, other.pos)
        torch.testing.assert_close(slide.x.sort(0).values, other.x.sort(0).values)


def blots(side, seed, shade):
    rng = np.random.default_rng(seed)
    image = np.repeat(np.repeat(rng.integers(90, 220, (side // 12, side // 12, 3)), 12, 0), 12, 1)
    return np.clip(image - 60 * shade, 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def crc(tmp_path_factory):
    folder, rng, rows = tmp_path_factory.mktemp("crc"), np.random.default_rng(1), []
    (folder / "images").mkdir()
    for number in range(24):
        Image.fromarray(blots(84, number, number % 2)).save(folder / "images" / f"img{number}.png")
        kinds = rng.random(10) < (0.2 + 0.6 * (number % 2))
        rows += [(f"img{number}", "epithelial" if kind else "others") for kind in kinds]
    pd.DataFrame(rows, columns=["image", "cell_type"]).to_csv(folder / slide_task.TABLE, index=False)
    return folder


@pytest.fixture(scope="module")
def cells(tmp_path_factory):
    rng, rows = np.random.default_rng(0), []
    for image in range(20):
        patient = image // 2
        facts = {"patient_id": patient, "patientImage_id": f"{patient}_{image % 2}", "age": 60}
        facts |= {"stage": 1 + (patient < 5), "survival_days": 100, "survival_status": 1}
        for _ in range(220):
            x, y = np.round(rng.random(2) * 600) / 2
            nest = image % 3 and x > 150
            kind = 0 if nest or rng.random() < 0.2 else rng.integers(1, 7)
            signs = {
                f"phenotype_{m}": f"{m}{'+' if i == kind else '-'}" for i, m in enumerate(vectra_lung.MARKERS)
            }
            rows.append({**facts, "x": x, "y": y, **signs})
    folder = tmp_path_factory.mktemp("lung")
    pd.DataFrame(rows).to_csv(folder / vectra_lung.FILE)
    return folder


@pytest.fixture
def slides(tmp_path, monkeypatch):
    """A folder of three 'slides': opened from arrays, for no small slide file of several windows is at hand."""
    for name in "abc":
        (tmp_path / f"{name}.svs").touch()
    monkeypatch.setattr(
        sources, "_opened", lambda path, mpp: hg.open_slide(blots(240, ord(path.stem), 0), mpp=mpp)
    )
    return tmp_path


def test_a_run_is_found_again_and_only_if_it_is_the_same(tmp_path):
    options = SimpleNamespace(
        hidden=16, patches_per_anchor=4.0, slopes=True, epochs=1, batch_size=2, lr=1e-2, cache=tmp_path
    )
    slides = [grid(5, seed=s) for s in range(4)]
    first, again, other = (networks.network(3, "PAMA", 0, options) for _ in range(3))
    networks.train(first, "PAMA", slides, 0, options)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.safetensors")}
    networks.train(again, "PAMA", slides, 0, options)
    assert len(files) == 1 and all(path.stat().st_mtime_ns == when for path, when in files.items())
    assert torch.equal(first.predict.weight, again.predict.weight) and not again.training
    networks.train(other, "PAMA", slides[::-1], 0, options)
    assert len(list(tmp_path.iterdir())) == 2
    assert not torch.equal(first.predict.weight, other.predict.weight)


def test_reconstruction_end_to_end(crc, cells, slides, capsys):
    options = ["--patch-px", "12", "--cell-patch-um", "40", "--patch-um", "6", "10", "--window", "16"]
    data = ["--data", str(crc), str(cells), str(slides), "--cache", str(slides / "runs")]
    assert reconstruction.main([*data, *SMALL, *options]) == 0
    printed = capsys.readouterr().out
    for name in (*guesses.GUESSES, *networks.ABLATIONS, reconstruction.UNTRAINED):
        assert printed.count(f"\n| {name} | ") == 4
    assert printed.count("PAMA minus ") == 4 * 6 and printed.count(" minus PAMA |") == 4 * 3
    assert "pictures, patches of 12 pixels: 24 of 49 patches" in printed
    assert "lung cells, patches of 40 um: 20 of" in printed and "slides, patches of 6 um" in printed
    assert "nan" not in printed and "not run" not in printed


def test_slide_task_end_to_end(crc, cells, tmp_path, capsys):
    for number in range(36):
        folder = tmp_path / str(number % 2)
        folder.mkdir(exist_ok=True)
        Image.fromarray(blots(96, number, number % 2)).save(folder / f"{number}.png")
    options = ["--patch-px", "12", "--cell-patch-um", "40", "--pictures", "36", "--draws", "1"]
    data = ["--data", str(crc), str(cells), str(tmp_path), "--cache", str(tmp_path / "runs")]
    assert slide_task.main([*data, *SMALL, *options, "--no-ablations"]) == 0
    printed = capsys.readouterr().out
    for question in ("epithelial", "tumour cells mixed with others", "stage above I", "tumour in the middle"):
        assert f"\n{question}\n" in printed
    assert printed.count(f"\n{slide_task.ARRANGED}\n") == 3
    assert printed.count(f"\n| {slide_task.MEAN} | ") == 7 and "without distance" not in printed
    chance = printed.split(f"\n{slide_task.ARRANGED}\n")[1].split(f"| {slide_task.SPREAD} | ")[1]
    assert chance.startswith("0.500")
    assert "nan" not in printed and "not run" not in printed


@pytest.mark.parametrize("script", [reconstruction, slide_task])
def test_without_data_or_with_other_data_they_say_so(script, tmp_path, capsys):
    assert script.main([]) == 0
    assert capsys.readouterr().out.startswith("skipped: give --data FOLDER")
    with pytest.raises(SystemExit, match="found nothing"):
        script.main(["--data", str(tmp_path)])
    with pytest.raises(SystemExit, match="found no folder"):
        script.main(["--data", str(tmp_path / "absent")])

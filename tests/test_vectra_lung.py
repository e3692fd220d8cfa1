"""The survival experiment on cell graphs runs end to end on a small table in the layout of the real one."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

from hmgdm import vectra_lung as bench

import histograph as hg


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Twelve patients with two images of 40 cells; phenotypes are exclusive, as in the real table."""
    rng = np.random.default_rng(0)
    rows = []
    for image in range(24):
        patient = image // 2
        row = {
            "image_id": image % 2,
            "patient_id": patient + 2,
            "patientImage_id": f"{patient + 2}_{image % 2}",
            "age": 50 + patient,
            "stage": 1 + patient % 3,
            "survival_days": 100 * (patient + 1),
            "survival_status": int(patient % 4 != 0),
        }
        for kind in rng.integers(0, 7, 40):
            signs = {
                f"phenotype_{m}": f"{m.upper()}{'+' if i == kind else '-'}"
                for i, m in enumerate(bench.MARKERS)
            }
            x, y = np.round(rng.random(2) * 160) / 2
            rows.append({**row, "x": x, "y": y, **signs})
    path = tmp_path_factory.mktemp("vectra")
    pd.DataFrame(rows).to_csv(path / bench.FILE)
    return path


def _run(folder: Path, *more: str) -> list[str]:
    small = "--seeds 1 --epochs 1 --supervised-epochs 1 --windows 1 --window-um 40 --hidden 16 --folds 3 --boot 20"
    return ["--data", str(folder), *small.split(), *more]


def test_images_are_graphs_with_follow_up(folder):
    graphs = bench.read_images(folder / bench.FILE)
    assert len(graphs) == 24 and {graph.patient for graph in graphs} == set(range(2, 14))
    for graph in graphs:
        assert graph.is_undirected() and not graph.has_self_loops()
        assert graph.x.shape == (40, 7) and torch.equal(graph.x.sum(1), torch.ones(40))
        assert graph.edge_attr.max() <= bench.MAX_LENGTH_UM
    assert not graphs[0].event or graphs[0].time != 100


def test_hand_made_features_count_cells_and_neighbours(folder):
    graph = bench.read_images(folder / bench.FILE)[3]
    kind = graph.x.argmax(1).tolist()
    found = bench.hand_made(graph)
    assert found[:7] == pytest.approx([kind.count(k) / 40 for k in range(7)])
    pairs = [tuple(sorted((kind[a], kind[b]))) for a, b in graph.edge_index.T.tolist() if a < b]
    expected = [pairs.count((a, b)) / len(pairs) for a in range(7) for b in range(a, 7)]
    assert found[7:] == pytest.approx(expected)


def test_windows_lie_in_their_image(folder):
    graph = bench.read_images(folder / bench.FILE)[0]
    cells = {(*p, k) for p, k in zip(graph.pos.tolist(), graph.x.argmax(1).tolist())}
    for window in bench.windows_of(graph, 5, 30.0, np.random.default_rng(0)):
        assert 0 < len(window.x) < 40
        assert float((window.pos.max(0).values - window.pos.min(0).values).max()) <= 30
        assert {(*p, k) for p, k in zip(window.pos.tolist(), window.x.argmax(1).tolist())} <= cells


def test_the_network_never_trains_on_a_patient_whom_it_predicts(folder, monkeypatch):
    graphs = bench.read_images(folder / bench.FILE)
    windows = [[graph] for graph in graphs]
    patient = [graph.patient for graph in graphs]
    like = hg.evaluation.survival_probe(
        np.arange(24.0)[:, None], [g.time for g in graphs], [g.event for g in graphs], patient, 3, n_boot=1
    ).predictions
    seen = []

    def record(train, goals, test, **options):
        trained, tested = {g.patient for g in train}, {g.patient for g in test}
        assert not trained & tested
        assert [tuple(goal) for goal in goals] == [(g.time, float(g.event)) for g in train]
        seen.append((len(trained), tested))
        return np.array([1000.0 * g.patient + int(g.slide_id[-1]) for g in test])

    monkeypatch.setattr(bench, "fit_predict", record)
    found = bench.supervised(like, graphs, windows, 1.0, 0, 1)
    assert np.array_equal(found["risk"], 1000.0 * found["group"] + 0.5)
    assert sorted(p for _, tested in seen for p in tested) == sorted(set(patient))
    full = [count for count, _ in seen]
    bench.supervised(like, graphs, windows, 0.5, 0, 1)
    assert all(0.3 * a < b <= 0.7 * a for a, (b, _) in zip(full, seen[3:]))


def test_it_prints_a_table_for_each_share_of_labels(folder, capsys):
    assert bench.main(_run(folder, "--fractions", "1", "0.6")) == 0
    out = capsys.readouterr().out
    names = [bench.CLINICAL, bench.HAND_MADE, bench.UNTRAINED, *bench.ABLATIONS, "GraphMAE", bench.SUPERVISED]
    rows = [line.split(" | ")[0].removeprefix("| ") for line in out.splitlines() if " | " in line]
    assert rows == ["risk from", *names] * 2
    assert "24 images of 12 patients, 9 events" in out and "transductive" in out and "nan" not in out


def test_scores_of_seeds_are_a_mean_and_a_spread(capsys):
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"group": range(20), "time": rng.random(20), "event": rng.random(20) < 0.7, "fold": 0}
    )
    runs = [
        {
            (1.0, name): table.assign(risk=rng.random(20), repeat=seed)
            for name in (bench.HAND_MADE, bench.UNTRAINED)
        }
        for seed in range(3)
    ]
    bench.print_table(runs, 1.0, 10)
    each = [
        hg.evaluation.concordance_index(run[1.0, bench.UNTRAINED]["risk"], table["time"], table["event"])
        for run in runs
    ]
    assert f"| {np.mean(each):.3f} ± {np.std(each, ddof=1):.3f} |" in capsys.readouterr().out.splitlines()[-1]


def test_without_data_or_with_other_data_it_says_so(folder, tmp_path, capsys):
    assert bench.main([]) == 0
    assert capsys.readouterr().out.startswith("skipped: give --data FOLDER")
    with pytest.raises(SystemExit, match=r"no lung_df_small\.csv\.gz in"):
        bench.main(["--data", str(tmp_path)])
    table = pd.read_csv(folder / bench.FILE)
    table.drop(columns="stage").to_csv(tmp_path / bench.FILE)
    with pytest.raises(SystemExit, match=r"lacks the columns \['stage'\]"):
        bench.main(["--data", str(tmp_path)])
    table.assign(phenotype_ck="CK+", phenotype_cd8="CD8+").to_csv(tmp_path / bench.FILE)
    with pytest.raises(SystemExit, match="two phenotypes"):
        bench.main(["--data", str(tmp_path)])

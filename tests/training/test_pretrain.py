import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader
from torch_geometric.data import HeteroData

from histograph.methods import HMGDM, Embedding, Method, load_method
from histograph.training import pretrain
from histograph.training.log import TrainingLog
from histograph.training.loop import Settings, _batches, learning_rate
from tests.methods.graphs import graph, striped

QUIET = {"accelerator": "cpu", "progress": False}


def small(seed=0, **settings):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return HMGDM(6, 2, **({"hidden_dim": 8, "heads": 2, "joint_depth": 1} | settings))


def graphs(count=5):
    return [
        graph(8, 12, seed=k, slide_id=f"s{k}", feature_names=["a"] * 6, id=torch.arange(8))
        for k in range(count)
    ]


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


class Interrupting(list):
    """A data set that is interrupted when its graphs have been read a given number of times."""

    def __init__(self, items, after):
        super().__init__(items)
        self.after = after

    def __getitem__(self, index):
        self.after -= 1
        if self.after == 0:
            raise KeyboardInterrupt
        return super().__getitem__(index)


@pytest.mark.parametrize("checkpoint_every", [1, 3])
def test_interrupted_run_ends_with_the_same_weights(tmp_path, checkpoint_every):
    settings = {"epochs": 5, "batch_size": 2, "checkpoint_every": checkpoint_every} | QUIET
    straight = small()
    whole = pretrain(straight, graphs(), out=tmp_path / "a", **settings)
    first = small()
    # two passes of five graphs to standardise, five a epoch: the interrupt falls into the third epoch
    with pytest.raises(KeyboardInterrupt):
        pretrain(first, Interrupting(graphs(), after=10 + 10 + 3), out=tmp_path / "b", **settings)
    assert len(pd.read_csv(tmp_path / "b" / "log.csv")) == 2
    second = small(seed=9)
    torch.manual_seed(77)
    resumed = pretrain(second, graphs(), out=tmp_path / "b", **settings)
    assert same(straight, second)
    assert resumed["loss"].tolist() == whole["loss"].tolist() and resumed["epoch"].tolist() == list(range(5))
    logged = pd.read_csv(tmp_path / "b" / "log.csv")
    pd.testing.assert_frame_equal(logged, resumed, check_exact=False)
    assert same(load_method(tmp_path / "b" / "method.safetensors"), straight)


def test_random_numbers_do_not_depend_on_who_reads():
    """Processes that stay draw a seed once, others each epoch: what follows must be the same."""
    found = []
    for workers in (0, 1):
        loader = DataLoader(range(4), 2, num_workers=workers, persistent_workers=workers > 0)
        torch.manual_seed(0)
        found.append([(len(list(_batches(loader))), torch.rand(2).tolist()) for _ in range(3)])
    assert found[0] == found[1] and found[0][0] != found[0][1]


def test_finished_run_is_not_run_again_and_resume_false_starts_afresh(tmp_path):
    method = small()
    log = pretrain(method, graphs(), epochs=2, out=tmp_path, **QUIET)
    other = small(seed=3)
    again = pretrain(other, graphs(), epochs=2, out=tmp_path, **QUIET)
    pd.testing.assert_frame_equal(log, again)
    assert same(method, other)
    third = small(seed=3)
    pretrain(third, graphs(), epochs=2, out=tmp_path, resume=False, **QUIET)
    assert not same(method, third)
    assert len(pd.read_csv(tmp_path / "log.csv")) == 2


def test_afresh_means_that_the_earlier_checkpoint_is_gone(tmp_path):
    pretrain(small(), graphs(), epochs=2, out=tmp_path, **QUIET)
    with pytest.raises(KeyboardInterrupt):
        pretrain(small(), Interrupting(graphs(), after=3), epochs=2, out=tmp_path, resume=False, **QUIET)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_other_settings_are_refused_by_name(tmp_path):
    pretrain(small(), graphs(), epochs=1, out=tmp_path, **QUIET)
    with pytest.raises(ValueError, match=r"epochs: was 1, now 2; lr: was 0.001, now 0.01"):
        pretrain(small(), graphs(), epochs=2, lr=0.01, out=tmp_path, **QUIET)
    with pytest.raises(ValueError, match="config: "):
        pretrain(small(skips=False), graphs(), epochs=1, out=tmp_path, **QUIET)
    with pytest.raises(ValueError, match="graphs: was 5, now 4"):
        pretrain(small(), graphs(4), epochs=1, out=tmp_path, **QUIET)


@pytest.mark.parametrize("length", [0, 100, -20])
def test_broken_checkpoint_is_named(tmp_path, length):
    pretrain(small(), graphs(), epochs=1, out=tmp_path, **QUIET)
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        pretrain(small(), graphs(), epochs=1, out=tmp_path, **QUIET)


def test_seed_decides_and_global_random_state_is_untouched(tmp_path):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    a, b, c = small(), small(), small()
    logs = [pretrain(m, graphs(), epochs=2, seed=s, **QUIET) for m, s in ((a, 1), (b, 1), (c, 2))]
    assert torch.equal(state, torch.get_rng_state())
    assert same(a, b) and not same(a, c)
    assert logs[0]["loss"].tolist() == logs[1]["loss"].tolist() != logs[2]["loss"].tolist()
    assert list(tmp_path.iterdir()) == []


def test_loss_falls_and_log_has_every_term():
    torch.manual_seed(0)
    method = HMGDM(6, 1, hidden_dim=16, heads=2, joint_depth=1)
    log = pretrain(method, [striped(s) for s in range(12)], epochs=25, batch_size=6, lr=5e-3, **QUIET)
    assert list(log) == ["epoch", "step", "loss", "kl", "node", "edge", "lr", "seconds"]
    assert log["loss"].tail(3).mean() < 0.8 * log["loss"].head(3).mean()
    assert log["step"].tolist() == list(range(2, 52, 2))
    assert not method.training


def test_learning_rate_rises_and_falls():
    settings = Settings(10, 1, 1.0, 0.0, 0.1, 1.0, 0, 1, "32-true")
    rates = [learning_rate(step, 100, settings) for step in range(100)]
    assert rates[0] == 0.1 and max(rates) == 1.0 and rates.index(1.0) == 9
    assert rates[9:] == sorted(rates[9:], reverse=True) and 0.01 <= rates[-1] < 0.02


class Probe(Method):
    """Records its hooks; the loss turns to NaN at a given step."""

    def __init__(self, nan_at=-1):
        super().__init__({"nan_at": nan_at})
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.nan_at, self.calls = nan_at, []

    def forward(self, batch):
        steps = sum(name == "step" for name, _ in self.calls)
        assert set(batch.keys()) == {"x", "edge_index", "edge_attr", "pos", "batch", "ptr"}
        return {"loss": self.weight * (float("nan") if steps == self.nan_at else 1.0)}

    def encode(self, batch):
        return Embedding(None, batch.x.new_zeros(batch.num_graphs, 1))

    def before_epoch(self, epoch, dataset):
        self.calls.append(("epoch", epoch))

    def after_step(self, step):
        self.calls.append(("step", step))


def test_hooks_are_called_in_order():
    probe = Probe()
    pretrain(probe, graphs(3), epochs=2, batch_size=2, **QUIET)
    wanted = [("epoch", 0), ("step", 1), ("step", 2), ("epoch", 1), ("step", 3), ("step", 4)]
    assert probe.calls == wanted


def test_nan_loss_names_the_step():
    with pytest.raises(FloatingPointError, match=r"loss is nan at step 3 \(epoch 1"):
        pretrain(Probe(nan_at=3), graphs(3), epochs=3, batch_size=2, **QUIET)


def test_wrong_data():
    with pytest.raises(ValueError, match="at least one graph"):
        pretrain(small(), [], **QUIET)
    with pytest.raises(ValueError, match="pick one"):
        pretrain(small(), [HeteroData()], **QUIET)
    with pytest.raises(TypeError, match="give a list"):
        pretrain(small(), graph(), **QUIET)
    with pytest.raises(TypeError, match="found str"):
        pretrain(small(), ["a.safetensors"], **QUIET)
    with pytest.raises(ValueError, match="graph 0 has 6 columns, graph 1 has 4"):
        pretrain(small(), [graph(), graph(node_dim=4)], **QUIET)
    broken = graph()
    broken.x[3, 2] = float("nan")
    with pytest.raises(ValueError, match=r"graph 1 .* column 2"):
        pretrain(small(), [graph(), broken], epochs=1, **QUIET)


@pytest.mark.parametrize(
    ("name", "value"),
    [("epochs", 0), ("batch_size", 0), ("lr", 0.0), ("warmup", 2.0), ("checkpoint_every", 0), ("seed", -1)],
)
def test_wrong_settings_are_named(name, value):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        pretrain(small(), graphs(), **({name: value} | QUIET))


def test_out_that_cannot_be_written_is_refused_before_any_work(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="out: cannot write here"):
        pretrain(small(), graphs(), out=tmp_path / "file" / "run", **QUIET)


def test_tensorboard(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    pretrain(small(), graphs(2), epochs=1, out=tmp_path, tensorboard=True, **QUIET)
    assert any(p.name.startswith("events") for p in (tmp_path / "tensorboard").iterdir())
    with pytest.raises(ValueError, match="give out"):
        pretrain(small(), graphs(2), epochs=1, tensorboard=True, **QUIET)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        pretrain(small(), graphs(2), epochs=1, out=tmp_path / "b", tensorboard=True, **QUIET)


def test_mixed_precision_and_progress_bar(capsys):
    log = pretrain(small(), graphs(2), epochs=1, precision="bf16-mixed", accelerator="cpu", progress=True)
    assert log["loss"].notna().all()
    assert "pretrain" in capsys.readouterr().err


SCRIPT = """
import sys
import torch
from histograph.methods import HMGDM
from histograph.training import pretrain
sys.path.insert(0, {root!r})
from tests.methods.graphs import graph

torch.set_num_threads(1)
torch.manual_seed(0)
method = HMGDM(6, 2, hidden_dim=8, heads=2, joint_depth=1)
data = [graph(8, 12, seed=k) for k in range(4)]
pretrain(method, data, epochs=2, batch_size=1, out={out!r}, devices=2, strategy={strategy!r}, accelerator="cpu",
         progress=False)
total = float(sum(p.detach().abs().sum() for p in method.parameters()))
print("RESULT", total)
"""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp_fork"])
def test_two_processes_train_one_method(tmp_path, strategy):
    root = str(Path(__file__).parents[2])
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(root=root, out=str(tmp_path / "run"), strategy=strategy))
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    trained = load_method(tmp_path / "run" / "method.safetensors")
    total = float(sum(p.detach().abs().sum() for p in trained.parameters()))
    assert float(done.stdout.split("RESULT")[1].split()[0]) == pytest.approx(total)
    log = pd.read_csv(tmp_path / "run" / "log.csv")
    assert log["step"].tolist() == [2, 4]  # four graphs in two shards of two


def test_a_run_is_not_gone_on_with_on_other_slides(tmp_path):
    pretrain(small(), graphs(), epochs=1, out=tmp_path, **QUIET)
    others = graphs()
    others[2].slide_id = "another"
    with pytest.raises(ValueError, match=r"data: was 's0 … s4, .*', now 's0 … s4, "):
        pretrain(small(), others, epochs=1, out=tmp_path, **QUIET)
    # a checkpoint of an earlier version does not say what it was trained on
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    settings = json.loads(state["settings"])
    del settings["data"]
    torch.save({**state, "settings": json.dumps(settings)}, tmp_path / "checkpoint.pt")
    assert len(pretrain(small(), graphs(), epochs=1, out=tmp_path, **QUIET)) == 1


def test_a_finished_run_has_its_method_whatever_stopped_it(tmp_path):
    first = small()
    pretrain(first, graphs(), epochs=2, out=tmp_path, **QUIET)
    path = tmp_path / "method.safetensors"
    written = path.stat().st_mtime_ns
    pretrain(small(1), graphs(), epochs=2, out=tmp_path, **QUIET)
    assert path.stat().st_mtime_ns == written  # it is there, and not written again
    path.unlink()  # killed between the checkpoint and this file
    pretrain(small(1), graphs(), epochs=2, out=tmp_path, **QUIET)
    assert same(load_method(path), first)
    small(2).save(path)  # or there is still that of the epoch before
    os.utime(path, (0, 0))
    pretrain(small(1), graphs(), epochs=2, out=tmp_path, **QUIET)
    assert same(load_method(path), first)


def test_two_runs_in_one_folder_leave_no_rows_between_each_other_s(tmp_path):
    a, b = TrainingLog(tmp_path, []), TrainingLog(tmp_path, [])
    for epoch in range(2):
        a.add({"epoch": epoch, "loss": 1.0})
        b.add({"epoch": epoch, "loss": 1.0})
    assert pd.read_csv(tmp_path / "log.csv")["epoch"].tolist() == [0, 1]


def test_a_checkpoint_that_does_not_fit_is_named(tmp_path):
    pretrain(small(), graphs(), epochs=1, out=tmp_path, **QUIET)
    path = tmp_path / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    state["method"].popitem()
    torch.save(state, path)
    with pytest.raises(ValueError, match="does not fit the method"):
        pretrain(small(), graphs(), epochs=1, out=tmp_path, **QUIET)
    torch.save({"format": "histograph.run"}, path)
    with pytest.raises(ValueError, match="is not a checkpoint of pretrain"):
        pretrain(small(), graphs(), epochs=1, out=tmp_path, **QUIET)


def test_numbers_of_numpy_are_numbers_and_halves_are_no_epochs(tmp_path):
    log = pretrain(small(), graphs(), epochs=np.int64(1), batch_size=np.int64(2), out=tmp_path, **QUIET)
    assert log["step"].tolist() == [3]
    with pytest.raises(ValueError, match=r"epochs must be a whole number; found 1\.5"):
        pretrain(small(), graphs(), epochs=1.5, **QUIET)


def test_an_accelerator_that_there_is_not_is_named(monkeypatch):
    def absent(**_):
        raise RuntimeError("`CUDAAccelerator` can not run on your system.")

    monkeypatch.setattr("histograph.training.loop.lightning.Fabric", absent)
    with pytest.raises(ValueError, match=r"accelerator='cuda'.*cannot be used here"):
        pretrain(small(), graphs(), epochs=1, accelerator="cuda", progress=False)

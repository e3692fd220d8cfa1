import copy
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F
from torch_geometric.data import Data, HeteroData

from histograph.methods import HMGDM, PAMA, Embedding, EntityAutoencoder, Method, Patches, load_method
from histograph.nn import segment_mean
from histograph.training import FineTuned, embed, finetune, pretrain
from histograph.training.finetune import _Balanced
from tests.methods.graphs import graph
from tests.training.test_pretrain import Interrupting, same, small

QUIET = {"accelerator": "cpu", "progress": False}
Y = np.tile(["tumour", "normal"], 15)
PATIENTS = np.arange(30) // 2 // 2 * 2 + np.arange(30) % 2  # two graphs each, of one class


def labelled(count=30, shift=2.0):
    """Graphs whose class 1 has larger features."""
    data = [graph(8, 12, seed=k, slide_id=f"s{k}") for k in range(count)]
    for k, item in enumerate(data):
        item.x = item.x + shift * (Y[k % 30] == "tumour")
    return data


class Spy(Method):
    """A linear map with dropout, which records in which mode and how many graphs it encodes."""

    reads = ("x",)
    seen: ClassVar[list[tuple[bool, int]]] = []

    def __init__(self, width=3):
        super().__init__({"width": width})
        self.map, self.dropout = torch.nn.Linear(6, width), torch.nn.Dropout(0.5)

    def encode(self, batch):
        assert set(batch.keys()) == {"x", "batch", "ptr"}
        self.seen.append((self.training, batch.num_graphs))
        return Embedding(None, segment_mean(self.dropout(self.map(batch.x)), batch.batch, batch.num_graphs))


def cross_entropy(tuned, data, y, weight=None):
    p = torch.from_numpy(tuned.predict(data, progress=False))
    code = torch.tensor([tuned.classes.index(value) for value in y])
    return float(F.nll_loss(p.log(), code, weight=weight))


@pytest.mark.parametrize("options", [{}, {"head": "mlp"}, {"frozen": True, "head_lr": 0.02}])
def test_it_learns_and_leaves_the_method_alone(options):
    method = small()
    before, mode = copy.deepcopy(method.state_dict()), method.training
    torch.manual_seed(4)
    state = torch.get_rng_state()
    tuned = finetune(
        method, labelled(), Y, PATIENTS, head_lr=options.pop("head_lr", 5e-3), **options, **QUIET
    )
    assert torch.equal(state, torch.get_rng_state()) and method.training == mode
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert tuned.classes == ["normal", "tumour"] and not tuned.training
    p = tuned.predict(labelled(10), batch_size=3, progress=False)
    assert p.shape == (10, 2) and np.allclose(p.sum(1), 1)
    assert np.mean(np.array(tuned.classes)[p.argmax(1)] == Y[:10]) >= 0.9
    moved = not all(torch.equal(value, before[name]) for name, value in tuned.backbone.state_dict().items())
    assert moved != options.get("frozen", False)


def test_probabilities_are_those_of_the_head_on_the_vectors():
    tuned = finetune(small(), labelled(), Y, epochs=2, head="mlp", **QUIET)
    z = embed(tuned.backbone, labelled(), progress=False).graph
    assert torch.equal(z, embed(tuned, labelled(), progress=False).graph)
    hidden, _, last = tuned.head
    scores = last(F.gelu(hidden((z - tuned.scale.mean) / tuned.scale.std))).detach().double()
    assert np.allclose(tuned.predict(labelled(), progress=False), scores.softmax(1).numpy(), atol=1e-6)
    # the columns that the head starts from have mean 0 and variance 1 over the training part
    rows = np.setdiff1d(np.arange(30), tuned.validation_rows)
    untuned = embed(small(), labelled(), progress=False).graph[rows]
    torch.testing.assert_close(tuned.scale.mean, untuned.mean(0), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_method_is_run_once_in_evaluation_mode_and_another_in_training_mode(frozen):
    method = Spy()
    Spy.seen.clear()
    tuned = finetune(method, labelled(), Y, epochs=3, batch_size=8, frozen=frozen, **QUIET)
    training = [count for mode, count in Spy.seen if mode]
    passes = sum(count for mode, count in Spy.seen if not mode)
    assert tuned.train().backbone.training != frozen
    if frozen:
        assert passes == 30 and training == []
        assert not any(p.requires_grad for p in tuned.backbone.parameters())
        assert same(tuned.backbone, method)
    else:  # 24 to train on in each of three epochs; those once for the scale, and 6 to look at after each
        assert sum(training) == 3 * 24 and max(training) == 8 and passes == 24 + 3 * 6


def test_validation_is_of_other_patients_and_the_best_epoch_is_returned():
    # labels that have nothing to do with the graphs, so that training soon makes the validation worse
    y = np.random.default_rng(3).permutation(Y)
    settings = {"epochs": 12, "head": "mlp", "head_lr": 0.05, "lr": 5e-3, "batch_size": 6, "seed": 2}
    data, patients = labelled(), np.arange(30) // 2
    tuned = finetune(small(), data, y, patients, **settings, **QUIET)
    kept = tuned.validation_rows
    assert not set(patients[kept]) & set(np.delete(patients, kept)) and 4 <= len(kept) <= 10
    assert set(y[kept]) == {"normal", "tumour"}
    log = tuned.log
    best = int(log["val_loss"].argmin())
    assert log["kept"].tolist() == [epoch == best for epoch in range(12)] and best < 11
    assert log["val_loss"][best] < 0.95 * log["val_loss"][11]
    found = cross_entropy(tuned, [data[i] for i in kept], y[kept])
    assert found == pytest.approx(log["val_loss"][best], rel=1e-4)
    early = finetune(small(), data, y, patients, patience=2, **settings, **QUIET)
    assert len(early.log) == int(early.log["val_loss"].argmin()) + 3 < 12
    pd.testing.assert_series_equal(early.log["val_loss"], log["val_loss"][: len(early.log)])
    last = finetune(small(), data, y, patients, validation=0.0, **settings, **QUIET)
    assert "val_loss" not in last.log and last.log["kept"].tolist() == [False] * 11 + [True]
    assert len(last.validation_rows) == 0


@pytest.mark.parametrize("options", [{}, {"frozen": True}, {"patience": 1, "lr": 0.05}])
def test_interrupted_run_ends_with_the_same_weights(tmp_path, options):
    settings = {"epochs": 6, "batch_size": 8, "head_lr": 0.02, "balance": "sampling", **options} | QUIET
    straight = finetune(small(), labelled(), Y, PATIENTS, out=tmp_path / "a", **settings)
    data = labelled()
    if "frozen" in options:  # vectors are read from memory: the interrupt comes from the log
        with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
            patch.setattr("histograph.training.log.TrainingLog.add", _interrupt_third())
            finetune(small(), data, Y, PATIENTS, out=tmp_path / "b", **settings)
    else:
        reads = 24 + 24 + 6 + 9  # the scale, one epoch, and into the second
        with pytest.raises(KeyboardInterrupt):
            finetune(
                small(), Interrupting(data, after=30 + reads), Y, PATIENTS, out=tmp_path / "b", **settings
            )
    assert (tmp_path / "b" / "checkpoint.pt").exists() and not list(tmp_path.glob("b/*.safetensors"))
    resumed = finetune(small(), labelled(), Y, PATIENTS, out=tmp_path / "b", **settings)
    assert same(straight, resumed)
    drop = ["seconds"]
    pd.testing.assert_frame_equal(straight.log.drop(columns=drop), resumed.log.drop(columns=drop))
    # a finished run is not run again, also when it ended early
    again = finetune(small(), labelled(), Y, PATIENTS, out=tmp_path / "b", **settings)
    pd.testing.assert_frame_equal(again.log, resumed.log)
    assert same(again, straight)
    assert not list(tmp_path.rglob("*.tmp"))


def _interrupt_third():
    from histograph.training.log import TrainingLog

    add = TrainingLog.add

    def interrupting(self, row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt
        add(self, row)

    return interrupting


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    finetune(small(), labelled(), Y, epochs=1, out=tmp_path, **QUIET)
    run = {"epochs": 1, "out": tmp_path} | QUIET
    with pytest.raises(ValueError, match="weights: was"):
        finetune(small(seed=1), labelled(), Y, **run)
    with pytest.raises(ValueError, match="labels: was"):
        finetune(small(), labelled(), Y[::-1], **run)
    with pytest.raises(ValueError, match="balance: was None, now 'loss'"):
        finetune(small(), labelled(), Y, balance="loss", **run)
    assert len(finetune(small(seed=1), labelled(), Y, resume=False, **run).log) == 1


def test_save_and_load(tmp_path):
    tuned = finetune(small(), labelled(), Y, epochs=2, frozen=True, head="mlp", out=tmp_path, **QUIET)
    for path in (tmp_path / "finetuned.safetensors", tmp_path / "again.safetensors"):
        tuned.save(tmp_path / "again.safetensors")
        loaded = FineTuned.load(path)
        assert loaded.classes == tuned.classes and loaded.frozen and not loaded.training
        assert np.array_equal(
            loaded.predict(labelled(), progress=False), tuned.predict(labelled(), progress=False)
        )
    small().save(tmp_path / "method.safetensors")
    with pytest.raises(ValueError, match="holds a HMGDM without a head"):
        FineTuned.load(tmp_path / "method.safetensors")
    assert isinstance(load_method(tmp_path / "again.safetensors"), FineTuned)


def test_balance_by_sampling_and_by_loss():
    rare = np.array([0] * 27 + [1] * 3)
    drawn = np.concatenate([_draw(1 / np.bincount(rare)[rare], epoch) for epoch in range(200)])
    assert rare[drawn].mean() == pytest.approx(0.5, abs=0.02)
    counts = np.bincount(drawn, minlength=30)
    assert counts[:27].min() > 60 and counts[27:].min() > 800
    assert _draw(np.ones(30), 1).tolist() == _draw(np.ones(30), 1).tolist() != _draw(np.ones(30), 2).tolist()

    y, data, recall = np.where(rare, "tumour", "normal"), labelled(shift=0.0), {}
    for item in data[27:]:
        item.x = item.x + 0.7
    common = {"epochs": 15, "frozen": True, "head_lr": 0.01, "validation": 0.0} | QUIET
    for balance in (None, "sampling", "loss"):
        tuned = finetune(small(), data, y, balance=balance, **common)
        recall[balance] = tuned.predict(data, progress=False)[27:, 1].mean()
    assert recall["sampling"] > recall[None] + 0.1 and recall["loss"] > recall[None] + 0.1
    # the loss is that of torch with weights inverse to the frequencies, of mean 1
    assert tuned.class_weight.tolist() == pytest.approx([0.2, 1.8])
    one = finetune(small(), data, y, balance="loss", **(common | {"epochs": 1, "batch_size": 30}))
    assert one.log["loss"].tolist() == pytest.approx([np.log(2)])  # all classes alike before the first step


def _draw(weight, epoch):
    sampler = _Balanced(weight, seed=0)
    sampler.set_epoch(epoch)
    assert len(sampler) == len(weight)
    return np.array(list(sampler))


def test_method_and_head_have_learning_rates_of_their_own():
    method = small()
    tuned = finetune(method, labelled(), Y, epochs=2, lr=1e-12, head_lr=0.01, weight_decay=0.0, **QUIET)
    for name, value in tuned.backbone.state_dict().items():
        torch.testing.assert_close(value, method.state_dict()[name], atol=1e-9, rtol=0)
    assert tuned.head[-1].weight.abs().max() > 0.01
    # the log's rate is that of the head
    assert tuned.log["lr"].between(0, 0.01).all()


def test_three_classes_whose_names_are_numbers_and_a_pretrained_method():
    method = small()
    pretrain(method, labelled(), epochs=1, **QUIET)
    y = np.arange(30) % 3 * 10
    tuned = finetune(method, labelled(), y, epochs=1, **QUIET)
    assert tuned.classes == [0, 10, 20] and tuned.predict(labelled(4), progress=False).shape == (4, 3)
    assert torch.equal(tuned.backbone.node_scale.mean, method.node_scale.mean)


def test_a_method_of_patches():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    data = [
        Patches((torch.rand(1, 8, 8, 3, generator=generator) * 100 + 100 * (k % 2)).byte(), (f"p{k}",))
        for k in range(20)
    ]
    method = EntityAutoencoder(size_px=8, width=8)
    tuned = finetune(method, data, np.arange(20) % 2, epochs=15, head_lr=0.02, **QUIET)
    assert np.mean(tuned.predict(data, progress=False).argmax(1) == np.arange(20) % 2) > 0.9


def slide(seed, y):
    """Patches on a grid, with larger second features in class 1."""
    row, column = torch.meshgrid(torch.arange(5.0), torch.arange(6.0), indexing="ij")
    x = torch.randn(30, 5, generator=torch.Generator().manual_seed(seed))
    x[:, 1] += 2.0 * y
    return Data(x=x, pos=torch.stack([column.flatten(), row.flatten()], dim=1) * 128, slide_id=str(seed))


@pytest.mark.parametrize("frozen", [False, True])
def test_slides_of_pama(tmp_path, frozen):
    y = np.arange(24) % 2
    data = [slide(seed, label) for seed, label in enumerate(y.tolist())]
    torch.manual_seed(0)
    method = PAMA(5, 16, layers=2, heads=2, decoder_dim=16, decoder_layers=1, num_anchors=4, dropout=0.1)
    method.before_epoch(0, data)
    tuned = finetune(method, data, y, epochs=8, head_lr=0.02, frozen=frozen, batch_size=6, **QUIET)
    p = tuned.predict(data, batch_size=5, progress=False)
    assert np.mean(p.argmax(1) == y) > 0.9
    alone = np.concatenate([tuned.predict([item], progress=False) for item in data[:3]])
    assert np.allclose(alone, p[:3], atol=1e-5)
    tuned.save(tmp_path / "tuned.safetensors")
    assert np.array_equal(FineTuned.load(tmp_path / "tuned.safetensors").predict(data, 5, progress=False), p)
    assert same(tuned.backbone, method) == frozen


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"y": Y[:3]}, "y must have one entry for each sample: expected 30, found 3"),
        ({"y": ["a"] * 30}, "at least two classes"),
        ({"groups": [1, 2]}, "groups must have one entry"),
        ({"y": ["a"] * 29 + ["b"]}, r"class \['b'\] on both sides"),
        ({"validation": 1.0}, "validation must be a share of the patients"),
        ({"validation": 0.0, "patience": 3}, "give validation above 0"),
        ({"patience": 0}, "patience must be at least 1"),
        ({"balance": "classes"}, "balance must be None"),
        ({"head": "cnn"}, "head must be one of linear, mlp; found 'cnn'"),
        ({"frozen": True, "lr": 1e-3}, "lr is the learning rate of the method"),
        ({"lr": 0.0}, "lr must be above 0"),
        ({"head_lr": 0.0}, "^head_lr must be above 0"),
        ({"epochs": 0}, "epochs must be at least 1"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        finetune(small(), labelled(), **({"y": Y} | options | QUIET))


@pytest.mark.parametrize("frozen", [False, True])
def test_mixed_precision(frozen):
    tuned = finetune(small(), labelled(), Y, epochs=2, frozen=frozen, precision="bf16-mixed", **QUIET)
    assert tuned.log[["loss", "val_loss"]].notna().all(axis=None)
    assert tuned.predict(labelled(4), progress=False).dtype == np.float64


def test_wrong_data():
    with pytest.raises(ValueError, match="at least one graph"):
        finetune(small(), [], [], **QUIET)
    with pytest.raises(ValueError, match="pick one"):
        finetune(small(), [HeteroData()] * 4, Y[:4], **QUIET)
    with pytest.raises(ValueError, match="at least one graph"):
        FineTuned("HMGDM", small().config, 8, ["a", "b"]).predict([], progress=False)
    broken = labelled()
    broken[7].x[0, 0] = float("nan")
    with pytest.raises((ValueError, FloatingPointError), match=r"finite|loss is nan"):
        finetune(small(), broken, Y, epochs=1, validation=0.0, **QUIET)


def test_the_method_is_known_by_its_own_class():
    assert isinstance(finetune(small(), labelled(), Y, epochs=1, **QUIET).backbone, HMGDM)

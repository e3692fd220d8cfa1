"""Supervised training of any method's encoder with a head, the epoch chosen on patients that are kept aside."""

import os
import zlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning_fabric as lightning
import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, Sampler

from histograph.evaluation.inputs import Labels, as_groups, as_labels
from histograph.evaluation.splits import patient_split
from histograph.methods import Graphs, Method

from .checkpoint import remove_checkpoint
from .embed import embed
from .finetuned import FineTuned, Labelled, Rows
from .graphs import check_graphs, collate, described
from .loop import Conduct, Settings, make_fabric, require, train, writable_folder

FILE = "finetuned.safetensors"
BALANCE = (None, "sampling", "loss")


def finetune(
    method: Method,
    data: Graphs,
    y: ArrayLike,
    groups: ArrayLike | None = None,
    epochs: int = 30,
    out: str | os.PathLike[str] | None = None,
    head: Literal["linear", "mlp"] = "linear",
    frozen: bool = False,
    validation: float = 0.2,
    patience: int | None = None,
    balance: Literal["sampling", "loss"] | None = None,
    batch_size: int = 16,
    lr: float | None = None,
    head_lr: float = 1e-3,
    weight_decay: float = 0.01,
    warmup: float = 0.05,
    gradient_clip: float = 1.0,
    seed: int = 0,
    resume: bool = True,
    accelerator: str = "auto",
    precision: Any = "32-true",
    num_workers: int = 0,
    progress: bool = True,
) -> FineTuned:
    """Train a copy of a method, and a head on its graph vectors, to tell classes; or the head alone.

    The optimiser, the course of the learning rate, seeds and resuming are those of `pretrain`. A share of the
    patients is kept aside, and the weights of the epoch with the lowest cross-entropy on them are returned; what
    is to be tested on must not be in `data`. The hooks of the method's own training are not called: for a method
    that was never trained call ``method.before_epoch(0, data)`` first, so that it knows the scale of the features.

    Parameters
    ----------
    method : Method
        Pre-trained or not; stays as it is.
    data : sequence of torch_geometric.data.Data, or PatchDataset
        Training graphs, or patches, as for `pretrain`.
    y : array-like
        (n,) class of each.
    groups : array-like, optional
        (n,) patient of each, never on both sides of the inner split; each graph by itself by default.
    epochs : int
        Passes over the data; at most, with `patience`.
    out : path-like, optional
        Folder of the run: ``finetuned.safetensors``, ``checkpoint.pt``, ``log.csv``. None writes nothing.
    head : {"linear", "mlp"}
        One linear layer, or two with a GELU between, on columns that are standardised by the untuned vectors.
    frozen : bool
        Train the head alone (a linear probe by gradient descent), on vectors of the method in evaluation mode, which
        are computed once.
    validation : float
        Share of the patients kept aside, below 1; 0 trains on all and returns the last epoch.
    patience : int, optional
        End after so many epochs without a lower validation loss.
    balance : {"sampling", "loss"}, optional
        Draw graphs (with replacement), or weigh their loss, by the inverse frequency of their class.
    batch_size : int
        Graphs per step.
    lr : float, optional
        Peak learning rate of the method's weights, 1e-4 by default; not to be given with `frozen`.
    head_lr : float
        Peak learning rate of the head.
    weight_decay, warmup, gradient_clip, seed, resume, accelerator, precision, num_workers, progress
        As in `pretrain`.

    Returns
    -------
    FineTuned
        In evaluation mode, with `predict`, `save` and the `log` of the run.

    Raises
    ------
    ValueError
        If lengths differ, there is one class only, a class has too few patients to be on both sides of the inner
        split, an argument is out of range, or the checkpoint in ``out`` is of another run.
    TypeError
        If the data are no graphs or patches.
    OSError
        If ``out`` cannot be written.
    FloatingPointError
        If the loss is not finite.

    Examples
    --------
    >>> from torch_geometric.data import Data
    >>> from histograph.methods import HMGDM
    >>> edge_index = torch.tensor([[0, 1], [1, 0]])
    >>> graphs = [Data(x=torch.full((2, 4), i % 2 + 0.01 * i), edge_index=edge_index) for i in range(20)]
    >>> tuned = finetune(HMGDM(4, hidden_dim=8), graphs, ["ab"[i % 2] for i in range(20)], head_lr=0.01,
    ...                  accelerator="cpu", progress=False)
    >>> tuned.classes, tuned.predict(graphs[:2], progress=False).argmax(1).tolist()
    (['a', 'b'], [0, 1])
    """
    rate = _rate(lr, head_lr, frozen)
    settings = Settings(
        epochs, batch_size, head_lr, weight_decay, warmup, gradient_clip, seed, 1, str(precision)
    )
    _check_options(validation, patience, balance)
    check_graphs(data)
    labels, codes = as_labels(y, len(data)), as_groups(groups, len(data))
    rows = np.arange(len(data)), np.zeros(0, dtype=np.int64)
    if validation > 0:
        rows = patient_split(y, codes, validation, seed)
    folder = None if out is None else writable_folder(Path(out))
    if folder is not None and not resume:
        remove_checkpoint(folder)
    fabric = make_fabric(accelerator, 1, "auto", precision)
    # a frozen method is run once, on everything; else the vectors of the training part give the scale of the head
    seen = np.arange(len(data)) if frozen else rows[0]
    z = embed(method, Rows(data, seen), batch_size, fabric.device, progress, nodes=False).graph
    tuned = _with_head(method, z if not frozen else z[rows[0]], labels, head, frozen, seed)
    tuned.backbone_lr_scale = rate / head_lr
    inverse = 1.0 / np.maximum(np.bincount(labels.code[rows[0]], minlength=len(labels.classes)), 1)
    if balance == "loss":
        tuned.class_weight.copy_(torch.from_numpy(inverse / inverse.mean()))
    parts = [_LabelledRows(z if frozen else data, labels.code, part) for part in rows]
    batched = partial(_collate, fields=method.reads)
    watch = None
    if validation > 0:
        watch = _Validation(tuned, DataLoader(parts[1], batch_size, collate_fn=batched), fabric, patience)
    sampler = _Balanced(inverse[labels.code[rows[0]]], seed) if balance == "sampling" else None
    identity = {
        "data": described(data),
        "backbone_lr": rate,
        "validation": validation,
        "patience": patience,
        "balance": balance,
        "labels": zlib.crc32(labels.code.tobytes() + codes.tobytes()),
        "weights": _fingerprint(method.state_dict()),
    }
    conduct = Conduct("finetune", folder, resume, progress, num_workers=num_workers)
    history = fabric.launch(
        lambda fabric: train(fabric, tuned, parts[0], settings, conduct, batched, identity, sampler, watch)
    )
    kept = epochs - 1 if watch is None else watch.take_best()
    tuned.log = pd.DataFrame(history).assign(kept=lambda table: table["epoch"] == kept)
    tuned.validation_rows = rows[1]
    tuned.eval()
    if folder is not None:
        tuned.save(folder / FILE)
    return tuned


def _rate(lr: float | None, head_lr: float, frozen: bool) -> float:
    """Choose the learning rate of the method's weights."""
    require("head_lr", head_lr > 0, "above 0", head_lr)
    if lr is None:
        return 1e-4
    if frozen:
        raise ValueError(
            "lr is the learning rate of the method, which frozen=True does not train; give head_lr alone"
        )
    require("lr", lr > 0, "above 0", lr)
    return lr


def _check_options(validation: float, patience: int | None, balance: str | None) -> None:
    require("validation", 0 <= validation < 1, "a share of the patients, from 0 to below 1", validation)
    require("balance", balance in BALANCE, 'None, "sampling" or "loss"', repr(balance))
    if patience is not None:
        require("patience", patience >= 1, "at least 1", patience)
        if validation == 0:
            raise ValueError("patience needs patients to look at: give validation above 0")


def _with_head(
    method: Method, z: Tensor, labels: Labels, head: Literal["linear", "mlp"], frozen: bool, seed: int
) -> FineTuned:
    """Copy the method and put a head on it, whose standardisation is that of the vectors."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        classes = labels.classes.tolist()
        tuned = FineTuned(type(method).__name__, method.config, z.shape[1], classes, head, frozen)
    tuned.backbone.load_state_dict(method.state_dict())
    tuned.scale.fit([z])
    return tuned


def _fingerprint(tensors: dict[str, Tensor]) -> int:
    """Give a number that tells one set of weights from another."""
    code = 0
    for value in tensors.values():
        plain = value.detach().cpu().contiguous().flatten().view(torch.uint8)
        code = zlib.crc32(plain.numpy().tobytes(), code)
    return code


class _LabelledRows(Dataset):
    """Items of a data set with their class codes, as pairs."""

    def __init__(self, data: Any, code: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        self.data, self.code = Rows(data, rows), code[rows]

    def __len__(self) -> int:
        return len(self.code)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.data[index], int(self.code[index])


def _collate(pairs: list[tuple[Any, int]], fields: tuple[str, ...]) -> Labelled:
    """Batch graphs, patches or vectors, with their classes."""
    items, code = zip(*pairs, strict=True)
    batch = torch.stack(items) if isinstance(items[0], Tensor) else collate(list(items), fields)
    return Labelled(batch, torch.tensor(code))


class _Balanced(Sampler[int]):
    """Draws as many rows as there are, with replacement, by weight; by seed and epoch alone."""

    def __init__(self, weight: NDArray[np.float64], seed: int) -> None:
        self.weight, self.seed, self.epoch = weight / weight.sum(), seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.weight)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        return iter(rng.choice(len(self.weight), len(self.weight), p=self.weight).tolist())


class _Validation:
    """Scores the patients kept aside after every epoch, and keeps the best weights."""

    def __init__(
        self, tuned: FineTuned, loader: DataLoader, fabric: lightning.Fabric, patience: int | None
    ) -> None:
        self.tuned, self.loader, self.fabric, self.patience = tuned, loader, fabric, patience
        self.part = tuned.head if tuned.frozen else tuned  # what training changes
        self.best_loss, self.best_epoch, self.waited = float("inf"), -1, 0
        self.weights: dict[str, Tensor] = {}

    @property
    def stopped(self) -> bool:
        return self.patience is not None and self.waited >= self.patience

    def after_epoch(self, epoch: int) -> dict[str, float]:
        self.tuned.eval()
        with torch.inference_mode():
            pairs = [
                (self.tuned.logits(item.batch), item.y) for item in map(self.fabric.to_device, self.loader)
            ]
        logits, y = (torch.cat(parts) for parts in zip(*pairs, strict=True))
        loss = float(F.cross_entropy(logits, y, weight=self.tuned.class_weight))
        if not np.isfinite(loss):
            raise FloatingPointError(
                f"the validation loss is {loss} after epoch {epoch}; lower lr or head_lr"
            )
        self.waited += 1
        if loss < self.best_loss:
            self.best_loss, self.best_epoch, self.waited = loss, epoch, 0
            self.weights = {name: value.cpu().clone() for name, value in self.part.state_dict().items()}
        return {"val_loss": loss, "val_accuracy": float((logits.argmax(1) == y).float().mean())}

    def take_best(self) -> int:
        """Put the best weights into place and return their epoch."""
        self.part.load_state_dict(self.weights)
        return self.best_epoch

    def state(self) -> dict[str, Any]:
        return {
            "best_loss": self.best_loss,
            "best_epoch": self.best_epoch,
            "waited": self.waited,
            "weights": self.weights,
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.best_loss, self.best_epoch = state["best_loss"], state["best_epoch"]
        self.waited, self.weights = state["waited"], state["weights"]

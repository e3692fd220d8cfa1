"""Self-supervised training of any method on any data set of graphs or image patches, on Lightning Fabric."""

import copy
import math
import os
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import lightning_fabric as lightning
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler
from tqdm.auto import tqdm

from histograph.methods import Graphs, Method, load_method

from .checkpoint import load_checkpoint, remove_checkpoint, save_checkpoint
from .graphs import check_graphs, collate
from .log import TrainingLog, require_tensorboard

METHOD_FILE = "method.safetensors"


@dataclass(frozen=True)
class _Settings:
    """What a run's result depends on, beside the method and the data."""

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    warmup: float
    gradient_clip: float
    seed: int
    devices: int
    precision: str


@dataclass(frozen=True)
class _Conduct:
    """How a run is read, shown and written, which does not change its result."""

    out: Path | None
    resume: bool
    checkpoint_every: int
    tensorboard: bool
    num_workers: int
    progress: bool


def pretrain(
    method: Method,
    data: Graphs,
    epochs: int = 50,
    out: str | os.PathLike[str] | None = None,
    batch_size: int = 32,
    lr: float = 1e-3,
    weight_decay: float = 0.01,
    warmup: float = 0.05,
    gradient_clip: float = 1.0,
    seed: int = 0,
    resume: bool = True,
    checkpoint_every: int = 1,
    tensorboard: bool = False,
    accelerator: str = "auto",
    devices: int = 1,
    strategy: str = "auto",
    precision: Any = "32-true",
    num_workers: int = 0,
    progress: bool = True,
) -> pd.DataFrame:
    """Train a method: AdamW, linear warm-up, then a cosine to 1 % of the learning rate.

    A run that was interrupted goes on from its last checkpoint and, on a CPU, ends with the same weights
    bit for bit. An interrupt (Ctrl-C) saves the last finished epoch and is raised again. Torch's random
    state is the same afterwards.

    Parameters
    ----------
    method : Method
        Trained in place; left in evaluation mode.
    data : sequence of torch_geometric.data.Data, or PatchDataset
        A `GraphDataset` with a node type, or a list of graphs; patches for a method that reads images.
    epochs : int
        Passes over the data.
    out : path-like, optional
        Folder of the run: ``method.safetensors``, ``checkpoint.pt``, ``log.csv``. None writes nothing.
    batch_size : int
        Graphs, or patches, per step and device.
    lr : float
        Peak learning rate.
    weight_decay : float
        Of the parameters that the method does not exempt.
    warmup : float
        Share of the steps with rising learning rate, 0 .. 1.
    gradient_clip : float
        Largest norm of the gradient; 0 for no limit.
    seed : int
        Of order, masks and noise. (Initial weights are the caller's: seed before the method is made.)
    resume : bool
        Go on from the checkpoint in ``out``, if there is one; else start afresh and replace it.
    checkpoint_every : int
        Epochs between checkpoints; the last epoch is always saved.
    tensorboard : bool
        Also write event files to ``out/tensorboard``.
    accelerator, devices, strategy, precision
        Of Lightning Fabric; more than one device trains with distributed data parallel.
    num_workers : int
        Processes that read data ahead; 0 reads in this one.
    progress : bool
        Whether to show a bar.

    Returns
    -------
    pandas.DataFrame
        One row per epoch: ``epoch``, ``step``, mean ``loss`` and terms, ``lr``, ``seconds``.

    Raises
    ------
    ValueError
        If an argument is out of range, the data are empty, mixed or of several node types, or the
        checkpoint in ``out`` was made with other settings.
    OSError
        If ``out`` cannot be written.
    FloatingPointError
        If the loss is not finite.
    ImportError
        If TensorBoard is wanted and not installed.

    Examples
    --------
    >>> import torch
    >>> from torch_geometric.data import Data
    >>> from histograph.methods import HMGDM
    >>> graph = Data(x=torch.randn(6, 4), edge_index=torch.tensor([[0, 1], [1, 0]]))
    >>> log = pretrain(HMGDM(4, hidden_dim=8), [graph] * 3, epochs=2, accelerator="cpu", progress=False)
    >>> log["epoch"].tolist()
    [0, 1]
    """
    settings = _Settings(
        epochs, batch_size, lr, weight_decay, warmup, gradient_clip, seed, devices, str(precision)
    )
    _check_settings(settings, checkpoint_every)
    if tensorboard:
        if out is None:
            raise ValueError("tensorboard=True needs a folder to write to: give out")
        require_tensorboard()
    check_graphs(data)
    folder = None if out is None else _writable_folder(Path(out))
    if folder is not None and not resume:
        remove_checkpoint(folder)
    conduct = _Conduct(folder, resume, checkpoint_every, tensorboard, num_workers, progress)
    fabric = lightning.Fabric(
        accelerator=accelerator, devices=devices, strategy=strategy, precision=precision
    )
    with tempfile.TemporaryDirectory() as scratch:
        handover = Path(scratch) / METHOD_FILE
        job = partial(
            _train,
            method=method,
            data=data,
            settings=settings,
            conduct=conduct,
            handover=handover,
            caller=os.getpid(),
        )
        history = fabric.launch(job)
        if handover.exists():  # trained in processes of their own, of which only a file comes back
            method.load_state_dict(load_method(handover).state_dict())
    method.eval()
    return pd.DataFrame(history)


def _train(
    fabric: lightning.Fabric,
    method: Method,
    data: Any,
    settings: _Settings,
    conduct: _Conduct,
    handover: Path,
    caller: int,
) -> list[dict[str, Any]]:
    """Run the epochs, in one process or in each of several, and return the rows of the log."""
    main = fabric.is_global_zero
    out = conduct.out
    # order by seed and epoch alone, so the same after a resume; and a shard of it per process
    sampler: DistributedSampler = DistributedSampler(
        data, fabric.world_size, fabric.global_rank, seed=settings.seed
    )
    loader = DataLoader(
        data,
        settings.batch_size,
        sampler=sampler,
        collate_fn=partial(collate, fields=method.reads),
        num_workers=conduct.num_workers,
        persistent_workers=conduct.num_workers > 0,
    )
    optimizer = torch.optim.AdamW(
        method.parameter_groups(), lr=settings.lr, weight_decay=settings.weight_decay
    )
    run = _Run(fabric, method, optimizer, settings, total_steps=settings.epochs * len(loader))
    identity = asdict(settings) | {
        "method": type(method).__name__,
        "config": method.config,
        "graphs": len(data),
    }
    if out is not None and conduct.resume and (state := load_checkpoint(out, identity)) is not None:
        run.restore(state)
    log = TrainingLog(out if main else None, run.history, conduct.tensorboard)
    epochs = range(run.epoch, settings.epochs)
    bar = tqdm(epochs, desc="pretrain", unit="epoch", disable=not (conduct.progress and main))
    unsaved = None
    try:
        with torch.random.fork_rng(devices=_cuda_devices(fabric)):
            for epoch in bar:
                began = time.perf_counter()
                torch.manual_seed(_epoch_seed(settings.seed, epoch, fabric.global_rank))
                method.before_epoch(epoch, data)
                sampler.set_epoch(epoch)
                means = run.train_epoch(loader)
                seconds = time.perf_counter() - began
                row = {"epoch": epoch, "step": run.step, **means, "lr": run.rate, "seconds": seconds}
                run.epoch = epoch + 1
                run.history.append(row)
                bar.set_postfix(loss=f"{means['loss']:.4f}")
                if not main or out is None:
                    continue
                log.add(row)
                due = run.epoch == settings.epochs or run.epoch % conduct.checkpoint_every == 0
                # in between, the state of the last whole epoch is kept at hand for an interrupt
                unsaved = None if due else copy.deepcopy(run.state(identity))
                if due:
                    save_checkpoint(out, run.state(identity))
                    method.save(out / METHOD_FILE)
    except KeyboardInterrupt:
        if unsaved is not None and out is not None:
            save_checkpoint(out, unsaved)
        raise
    finally:
        log.close()
        bar.close()
    if main and os.getpid() != caller:
        method.save(handover)
    return run.history


class _Run:
    """The moving parts of a run: weights, optimiser, counters and the log so far."""

    def __init__(
        self,
        fabric: lightning.Fabric,
        method: Method,
        optimizer: torch.optim.Optimizer,
        settings: _Settings,
        total_steps: int,
    ) -> None:
        self.fabric, self.method, self.optimizer, self.settings = fabric, method, optimizer, settings
        self.total_steps = total_steps
        self.model, self.stepper = fabric.setup(method, optimizer)
        self.epoch, self.step, self.rate = 0, 0, 0.0
        self.history: list[dict[str, Any]] = []

    def train_epoch(self, loader: DataLoader) -> dict[str, float]:
        """Go through the data once; return the mean of each term over graphs and processes."""
        self.method.train()
        sums: dict[str, float] = {}
        graphs = 0
        for batch in loader:
            self.rate = _learning_rate(self.step, self.total_steps, self.settings)
            for group in self.optimizer.param_groups:
                group["lr"] = self.rate
            terms = self.model(self.fabric.to_device(batch))
            values = {name: float(term.detach()) for name, term in terms.items()}
            if not math.isfinite(values["loss"]):
                raise FloatingPointError(
                    f"the loss is {values['loss']} at step {self.step} (epoch {self.epoch}, terms {values}); "
                    "lower lr, or look for extreme features"
                )
            self.stepper.zero_grad()
            self.fabric.backward(terms["loss"])
            if self.settings.gradient_clip > 0:
                limit = self.settings.gradient_clip
                self.fabric.clip_gradients(self.model, self.stepper, max_norm=limit, error_if_nonfinite=False)
            self.stepper.step()
            self.step += 1
            self.method.after_step(self.step)
            graphs += batch.num_graphs
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value * batch.num_graphs
        return {name: self._mean_over_processes(value / graphs) for name, value in sums.items()}

    def state(self, identity: dict[str, Any]) -> dict[str, Any]:
        """Give all that a resume needs; random state is not part of it, for every epoch seeds its own."""
        return {
            "settings": identity,
            "epoch": self.epoch,
            "step": self.step,
            "history": self.history,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.epoch, self.step, self.history = state["epoch"], state["step"], list(state["history"])
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])

    def _mean_over_processes(self, value: float) -> float:
        if self.fabric.world_size == 1:
            return value
        local = torch.tensor(value, device=self.fabric.device)
        return float(cast(Tensor, self.fabric.all_reduce(local, reduce_op="mean")))


def _learning_rate(step: int, total: int, settings: _Settings) -> float:
    """Rise linearly over the warm-up, then follow half a cosine down to 1 % of the peak."""
    rising = round(settings.warmup * total)
    if step < rising:
        return settings.lr * (step + 1) / rising
    done = (step - rising) / max(total - rising, 1)
    return settings.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def _epoch_seed(seed: int, epoch: int, rank: int) -> int:
    """Seed every epoch of every process by itself, so that none needs the epochs before it."""
    return int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1, np.uint64)[0] >> 1)


def _cuda_devices(fabric: lightning.Fabric) -> list[int]:
    return [fabric.device.index or 0] if fabric.device.type == "cuda" else []


def _check_settings(settings: _Settings, checkpoint_every: int) -> None:
    """Refuse what cannot work, naming the argument."""
    bounds = [
        ("epochs", settings.epochs >= 1, "at least 1", settings.epochs),
        ("batch_size", settings.batch_size >= 1, "at least 1", settings.batch_size),
        ("lr", settings.lr > 0, "above 0", settings.lr),
        ("weight_decay", settings.weight_decay >= 0, "at least 0", settings.weight_decay),
        ("warmup", 0 <= settings.warmup <= 1, "a share of the steps, 0 to 1", settings.warmup),
        ("gradient_clip", settings.gradient_clip >= 0, "at least 0", settings.gradient_clip),
        ("seed", settings.seed >= 0, "at least 0", settings.seed),
        ("checkpoint_every", checkpoint_every >= 1, "at least 1", checkpoint_every),
    ]
    for name, fine, expected, found in bounds:
        if not fine:
            raise ValueError(f"{name} must be {expected}; found {found}")


def _writable_folder(out: Path) -> Path:
    """Make the folder and try it, before any work is done."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OSError(error.errno, f"out: cannot write here ({error.strerror})", str(out)) from error
    return out

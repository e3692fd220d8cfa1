"""The loop under `pretrain` and `finetune`: epochs of a method's loss on Lightning Fabric, with an exact resume."""

import copy
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import lightning_fabric as lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler
from tqdm.auto import tqdm

from histograph.methods import Method

from .checkpoint import is_behind, load_checkpoint, save_checkpoint
from .log import TrainingLog


@dataclass(frozen=True)
class Settings:
    """What a run's result depends on, beside the method and the data; checked when made.

    Parameters
    ----------
    epochs, batch_size, lr, weight_decay, warmup, gradient_clip, seed, devices, precision
        As the arguments of `pretrain`.

    Raises
    ------
    ValueError
        If one is out of range.

    Examples
    --------
    >>> Settings(0, 1, 1e-3, 0.0, 0.0, 0.0, 0, 1, "32-true")
    Traceback (most recent call last):
    ValueError: epochs must be at least 1; found 0
    """

    epochs: int
    batch_size: int
    lr: float
    weight_decay: float
    warmup: float
    gradient_clip: float
    seed: int
    devices: int
    precision: str

    def __post_init__(self) -> None:
        """Refuse what cannot work, naming the argument; numbers of NumPy become plain ones, as a checkpoint holds."""
        for name in ("epochs", "batch_size", "seed"):
            number = getattr(self, name)
            whole = isinstance(number, (int, float, np.number)) and number == np.floor(number)
            require(name, bool(whole), "a whole number", repr(number))
            object.__setattr__(self, name, int(number))
        for name in ("lr", "weight_decay", "warmup", "gradient_clip"):
            object.__setattr__(self, name, float(getattr(self, name)))
        require("epochs", self.epochs >= 1, "at least 1", self.epochs)
        require("batch_size", self.batch_size >= 1, "at least 1", self.batch_size)
        require("lr", self.lr > 0, "above 0", self.lr)
        require("weight_decay", self.weight_decay >= 0, "at least 0", self.weight_decay)
        require("warmup", 0 <= self.warmup <= 1, "a share of the steps, 0 to 1", self.warmup)
        require("gradient_clip", self.gradient_clip >= 0, "at least 0", self.gradient_clip)
        require("seed", self.seed >= 0, "at least 0", self.seed)


@dataclass(frozen=True)
class Conduct:
    """How a run is read, shown and written, which does not change its result.

    Parameters
    ----------
    name
        What the bar says.
    out
        Folder of the checkpoint and the log; None writes nothing.
    resume, checkpoint_every, tensorboard, num_workers, progress
        As the arguments of `pretrain`.
    method_file
        Name of the file in `out` that the method is saved to with every checkpoint; None saves none.

    Examples
    --------
    >>> Conduct("pretrain", None, resume=True, progress=False).method_file is None
    True
    """

    name: str
    out: Path | None
    resume: bool
    progress: bool
    checkpoint_every: int = 1
    tensorboard: bool = False
    num_workers: int = 0
    method_file: str | None = None


class Watch(Protocol):
    """Looks at a run after every epoch, adds to its log and may end it; part of its checkpoint."""

    @property
    def stopped(self) -> bool:
        """Whether the run shall end before its last epoch."""
        ...

    def after_epoch(self, epoch: int) -> dict[str, float]:
        """Look at the method after an epoch, counted from 0, and return columns for the log."""
        ...

    def state(self) -> dict[str, Any]:
        """Give all that a resume needs."""
        ...

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        ...


def train(
    fabric: lightning.Fabric,
    method: Method,
    data: Any,
    settings: Settings,
    conduct: Conduct,
    collate_fn: Callable[[list[Any]], Any],
    identity: dict[str, Any] | None = None,
    sampler: Any = None,
    watch: Watch | None = None,
) -> list[dict[str, Any]]:
    """Run the epochs, in one process or in each of several, and return the rows of the log.

    Parameters
    ----------
    fabric
        Launched.
    method
        Trained in place. Groups of its `parameter_groups` may have an ``lr_scale``, a factor of the learning rate.
    data
        A sequence.
    settings, conduct
        How.
    collate_fn
        Makes a batch, with ``num_graphs`` and ``to(device)``, of a list of items.
    identity
        What else a checkpoint must agree in, to be gone on from.
    sampler
        Order of the items, with `set_epoch`; None shuffles by seed and epoch.
    watch
        Looks at the run after every epoch.

    Returns
    -------
    list of dict
        One row per epoch.

    Raises
    ------
    ValueError
        If the checkpoint cannot be read or does not agree.
    FloatingPointError
        If the loss is not finite.

    Examples
    --------
    >>> from torch_geometric.data import Data
    >>> from histograph.methods import HMGDM
    >>> from histograph.training.graphs import collate
    >>> graph = Data(x=torch.randn(6, 4), edge_index=torch.tensor([[0, 1], [1, 0]]))
    >>> settings = Settings(1, 2, 1e-3, 0.0, 0.0, 0.0, 0, 1, "32-true")
    >>> method, conduct = HMGDM(4, hidden_dim=8), Conduct("demo", None, resume=False, progress=False)
    >>> fabric = lightning.Fabric(accelerator="cpu")
    >>> [row] = train(fabric, method, [graph] * 3, settings, conduct, lambda items: collate(items, method.reads))
    >>> row["step"]
    2
    """
    main = fabric.is_global_zero
    out = conduct.out
    if sampler is None:
        # order by seed and epoch alone, so the same after a resume; and a shard of it per process
        sampler = DistributedSampler(data, fabric.world_size, fabric.global_rank, seed=settings.seed)
    loader = DataLoader(
        data,
        settings.batch_size,
        sampler=sampler,
        collate_fn=collate_fn,
        num_workers=conduct.num_workers,
        persistent_workers=conduct.num_workers > 0,
    )
    optimizer = torch.optim.AdamW(
        method.parameter_groups(), lr=settings.lr, weight_decay=settings.weight_decay
    )
    about = {"method": type(method).__name__, "config": method.config, "graphs": len(data)}
    identity = asdict(settings) | about | (identity or {})
    run = _Run(fabric, method, optimizer, settings, settings.epochs * len(loader), identity, watch)
    if out is not None and conduct.resume and (state := load_checkpoint(out, identity)) is not None:
        _restore(run, state, out)
        if main and conduct.method_file is not None and is_behind(out / conduct.method_file):
            method.save(out / conduct.method_file)
    log = TrainingLog(out if main else None, run.history, conduct.tensorboard)
    epochs = range(run.epoch, settings.epochs)
    bar = tqdm(epochs, desc=conduct.name, unit="epoch", disable=not (conduct.progress and main))
    unsaved = None
    try:
        with torch.random.fork_rng(devices=_cuda_devices(fabric)):
            for _ in bar:
                if run.finished:
                    break
                row = run.train_epoch(loader, sampler, data)
                bar.set_postfix(loss=f"{row['loss']:.4f}")
                if not main or out is None:
                    continue
                log.add(row)
                due = run.finished or run.epoch % conduct.checkpoint_every == 0
                # in between, the state of the last whole epoch is kept at hand for an interrupt
                unsaved = None if due else copy.deepcopy(run.state())
                if due:
                    save_checkpoint(out, run.state())
                    if conduct.method_file is not None:
                        method.save(out / conduct.method_file)
    except KeyboardInterrupt:
        if unsaved is not None and out is not None:
            save_checkpoint(out, unsaved)
        raise
    finally:
        log.close()
        bar.close()
    return run.history


def _restore(run: "_Run", state: dict[str, Any], out: Path) -> None:
    """Let a run take over a checkpoint, or say that it does not fit."""
    try:
        run.restore(state)
    except (RuntimeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"the checkpoint in {out} does not fit the method, as one of another version of histograph does not "
            f"({error}); give another out folder, or resume=False to start afresh"
        ) from error


class _Run:
    """The moving parts of a run: weights, optimiser, counters and the log so far."""

    def __init__(
        self,
        fabric: lightning.Fabric,
        method: Method,
        optimizer: torch.optim.Optimizer,
        settings: Settings,
        total_steps: int,
        identity: dict[str, Any],
        watch: Watch | None,
    ) -> None:
        self.fabric, self.method, self.optimizer, self.settings = fabric, method, optimizer, settings
        self.total_steps, self.identity, self.watch = total_steps, identity, watch
        # as given, for a method may change them from step to step, and a checkpoint keeps the last
        self.decays = [group["weight_decay"] for group in optimizer.param_groups]
        self.model, self.stepper = fabric.setup(method, optimizer)
        self.epoch, self.step, self.rate = 0, 0, 0.0
        self.history: list[dict[str, Any]] = []

    @property
    def finished(self) -> bool:
        """Whether there is no further epoch."""
        return self.epoch == self.settings.epochs or (self.watch is not None and self.watch.stopped)

    def train_epoch(self, loader: DataLoader, sampler: Any, data: Any) -> dict[str, Any]:
        """Do the next epoch and return its row of the log."""
        began, epoch = time.perf_counter(), self.epoch
        torch.manual_seed(_epoch_seed(self.settings.seed, epoch, self.fabric.global_rank))
        self.method.before_epoch(epoch, data)
        sampler.set_epoch(epoch)
        means = self._pass(loader)
        if self.watch is not None:
            means |= self.watch.after_epoch(epoch)
        seconds = time.perf_counter() - began
        row = {"epoch": epoch, "step": self.step, **means, "lr": self.rate, "seconds": seconds}
        self.epoch += 1
        self.history.append(row)
        return row

    def _pass(self, loader: DataLoader) -> dict[str, float]:
        """Go through the data once; return the mean of each term over graphs and processes."""
        self.method.train()
        sums: dict[str, float] = {}
        graphs = 0
        for batch in _batches(loader):
            self._set_rates()
            terms = self.model(self.fabric.to_device(batch))
            values = {name: float(term.detach()) for name, term in terms.items()}
            if not math.isfinite(values["loss"]):
                raise FloatingPointError(
                    f"the loss is {values['loss']} at step {self.step} (epoch {self.epoch}, terms {values}); "
                    "lower lr, or look for extreme features"
                )
            self.stepper.zero_grad()
            self.fabric.backward(terms["loss"])
            self._limit_gradients()
            self.stepper.step()
            self.step += 1
            self.method.after_step(self.step)
            graphs += batch.num_graphs
            for name, value in values.items():
                sums[name] = sums.get(name, 0.0) + value * batch.num_graphs
        return {name: self._mean_over_processes(value / graphs) for name, value in sums.items()}

    def _set_rates(self) -> None:
        """Give the optimiser the learning rate and weight decay of this step."""
        warmup = warmup_steps(self.total_steps, self.settings)
        own = self.method.schedule(self.step, self.total_steps, warmup)
        if "lr" in own:
            self.rate = self.settings.lr * own["lr"]
        else:
            self.rate = learning_rate(self.step, self.total_steps, self.settings)
        for group, decay in zip(self.optimizer.param_groups, self.decays, strict=True):
            group["lr"] = self.rate * group.get("lr_scale", 1.0)
            group["weight_decay"] = decay * own.get("weight_decay", 1.0)

    def _limit_gradients(self) -> None:
        """Let the method limit its gradients, or limit the norm of all."""
        limit = self.settings.gradient_clip
        if type(self.method).limit_gradients is not Method.limit_gradients:
            # the method must see gradients as they are, not scaled up for half precision; that is done once a step
            self.fabric.strategy.precision.unscale_gradients(self.optimizer)
            if not self.method.limit_gradients(limit) and limit > 0:
                torch.nn.utils.clip_grad_norm_(self.method.parameters(), limit)
        elif limit > 0:
            self.fabric.clip_gradients(self.model, self.stepper, max_norm=limit, error_if_nonfinite=False)

    def state(self) -> dict[str, Any]:
        """Give all that a resume needs; random state is not part of it, for every epoch seeds its own."""
        return {
            "settings": self.identity,
            "epoch": self.epoch,
            "step": self.step,
            "history": self.history,
            "method": self.method.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "precision": self.fabric.strategy.precision.state_dict(),
            "watch": None if self.watch is None else self.watch.state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.epoch, self.step, self.history = state["epoch"], state["step"], list(state["history"])
        self.method.load_state_dict(state["method"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.fabric.strategy.precision.load_state_dict(state["precision"])
        if self.watch is not None:
            self.watch.restore(state["watch"])

    def _mean_over_processes(self, value: float) -> float:
        if self.fabric.world_size == 1:
            return value
        local = torch.tensor(value, device=self.fabric.device)
        return float(cast(Tensor, self.fabric.all_reduce(local, reduce_op="mean")))


def _batches(loader: DataLoader) -> Iterator[Any]:
    """Begin to read; what is drawn afterwards does not depend on who reads."""
    # A loader that begins draws a seed for its processes, but not where they stay from one epoch to the next: without
    # this, crops and masks would depend on num_workers, and a run that was resumed would go another way.
    torch.empty((), dtype=torch.int64).random_()
    drawn = torch.get_rng_state()
    batches = iter(loader)
    torch.set_rng_state(drawn)
    return batches


def learning_rate(step: int, total: int, settings: Settings) -> float:
    """Rise linearly over the warm-up, then follow half a cosine down to 1 % of the peak.

    Parameters
    ----------
    step, total
        Number of the step, from 0, and of all steps.
    settings
        With `lr`, the peak, and `warmup`, the share of the steps.

    Returns
    -------
    float
        The learning rate of this step.

    Examples
    --------
    >>> settings = Settings(1, 1, 1.0, 0.0, 0.5, 0.0, 0, 1, "32-true")
    >>> [round(learning_rate(step, 4, settings), 3) for step in range(4)]
    [0.5, 1.0, 1.0, 0.505]
    """
    rising = warmup_steps(total, settings)
    if step < rising:
        return settings.lr * (step + 1) / rising
    done = (step - rising) / max(total - rising, 1)
    return settings.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def warmup_steps(total: int, settings: Settings) -> int:
    """Count the steps with rising learning rate.

    Parameters
    ----------
    total
        All steps.
    settings
        With `warmup`, their share.

    Returns
    -------
    int
        Of all steps.

    Examples
    --------
    >>> warmup_steps(40, Settings(1, 1, 1.0, 0.0, 0.05, 0.0, 0, 1, "32-true"))
    2
    """
    return round(settings.warmup * total)


def require(name: str, fine: bool, expected: str, found: Any) -> None:
    """Refuse an argument that is out of range.

    Parameters
    ----------
    name
        Of the argument.
    fine
        Whether it is as expected.
    expected
        What it must be.
    found
        What it is.

    Raises
    ------
    ValueError
        If it is not fine.

    Examples
    --------
    >>> require("patience", False, "at least 1", 0)
    Traceback (most recent call last):
    ValueError: patience must be at least 1; found 0
    """
    if not fine:
        raise ValueError(f"{name} must be {expected}; found {found}")


def make_fabric(accelerator: str, devices: int, strategy: str, precision: Any) -> lightning.Fabric:
    """Choose where and how precisely to compute, or say that this machine cannot.

    Parameters
    ----------
    accelerator, devices, strategy, precision
        As the arguments of `pretrain`.

    Returns
    -------
    lightning.Fabric
        Not launched yet.

    Raises
    ------
    ValueError
        If this machine has no such accelerator, or an argument is not known.

    Examples
    --------
    >>> make_fabric("cpu", 1, "auto", "32-true").device
    device(type='cpu')
    """
    try:
        return lightning.Fabric(
            accelerator=accelerator, devices=devices, strategy=strategy, precision=precision
        )
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"accelerator={accelerator!r}, devices={devices!r}, strategy={strategy!r}, precision={precision!r} cannot "
            f"be used here: {error} Give accelerator='auto' to take what there is"
        ) from error


def writable_folder(out: Path) -> Path:
    """Make a folder and try it, before any work is done.

    Parameters
    ----------
    out
        The folder.

    Returns
    -------
    Path
        The same.

    Raises
    ------
    OSError
        If it cannot be made or written to.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     writable_folder(Path(folder) / "run").is_dir()
    True
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OSError(error.errno, f"out: cannot write here ({error.strerror})", str(out)) from error
    return out


def _epoch_seed(seed: int, epoch: int, rank: int) -> int:
    """Seed every epoch of every process by itself, so that none needs the epochs before it."""
    return int(np.random.SeedSequence([seed, epoch, rank]).generate_state(1, np.uint64)[0] >> 1)


def _cuda_devices(fabric: lightning.Fabric) -> list[int]:
    return [fabric.device.index or 0] if fabric.device.type == "cuda" else []

"""Self-supervised training of any method on any data set of graphs or image patches, on Lightning Fabric."""

import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import lightning_fabric as lightning
import pandas as pd
import torch.distributed as dist

from histograph.methods import Graphs, Method, load_method

from .checkpoint import remove_checkpoint
from .graphs import check_graphs, collate, described
from .log import require_tensorboard
from .loop import Conduct, Settings, make_fabric, require, train, writable_folder

METHOD_FILE = "method.safetensors"


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
    settings = Settings(
        epochs, batch_size, lr, weight_decay, warmup, gradient_clip, seed, devices, str(precision)
    )
    require("checkpoint_every", checkpoint_every >= 1, "at least 1", checkpoint_every)
    if tensorboard:
        if out is None:
            raise ValueError("tensorboard=True needs a folder to write to: give out")
        require_tensorboard()
    check_graphs(data)
    folder = None if out is None else writable_folder(Path(out))
    if folder is not None and not resume:
        remove_checkpoint(folder)
    conduct = Conduct(
        "pretrain", folder, resume, progress, checkpoint_every, tensorboard, num_workers, METHOD_FILE
    )
    fabric = make_fabric(accelerator, devices, strategy, precision)
    with tempfile.TemporaryDirectory() as scratch:
        handover = Path(scratch) / METHOD_FILE
        job = partial(_job, method, data, settings, conduct, handover, os.getpid())
        history = fabric.launch(job)
        if handover.exists():  # trained in processes of their own, of which only a file comes back
            method.load_state_dict(load_method(handover).state_dict())
    method.eval()
    return pd.DataFrame(history)


def _job(
    method: Method,
    data: Any,
    settings: Settings,
    conduct: Conduct,
    handover: Path,
    caller: int,
    fabric: lightning.Fabric,
) -> list[dict[str, Any]]:
    """Train in this process, which may be one of several that were launched."""
    batched = partial(collate, fields=method.reads)
    history = train(fabric, method, data, settings, conduct, batched, {"data": described(data)})
    if os.getpid() != caller:
        if fabric.is_global_zero:
            method.save(handover)
        if dist.is_available() and dist.is_initialized():
            # a process that ends with threads of its group at work is aborted
            dist.barrier()
            dist.destroy_process_group()
    return history

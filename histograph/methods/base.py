"""What every method offers to the trainer, the benchmarks and the command line, and its file."""

import json
import os
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from .files import read_tensors, write_tensors

FORMAT = "histograph.method"
FORMAT_VERSION = 1


class Graphs(Protocol):
    """What to train on or to embed: a list, `GraphDataset`, `PatchDataset`; has a length and numbered items."""

    def __len__(self) -> int:
        """Count the graphs, or the image patches."""
        ...

    def __getitem__(self, index: Any, /) -> Any:
        """Give the graph, or the patch as a batch of one, of this number, counted from 0."""
        ...


@dataclass  # not frozen: Lightning casts the fields of a batch for mixed precision, in a copy
class Patches:
    """A batch of image patches, for the methods that read pixels where others read graphs.

    Attributes
    ----------
    image : Tensor
        (B, H, W, 3) red, green, blue; uint8 from 0 to 255, or floating point from 0 to 1.
    names : tuple of str or None
        Where each patch comes from (its slide or file), for the tables of its vectors; not read by methods.
    row : Tensor or None
        (B,) int64, the number of each patch in its data set, for methods that remember patches; as `PatchDataset`
        gives it.

    Examples
    --------
    >>> import torch
    >>> Patches(torch.zeros(4, 8, 8, 3, dtype=torch.uint8)).num_graphs
    4
    """

    image: Tensor
    names: tuple[str, ...] | None = None
    row: Tensor | None = None

    @property
    def num_graphs(self) -> int:
        """Number of patches B; the name that PyG gives to the size of a batch."""
        return self.image.shape[0]

    def to(self, *args: Any, **kwargs: Any) -> "Patches":
        """Move the pixels, with the arguments of `torch.Tensor.to`; the numbers go where they go, and stay whole."""
        image = self.image.to(*args, **kwargs)
        return Patches(image, self.names, None if self.row is None else self.row.to(image.device))


@dataclass(frozen=True)
class Embedding:
    """Vectors of a batch of graphs.

    Attributes
    ----------
    node : Tensor or None
        (N, D) one row per node, in batch order; None for a method without node vectors.
    graph : Tensor
        (G, D') one row per graph.
    edge : Tensor or None
        (E, D) one row per edge, in batch order; None for a method without edge vectors.

    Examples
    --------
    >>> import torch
    >>> Embedding(node=None, graph=torch.zeros(2, 3)).graph.shape
    torch.Size([2, 3])
    """

    node: Tensor | None
    graph: Tensor
    edge: Tensor | None = None


class Method(nn.Module):
    """Base class of all methods: a self-supervised loss, an encoder, and hooks for the trainer.

    A subclass hands the arguments of its constructor to ``super().__init__(config)``, so that a saved file
    can build it again, and defines :meth:`forward` and :meth:`encode`. Random numbers come from torch's
    default generator, which the trainer seeds; a method never seeds by itself.

    A batch is a PyG batch of graphs, or, for a method of image patches, :class:`Patches`.

    Parameters
    ----------
    config : dict
        The constructor's arguments by name; numbers, text, booleans, None, or lists of them.

    Examples
    --------
    >>> import torch
    >>> class Mean(Method):
    ...     def __init__(self, node_dim):
    ...         super().__init__({"node_dim": node_dim})
    ...         self.centre = torch.nn.Parameter(torch.zeros(node_dim))
    ...     def forward(self, batch):
    ...         return {"loss": (batch.x - self.centre).square().mean()}
    ...     def encode(self, batch):
    ...         return Embedding(batch.x - self.centre, batch.x.mean(0, keepdim=True))
    >>> Mean(3).config
    {'node_dim': 3}
    """

    registry: ClassVar[dict[str, type["Method"]]] = {}
    #: Fields of a graph that :meth:`forward` and :meth:`encode` read; loaders batch these and no others.
    reads: ClassVar[tuple[str, ...]] = ("x", "edge_index", "edge_attr", "pos")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Register the class by its name, under which files refer to it."""
        super().__init_subclass__(**kwargs)
        known = Method.registry.get(cls.__name__)
        # the same class defined again (a notebook cell run twice) replaces the older definition
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(
                f"a method named {cls.__name__} exists in {known.__module__}; choose another class name"
            )
        Method.registry[cls.__name__] = cls

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = dict(config)

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Compute the training loss of a batch.

        Parameters
        ----------
        batch : torch_geometric.data.Batch, Data or Patches
            Graphs, or image patches.

        Returns
        -------
        dict of str to Tensor
            ``"loss"``, a scalar with gradient, and each named term, detached.
        """
        raise TypeError(f"{type(self).__name__} must define forward(batch)")

    def encode(self, batch: Any) -> Embedding:
        """Embed a batch, deterministically and without masks.

        Parameters
        ----------
        batch : torch_geometric.data.Batch, Data or Patches
            Graphs, or image patches.

        Returns
        -------
        Embedding
            Node and graph vectors; for patches, ``graph`` holds a row a patch, and ``node``, if there is one, as
            many rows for each patch as for any other.
        """
        raise TypeError(f"{type(self).__name__} must define encode(batch)")

    def encode_graphs(self, batch: Any) -> Tensor:
        """Embed graphs alone; a method that can save the work for their nodes overrides it.

        Parameters
        ----------
        batch : torch_geometric.data.Batch, Data or Patches
            Graphs, or image patches.

        Returns
        -------
        Tensor
            (G, D'), the same as ``encode(batch).graph``.
        """
        return self.encode(batch).graph

    def before_epoch(self, epoch: int, dataset: Graphs) -> None:
        """Prepare an epoch (fit statistics, refresh prototypes); does nothing unless a method says otherwise.

        Parameters
        ----------
        epoch : int
            Number of the epoch that starts, from 0.
        dataset : sequence of Data, or PatchDataset
            All training graphs or patches.
        """

    def schedule(self, step: int, total_steps: int, warmup_steps: int) -> dict[str, float]:
        """Learn where the run is, before a step, and say how the optimiser's settings change; as they are by default.

        Parameters
        ----------
        step : int
            Number of optimiser steps made so far, from 0.
        total_steps : int
            Steps of the whole run.
        warmup_steps : int
            Steps in which the learning rate rises.

        Returns
        -------
        dict of str to float
            ``"lr"``, if the method has a schedule of its own: the factor of the trainer's peak learning rate.
            ``"weight_decay"``: the factor of the weight decay of every group.
        """
        return {}

    def limit_gradients(self, limit: float) -> bool:
        """Shorten or drop gradients before the optimiser's step, in the method's own way; not done by default.

        Parameters
        ----------
        limit : float
            The trainer's ``gradient_clip``; 0 for no limit.

        Returns
        -------
        bool
            Whether it is done; otherwise the trainer limits the norm of the whole gradient.
        """
        return False

    def after_step(self, step: int) -> None:
        """Follow an optimiser step (teacher, memory bank); does nothing unless a method says otherwise.

        Parameters
        ----------
        step : int
            Number of optimiser steps made so far, from 1.
        """

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Split the parameters for the optimiser: weight decay for matrices, none for biases and norms.

        Returns
        -------
        list of dict
            Groups for a torch optimiser; a group without ``weight_decay`` gets the trainer's.
        """
        parameters = [p for p in self.parameters() if p.requires_grad]
        groups: list[dict[str, Any]] = [
            {"params": [p for p in parameters if p.dim() > 1]},
            {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write weights, buffers and configuration to one safetensors file, whole or not at all.

        Parameters
        ----------
        path : path-like
            The file; its folder must exist.

        Raises
        ------
        FileNotFoundError
            If the folder is missing.
        TypeError
            If the configuration holds something that JSON cannot.
        """
        metadata = {"class": type(self).__name__, "config": json.dumps(self.config)}
        write_tensors(path, self.state_dict(), FORMAT, FORMAT_VERSION, metadata)


def constructor_arguments(names: dict[str, Any]) -> dict[str, Any]:
    """Give the arguments of a constructor as a file gives them back: tuples as lists.

    Parameters
    ----------
    names : dict
        ``locals()`` of the constructor, before anything else is named.

    Returns
    -------
    dict of str to object
        For the constructor of :class:`Method`.

    Examples
    --------
    >>> constructor_arguments({"self": None, "dim": 8, "scale": (0.4, 1.0)})
    {'dim': 8, 'scale': [0.4, 1.0]}
    """
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in names.items()
        if name not in ("self", "__class__")
    }


# Above the colours of any floating-point image but those from 0 to 255.
_BRIGHTEST = 16.0


def read_image(batch: Any, method: str, advice: str = "") -> Tensor:
    """Take the pixels out of a batch of patches of any size.

    Parameters
    ----------
    batch : Patches
        ``image`` (B, H, W, 3).
    method : str
        Name of the method that reads, for the error.
    advice : str
        What else to do when the batch holds no patches, said at the end of the error.

    Returns
    -------
    Tensor
        (B, H, W, 3) uint8, or floating point.

    Raises
    ------
    TypeError
        If it is no batch of patches.
    ValueError
        If shape or type are others.

    Examples
    --------
    >>> read_image(Patches(torch.zeros(2, 8, 8, 3, dtype=torch.uint8)), "DINO").shape
    torch.Size([2, 8, 8, 3])
    """
    image = getattr(batch, "image", None)
    if not isinstance(image, Tensor):
        raise TypeError(
            f"{method} reads image patches, found {type(batch).__name__}; give pretrain and embed a PatchDataset"
            f"{advice}"
        )
    if image.dim() != 4 or image.shape[3] != 3:
        raise ValueError(f"image must have shape (B, H, W, 3), found {tuple(image.shape)}")
    if len(image) == 0:
        raise ValueError(f"image must hold at least one patch, found {tuple(image.shape)}")
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise ValueError(f"image must be uint8, or floating point from 0 to 1, found {image.dtype}")
    # colours with mean 0, as the released code had them, stay far below; NaN fails too
    if image.is_floating_point() and not bool((image.abs() <= _BRIGHTEST).all()):
        raise ValueError(
            "image of floating point must hold colours from 0 to 1, found "
            f"{image.amin().item():g} to {image.amax().item():g}; give uint8, or divide by 255"
        )
    return image


def check_finite(name: str, values: Tensor) -> None:
    """Refuse rows of numbers with NaN or infinity, which would spread over the vectors of their whole graph.

    Parameters
    ----------
    name : str
        The field, for the error.
    values : Tensor
        (N, F).

    Raises
    ------
    ValueError
        If a number is not finite; names the row and the column.

    Examples
    --------
    >>> check_finite("x", torch.tensor([[0.0, 1.0], [0.0, float("nan")]]))
    Traceback (most recent call last):
    ValueError: x must be finite; found nan in row 1, column 1 of the batch. Fill in or leave out ...
    """
    finite = values.isfinite()
    if not bool(finite.all()):
        row, column = (~finite).nonzero()[0].tolist()
        raise ValueError(
            f"{name} must be finite; found {values[row, column].item()} in row {row}, column {column} of the batch. "
            "Fill in or leave out such columns or rows before"
        )


def load_method(path: str | os.PathLike[str], device: str | torch.device = "cpu") -> Method:
    """Build a method from a file of :meth:`Method.save`, ready to embed (evaluation mode).

    Parameters
    ----------
    path : path-like
        The file.
    device : str or torch.device
        Where the weights shall lie.

    Returns
    -------
    Method
        Of the class that the file names.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is truncated, foreign, of a newer format, of an unknown class, or does not fit the class.

    Examples
    --------
    >>> import tempfile
    >>> from histograph.methods import HMGDM
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     HMGDM(node_dim=4, hidden_dim=16).save(f"{folder}/method.safetensors")
    ...     load_method(f"{folder}/method.safetensors").config["hidden_dim"]
    16
    """
    metadata, tensors = read_tensors(path, FORMAT, FORMAT_VERSION)
    name = metadata.get("class", "")
    if name not in Method.registry:
        raise ValueError(
            f"{path} holds a method of class {name!r}, known are {sorted(Method.registry)}; "
            "import the module that defines it before loading"
        )
    try:
        method = Method.registry[name](**json.loads(metadata["config"]))
        method.load_state_dict(tensors)
    except (TypeError, RuntimeError, KeyError) as error:
        raise ValueError(f"{path} does not fit the class {name} of this histograph: {error}") from error
    return method.to(device).eval()

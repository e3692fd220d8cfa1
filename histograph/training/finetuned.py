"""A pre-trained method with a head that tells classes, and the batches that it is trained on."""

import os
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from histograph.methods import Embedding, Graphs, Method, load_method
from histograph.nn import Standardise

from .embed import embed

HEADS = ("linear", "mlp")


@dataclass  # not frozen, for mixed precision copies and changes it
class Labelled:
    """A batch and the classes of its graphs.

    Parameters
    ----------
    batch
        What the method reads; or (G, D) graph vectors, where the method is frozen and they are known.
    y
        (G,) int64 class codes.
    """

    batch: Any
    y: Tensor

    @property
    def num_graphs(self) -> int:
        """Number of graphs G."""
        return len(self.y)

    def to(self, *args: Any, **kwargs: Any) -> "Labelled":
        """Move all tensors, with the arguments of `torch.Tensor.to`."""
        return Labelled(self.batch.to(*args, **kwargs), self.y.to(*args, **kwargs))


class FineTuned(Method):
    """A method and a head on its graph vectors; made by `finetune`, saved and loaded like any method.

    Parameters
    ----------
    method : str
        Class of the method.
    config : dict
        Its configuration.
    width : int
        Columns of its graph vectors.
    classes : list of str or int
        What the head tells apart, ascending.
    head : {"linear", "mlp"}
        One linear layer, or two with a GELU between, on standardised columns.
    frozen : bool
        Whether the method keeps its weights and stays in evaluation mode.

    Attributes
    ----------
    backbone : Method
        The method.
    log : pandas.DataFrame
        One row per epoch, `kept` where the weights are from; empty after loading.
    validation_rows : ndarray
        Rows of the data that chose the epoch; empty after loading.

    Raises
    ------
    ValueError
        If `head` is unknown.

    Examples
    --------
    >>> from torch_geometric.data import Data
    >>> from histograph.methods import HMGDM
    >>> tuned = FineTuned("HMGDM", HMGDM(4, hidden_dim=8).config, 8, ["normal", "tumour"])
    >>> tuned.predict([Data(x=torch.randn(5, 4), edge_index=torch.zeros(2, 0).long())], progress=False)
    array([[0.5, 0.5]])
    """

    def __init__(
        self,
        method: str,
        config: dict[str, Any],
        width: int,
        classes: list[Any],
        head: Literal["linear", "mlp"] = "linear",
        frozen: bool = False,
    ) -> None:
        super().__init__(
            {
                "method": method,
                "config": dict(config),
                "width": width,
                "classes": list(classes),
                "head": head,
                "frozen": frozen,
            }
        )
        if head not in HEADS:
            raise ValueError(f"head must be one of {', '.join(HEADS)}; found {head!r}")
        self.classes, self.frozen = list(classes), frozen
        self.backbone = Method.registry[method](**config).requires_grad_(not frozen)
        self.reads = self.backbone.reads  # type: ignore[misc]  # those of the method that it holds
        # no clipping, which would stop the gradient where training moves the vectors far
        self.scale = Standardise(width, clip=float("inf"))
        last = nn.Linear(width, len(classes))
        # at first all classes are alike, and the gradient of the method begins with what the head has learnt
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        between = [nn.Linear(width, width), nn.GELU()] if head == "mlp" else []
        self.head = nn.Sequential(*between, last)
        self.backbone_lr_scale = 1.0
        self.class_weight: Tensor
        self.register_buffer("class_weight", torch.ones(len(classes)), persistent=False)
        self.log = pd.DataFrame()
        self.validation_rows = np.zeros(0, dtype=np.int64)

    def train(self, mode: bool = True) -> "FineTuned":
        """Set the mode; a frozen method stays in evaluation mode."""
        super().train(mode)
        if self.frozen:
            self.backbone.eval()
        return self

    def logits(self, batch: Any) -> Tensor:
        """Compute the (G, K) scores of the classes.

        Parameters
        ----------
        batch : torch_geometric.data.Batch, Data, Patches or Tensor
            Graphs or patches, or their (G, D) vectors.

        Returns
        -------
        Tensor
            (G, K), whose softmax are the probabilities.
        """
        z = batch if isinstance(batch, Tensor) else self.backbone.encode_graphs(batch)
        return self.head(self.scale(z)).float()

    def forward(self, batch: Labelled) -> dict[str, Tensor]:
        """Compute the cross-entropy and the accuracy of a batch.

        Parameters
        ----------
        batch : Labelled
            Graphs, patches or vectors, with classes.

        Returns
        -------
        dict of str to Tensor
            ``"loss"`` and ``"accuracy"``.
        """
        logits = self.logits(batch.batch)
        loss = F.cross_entropy(logits, batch.y, weight=self.class_weight)
        return {"loss": loss, "accuracy": (logits.detach().argmax(1) == batch.y).float().mean()}

    def encode(self, batch: Any) -> Embedding:
        """Embed as the method does.

        Parameters
        ----------
        batch : torch_geometric.data.Batch, Data or Patches
            Graphs or patches.

        Returns
        -------
        Embedding
            Vectors of the method, after fine-tuning.
        """
        return self.backbone.encode(batch)

    def encode_graphs(self, batch: Any) -> Tensor:
        """Embed graphs alone, as the method does.

        Parameters
        ----------
        batch : torch_geometric.data.Batch, Data or Patches
            Graphs or patches.

        Returns
        -------
        Tensor
            (G, width).
        """
        return self.backbone.encode_graphs(batch)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Split the parameters for the optimiser, the method's with a learning rate of their own.

        Returns
        -------
        list of dict
            Groups, those of the method with ``lr_scale``.
        """
        slow = [{**group, "lr_scale": self.backbone_lr_scale} for group in self.backbone.parameter_groups()]
        head: list[dict[str, Any]] = [
            {"params": [p for p in self.head.parameters() if p.dim() > 1]},
            {"params": [p for p in self.head.parameters() if p.dim() <= 1], "weight_decay": 0.0},
        ]
        return slow + head

    def predict(
        self,
        data: Graphs,
        batch_size: int = 16,
        device: str | torch.device | None = None,
        progress: bool = True,
    ) -> np.ndarray:
        """Compute the probabilities of the classes.

        Parameters
        ----------
        data : sequence of torch_geometric.data.Data, or PatchDataset
            Graphs or patches.
        batch_size : int
            Graphs at a time.
        device : str or torch.device, optional
            Where to compute; where the weights are, by default.
        progress : bool
            Whether to show a bar.

        Returns
        -------
        ndarray
            (G, K) float64, columns in the order of `classes`; each row sums to 1.

        Raises
        ------
        TypeError, ValueError
            As `embed`.
        """
        z = embed(self.backbone, data, batch_size, device, progress, nodes=False).graph
        with torch.inference_mode():
            logits = self.head(self.scale(z.to(self.class_weight.device)))
        return logits.double().softmax(1).cpu().numpy()

    @classmethod
    def load(cls, path: str | os.PathLike[str], device: str | torch.device = "cpu") -> "FineTuned":
        """Read a file of :meth:`save`.

        Parameters
        ----------
        path : path-like
            The file.
        device : str or torch.device
            Where the weights shall lie.

        Returns
        -------
        FineTuned
            Ready to predict.

        Raises
        ------
        FileNotFoundError, ValueError
            If there is no such file; if it is truncated, foreign, or holds a method without a head.
        """
        found = load_method(path, device)
        if not isinstance(found, cls):
            raise ValueError(
                f"{path} holds a {type(found).__name__} without a head; use load_method, then finetune"
            )
        return found


class Rows:
    """Some items of a data set, in a given order.

    Parameters
    ----------
    data
        The data set.
    rows
        Row numbers.

    Examples
    --------
    >>> Rows("abc", [2, 0])[0]
    'c'
    """

    def __init__(self, data: Any, rows: Any) -> None:
        self.data, self.rows = data, rows

    def __len__(self) -> int:
        """Count the items."""
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        """Give the item of this number."""
        return self.data[int(self.rows[index])]

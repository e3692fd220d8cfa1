"""The downstream model of the released PAMA: its encoder without hidden patches, and one affine map to classes.

To tell classes with any method use :func:`histograph.finetune`; this is for weights that the released code fine-tuned.
"""

from typing import Any

import torch
from torch import Tensor, nn

from .base import Embedding, Method, constructor_arguments
from .pama_released import ReleasedEncoder, ReleasedPAMA

_HEAD_SCALE = 0.01
# arguments that the downstream model takes over from the pre-training one
_ENCODER = (
    "node_dim",
    "hidden_dim",
    "layers",
    "heads",
    "mlp_ratio",
    "anchor_dropout",
    "patches_per_anchor",
    "num_anchors",
)


class ReleasedClassifierNetwork(ReleasedEncoder):
    """The encoder with the head on its slide token; its state dict has the released names and shapes.

    Parameters
    ----------
    classes : int
        Number of classes.
    **arguments
        Those of :class:`histograph.methods.pama_released.ReleasedEncoder`.

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Examples
    --------
    >>> len(ReleasedClassifierNetwork(3, node_dim=4, hidden_dim=8, heads=2).state_dict())
    64
    """

    def __init__(self, classes: int, **arguments: Any) -> None:
        if classes < 1:
            raise ValueError(f"classes must be at least 1, found {classes}")
        super().__init__(**arguments)
        self.head = nn.Linear(self.cls_token.shape[2], classes)
        nn.init.trunc_normal_(self.head.weight, std=_HEAD_SCALE)
        nn.init.zeros_(self.head.bias)


class ReleasedPAMAClassifier(Method):
    """The released downstream model of PAMA.

    Parameters
    ----------
    node_dim, classes : int
        Columns of ``x``, and number of classes.
    hidden_dim, layers, heads, mlp_ratio
        As in :class:`histograph.methods.PAMA`.
    anchor_dropout : float
        Share of the padded anchors that training leaves out.
    dropout, drop_path : float
        Share of values after affine maps, and of slides in an MLP's branch, that training sets to 0.
    patches_per_anchor, num_anchors
        As in :class:`histograph.methods.PAMA`.

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Examples
    --------
    >>> import torch
    >>> from torch_geometric.data import Data
    >>> slide = Data(x=torch.randn(5, 4), pos=torch.rand(5, 2), y=torch.tensor([2]))
    >>> model = ReleasedPAMAClassifier(4, classes=3, hidden_dim=8, heads=2)
    >>> model.logits(slide).shape, sorted(model(slide))
    (torch.Size([1, 3]), ['loss'])
    """

    reads = ("x", "pos", "anchor_index", "y")

    def __init__(
        self,
        node_dim: int,
        classes: int,
        hidden_dim: int = 1024,
        layers: int = 4,
        heads: int = 8,
        mlp_ratio: float = 4.0,
        anchor_dropout: float = 0.2,
        dropout: float = 0.15,
        drop_path: float = 0.15,
        patches_per_anchor: float = 144.0,
        num_anchors: int | None = None,
    ) -> None:
        config = constructor_arguments(locals())
        super().__init__(config)
        self.released = ReleasedClassifierNetwork(**config)

    @classmethod
    def from_pretrained(
        cls, method: Method, classes: int, dropout: float = 0.15, drop_path: float = 0.15
    ) -> "ReleasedPAMAClassifier":
        """Take the encoder of a pre-trained network, and a head that is yet to be trained.

        Parameters
        ----------
        method : PAMA
            Made with ``official_compat=True``.
        classes : int
            Number of classes.
        dropout, drop_path : float
            As in the constructor.

        Returns
        -------
        ReleasedPAMAClassifier
            With copies of the weights.

        Raises
        ------
        ValueError
            If the method is not in the released form.

        Examples
        --------
        >>> from histograph.methods import PAMA
        >>> sizes = {"hidden_dim": 8, "heads": 2, "decoder_dim": 4}
        >>> method = PAMA(4, **sizes, official_compat=True)
        >>> ReleasedPAMAClassifier.from_pretrained(method, classes=2).released.head.weight.shape
        torch.Size([2, 8])
        """
        source = getattr(method, "released", None)
        if not isinstance(source, ReleasedPAMA):
            raise ValueError(
                f"method must be a PAMA made with official_compat=True, found {type(method).__name__} of another "
                "form; histograph.finetune trains a head on any method"
            )
        arguments = {name: method.config[name] for name in _ENCODER}
        model = cls(classes=classes, dropout=dropout, drop_path=drop_path, **arguments)
        own = model.released.state_dict()
        for name, value in source.state_dict().items():
            if name in own:
                own[name].copy_(value)
        return model

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Compare with the classes.

        Parameters
        ----------
        batch : torch_geometric.data.Batch or Data
            ``x`` (N, node_dim), ``pos`` (N, 2), ``y`` (G,) int64 class of each slide, and ``anchor_index`` where
            anchors are chosen by the caller.

        Returns
        -------
        dict of str to Tensor
            ``loss``, the cross entropy.

        Raises
        ------
        ValueError
            If the batch does not fit, or has no classes.
        """
        logits, y = self.logits(batch), getattr(batch, "y", None)
        if not isinstance(y, Tensor) or y.shape != (len(logits),) or y.dtype != torch.long:
            found = f"{tuple(y.shape)} {y.dtype}" if isinstance(y, Tensor) else type(y).__name__
            raise ValueError(
                f"y must be ({len(logits)},) int64, the class of each slide of the batch; found {found}"
            )
        if int(y.min()) < 0 or int(y.max()) >= logits.shape[1]:
            raise ValueError(
                f"y must be in 0 .. {logits.shape[1] - 1}, found {int(y.min())} .. {int(y.max())}"
            )
        return {"loss": nn.functional.cross_entropy(logits.float(), y)}

    def encode(self, batch: Any) -> Embedding:
        """Embed slides and their patches.

        Parameters
        ----------
        batch : torch_geometric.data.Batch or Data
            As in :meth:`forward`, without ``y``.

        Returns
        -------
        Embedding
            ``node`` (N, hidden_dim), NaN for patches that the released loader cuts off; ``graph`` (G, hidden_dim).
        """
        return self.released.encode(batch)

    def logits(self, batch: Any) -> Tensor:
        """Give the score of each class.

        Parameters
        ----------
        batch : torch_geometric.data.Batch or Data
            As in :meth:`encode`.

        Returns
        -------
        Tensor
            (G, classes), before the softmax.
        """
        return self.released.head(self.encode(batch).graph)

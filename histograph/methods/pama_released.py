"""PAMA as its authors released it, oddities included, to use released weights and to compare with the paper.

*Nodes* are the patches of a slide, some of them anchors, and one slide token; *edges* are all pairs of anchor and
patch, with a bin of distance and one of direction. *Hidden* are 75 % of the patches and, in training, 20 % of the
anchors. *Predicted* are the features of the hidden patches.

Use :class:`histograph.methods.PAMA` with ``official_compat=True``. For new models its default form is the better
choice, for the released network

- cuts a slide to its first 2,048 patches and 128 anchors, and fills a smaller one with zeros up to that size;
- counts those zeros in the main direction of each anchor, in the share that is hidden, in the anchors that are dropped
  and in the loss, and shows the slide token the anchors that are not there;
- gives the slide token the mean of all bins, also of directions, which does not turn with the slide;
- counts the anchor's own patch among the directions, as one that does not turn;
- puts the direction straight up into the last bin instead of the first;
- goes on from the normalised rows instead of the rows (residual), and scales the first anchors, which does nothing.

The file reads top to bottom as a step runs: read, hide, encode, decode, compare.

Wu et al., "Position-Aware Masked Autoencoder for Histopathology WSI Representation Learning", MICCAI 2023; "Pan-cancer
histopathology WSI pre-training with position-aware masked autoencoder", IEEE TMI 44(4), 2025.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn

from .base import Embedding
from .pama_released_input import MAX_ANCHORS, MAX_PATCHES, ReleasedReader, ReleasedSlides, slide_bounds
from .pama_released_layers import ReleasedBlock, ReleasedPairs, ReleasedRound, at_least_single

_TOKEN_SCALE = 0.02
_VARIANCE_FLOOR = 1e-6
# arguments of PAMA that the released network takes as they are
_SHARED = (
    "node_dim",
    "hidden_dim",
    "layers",
    "heads",
    "decoder_dim",
    "decoder_layers",
    "decoder_heads",
    "mlp_ratio",
    "mask_ratio",
    "anchor_dropout",
    "normalise_target",
    "dropout",
    "drop_path",
    "patches_per_anchor",
    "num_anchors",
)


@dataclass(frozen=True)
class ReleasedReconstruction:
    """One pre-training step with its parts, T = tokens that are shown + 1, K' = anchors that are kept.

    Attributes
    ----------
    loss : Tensor
        Mean squared error of the features of hidden patches, padding among them.
    prediction : Tensor
        (B, L + 1, C), row 0 is the slide token's.
    mask : Tensor
        (B, L), 1 where a patch was hidden.
    places : Tensor
        (B, L) int64, where each patch is in the list of shown patches followed by the hidden ones.
    embedded : Tensor
        (B, L, D) patches before the encoder.
    latent, anchors : Tensor
        (B, T, D) and (B, K', D), from the encoder.
    decoded : Tensor
        (B, L + 1, decoder_dim), from which `prediction` is made.

    Examples
    --------
    >>> import torch
    >>> bins = torch.zeros(1, 2, 8, dtype=torch.long)
    >>> slides = ReleasedSlides(torch.randn(1, 8, 3), bins, bins, torch.ones(1, 8, 1), torch.ones(1, 2, 1))
    >>> network = ReleasedPAMA(3, hidden_dim=8, heads=2, decoder_dim=4)
    >>> network.reconstruct(slides, torch.rand(1, 8)).latent.shape
    torch.Size([1, 3, 8])
    """

    loss: Tensor
    prediction: Tensor
    mask: Tensor
    places: Tensor
    embedded: Tensor
    latent: Tensor
    anchors: Tensor
    decoded: Tensor


class ReleasedEncoder(nn.Module):
    """The part that pre-training and the downstream model share.

    Parameters
    ----------
    node_dim : int
        Columns C of ``x``.
    hidden_dim, layers, heads : int
        Width D, blocks, and attention heads, which divide D.
    mlp_ratio : float
        Width inside the MLPs over `hidden_dim`.
    anchor_dropout : float
        Share of anchors that training leaves out.
    dropout, drop_path : float
        Share of values after affine maps, and of the slides in an MLP's branch, that training sets to 0.
    patches_per_anchor, num_anchors, max_patches, max_anchors
        See :class:`histograph.methods.pama_released_input.ReleasedReader`.

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Examples
    --------
    >>> import torch
    >>> from torch_geometric.data import Data
    >>> encoder = ReleasedEncoder(4, hidden_dim=8, heads=2, max_patches=8, max_anchors=2)
    >>> encoder.encode(Data(x=torch.randn(3, 4), pos=torch.rand(3, 2))).graph.shape
    torch.Size([1, 8])
    """

    def __init__(
        self,
        node_dim: int,
        hidden_dim: int = 1024,
        layers: int = 4,
        heads: int = 8,
        mlp_ratio: float = 4.0,
        anchor_dropout: float = 0.2,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        patches_per_anchor: float = 144.0,
        num_anchors: int | None = None,
        max_patches: int = MAX_PATCHES,
        max_anchors: int = MAX_ANCHORS,
    ) -> None:
        super().__init__()
        _check_sizes(hidden_dim, heads, "hidden_dim", "heads")
        _check_shares({"anchor_dropout": anchor_dropout, "dropout": dropout, "drop_path": drop_path})
        if layers < 1:
            raise ValueError(f"layers must be at least 1, found {layers}")
        if not mlp_ratio > 0:
            raise ValueError(f"mlp_ratio must be above 0, found {mlp_ratio}")
        self.reader = ReleasedReader(node_dim, max_patches, max_anchors, patches_per_anchor, num_anchors)
        self.anchor_dropout = anchor_dropout
        self.cls_token = nn.Parameter(_TOKEN_SCALE * torch.randn(1, 1, hidden_dim))
        self.kernel_token = nn.Parameter(_TOKEN_SCALE * torch.randn(1, 1, hidden_dim))
        self.patch_embed = nn.Linear(node_dim, hidden_dim)
        self.blocks = _blocks(layers, hidden_dim, heads, mlp_ratio, dropout, drop_path)
        self.norm = nn.LayerNorm(hidden_dim)
        self.apply(_start)

    def encode(self, batch: Any) -> Embedding:
        """Embed slides: the vector of each patch, and of the slide token.

        In training mode anchors and values are dropped, as the released fine-tuning does; in evaluation mode the
        result repeats.

        Parameters
        ----------
        batch : torch_geometric.data.Batch or Data
            See :meth:`ReleasedReader.read`.

        Returns
        -------
        Embedding
            ``node`` (N, D), NaN for patches that the released loader cuts off, and ``graph`` (G, D).

        Raises
        ------
        ValueError
            If the batch does not fit.
        """
        slides = self.reader.read(batch)
        x, _ = self.represent(slides, self.draw_anchors(slides))
        node = x.new_full((len(batch.x), x.shape[2]), torch.nan)
        bounds = slide_bounds(batch)
        for slide, (start, end) in enumerate(pairwise(bounds)):
            count = min(end - start, self.reader.max_patches)
            node[start : start + count] = x[slide, 1 : 1 + count]
        return Embedding(node, x[:, 0])

    def represent(
        self,
        slides: ReleasedSlides,
        anchor_noise: Tensor | None = None,
        rounds: list[ReleasedRound] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode all patches, as the downstream model does.

        Parameters
        ----------
        slides : ReleasedSlides
            B slides.
        anchor_noise : Tensor, optional
            (B, K); the anchors with the smallest noise are kept, all without noise.
        rounds : list of ReleasedRound, optional
            Gets what each block computed.

        Returns
        -------
        x, anchors : Tensor
            (B, 1 + L, D), the slide token first, and (B, K', D).
        """
        slides, anchors = self.start_anchors(slides, anchor_noise)
        x = self.patch_embed(self.cast(slides.feat))
        return self.run_encoder(x, anchors, slides.distance, slides.direction, slides.allowed, rounds)

    def draw_anchors(self, slides: ReleasedSlides) -> Tensor | None:
        """Draw the noise (B, K) that says which anchors are left out; None when not in training."""
        if not self.training or self.anchor_dropout == 0:
            return None
        return torch.rand(slides.distance.shape[:2], device=slides.distance.device)

    def start_anchors(
        self, slides: ReleasedSlides, anchor_noise: Tensor | None
    ) -> tuple[ReleasedSlides, Tensor]:
        """Keep the anchors of smallest noise (B, K), and give the slides with them and their first vectors."""
        size, count, _ = slides.distance.shape
        start: Tensor = self.kernel_token
        if anchor_noise is not None:
            count = int(count * (1 - self.anchor_dropout))
            if count < 1:
                raise ValueError(
                    f"anchor_dropout of {self.anchor_dropout} leaves none of {anchor_noise.shape[1]} anchors; "
                    "lower it, or give more anchors"
                )
            kept = anchor_noise.argsort(1)[:, :count]
            rows = kept.unsqueeze(2).expand(-1, -1, slides.distance.shape[2])
            slides = ReleasedSlides(
                slides.feat,
                slides.distance.gather(1, rows),
                slides.direction.gather(1, rows),
                slides.token_mask,
                slides.anchor_mask.gather(1, kept.unsqueeze(2)),
            )
            start = start / (1 - self.anchor_dropout)
        return slides, start.expand(size, count, -1)

    def run_encoder(
        self,
        x: Tensor,
        anchors: Tensor,
        distance: Tensor,
        direction: Tensor,
        allowed: Tensor,
        rounds: list[ReleasedRound] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Put the slide token before the tokens (B, T, D) and pass blocks and norm; pairs are (B, K', T)."""
        pairs = ReleasedPairs.with_slide(distance, direction, allowed)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1).to(x.dtype), x], dim=1)
        x, anchors = _run(self.blocks, x, anchors, pairs, rounds)
        return self.norm(x), self.norm(anchors)

    def cast(self, feat: Tensor) -> Tensor:
        """Give features in the precision of the weights."""
        return feat.to(self.patch_embed.weight.dtype)


class ReleasedPAMA(ReleasedEncoder):
    """The released pre-training network, with its parts one by one so that each can be run with given noise.

    Most users want ``PAMA(..., official_compat=True)``, which trains, saves and embeds with it. Its state dict has the
    released names and shapes.

    Parameters
    ----------
    node_dim : int
        Columns C of ``x``.
    hidden_dim, layers, heads : int
        Width D, blocks and attention heads of the encoder.
    decoder_dim, decoder_layers : int
        Width and blocks of the decoder.
    decoder_heads : int, optional
        Attention heads of the decoder, `heads` by default.
    mlp_ratio : float
        Width inside the MLPs over that outside.
    mask_ratio : float
        Hidden share of the L padded patches; ``floor(L (1 - mask_ratio))`` are shown.
    anchor_dropout : float
        Share of the K padded anchors that training leaves out; ``floor(K (1 - anchor_dropout))`` stay.
    normalise_target : bool
        Whether each patch's features are brought to mean 0 and variance 1 before they are predicted.
    dropout, drop_path : float
        As in :class:`ReleasedEncoder`; 0 in the released pre-training.
    patches_per_anchor, num_anchors, max_patches, max_anchors
        See :class:`histograph.methods.pama_released_input.ReleasedReader`.

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Examples
    --------
    >>> import torch
    >>> from torch_geometric.data import Data
    >>> network = ReleasedPAMA(4, hidden_dim=8, heads=2, decoder_dim=4, max_patches=8, max_anchors=2)
    >>> graph = Data(x=torch.randn(3, 4), pos=torch.rand(3, 2))
    >>> network(graph)["loss"].shape, network.encode(graph).node.shape
    (torch.Size([]), torch.Size([3, 8]))
    """

    def __init__(
        self,
        node_dim: int,
        hidden_dim: int = 1024,
        layers: int = 4,
        heads: int = 8,
        decoder_dim: int = 512,
        decoder_layers: int = 2,
        decoder_heads: int | None = None,
        mlp_ratio: float = 4.0,
        mask_ratio: float = 0.75,
        anchor_dropout: float = 0.2,
        normalise_target: bool = False,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        patches_per_anchor: float = 144.0,
        num_anchors: int | None = None,
        max_patches: int = MAX_PATCHES,
        max_anchors: int = MAX_ANCHORS,
    ) -> None:
        super().__init__(
            node_dim,
            hidden_dim,
            layers,
            heads,
            mlp_ratio,
            anchor_dropout,
            dropout,
            drop_path,
            patches_per_anchor,
            num_anchors,
            max_patches,
            max_anchors,
        )
        decoder_heads = heads if decoder_heads is None else decoder_heads
        _check_sizes(decoder_dim, decoder_heads, "decoder_dim", "decoder_heads")
        if decoder_layers < 1:
            raise ValueError(f"decoder_layers must be at least 1, found {decoder_layers}")
        if not 0 < mask_ratio < 1:
            raise ValueError(f"mask_ratio must be above 0 and below 1, found {mask_ratio}")
        self.mask_ratio, self.normalise_target = mask_ratio, normalise_target
        self.mask_token = nn.Parameter(_TOKEN_SCALE * torch.randn(1, 1, decoder_dim))
        self.decoder_embed = nn.Linear(hidden_dim, decoder_dim)
        self.decoder_blocks = _blocks(
            decoder_layers, decoder_dim, decoder_heads, mlp_ratio, dropout, drop_path
        )
        self.decoder_norm = nn.LayerNorm(decoder_dim)
        self.decoder_pred = nn.Linear(decoder_dim, node_dim)
        for part in (self.decoder_embed, self.decoder_blocks, self.decoder_pred):
            part.apply(_start)

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Hide patches of each slide, padding among them, encode, decode and compare.

        Parameters
        ----------
        batch : torch_geometric.data.Batch or Data
            See :meth:`ReleasedReader.read`.

        Returns
        -------
        dict of str to Tensor
            ``loss``.

        Raises
        ------
        ValueError
            If the batch does not fit.
        """
        slides = self.reader.read(batch)
        noise = torch.rand(slides.feat.shape[:2], device=slides.feat.device)
        return {"loss": self.reconstruct(slides, noise, self.draw_anchors(slides)).loss}

    def reconstruct(
        self,
        slides: ReleasedSlides,
        mask_noise: Tensor,
        anchor_noise: Tensor | None = None,
        rounds: list[ReleasedRound] | None = None,
    ) -> ReleasedReconstruction:
        """Run one step with given noise.

        Parameters
        ----------
        slides : ReleasedSlides
            B slides.
        mask_noise : Tensor
            (B, L); the patches with the smallest noise are shown.
        anchor_noise : Tensor, optional
            (B, K); the anchors with the smallest noise are kept, all without noise.
        rounds : list of ReleasedRound, optional
            Gets what each block computed, those of the encoder first.

        Returns
        -------
        ReleasedReconstruction
            Loss and parts.
        """
        slides, anchors = self.start_anchors(slides, anchor_noise)
        embedded, allowed = self.patch_embed(self.cast(slides.feat)), slides.allowed
        length = embedded.shape[1]
        order = mask_noise.argsort(1)
        places, shown = order.argsort(1), order[:, : int(length * (1 - self.mask_ratio))]
        columns = shown.unsqueeze(1).expand(-1, anchors.shape[1], -1)
        latent, anchors = self.run_encoder(
            embedded.gather(1, shown.unsqueeze(2).expand(-1, -1, embedded.shape[2])),
            anchors,
            slides.distance.gather(2, columns),
            slides.direction.gather(2, columns),
            allowed.gather(2, columns),
            rounds,
        )
        pairs = ReleasedPairs.with_slide(slides.distance, slides.direction, allowed)
        decoded = self.decode(latent, anchors, places, pairs, rounds)
        prediction = self.decoder_pred(decoded)
        mask = torch.ones_like(mask_noise).scatter_(1, shown, 0)
        target = at_least_single(self.target(self.cast(slides.feat)))
        gap = (at_least_single(prediction[:, 1:]) - target).square().mean(2)
        loss = (gap * mask).sum() / mask.sum()
        return ReleasedReconstruction(loss, prediction, mask, places, embedded, latent, anchors, decoded)

    def decode(
        self,
        latent: Tensor,
        anchors: Tensor,
        places: Tensor,
        pairs: ReleasedPairs,
        rounds: list[ReleasedRound] | None = None,
    ) -> Tensor:
        """Fill in the mask token, put tokens back in order and pass the decoder, (B, L + 1, decoder_dim)."""
        x, anchors = self.decoder_embed(latent), self.decoder_embed(anchors)
        hidden = places.shape[1] + 1 - x.shape[1]
        tokens = torch.cat([x[:, 1:], self.mask_token.to(x.dtype).expand(len(x), hidden, -1)], dim=1)
        tokens = tokens.gather(1, places.unsqueeze(2).expand(-1, -1, x.shape[2]))
        x, _ = _run(self.decoder_blocks, torch.cat([x[:, :1], tokens], dim=1), anchors, pairs, rounds)
        return self.decoder_norm(x)

    def target(self, feat: Tensor) -> Tensor:
        """Give what is predicted of features (B, L, C): themselves, or with each patch normalised."""
        if not self.normalise_target:
            return feat
        variance, mean = torch.var_mean(feat, dim=2, keepdim=True)
        return (feat - mean) / (variance + _VARIANCE_FLOOR).sqrt()


def build_released(config: dict[str, Any]) -> ReleasedPAMA:
    """Build the released network from the arguments of :class:`histograph.methods.PAMA`.

    Parameters
    ----------
    config : dict
        All arguments by name.

    Returns
    -------
    ReleasedPAMA
        The network.

    Raises
    ------
    ValueError
        If an argument asks for what the released network cannot do, or is outside its range.

    Examples
    --------
    >>> from histograph.methods import PAMA
    >>> sizes = {"hidden_dim": 8, "heads": 2, "decoder_dim": 4}
    >>> PAMA(6, **sizes, official_compat=True).released.kernel_token.shape
    torch.Size([1, 1, 8])
    >>> PAMA(6, **sizes, nearest=3, official_compat=True)
    Traceback (most recent call last):
    ValueError: nearest must be None with official_compat=True, ...; found 3...
    """
    possible: dict[str, tuple[Any, ...]] = {
        "distance_bins": (64,),
        "direction_bins": (8,),
        "distance": (True,),
        "direction": (True,),
        "reorientation": (True,),
        "nearest": (None,),
        "standardise": (None, False),
        "pooling": ("slide",),
    }
    for name, values in possible.items():
        if config[name] not in values:
            raise ValueError(
                f"{name} must be {' or '.join(map(str, values))} with official_compat=True, for the released "
                f"network knows nothing else; found {config[name]!r}. The default form does"
            )
    return ReleasedPAMA(**{name: config[name] for name in _SHARED})


def _blocks(
    count: int, dim: int, heads: int, mlp_ratio: float, dropout: float, drop_path: float
) -> nn.ModuleList:
    return nn.ModuleList(ReleasedBlock(dim, heads, mlp_ratio, dropout, drop_path) for _ in range(count))


def _run(
    blocks: nn.ModuleList,
    x: Tensor,
    anchors: Tensor,
    pairs: ReleasedPairs,
    rounds: list[ReleasedRound] | None,
) -> tuple[Tensor, Tensor]:
    """Pass the blocks, all of which start from the same bins."""
    for block in blocks:
        x, anchors = cast(ReleasedBlock, block)(x, anchors, pairs, rounds)
    return x, anchors


def _start(module: nn.Module) -> None:
    """Start affine maps as released; the tables of biases keep torch's normal of variance 1."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)


def _check_sizes(dim: int, heads: int, dim_name: str, heads_name: str) -> None:
    if heads < 1 or dim < heads or dim % heads:
        raise ValueError(f"{dim_name} must be a multiple of {heads_name}, found {dim} and {heads}")


def _check_shares(shares: dict[str, float]) -> None:
    for name, share in shares.items():
        if not 0 <= share < 1:
            raise ValueError(f"{name} must be at least 0 and below 1, found {share}")

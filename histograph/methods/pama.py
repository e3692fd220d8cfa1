"""PAMA: a masked autoencoder of slides in which patches speak through anchors.

*Nodes* are the patches of a slide, a few anchors placed at patches, and one slide node. *Edges* join every anchor with
every patch (or with those whose nearest anchors it is among) and with the slide node; an edge carries a distance and a
direction. *Hidden* are 75 % of the patches, and while training a fifth of the anchors. *Predicted* are the features
of the hidden patches, from where they are and what the anchors know. The slide node is the vector of the slide.

The file reads top to bottom as a step runs: read the batch, place the anchors, hide patches, encode, decode, compare.

Wu, Zheng, Shi, Jiang et al., "Position-Aware Masked Autoencoder for Histopathology WSI Representation Learning",
MICCAI 2023; "PAMA", IEEE TMI 44(4):1610-1623, 2025. Where the released code errs, this does what the paper means: the
slide node and an anchor's own patch have no direction, angles wrap, nothing is padded, and residuals skip the norm.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..nn import Standardise, random_subset, segment_mean
from ..nn.anchor_attention import AnchorAttention, AnchorCodes, DenseEdges, SparseEdges
from ..nn.bounds import check_bounds
from .base import Embedding, Graphs, Method, constructor_arguments
from .pama_geometry import AnchorMemory, edge_codes, nearest_anchors, places_to_rows
from .pama_released import build_released

POOLINGS = ("slide", "anchors")
# Rows of a feed-forward layer at once where no gradient is needed: its hidden rows are the widest of all tables.
_ROWS = 1024


@dataclass(frozen=True)
class _Slides:
    """A batch as the network reads it: features of all patches, and where the patches and anchors of each slide are."""

    x: Tensor  # (P, F)
    batch: Tensor  # (P,) slide of each patch, ascending
    anchor_batch: Tensor  # (K,) slide of each anchor, ascending
    code: list[Tensor]  # of each slide (K_i, 1 + P_i): the slide node, then the patches
    seen: list[Tensor] | None  # of each slide (K_i, 1 + P_i), who sees whom; None for all pairs

    @property
    def num_slides(self) -> int:
        return len(self.code)


@dataclass(frozen=True)
class _Tokens:
    """The slide nodes and some patches of a batch, slide after slide, each slide node before its patches."""

    first: Tensor  # (G,) rows of the slide nodes
    others: Tensor  # (T - G,) rows of the patches
    batch: Tensor  # (T,) slide of each row
    edges: DenseEdges | SparseEdges


class _Block(nn.Module):
    """One round between tokens and anchors, and a feed-forward layer for each row."""

    def __init__(self, dim: int, config: dict[str, Any], heads: int, codes: AnchorCodes) -> None:
        super().__init__()
        hidden = int(dim * config["mlp_ratio"])
        flags = {name: config[name] for name in ("reorientation", "distance", "direction")}
        self.norm1 = nn.LayerNorm(dim)
        self.attention = AnchorAttention(dim, heads, codes, **flags)
        self.norm2 = nn.LayerNorm(dim)
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(config["dropout"]), nn.Linear(hidden, dim)
        )
        self.dropout = nn.Dropout(config["dropout"])
        self.drop_path = config["drop_path"]

    def forward(
        self,
        x: Tensor,
        anchors: Tensor,
        edges: DenseEdges | SparseEdges,
        batches: tuple[Tensor, Tensor],
        readers: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Give the rows of the next block; with `readers`, those of these tokens alone, the slide nodes."""
        change, anchor_change = self.attention(self.norm1(x), self.norm1(anchors), edges, readers is not None)
        batch, anchor_batch = batches
        if readers is not None:
            x, batch = x[readers], batch[readers]
        x = x + self._dropped(self.dropout(change), batch)
        anchors = anchors + self._dropped(self.dropout(anchor_change), anchor_batch)
        return self._fed(x, batch), self._fed(anchors, anchor_batch)

    def _fed(self, x: Tensor, batch: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return x + self._dropped(self.dropout(self.feed_forward(self.norm2(x))), batch)
        return torch.cat([part + self.feed_forward(self.norm2(part)) for part in x.split(_ROWS)])

    def _dropped(self, change: Tensor, batch: Tensor) -> Tensor:
        """Leave a branch out for some slides of a training batch (stochastic depth)."""
        if not self.training or self.drop_path == 0:
            return change
        kept = torch.rand(int(batch[-1]) + 1, device=change.device) >= self.drop_path
        return change * (kept / (1 - self.drop_path))[batch].unsqueeze(1).to(change.dtype)


class PAMA(Method):
    r"""Position-aware masked autoencoder of slides.

    With :math:`x` the slide node and the visible patches, :math:`\kappa` the anchors and A the attention of
    :class:`histograph.nn.AnchorAttention`,

    .. math::

        (x', \kappa') = (x, \kappa) + A(\mathrm{LN}(x), \mathrm{LN}(\kappa)), \quad
        (x, \kappa) \leftarrow (x', \kappa') + \mathrm{MLP}(\mathrm{LN}(x', \kappa')),
        \quad
        L = \frac{1}{|M|} \sum_{t \in M} \frac{1}{F} \lVert \hat f_t - f_t \rVert^2

    over the hidden patches M; the decoder puts one learned vector where they are.

    Parameters
    ----------
    node_dim : int
        Width F of the patch features.
    hidden_dim : int
        Width of the encoder, and of the vectors it gives.
    layers : int
        Blocks of the encoder.
    heads : int
        Heads of the encoder; must divide `hidden_dim`.
    decoder_dim : int
        Width of the decoder.
    decoder_layers : int
        Blocks of the decoder.
    decoder_heads : int, optional
        Heads of the decoder; those of the encoder if None.
    mlp_ratio : float
        Width of the hidden layer of the feed-forward parts, in widths of the rows.
    mask_ratio : float
        Share of the patches of a slide that is hidden; ``n - floor(n (1 - mask_ratio))`` of n are.
    anchor_dropout : float
        Share of the anchors of a slide that is left out of a training step; ``floor(k (1 - anchor_dropout))`` of k
        stay, at least one.
    patches_per_anchor : float
        Patches for each anchor.
    num_anchors : int, optional
        Number of anchors of every slide, in place of `patches_per_anchor`.
    distance_bins : int
        Steps of distance up to the largest distance of a slide, which has a bin of its own.
    direction_bins : int
        Sectors of direction; a multiple of 4, so that quarter turns are exact.
    reorientation : bool
        Count directions from the main one of each head and anchor (kernel reorientation); without directions there is
        nothing to count.
    distance : bool
        Use distances.
    direction : bool
        Use directions.
    nearest : int, optional
        Each patch sees only this many nearest anchors (and those as near as the last of them), and is seen by them
        alone; None for all.
    normalise_target : bool
        Predict each patch's features with their mean taken off and divided by their standard deviation.
    standardise : bool, optional
        Scale features by mean and standard deviation of the training data; None for yes, unless `official_compat`.
    dropout : float
        Of the rows of attention and feed-forward parts, while training.
    drop_path : float
        Chance that a branch is left out for a slide, while training.
    pooling : {"slide", "anchors"}
        Vector of a slide: its slide node, or the mean of its anchors.
    official_compat : bool
        The released network with its oddities, for released weights; see docs/pama.md.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> import torch
    >>> from torch_geometric.data import Data
    >>> method = PAMA(node_dim=6, hidden_dim=16, layers=2, heads=2, decoder_dim=16, decoder_layers=1)
    >>> slide = Data(x=torch.randn(40, 6), pos=torch.rand(40, 2) * 5000)
    >>> sorted(method(slide)), method.encode(slide).graph.shape
    (['loss'], torch.Size([1, 16]))
    """

    reads = ("x", "pos", "anchor_index")

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
        patches_per_anchor: float = 144.0,
        num_anchors: int | None = None,
        distance_bins: int = 64,
        direction_bins: int = 8,
        reorientation: bool = True,
        distance: bool = True,
        direction: bool = True,
        nearest: int | None = None,
        normalise_target: bool = False,
        standardise: bool | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        pooling: Literal["slide", "anchors"] = "slide",
        official_compat: bool = False,
    ) -> None:
        config = constructor_arguments(locals())
        super().__init__(config)
        _check_arguments(config)
        self.node_dim = node_dim
        self.released = None
        if official_compat:
            self.released = build_released(config)
            return
        self.mask_ratio, self.anchor_dropout = mask_ratio, anchor_dropout
        self.nearest, self.normalise_target, self.pooling = nearest, normalise_target, pooling
        self.codes = AnchorCodes(distance_bins + 1, direction_bins)
        self.memory = AnchorMemory(patches_per_anchor, num_anchors)
        self.scale = Standardise(node_dim) if standardise is not False else None
        self.embed = nn.Linear(node_dim, hidden_dim)
        self.slide_token = nn.Parameter(torch.empty(1, hidden_dim).normal_(std=0.02))
        self.anchor_token = nn.Parameter(torch.empty(1, hidden_dim).normal_(std=0.02))
        self.blocks = nn.ModuleList(_Block(hidden_dim, config, heads, self.codes) for _ in range(layers))
        self.norm = nn.LayerNorm(hidden_dim)
        self.mask_token = nn.Parameter(torch.empty(1, decoder_dim).normal_(std=0.02))
        self.decoder_embed = nn.Linear(hidden_dim, decoder_dim)
        self.decoder_blocks = nn.ModuleList(
            _Block(decoder_dim, config, heads if decoder_heads is None else decoder_heads, self.codes)
            for _ in range(decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(decoder_dim)
        self.predict = nn.Linear(decoder_dim, node_dim)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def before_epoch(self, epoch: int, dataset: Graphs) -> None:
        """Measure the scale of the features before the first epoch.

        Parameters
        ----------
        epoch : int
            Number of the epoch.
        dataset : sequence of Data
            All training slides.
        """
        if self.released is None and self.scale is not None and not bool(self.scale.fitted):
            self.scale.fit(dataset[i].x for i in range(len(dataset)))

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Hide patches, predict their features and compare.

        Parameters
        ----------
        batch : torch_geometric.data.Batch or Data
            ``x`` (P, node_dim), ``pos`` (P, 2), and ``anchor_index`` (K,) int64 if anchors are chosen by the caller.

        Returns
        -------
        dict of str to Tensor
            ``loss``.

        Raises
        ------
        ValueError
            If features or positions do not fit.
        """
        if self.released is not None:
            return self.released(batch)
        slides = self._read(batch)
        visible = random_subset(slides.batch, slides.num_slides, 1 - self.mask_ratio)
        restored = self._decode(slides, visible, *self._encode(slides, visible))
        goal = slides.x[~visible]
        if self.normalise_target:
            goal = (goal - goal.mean(1, keepdim=True)) / (goal.var(1, keepdim=True) + 1e-6).sqrt()
        return {"loss": (restored.float() - goal.float()).square().mean()}

    def encode(self, batch: Any) -> Embedding:
        """Embed slides and their patches, with nothing hidden.

        Parameters
        ----------
        batch : torch_geometric.data.Batch or Data
            As in :meth:`forward`.

        Returns
        -------
        Embedding
            ``node`` (P, hidden_dim) of patches, ``graph`` (G, hidden_dim) of slides.
        """
        if self.released is not None:
            return self.released.encode(batch)
        slides = self._read(batch)
        tokens, x, anchors = self._encode(slides, None)
        graph = x[tokens.first] if self.pooling == "slide" else self._mean(slides, anchors)
        return Embedding(x[tokens.others], graph)

    def encode_graphs(self, batch: Any) -> Tensor:
        """Embed slides alone, without the last rounds of the patches, which the vector of a slide does not hear of.

        Parameters
        ----------
        batch : torch_geometric.data.Batch or Data
            As in :meth:`forward`.

        Returns
        -------
        Tensor
            (G, hidden_dim), as ``encode(batch).graph``.
        """
        if self.released is not None:
            return self.released.encode(batch).graph
        slides = self._read(batch)
        _, x, anchors = self._encode(slides, None, slide_only=True)
        return x if self.pooling == "slide" else self._mean(slides, anchors)

    def restore(self, batch: Any, visible: Tensor) -> Tensor:
        """Predict the features of hidden patches from the visible ones.

        Parameters
        ----------
        batch : torch_geometric.data.Batch or Data
            As in :meth:`forward`; the features of hidden patches are not read.
        visible : Tensor
            (P,) bool.

        Returns
        -------
        Tensor
            (hidden patches, node_dim) in the units of ``x``; with `normalise_target`, of each patch's own scale.

        Raises
        ------
        ValueError
            If the released form is used, or `visible` has another length.
        """
        if self.released is not None:
            raise ValueError("official_compat must be False to restore patches; found True")
        slides = self._read(batch)
        if visible.shape != slides.batch.shape or visible.dtype != torch.bool:
            raise ValueError(
                f"visible must be {slides.batch.numel()} booleans, one for each patch; "
                f"found {visible.dtype} of shape {tuple(visible.shape)}"
            )
        restored = self._decode(slides, visible, *self._encode(slides, visible))
        if self.scale is None or self.normalise_target:
            return restored
        return restored * self.scale.std + self.scale.mean

    def _mean(self, slides: _Slides, anchors: Tensor) -> Tensor:
        return segment_mean(anchors, slides.anchor_batch, slides.num_slides)

    def _read(self, batch: Any) -> _Slides:
        """Check features and positions, scale the features, and place the anchors."""
        x, pos = _checked(batch, self.node_dim)
        x = x.to(self.embed.weight.dtype)
        x = x if self.scale is None else self.scale(x)
        index = getattr(batch, "batch", None)
        index = torch.zeros(len(x), dtype=torch.long, device=x.device) if index is None else index
        count = torch.bincount(index, minlength=_number_of_slides(batch))
        if not bool(count.all()):
            raise ValueError(
                f"every slide must have a patch; slide {int((count == 0).nonzero()[0])} has none"
            )
        rows = self._anchor_rows(batch, x, pos, count.tolist())
        ptr = [0, *count.cumsum(0).tolist()]
        code, seen = [], []
        for i, chosen in enumerate(rows):
            own = pos[ptr[i] : ptr[i + 1]]
            codes = edge_codes(own[chosen], own, self.memory.places(own).largest, self.codes)
            code.append(torch.cat([codes.new_full((len(chosen), 1), self.codes.slide), codes], dim=1))
            if self.nearest is not None:
                near = nearest_anchors(own[chosen], own, self.nearest)
                seen.append(torch.cat([near.new_ones(len(chosen), 1), near], dim=1))
        sizes = torch.tensor([len(chosen) for chosen in rows], device=x.device)
        anchor_batch = torch.repeat_interleave(torch.arange(len(rows), device=x.device), sizes)
        return _Slides(x, index, anchor_batch, code, seen if self.nearest is not None else None)

    def _anchor_rows(self, batch: Any, x: Tensor, pos: Tensor, count: list[int]) -> list[Tensor]:
        """Give the anchors of each slide as rows of its patches; while training, some are left out."""
        given = getattr(batch, "anchor_index", None)
        found: list[Tensor] = []
        start = 0
        for size in count:
            if given is not None:
                rows = given[(given >= start) & (given < start + size)] - start
                if rows.numel() == 0:
                    raise ValueError(
                        f"anchor_index must name a patch of every slide; slide {len(found)} has none"
                    )
            else:
                own = slice(start, start + size)
                # features of hidden patches must not matter in training, not even for the choice of anchors
                rows = places_to_rows(self.memory.places(pos[own]), None if self.training else x[own])
            if self.training and self.anchor_dropout > 0:
                kept = max(1, int(len(rows) * (1 - self.anchor_dropout)))
                rows = rows[torch.randperm(len(rows))[:kept].sort().values.to(rows.device)]
            found.append(rows.to(x.device))
            start += size
        return found

    def _tokens(self, slides: _Slides, visible: Tensor | None) -> _Tokens:
        """Lay out the slide nodes and the visible patches, with the edges to their anchors."""
        device = slides.x.device
        sizes = [code.shape[1] for code in slides.code]
        code, seen = slides.code, slides.seen
        if visible is not None:
            kept = [
                torch.cat([part.new_zeros(1), part.nonzero().squeeze(1) + 1])
                for part in visible.long().split([size - 1 for size in sizes])
            ]
            code = [table[:, columns] for table, columns in zip(code, kept, strict=True)]
            seen = (
                None
                if seen is None
                else [table[:, columns] for table, columns in zip(seen, kept, strict=True)]
            )
            sizes = [len(columns) for columns in kept]
        ptr = [0, *torch.tensor(sizes).cumsum(0).tolist()]
        anchor_ptr = [0, *torch.tensor([len(table) for table in code]).cumsum(0).tolist()]
        batch = torch.repeat_interleave(
            torch.arange(len(sizes), device=device), torch.tensor(sizes, device=device)
        )
        first = torch.tensor(ptr[:-1], device=device)
        patch = torch.ones(ptr[-1], dtype=torch.bool, device=device)
        patch[first] = False
        edges = DenseEdges(code, anchor_ptr, ptr)
        others = patch.nonzero().squeeze(1)
        return _Tokens(first, others, batch, edges if seen is None else edges.listed(seen))

    def _encode(
        self, slides: _Slides, visible: Tensor | None, slide_only: bool = False
    ) -> tuple[_Tokens, Tensor, Tensor]:
        """Run the encoder over the slide nodes and the visible patches; with `slide_only`, return no patches."""
        tokens = self._tokens(slides, visible)
        patches = self.embed(slides.x if visible is None else slides.x[visible])
        x = self._spread(tokens, self.slide_token, patches)
        anchors = self.anchor_token.expand(len(slides.anchor_batch), -1)
        # in a block slide nodes hear what the anchors heard in the one before, so they need patches up to that one
        whole = len(self.blocks) - (1 + (self.pooling == "slide") if slide_only else 0)
        for number, block in enumerate(self.blocks):
            first = tokens.first if number == whole else None
            x, anchors = block(x, anchors, tokens.edges, (tokens.batch, slides.anchor_batch), first)
            if number == whole:
                tokens = self._slide_nodes(slides)
        return tokens, self.norm(x), self.norm(anchors)

    def _slide_nodes(self, slides: _Slides) -> _Tokens:
        """Lay out the slide nodes alone."""
        rows = torch.arange(slides.num_slides, device=slides.x.device)
        code = [table[:, :1] for table in slides.code]
        anchor_ptr = [0, *torch.tensor([len(table) for table in code]).cumsum(0).tolist()]
        return _Tokens(rows, rows[:0], rows, DenseEdges(code, anchor_ptr, list(range(len(rows) + 1))))

    def _decode(self, slides: _Slides, visible: Tensor, seen: _Tokens, x: Tensor, anchors: Tensor) -> Tensor:
        """Put hidden patches back in their places and predict their features."""
        tokens = self._tokens(slides, None)
        x, anchors = self.decoder_embed(x), self.decoder_embed(anchors)
        patches = self.mask_token.to(x.dtype).repeat(len(visible), 1)
        patches[visible] = x[seen.others]
        x = self._spread(tokens, x[seen.first], patches)
        for block in self.decoder_blocks:
            x, anchors = block(x, anchors, tokens.edges, (tokens.batch, slides.anchor_batch))
        return self.predict(self.decoder_norm(x[tokens.others[~visible]]))

    def _spread(self, tokens: _Tokens, slide: Tensor, patches: Tensor) -> Tensor:
        """Lay slide nodes and patches out as rows of tokens."""
        x = patches.new_empty(len(tokens.batch), patches.shape[1])
        x[tokens.first] = slide.to(x.dtype)
        x[tokens.others] = patches
        return x


def _number_of_slides(batch: Any) -> int:
    ptr = getattr(batch, "ptr", None)
    return 1 if ptr is None else ptr.numel() - 1


def _checked(batch: Any, node_dim: int) -> tuple[Tensor, Tensor]:
    """Give features and positions, or say what is wrong with them."""
    x, pos = batch.x, getattr(batch, "pos", None)
    if not isinstance(x, Tensor) or x.dim() != 2 or x.shape[1] != node_dim:
        found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"x must have shape (P, node_dim = {node_dim}), found {found}")
    if not isinstance(pos, Tensor) or pos.shape != (len(x), 2):
        found = tuple(pos.shape) if isinstance(pos, Tensor) else type(pos).__name__
        raise ValueError(f"pos must have shape (P = {len(x)}, 2), a place for each row of x; found {found}")
    finite = x.isfinite().all(1)
    if not bool(finite.all()):
        raise ValueError(f"x must be finite; found NaN or infinity in patch {int((~finite).nonzero()[0])}")
    # rows and columns of a grid are whole numbers
    return x, pos if pos.is_floating_point() else pos.float()


def _check_arguments(config: dict[str, Any]) -> None:
    """Refuse what cannot work, naming the argument."""
    at_least_1 = ("node_dim", "hidden_dim", "layers", "decoder_dim", "decoder_layers")
    bounds = [(name, config[name] >= 1, "at least 1") for name in at_least_1]
    bounds += [(name, 0 <= config[name] < 1, "at least 0 and below 1") for name in ("dropout", "drop_path")]
    heads = config["heads"] if config["decoder_heads"] is None else config["decoder_heads"]
    number = config["num_anchors"]
    bounds += [
        (
            "heads",
            config["heads"] >= 1 and config["hidden_dim"] % config["heads"] == 0,
            "a divisor of hidden_dim",
        ),
        ("decoder_heads", heads >= 1 and config["decoder_dim"] % heads == 0, "a divisor of decoder_dim"),
        (
            "num_anchors",
            number is None or (number >= 1 and number % 1 == 0),
            "a whole number from 1 on, or None",
        ),
        (
            "normalise_target",
            not config["normalise_target"] or config["node_dim"] > 1,
            "False where node_dim is 1: one number has no spread to divide by",
        ),
        (
            "layers",
            config["layers"] > 1 or config["pooling"] != "slide",
            'at least 2 with pooling "slide": a slide node hears in the second block what anchors hear in the first',
        ),
        ("mlp_ratio", config["mlp_ratio"] > 0, "above 0"),
        ("mask_ratio", 0 < config["mask_ratio"] < 1, "between 0 and 1, both excluded"),
        ("anchor_dropout", 0 <= config["anchor_dropout"] < 1, "at least 0 and below 1"),
        ("distance_bins", config["distance_bins"] >= 1, "at least 1"),
        (
            "direction_bins",
            config["direction_bins"] % 4 == 0 and config["direction_bins"] > 0,
            "a multiple of 4",
        ),
        ("nearest", config["nearest"] is None or config["nearest"] >= 1, "at least 1, or None for all"),
        ("pooling", config["pooling"] in POOLINGS, f"one of {', '.join(POOLINGS)}"),
    ]
    check_bounds(bounds, config)

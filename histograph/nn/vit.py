"""The Vision Transformer: attention on the complete graph of the square tokens of an image, and a class token.

Nodes are the squares of `patch_size` pixels and one class token, every pair is joined, and where a square lies is a
vector that is added to it. Leaving tokens out before :meth:`VisionTransformer.run` gives the induced subgraph: that is
how masked autoencoders hide.

Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021; stochastic depth of Huang et al., ECCV 2016.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from .attend import attend
from .bounds import check_bounds
from .grid_positions import GridPositions
from .sincos import sincos_positions

#: Width, blocks and heads of the sizes of the field.
VIT_SIZES: dict[str, tuple[int, int, int]] = {
    "tiny": (192, 12, 3),
    "small": (384, 12, 6),
    "base": (768, 12, 12),
    "large": (1024, 24, 16),
    "huge": (1280, 32, 16),
}
POSITIONS = ("learned", "sincos")
POOLINGS = ("cls", "mean")


class TokenAttention(nn.Module):
    """Attention of all tokens of an image to all others, in several heads.

    Parameters
    ----------
    dim : int
        Width of the tokens.
    heads : int
        Number of heads; divides `dim`.

    Examples
    --------
    >>> attention = TokenAttention(8, 2)
    >>> attention(torch.zeros(3, 5, 8)).shape, attention.weights(torch.zeros(3, 5, 8)).shape
    (torch.Size([3, 5, 8]), torch.Size([3, 2, 5, 5]))
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"heads must divide dim; found {heads} heads and dim {dim}")
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Mix the tokens (B, T, dim) of each image; where `present` (B, T) is False, a token is not read."""
        query, key, value = self._split(x)
        mask = None if present is None else present[:, None, None, :]
        read = attend(query, key, value, mask)
        return self.proj(read.transpose(1, 2).reshape(x.shape))

    def first(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        r"""Give what the first token alone reads, without keys and values of the others.

        With :math:`q K^T = (q W_k) x^T` and :math:`\sum_t a_t W_v x_t = W_v \sum_t a_t x_t`, both maps meet one row for
        each head in place of all T tokens; the bias of the keys cancels in the softmax.

        Parameters
        ----------
        x : Tensor
            (B, T, dim).
        present : Tensor, optional
            (B, T) bool, the tokens that are read, at least one of each image; all by default.

        Returns
        -------
        Tensor
            (B, 1, dim), as ``forward(x, present)[:, :1]``.
        """
        dim = x.shape[2]
        of_query, of_key, of_value = self.qkv.weight.split(dim)
        width = dim // self.heads
        query = linear(x[:, 0], of_query, self.qkv.bias[:dim]).view(-1, self.heads, width)
        asked = torch.einsum("bhe,hed->bhd", query, of_key.view(self.heads, width, dim))
        score = asked @ x.transpose(1, 2) * width**-0.5
        if present is not None:
            score = score.masked_fill(~present[:, None, :], -math.inf)
        weight = score.softmax(2)
        read = torch.einsum("bhd,hed->bhe", weight.to(x.dtype) @ x, of_value.view(self.heads, width, dim))
        return self.proj(read.reshape(-1, 1, dim) + self.qkv.bias[2 * dim :])

    def weights(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Give who reads whom: (B, heads, T, T), rows of readers that sum to 1.

        Parameters
        ----------
        x : Tensor
            (B, T, dim).
        present : Tensor, optional
            As in :meth:`first`; what is not read has weight 0.

        Returns
        -------
        Tensor
            Softmax of the scaled products of queries and keys.
        """
        query, key, _ = self._split(x)
        score = query @ key.transpose(2, 3) * query.shape[3] ** -0.5
        if present is not None:
            score = score.masked_fill(~present[:, None, None, :], -math.inf)
        return score.softmax(3)

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        parts = self.qkv(x).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return parts[0], parts[1], parts[2]


class _FeedForward(nn.Module):
    """Two layers for each token by itself."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class _LayerScale(nn.Module):
    """A trained factor for each channel of a branch (Touvron et al., "Going deeper with Image Transformers", 2021)."""

    def __init__(self, dim: int, start: float) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), float(start)))

    def forward(self, change: Tensor) -> Tensor:
        return change * self.gamma


class TransformerBlock(nn.Module):
    """One round of attention and a feed-forward layer, each after a norm and beside an identity.

    Parameters
    ----------
    dim : int
        Width of the tokens.
    heads : int
        Number of heads; divides `dim`.
    mlp_ratio : float
        Width of the hidden layer of the feed-forward part, in widths of the tokens.
    drop_path : float
        Chance that a branch is left out for an image, while training; the others are scaled up to keep the mean.
    eps : float
        Of the norms.
    layer_scale : float or None
        First value of a trained factor for each channel of each branch; None for no factors.

    Examples
    --------
    >>> TransformerBlock(8, 2)(torch.zeros(3, 5, 8)).shape
    torch.Size([3, 5, 8])
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        eps: float = 1e-6,
        layer_scale: float | None = None,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = TokenAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = _FeedForward(dim, round(dim * mlp_ratio))
        self.ls1 = nn.Identity() if layer_scale is None else _LayerScale(dim, layer_scale)
        self.ls2 = nn.Identity() if layer_scale is None else _LayerScale(dim, layer_scale)
        self.drop_path = drop_path

    def forward(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Give tokens (B, T, dim) after this round; where `present` (B, T) is False, a token is not read."""
        x = x + self._dropped(self.ls1(self.attn(self.norm1(x), present)))
        return self._fed(x)

    def first(self, x: Tensor, present: Tensor | None = None) -> Tensor:
        """Give the first token (B, 1, dim) after this round, with no work for the others.

        Parameters
        ----------
        x : Tensor
            (B, T, dim).
        present : Tensor, optional
            (B, T) bool, the tokens that are read, at least one of each image; all by default.

        Returns
        -------
        Tensor
            As ``forward(x, present)[:, :1]``.
        """
        return self._fed(x[:, :1] + self._dropped(self.ls1(self.attn.first(self.norm1(x), present))))

    def _fed(self, x: Tensor) -> Tensor:
        return x + self._dropped(self.ls2(self.mlp(self.norm2(x))))

    def _dropped(self, change: Tensor) -> Tensor:
        if not self.training or self.drop_path == 0:
            return change
        kept = torch.rand(change.shape[0], 1, 1, device=change.device) >= self.drop_path
        return change * (kept / (1 - self.drop_path)).to(change.dtype)


class _PatchEmbedding(nn.Module):
    """Squares of pixels to vectors: a linear map of each, written as a convolution with a stride of its size."""

    def __init__(self, channels: int, dim: int, patch_size: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch_size, stride=patch_size)

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image).flatten(2).transpose(1, 2)


class VisionTransformer(GridPositions):
    """Vision Transformer with the names of weights that the field uses.

    Attention runs through `torch.nn.functional.scaled_dot_product_attention`, which takes the fastest kernel of the
    machine (flash attention where there is one); the module can be given to `torch.compile`.

    Parameters
    ----------
    image_size : int or (int, int)
        Side, or height and width, in pixels, of the images whose grid the positions are made for; others are read
        with positions interpolated.
    patch_size : int
        Side of a token in pixels; divides heights and widths.
    dim : int
        Width of the tokens.
    depth : int
        Blocks.
    heads : int
        Heads; divides `dim`.
    mlp_ratio : float
        Width of the hidden layer of the feed-forward parts, in widths of the tokens.
    channels : int
        Colour channels.
    drop_path : float
        Chance that a branch of the last block is left out for an image while training; from 0 at the first block it
        rises linearly.
    positions : {"learned", "sincos"}
        Trained positions, or fixed sines and cosines.
    eps : float
        Of the norms.
    interpolation_offset : float
        0 fits the grid of positions to that of the image; 0.1 scales by (rows + 0.1) / rows of the grid, as the
        released DINO does, whose weights were trained with it.
    antialias : bool
        Whether positions are smoothed before they are interpolated to a smaller grid, as DINOv2 with registers does.
    layer_scale : float or None
        First value of a trained factor for each channel of each branch, as in DINOv2; None for no factors.
    registers : int
        Further tokens without a place, after the class token, as in DINOv2 with registers.

    Attributes
    ----------
    grid : (int, int)
        Rows and columns of tokens that the positions are made for.
    first : int
        Number of the first square among the tokens: 1, the class token, and the registers.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> network = VisionTransformer(image_size=32, patch_size=8, dim=16, depth=2, heads=2)
    >>> network(torch.zeros(3, 3, 32, 32)).shape, network(torch.zeros(3, 3, 16, 40)).shape
    (torch.Size([3, 17, 16]), torch.Size([3, 11, 16]))
    >>> tokens = network.tokens(torch.zeros(3, 3, 32, 32))
    >>> network.run(tokens[:, [0, 4, 7]]).shape  # the class token and two others: an induced subgraph
    torch.Size([3, 3, 16])
    """

    def __init__(
        self,
        image_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        dim: int = 384,
        depth: int = 12,
        heads: int = 6,
        mlp_ratio: float = 4.0,
        channels: int = 3,
        drop_path: float = 0.0,
        positions: Literal["learned", "sincos"] = "learned",
        eps: float = 1e-6,
        interpolation_offset: float = 0.0,
        antialias: bool = False,
        layer_scale: float | None = None,
        registers: int = 0,
    ) -> None:
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        _check_arguments(locals())
        super().__init__((height // patch_size, width // patch_size), interpolation_offset, antialias)
        self.patch_size, self.dim, self.channels = patch_size, dim, channels
        self.first = 1 + registers
        self.cls_token = nn.Parameter(torch.empty(1, 1, dim))
        places = 1 + self.grid[0] * self.grid[1]
        if positions == "learned":
            self.pos_embed = nn.Parameter(torch.empty(1, places, dim))
            nn.init.trunc_normal_(self.pos_embed, std=0.02)
        else:
            self.register_buffer("pos_embed", sincos_positions(dim, self.grid).float().unsqueeze(0))
        if registers:
            self.register_tokens = nn.Parameter(0.02 * torch.randn(1, registers, dim))
        self.patch_embed = _PatchEmbedding(channels, dim, patch_size)
        rates = [drop_path * number / max(depth - 1, 1) for number in range(depth)]
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, heads, mlp_ratio, rate, eps, layer_scale) for rate in rates
        )
        self.norm = nn.LayerNorm(dim, eps=eps)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def tokens(self, image: Tensor) -> Tensor:
        """Cut images into squares and add where they lie.

        Parameters
        ----------
        image : Tensor
            (B, channels, H, W) floating point, normalised; H and W are multiples of `patch_size`.

        Returns
        -------
        Tensor
            (B, 1 + H/p · W/p, dim), the class token first, then row after row; with registers after the class token.

        Raises
        ------
        ValueError
            If the shape does not fit.
        """
        if image.dim() != 4 or image.shape[1] != self.channels:
            raise ValueError(
                f"image must have shape (B, {self.channels}, H, W), found {tuple(image.shape)}; "
                "put the colour channels before height and width"
            )
        height, width = image.shape[2:]
        if (
            height < self.patch_size
            or width < self.patch_size
            or height % self.patch_size
            or width % self.patch_size
        ):
            raise ValueError(
                f"image: height and width must be multiples of patch_size {self.patch_size}, found {height} x {width}; "
                "crop or resize the images"
            )
        positions = self.positions(height // self.patch_size, width // self.patch_size)
        squares = self.patch_embed(image) + positions[:, 1:]
        special = self.cls_token + positions[:, :1]
        if self.first > 1:
            special = torch.cat([special, self.register_tokens], dim=1)
        return torch.cat([special.expand(image.shape[0], -1, -1).to(squares.dtype), squares], dim=1)

    def run(self, tokens: Tensor) -> Tensor:
        """Pass tokens through the blocks and the last norm.

        Parameters
        ----------
        tokens : Tensor
            (B, T, dim), any of those of :meth:`tokens`, in any order.

        Returns
        -------
        Tensor
            (B, T, dim).
        """
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def forward(self, image: Tensor) -> Tensor:
        """Give the tokens of images: ``run(tokens(image))``.

        Parameters
        ----------
        image : Tensor
            As in :meth:`tokens`.

        Returns
        -------
        Tensor
            (B, 1 + N, dim), the class token first.
        """
        return self.run(self.tokens(image))

    def pooled(self, image: Tensor, pooling: str = "cls") -> Tensor:
        """Give one vector an image; that of the class token costs one block less than all tokens do.

        Parameters
        ----------
        image : Tensor
            As in :meth:`tokens`.
        pooling : {"cls", "mean"}
            The class token after the last norm, or the last norm of the mean of all squares.

        Returns
        -------
        Tensor
            (B, dim).

        Raises
        ------
        ValueError
            If there is no such pooling.

        Examples
        --------
        >>> network = VisionTransformer(image_size=16, patch_size=8, dim=16, depth=2, heads=2)
        >>> network.pooled(torch.zeros(3, 3, 16, 16), "mean").shape
        torch.Size([3, 16])
        """
        if pooling not in POOLINGS:
            raise ValueError(f"pooling must be one of {', '.join(POOLINGS)}; found {pooling!r}")
        tokens = self.tokens(image)
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        last = cast(TransformerBlock, self.blocks[-1])
        if pooling == "cls":
            return self.norm(last.first(tokens)[:, 0])
        return self.norm(last(tokens)[:, self.first :].mean(1))

    def attention(self, image: Tensor, block: int = -1) -> Tensor:
        """Give the attention of one block.

        Parameters
        ----------
        image : Tensor
            As in :meth:`tokens`.
        block : int
            Number of the block; from the end if negative.

        Returns
        -------
        Tensor
            (B, heads, T, T), rows of readers that sum to 1; row 0 is what the class token reads, columns from
            ``first`` on are the squares.

        Raises
        ------
        ValueError
            If there is no such block.

        Examples
        --------
        >>> network = VisionTransformer(image_size=16, patch_size=8, dim=16, depth=2, heads=2)
        >>> network.attention(torch.zeros(1, 3, 16, 16)).sum(3).shape
        torch.Size([1, 2, 5])
        """
        last = self._number(block, "block")
        x = self.tokens(image)
        for before in self.blocks[:last]:
            x = before(x)
        chosen = cast(TransformerBlock, self.blocks[last])
        return chosen.attn.weights(chosen.norm1(x))

    def intermediate(self, image: Tensor, blocks: Sequence[int]) -> list[Tensor]:
        """Give the tokens after some blocks, each through the last norm.

        Parameters
        ----------
        image : Tensor
            As in :meth:`tokens`.
        blocks : sequence of int
            Numbers of blocks, from the end if negative, in any order.

        Returns
        -------
        list of Tensor
            Of each block (B, 1 + N, dim).

        Raises
        ------
        ValueError
            If there is no such block.

        Examples
        --------
        >>> network = VisionTransformer(image_size=16, patch_size=8, dim=16, depth=2, heads=2)
        >>> image = torch.zeros(1, 3, 16, 16)
        >>> torch.equal(network.intermediate(image, [0, -1])[1], network(image))
        True
        """
        wanted = [self._number(block, "blocks") for block in blocks]
        x, found = self.tokens(image), {}
        for number, block in enumerate(self.blocks[: max(wanted, default=-1) + 1]):
            x = block(x)
            if number in wanted:
                found[number] = self.norm(x)
        return [found[number] for number in wanted]

    def _number(self, block: int, name: str) -> int:
        depth = len(self.blocks)
        if not -depth <= block < depth:
            raise ValueError(
                f"{name}: there are {depth} blocks, numbered from 0 or from -{depth}; found {block}"
            )
        return block % depth


def vit(size: str, **arguments: Any) -> VisionTransformer:
    """Build a Vision Transformer by the name of its size.

    Parameters
    ----------
    size : {"tiny", "small", "base", "large", "huge"}
        A name in `VIT_SIZES`.
    **arguments
        Further arguments of :class:`VisionTransformer`.

    Returns
    -------
    VisionTransformer
        With random weights.

    Raises
    ------
    ValueError
        If the name is not known.

    Examples
    --------
    >>> network = vit("tiny", image_size=32)
    >>> network.dim, len(network.blocks)
    (192, 12)
    """
    if size not in VIT_SIZES:
        raise ValueError(f"size must be one of {', '.join(VIT_SIZES)}; found {size!r}")
    dim, depth, heads = VIT_SIZES[size]
    return VisionTransformer(**{"dim": dim, "depth": depth, "heads": heads, **arguments})


def _check_arguments(given: dict[str, Any]) -> None:
    """Refuse what cannot work, naming the argument."""
    patch, size = given["patch_size"], (given["height"], given["width"])
    bounds = [
        ("patch_size", patch >= 1, "at least 1"),
        ("dim", given["dim"] >= 1, "at least 1"),
        ("depth", given["depth"] >= 1, "at least 1"),
        ("mlp_ratio", given["mlp_ratio"] > 0, "above 0"),
        ("channels", given["channels"] >= 1, "at least 1"),
        ("drop_path", 0 <= given["drop_path"] < 1, "at least 0 and below 1"),
        ("positions", given["positions"] in POSITIONS, f"one of {', '.join(POSITIONS)}"),
        ("eps", given["eps"] > 0, "above 0"),
        ("interpolation_offset", 0 <= given["interpolation_offset"] < 1, "at least 0 and below 1"),
        ("layer_scale", given["layer_scale"] is None or given["layer_scale"] >= 0, "None or at least 0"),
        ("registers", given["registers"] >= 0, "at least 0"),
    ]
    check_bounds(bounds, given)
    if min(size) < patch or any(side % patch for side in size):
        raise ValueError(
            f"image_size must be a multiple of patch_size {patch}, in height and width; found {given['image_size']!r}"
        )

"""Masked autoencoder of images: a Vision Transformer that sees some squares, and a small one that restores the others.

He et al., "Masked Autoencoders Are Scalable Vision Learners", CVPR 2022.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .sincos import sincos_positions
from .vit import TransformerBlock, VisionTransformer

_EPS = 1e-6  # of the norms, and of the variance of a square


@dataclass(frozen=True)
class Hiding:
    """Which squares of each image are shown, V of N.

    Attributes
    ----------
    kept : Tensor
        (B, V) int64, numbers of the squares that are shown, in the order drawn.
    place : Tensor
        (B, N) int64, where each square is in the list of those shown followed by those hidden.

    Examples
    --------
    >>> hide(torch.tensor([[0.9, 0.1, 0.5, 0.2]]), 0.5).hidden
    tensor([[ True, False,  True, False]])
    """

    kept: Tensor
    place: Tensor

    @property
    def hidden(self) -> Tensor:
        """(B, N) bool, True where a square is hidden."""
        return self.place >= self.kept.shape[1]


def shown_of(squares: int, ratio: float, official_compat: bool = False) -> int:
    """Count what is shown of so many squares, ``floor(N (1 - ratio))``.

    Parameters
    ----------
    squares : int
        Number N.
    ratio : float
        Share that is hidden, from 0 to 1.
    official_compat : bool
        Take the floor of what binary numbers make of the product, as the released code does, which is one less where
        it should be whole but is not.

    Returns
    -------
    int
        From 0 to N.

    Examples
    --------
    >>> shown_of(10, 0.9), shown_of(10, 0.9, official_compat=True)  # 10 (1 - 0.9) is 0.999… in binary numbers
    (1, 0)
    """
    return int(squares * (1 - ratio) + (0 if official_compat else 1e-9))


def hide(noise: Tensor, ratio: float, official_compat: bool = False) -> Hiding:
    """Hide the squares with the largest numbers, ``N - floor(N (1 - ratio))`` of N in each image.

    Parameters
    ----------
    noise : Tensor
        (B, N) a random number for each square.
    ratio : float
        Share that is hidden, from 0 to 1.
    official_compat : bool
        As of `shown_of`.

    Returns
    -------
    Hiding
        Which squares are shown, in the order of their numbers.

    Examples
    --------
    >>> hide(torch.tensor([[0.9, 0.1, 0.5, 0.2]]), 0.5).kept
    tensor([[1, 3]])
    """
    order = noise.argsort(1)
    shown = shown_of(noise.shape[1], ratio, official_compat)
    return Hiding(order[:, :shown], order.argsort(1))


def patchify(image: Tensor, patch_size: int) -> Tensor:
    """Cut images into squares, row after row; in a square rows, then columns, then colours.

    Parameters
    ----------
    image : Tensor
        (B, C, H, W); H and W are multiples of `patch_size`.
    patch_size : int
        Side p of a square in pixels.

    Returns
    -------
    Tensor
        (B, H/p · W/p, p · p · C).

    Examples
    --------
    >>> patchify(torch.arange(8).view(1, 1, 2, 4), 2)
    tensor([[[0, 1, 4, 5],
             [2, 3, 6, 7]]])
    """
    batch, channels, height, width = image.shape
    parts = image.reshape(batch, channels, height // patch_size, patch_size, width // patch_size, patch_size)
    return parts.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def unpatchify(squares: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """Put squares together to images, as :func:`patchify` cut them.

    Parameters
    ----------
    squares : Tensor
        (B, rows · columns, p · p · C).
    grid : (int, int)
        Rows and columns of squares.
    patch_size : int
        Side p of a square in pixels.

    Returns
    -------
    Tensor
        (B, C, rows · p, columns · p).

    Examples
    --------
    >>> image = torch.arange(24).view(1, 3, 2, 4)
    >>> torch.equal(unpatchify(patchify(image, 2), (1, 2), 2), image)
    True
    """
    parts = squares.view(len(squares), *grid, patch_size, patch_size, -1)
    return parts.permute(0, 5, 1, 3, 2, 4).flatten(4).flatten(2, 3)


def square_scale(squares: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and spread of the values of each square, by which goals are standardised.

    Parameters
    ----------
    squares : Tensor
        (B, N, n).

    Returns
    -------
    mean, spread : Tensor
        (B, N, 1); the spread is the root of the unbiased variance + 1e-6.

    Examples
    --------
    >>> square_scale(torch.tensor([[[1.0, 3.0]]]))[1]
    tensor([[[1.4142]]])
    """
    return squares.mean(2, keepdim=True), (squares.var(2, keepdim=True) + _EPS).sqrt()


class MaskedAutoencoder(VisionTransformer):
    """Vision Transformer with fixed positions, and a narrower one that restores the squares it did not see.

    Names of weights are those of the field (MAE), in the encoder and in the decoder.

    Parameters
    ----------
    image_size : int or (int, int)
        Side, or height and width, in pixels.
    patch_size : int
        Side of a square in pixels.
    dim, depth, heads : int
        Width, a multiple of 4, blocks and heads of the encoder.
    decoder_dim, decoder_depth, decoder_heads : int
        The same of the decoder.
    mlp_ratio : float
        Width of the hidden layer of the feed-forward parts, in widths of the tokens.
    drop_path : float
        Of the encoder; see :class:`VisionTransformer`.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> network = MaskedAutoencoder(16, 4, dim=8, depth=1, heads=2, decoder_dim=8, decoder_depth=1, decoder_heads=2)
    >>> hiding = hide(torch.rand(3, 16), 0.75)
    >>> latent = network.encode_shown(torch.zeros(3, 3, 16, 16), hiding.kept)
    >>> latent.shape, network.decode(latent, hiding.place).shape
    (torch.Size([3, 5, 8]), torch.Size([3, 16, 48]))
    """

    def __init__(
        self,
        image_size: int | tuple[int, int] = 224,
        patch_size: int = 16,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__(
            image_size, patch_size, dim, depth, heads, mlp_ratio, drop_path=drop_path, positions="sincos"
        )
        if decoder_depth < 1:
            raise ValueError(f"decoder_depth must be at least 1; found {decoder_depth}")
        if decoder_heads < 1 or decoder_dim % decoder_heads:
            raise ValueError(f"decoder_heads must divide decoder_dim {decoder_dim}; found {decoder_heads}")
        self.decoder_embed = nn.Linear(dim, decoder_dim)
        self.mask_token = nn.Parameter(torch.empty(1, 1, decoder_dim))
        self.decoder_pos_embed: Tensor
        places = sincos_positions(decoder_dim, self.grid).float().unsqueeze(0)
        self.register_buffer("decoder_pos_embed", places)
        self.decoder_blocks = nn.ModuleList(
            TransformerBlock(decoder_dim, decoder_heads, mlp_ratio) for _ in range(decoder_depth)
        )
        self.decoder_norm = nn.LayerNorm(decoder_dim, eps=_EPS)
        self.decoder_pred = nn.Linear(decoder_dim, patch_size**2 * self.channels)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(dim, -1))
        nn.init.normal_(self.cls_token, std=0.02)
        nn.init.normal_(self.mask_token, std=0.02)

    def encode_shown(self, image: Tensor, kept: Tensor) -> Tensor:
        """Encode the squares that are shown, as if the image had no others.

        Parameters
        ----------
        image : Tensor
            (B, 3, H, W), normalised.
        kept : Tensor
            (B, V) int64, numbers of squares.

        Returns
        -------
        Tensor
            (B, 1 + V, dim), the class token first, then the squares in the order of `kept`.
        """
        tokens = self.tokens(image)
        index = kept.unsqueeze(2).expand(-1, -1, tokens.shape[2])
        return self.run(torch.cat([tokens[:, :1], tokens[:, 1:].gather(1, index)], dim=1))

    def decode(self, latent: Tensor, place: Tensor) -> Tensor:
        """Predict the colours of all squares.

        Parameters
        ----------
        latent : Tensor
            (B, 1 + V, dim), from :meth:`encode_shown`.
        place : Tensor
            (B, N) int64, see :class:`Hiding`; N is that of images of `image_size`.

        Returns
        -------
        Tensor
            (B, N, p · p · 3), in the order of :func:`patchify`.
        """
        y = self.decoder_embed(latent)
        hidden = place.shape[1] + 1 - y.shape[1]
        blank = self.mask_token.to(y.dtype).expand(len(y), hidden, -1)
        squares = torch.cat([y[:, 1:], blank], dim=1)
        squares = squares.gather(1, place.unsqueeze(2).expand(-1, -1, y.shape[2]))
        y = torch.cat([y[:, :1], squares], dim=1) + self.decoder_pos_embed
        for block in self.decoder_blocks:
            y = block(y)
        return self.decoder_pred(self.decoder_norm(y))[:, 1:]

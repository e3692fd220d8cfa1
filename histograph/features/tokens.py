"""From the tokens of a transformer to one vector an image: the class token, the mean of the others, their spread."""

from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

TOKENS = ("cls", "mean", "cls+mean", "mean+std", "all")
NO_TOKENS = (
    "encoder: {} gives no token for each square of the image, as a Vision Transformer does; use crops around the "
    "nuclei, embed_entities(slide, cells, encoder) or features={{'cell': load_encoder(…)}}, or give another encoder"
)


def pool_tokens(tokens: Tensor, which: str, prefix: int) -> Tensor:
    """Make one vector of the tokens of each image.

    Parameters
    ----------
    tokens : Tensor
        (B, T, D), those without a place in the image (class token, registers) first.
    which : {"cls", "mean", "cls+mean", "mean+std", "all"}
        The first token, the mean of those with a place, one after the other; that mean and the standard deviation of
        the same tokens, which tells an even tissue from a mixed one; or the mean of all tokens.
    prefix : int
        Number of tokens without a place.

    Returns
    -------
    Tensor
        (B, D), or (B, 2 D) for two of them.

    Raises
    ------
    ValueError
        When `which` is unknown, or there is no class token to take.

    Examples
    --------
    >>> tokens = torch.tensor([[[9.0], [7.0], [1.0], [3.0]]])  # class token, one register, two squares
    >>> pool_tokens(tokens, "cls+mean", prefix=2)
    tensor([[9., 2.]])
    """
    if which not in TOKENS:
        raise ValueError(f"tokens must be one of {', '.join(TOKENS)}; found {which!r}")
    if which == "all":
        return tokens.mean(1)
    squares = tokens[:, prefix:]
    if which == "mean+std":
        return torch.cat([squares.mean(1), squares.std(1, correction=0)], dim=1)
    if prefix == 0 and which != "mean":
        raise ValueError(f"tokens={which!r}: the network has no class token; give tokens='mean'")
    parts = []
    if which != "mean":
        parts.append(tokens[:, 0])
    if which != "cls":
        parts.append(squares.mean(1))
    return torch.cat(parts, dim=1)


class TokenVectors(nn.Module):
    """A network of tokens, as `histograph.nn.VisionTransformer`, that gives one vector an image.

    Parameters
    ----------
    network : torch.nn.Module
        Maps (B, 3, H, W) to tokens (B, T, D).
    tokens : {"cls", "mean", "cls+mean", "mean+std", "all"}
        What the vector is made of.
    prefix : int
        Number of tokens without a place in the image, the class token first.

    Examples
    --------
    >>> from histograph.nn import VisionTransformer
    >>> vit = VisionTransformer(image_size=16, patch_size=8, dim=12, depth=1, heads=2)
    >>> TokenVectors(vit, "cls+mean")(torch.zeros(5, 3, 16, 16)).shape
    torch.Size([5, 24])
    """

    def __init__(self, network: nn.Module, tokens: str = "cls", prefix: int = 1) -> None:
        super().__init__()
        if tokens not in TOKENS:
            raise ValueError(f"tokens must be one of {', '.join(TOKENS)}; found {tokens!r}")
        self.network, self.tokens, self.prefix = network, tokens, prefix

    def forward(self, images: Tensor) -> Tensor:
        """Give the vectors (B, D) of normalised images (B, 3, H, W)."""
        return pool_tokens(self.network(images), self.tokens, self.prefix)

    def all_tokens(self, images: Tensor) -> tuple[Tensor, int]:
        """Give all tokens (B, T, D), and how many of them, the first ones, have no place in the image."""
        return self.network(images), self.prefix


class PooledVectors(nn.Module):
    """A `histograph.nn.VisionTransformer` whose vector is the last norm of the mean of its squares.

    Fine-tuned masked autoencoders are read in this order; `TokenVectors` takes the mean after the norm.

    Parameters
    ----------
    network : VisionTransformer
        The network.
    """

    #: As `TokenVectors.tokens`, for the record of a graph.
    tokens = "norm of the mean"

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Give the vectors (B, D) of normalised images (B, 3, H, W)."""
        network: Any = self.network
        return network.pooled(images, "mean")

    def all_tokens(self, images: Tensor) -> tuple[Tensor, int]:
        """Give all tokens (B, T, D), and how many of them, the first ones, have no place in the image."""
        network: Any = self.network
        return network(images), network.first


class TransformersVectors(nn.Module):
    """A model of the transformers library that gives one vector an image.

    How many tokens have no place in the image is the number of tokens less the number of squares, so that class
    tokens, registers and the tokens of distillation need no table.

    Parameters
    ----------
    network : torch.nn.Module
        Returns an object with ``last_hidden_state`` (B, T, D), or (B, C, h, w) for a convolutional network.
    patch_size : int or None
        Side of a token in pixels; None for a network that merges tokens or has none.
    tokens : {"cls", "mean", "cls+mean", "mean+std", "all"} or None
        What the vector is made of; None takes the class token where there is one, else the mean.
    """

    def __init__(self, network: nn.Module, patch_size: int | None, tokens: str | None = None) -> None:
        super().__init__()
        if tokens not in (None, *TOKENS):
            raise ValueError(f"tokens must be one of {', '.join(TOKENS)}; found {tokens!r}")
        self.network, self.patch_size, self.tokens = network, patch_size, tokens
        self._side: Any = getattr(getattr(network, "config", None), "image_size", None)
        self._interpolates = "interpolate_pos_encoding" in signature(network.forward).parameters

    def forward(self, images: Tensor) -> Tensor:
        """Give the vectors (B, D) of normalised images (B, 3, H, W)."""
        hidden = self._hidden(images)
        if hidden.ndim == 4:
            hidden = hidden.flatten(2).transpose(1, 2)
        squares = hidden.shape[1]
        if self.patch_size is not None:
            squares = (images.shape[2] // self.patch_size) * (images.shape[3] // self.patch_size)
        # a network that merges squares on its way has fewer tokens than squares, and no class token
        prefix = max(hidden.shape[1] - squares, 0)
        return pool_tokens(hidden, self.tokens or ("cls" if prefix else "mean"), prefix)

    def all_tokens(self, images: Tensor) -> tuple[Tensor, int]:
        """Give all tokens (B, T, D), and how many of them, the first ones, have no place in the image."""
        hidden = self._hidden(images)
        if self.patch_size is None or hidden.ndim != 3:
            raise ValueError(NO_TOKENS.format(type(self.network).__name__))
        squares = (images.shape[2] // self.patch_size) * (images.shape[3] // self.patch_size)
        return hidden, hidden.shape[1] - squares

    def _hidden(self, images: Tensor) -> Tensor:
        """Run the network; one that asks for it is told to interpolate its positions for images of another size."""
        other = self._interpolates and isinstance(self._side, int) and images.shape[2] != self._side
        return self.network(
            pixel_values=images, **({"interpolate_pos_encoding": True} if other else {})
        ).last_hidden_state


class TimmVectors(nn.Module):
    """A transformer of the timm library, its vector made of chosen tokens instead of timm's own pooling.

    Parameters
    ----------
    network : torch.nn.Module
        With timm's ``forward_features`` to tokens (B, T, D) and ``num_prefix_tokens``.
    tokens : {"cls", "mean", "cls+mean", "mean+std", "all"}
        What the vector is made of.
    """

    def __init__(self, network: nn.Module, tokens: str) -> None:
        super().__init__()
        if tokens not in TOKENS:
            raise ValueError(f"tokens must be one of {', '.join(TOKENS)}; found {tokens!r}")
        self.network, self.tokens = network, tokens
        self.prefix = int(getattr(network, "num_prefix_tokens", 0))

    def forward(self, images: Tensor) -> Tensor:
        """Give the vectors (B, D) of normalised images (B, 3, H, W)."""
        network: Any = self.network
        hidden = network.forward_features(images)
        if hidden.ndim != 3:
            raise ValueError(
                f"tokens={self.tokens!r}: the network has no tokens, its features have shape {tuple(hidden.shape)}; "
                "leave tokens out"
            )
        return pool_tokens(hidden, self.tokens, self.prefix)

    def all_tokens(self, images: Tensor) -> tuple[Tensor, int]:
        """Give all tokens (B, T, D), and how many of them, the first ones, have no place in the image."""
        network: Any = self.network
        return network.forward_features(images), self.prefix


class MethodVectors(nn.Module):
    """A method of image patches that gives the vectors of its `encode`; it normalises colours itself.

    Parameters
    ----------
    method : histograph.methods.Method
        One whose batches are `histograph.methods.Patches`.
    """

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: Tensor) -> Tensor:
        """Give the vectors (B, D) of images (B, 3, H, W) from 0 to 1."""
        from histograph.methods import Patches

        method: Any = self.method
        return method.encode(Patches(images.permute(0, 2, 3, 1))).graph

    def all_tokens(self, images: Tensor) -> tuple[Tensor, int]:
        """Give all tokens (B, T, D), and how many of them, the first ones, have no place in the image."""
        from histograph.methods import Patches

        method: Any = self.method
        batch = Patches(images.permute(0, 2, 3, 1))
        if hasattr(method, "tokens"):
            return method.tokens(batch), 1
        found = method.encode(batch)
        if found.node is None:
            raise ValueError(NO_TOKENS.format(type(method).__name__))
        squares = found.node.view(len(images), -1, found.node.shape[1])
        return torch.cat([found.graph[:, None], squares], dim=1), 1


class TokenField(nn.Module):
    """The tokens of images in their places, behind one vector of the whole image.

    Parameters
    ----------
    module : torch.nn.Module
        One with ``all_tokens(images)``, which gives tokens (B, T, D) and how many of them have no place, as the classes
        of this file have; or a transformer of the timm library.

    Raises
    ------
    ValueError
        When the module gives no tokens.

    Examples
    --------
    >>> from histograph.nn import VisionTransformer
    >>> vit = VisionTransformer(image_size=16, patch_size=8, dim=12, depth=1, heads=2)
    >>> TokenField(TokenVectors(vit))(torch.zeros(5, 3, 16, 16)).shape  # one, and two rows of two squares
    torch.Size([5, 5, 12])
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        if not hasattr(module, "all_tokens") and hasattr(module, "num_prefix_tokens"):
            module = TimmVectors(module, "mean")
        if not hasattr(module, "all_tokens"):
            raise ValueError(NO_TOKENS.format(type(module).__name__))
        self.module = module

    def forward(self, images: Tensor) -> Tensor:
        """Give (B, 1 + N, D): the class token, or the mean of the squares without one; then squares row by row."""
        module: Any = self.module
        tokens, prefix = module.all_tokens(images)
        if tokens.ndim != 3 or tokens.shape[1] <= prefix:
            raise ValueError(NO_TOKENS.format(type(module).__name__))
        squares = tokens[:, prefix:]
        whole = tokens[:, :1] if prefix else squares.mean(1, keepdim=True)
        return torch.cat([whole, squares], dim=1)

"""Stage 1 of H-MGDM: an auto-encoder that turns the image crop of an entity, or of an edge, into a short vector.

There is no graph yet: the batch is image crops (:class:`Patches`). *Hidden* is nothing; the crop goes through a
narrow latent. *Predicted* is the crop itself. The trained encoder gives every node and every edge of a graph the
latent of its crop (`histograph.training.add_latents`), and these are the attributes that H-MGDM reads.

The form is the variational auto-encoder with a spatial latent of latent diffusion, L = L_rec + w L_KL. The
perceptual and the adversarial term of the original, which sharpen what the decoder shows, are left out: here the
decoder is thrown away and only the latent is kept.

Zhuang et al., "Dynamic Entity-Masked Graph Diffusion Model for Histopathology Image Representation Learning",
AAAI 2025 (stage 1); Rombach et al., "High-Resolution Image Synthesis with Latent Diffusion Models", CVPR 2022;
Kingma and Welling, "Auto-Encoding Variational Bayes", ICLR 2014.
"""

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..nn.bounds import check_bounds
from .base import Embedding, Method, constructor_arguments

BACKBONES = ("small", "diffusers")
# Bounds of the log variance, as in latent diffusion: its exponential stays finite.
_LOGVAR_BOUNDS = (-30.0, 20.0)


def kl_to_normal(mean: Tensor, logvar: Tensor) -> Tensor:
    """Divergence of diagonal Gaussians from the standard normal, KL = 1/2 Σ (m² + v - 1 - log v), in nats.

    Parameters
    ----------
    mean, logvar : Tensor
        (B, …) mean m and log variance log v.

    Returns
    -------
    Tensor
        (B,) summed over all but the first dimension.

    Examples
    --------
    >>> kl_to_normal(torch.tensor([[0.0, 0.0], [1.0, 2.0]]), torch.zeros(2, 2))
    tensor([0.0000, 2.5000])
    """
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).flatten(1).sum(1)


class _Residual(nn.Module):
    """Look at the neighbouring positions, beside an identity."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.GroupNorm(1, dim),  # over the crop, not the batch: its latent must not depend on other crops
            nn.Conv2d(dim, dim, 3, padding=1),
            nn.SiLU(),
            nn.Conv2d(dim, dim, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class _SmallBackbone(nn.Module):
    """A convolutional auto-encoder that runs on a CPU: all its work is done at the size of the latent image.

    Squares of `downsample` pixels become vectors, and vectors squares. Without the residual blocks it is linear:
    they are left to learn what a linear map cannot.
    """

    def __init__(self, latent_channels: int, downsample: int, width: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, width, downsample, stride=downsample),
            _Residual(width),
            _Residual(width),
            nn.Conv2d(width, 2 * latent_channels, 3, padding=1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(latent_channels, width, 3, padding=1),
            _Residual(width),
            _Residual(width),
            nn.Conv2d(width, 3 * downsample**2, 1),
            nn.PixelShuffle(downsample),
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.encoder(x).chunk(2, dim=1)
        return mean, logvar

    def decode(self, z: Tensor) -> Tensor:
        return self.decoder(z)


class _DiffusersBackbone(nn.Module):
    """The KL auto-encoder of latent diffusion, as the diffusers library has it."""

    def __init__(self, latent_channels: int, downsample: int, width: int, size_px: int) -> None:
        super().__init__()
        try:
            from diffusers import AutoencoderKL
        except ImportError as error:
            raise ImportError(
                "backbone='diffusers' needs the diffusers package: pip install 'histograph[diffusion]', "
                "or take backbone='small'"
            ) from error
        steps = downsample.bit_length() - 1
        self.model: Any = AutoencoderKL(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * (steps + 1),
            up_block_types=("UpDecoderBlock2D",) * (steps + 1),
            block_out_channels=tuple(width * min(2**step, 4) for step in range(steps + 1)),
            layers_per_block=2,
            latent_channels=latent_channels,
            norm_num_groups=math.gcd(32, width),
            sample_size=size_px,
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        posterior = self.model.encode(x).latent_dist
        return posterior.mean, posterior.logvar

    def decode(self, z: Tensor) -> Tensor:
        return self.model.decode(z).sample


class EntityAutoencoder(Method):
    """Variational auto-encoder of square image crops; the mean of its posterior is the latent of a crop.

    L = mean squared error + ``kl_weight`` · KL / (3 ``size_px``²), both per colour value, colours from -1 to 1.
    The latent is a small image of ``latent_channels`` × (``size_px`` / ``downsample``)² numbers, laid flat.

    The defaults train on a CPU, best with ``pretrain(..., lr=4e-3, batch_size=64)``; on ten thousand crops of one
    slide ten passes come as close as 64 principal components, more come closer.
    ``EntityAutoencoder(128, latent_channels=3, downsample=4, width=128, kl_weight=1e-6, backbone="diffusers")``
    has the form and the 3 × 32 × 32 = 3072 numbers of the original.

    Parameters
    ----------
    size_px : int
        Side of a crop in pixels; a multiple of `downsample`.
    latent_channels : int
        Channels of the latent image.
    downsample : int
        Side of a crop over the side of its latent image: 2, 4, 8 or 16.
    width : int
        Channels of the hidden layers; for diffusers, of the first.
    kl_weight : float
        Weight of the divergence from the standard normal. 0.1 costs H&E crops no sharpness and keeps latents near
        unit variance; 1 blurs; 0 is an auto-encoder with noise that it can silence.
    backbone : {"small", "diffusers"}
        ``"small"`` is our own; ``"diffusers"`` is AutoencoderKL of the diffusers library (extra ``diffusion``).

    Raises
    ------
    ValueError
        If an argument is out of range.
    ImportError
        If diffusers is wanted and not installed.

    Examples
    --------
    >>> from histograph.methods import Patches
    >>> stage1 = EntityAutoencoder(size_px=16, width=8)
    >>> crops = Patches(torch.zeros(5, 16, 16, 3, dtype=torch.uint8))
    >>> stage1.latent_dim, stage1.encode(crops).graph.shape
    (16, torch.Size([5, 16]))
    >>> sorted(stage1(crops))
    ['kl', 'loss', 'reconstruction']
    """

    reads: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(
        self,
        size_px: int = 32,
        latent_channels: int = 4,
        downsample: int = 8,
        width: int = 48,
        kl_weight: float = 0.1,
        backbone: Literal["small", "diffusers"] = "small",
    ) -> None:
        config = constructor_arguments(locals())
        super().__init__(config)
        _check_config(config)
        self.size_px, self.kl_weight = size_px, kl_weight
        self.latent_shape = (latent_channels, size_px // downsample, size_px // downsample)
        self.backbone: _SmallBackbone | _DiffusersBackbone
        if backbone == "small":
            self.backbone = _SmallBackbone(latent_channels, downsample, width)
        else:
            self.backbone = _DiffusersBackbone(latent_channels, downsample, width, size_px)
        # crops come with the channels last, and convolutions on a CPU are fastest that way
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def latent_dim(self) -> int:
        """Numbers in the latent of a crop."""
        return math.prod(self.latent_shape)

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Encode, draw from the posterior, decode and compare.

        Parameters
        ----------
        batch : Patches
            ``image`` (B, size_px, size_px, 3).

        Returns
        -------
        dict of str to Tensor
            ``loss``, and detached ``reconstruction`` (mean squared error, colours from -1 to 1) and ``kl`` (nats a
            crop).

        Raises
        ------
        ValueError
            If the crops have another size or type.
        """
        x = self._read(batch)
        mean, logvar = self._posterior(x)
        z = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
        reconstruction = (self.backbone.decode(z) - x).square().mean()
        kl = kl_to_normal(mean, logvar).mean()
        loss = reconstruction + self.kl_weight * kl / x[0].numel()
        return {"loss": loss, "reconstruction": reconstruction.detach(), "kl": kl.detach()}

    def encode(self, batch: Any) -> Embedding:
        """Embed crops by the means of their posteriors.

        Parameters
        ----------
        batch : Patches
            As in :meth:`forward`.

        Returns
        -------
        Embedding
            ``graph`` (B, latent_dim), a row a crop; no node vectors. The same for every call.
        """
        mean, _ = self._posterior(self._read(batch))
        return Embedding(node=None, graph=mean.flatten(1))

    def decode(self, latent: Tensor) -> Tensor:
        """Show what latents hold.

        Parameters
        ----------
        latent : Tensor
            (B, latent_dim), from :meth:`encode`.

        Returns
        -------
        Tensor
            (B, size_px, size_px, 3) uint8 images.

        Examples
        --------
        >>> EntityAutoencoder(size_px=16, width=8).decode(torch.zeros(2, 16)).shape
        torch.Size([2, 16, 16, 3])
        """
        if latent.dim() != 2 or latent.shape[1] != self.latent_dim:
            raise ValueError(f"latent must have shape (B, {self.latent_dim}), found {tuple(latent.shape)}")
        dtype = next(self.parameters()).dtype
        with torch.no_grad():
            image = self.backbone.decode(latent.to(dtype).view(-1, *self.latent_shape))
        return (127.5 * (image + 1)).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)

    def _posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, logvar = self.backbone.encode(x)
        return mean, logvar.clamp(*_LOGVAR_BOUNDS)

    def _read(self, batch: Any) -> Tensor:
        """Take (B, 3, H, W) colours from -1 to 1 out of a batch."""
        image = getattr(batch, "image", None)
        if not isinstance(image, Tensor):
            raise TypeError(
                f"EntityAutoencoder reads image patches, found {type(batch).__name__}; "
                "give pretrain and embed a PatchDataset"
            )
        if image.dim() != 4 or image.shape[1:] != (self.size_px, self.size_px, 3):
            raise ValueError(
                f"image must have shape (B, {self.size_px}, {self.size_px}, 3), found {tuple(image.shape)}; "
                "cut crops of size_px pixels, or give EntityAutoencoder their size_px"
            )
        if image.dtype != torch.uint8 and not image.is_floating_point():
            raise ValueError(f"image must be uint8, or floating point from 0 to 1, found {image.dtype}")
        unit = image.float() / 255 if image.dtype == torch.uint8 else image
        return (2 * unit - 1).permute(0, 3, 1, 2)


def _check_config(config: dict[str, Any]) -> None:
    """Refuse what cannot work, naming the argument."""
    downsample = config["downsample"]
    bounds = [
        ("downsample", downsample in (2, 4, 8, 16), "2, 4, 8 or 16"),
        ("latent_channels", config["latent_channels"] >= 1, "at least 1"),
        ("width", config["width"] >= 1, "at least 1"),
        ("kl_weight", 0 <= config["kl_weight"] < math.inf, "a finite number of at least 0"),
        ("backbone", config["backbone"] in BACKBONES, f"one of {BACKBONES}"),
    ]
    check_bounds(bounds, config)
    size = config["size_px"]
    if size < downsample or size % downsample:
        raise ValueError(f"size_px must be a multiple of downsample = {downsample}; found {size!r}")

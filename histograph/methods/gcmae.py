"""GCMAE: a masked autoencoder of image patches that also tells every patch from all others.

*Nodes* are the squares of a patch and a class token. *Edges* join all pairs. *Hidden* is half of the squares: the
encoder runs on the subgraph of the others. *Predicted* are the colours of the hidden squares; and, from the mean of
what the encoder gives, which patch of the data set this is, among those in a memory bank that holds the vector each
had when it was last seen.

The file reads top to bottom as a step runs: read the batch, turn and crop it, hide squares, encode, decode, compare,
contrast; the bank is written after the optimiser's step.

Quan, Li, Chen et al., "Global Contrast-Masked Autoencoders Are Powerful Pathological Representation Learners", Pattern
Recognition 2024, arXiv 2205.09048. Where the released code errs, this does what the paper means: negatives are shared
by a batch and never the patch itself, the bank is one in all processes, the loss is the softmax that the released one
estimates, and what is contrasted is what is handed out.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ..nn.bounds import are_numbers, check_bounds
from ..nn.masked_autoencoder import (
    Hiding,
    MaskedAutoencoder,
    hide,
    patchify,
    shown_of,
    square_scale,
    unpatchify,
)
from ..nn.memory_bank import CONTRASTS, STORAGE, MemoryBank
from ..nn.resample import crop_resize, random_boxes
from ..nn.stain_jitter import random_stains
from ..nn.vit import VisionTransformer
from .base import Embedding, Graphs, Method, constructor_arguments, read_image
from .gcmae_released import ReleasedBank, released_features, released_learning_rate

POOLINGS = ("mean", "cls")
# Mean and standard deviation of red, green and blue, from 0 to 1, of the H&E patches of the authors.
PATHOLOGY_MEAN = (0.6790435, 0.5052883, 0.66902906)
PATHOLOGY_STD = (0.19158737, 0.2039779, 0.15648715)
_GREY = 0.5  # hidden squares, where they are shown


@dataclass(frozen=True)
class Restoration:
    """Patches with hidden squares restored, to look at.

    Attributes
    ----------
    masked : Tensor
        (B, H, W, 3) uint8, hidden squares in grey.
    restored : Tensor
        (B, H, W, 3) uint8, hidden squares as predicted.
    hidden : Tensor
        (B, N) bool, which squares are hidden, row after row.

    Examples
    --------
    >>> picture = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    >>> Restoration(picture, picture, torch.ones(1, 4, dtype=torch.bool)).hidden.sum()
    tensor(4)
    """

    masked: Tensor
    restored: Tensor
    hidden: Tensor


def reconstruction_loss(predicted: Tensor, goal: Tensor, hidden: Tensor) -> Tensor:
    """Mean squared error of the values of hidden squares.

    Parameters
    ----------
    predicted, goal : Tensor
        (B, N, n).
    hidden : Tensor
        (B, N) bool.

    Returns
    -------
    Tensor
        Scalar.

    Examples
    --------
    >>> reconstruction_loss(torch.zeros(1, 2, 3), torch.tensor([[[9.0] * 3, [2.0] * 3]]), torch.tensor([[False, True]]))
    tensor(4.)
    """
    return (predicted[hidden].float() - goal[hidden].float()).square().mean()


class GCMAE(Method):
    r"""Global contrast-masked autoencoder of image patches.

    .. math::

        L = w_r \frac{1}{|M|} \sum_{t \in M} \frac{1}{n} \lVert \hat p_t - p_t \rVert^2 + w_c L_\mathrm{bank}

    over the hidden squares M, with n colour values each; the bank's loss is that of
    :class:`histograph.nn.MemoryBank` for the pooled vector brought to length 1.

    The defaults are the published ones (ViT-B/16). For a CPU, ``GCMAE(96, 8, dim=192, depth=6, heads=3,
    decoder_dim=128, decoder_depth=2, decoder_heads=4)`` trains on patches of 96 pixels; give `pretrain` ``lr`` from
    5e-4 to 1e-3 and ``weight_decay=0.05``. Training data must number their patches, as `PatchDataset` does.

    Parameters
    ----------
    image_size : int
        Side in pixels of what is trained on; crops are brought to it.
    patch_size : int
        Side of a square in pixels; divides `image_size`.
    dim, depth, heads : int
        Width (a multiple of 4), blocks and heads of the encoder.
    decoder_dim, decoder_depth, decoder_heads : int
        The same of the decoder.
    mlp_ratio : float
        Width of the hidden layer of the feed-forward parts, in widths of the tokens.
    drop_path : float
        Chance that a branch of the encoder's last block is left out while training; less in those before it.
    mask_ratio : float
        Share of the squares that is hidden, above 0 and below 1.
    normalise_target : bool
        Predict the colours of each square with its mean taken off and divided by its spread.
    reconstruction_weight, contrast_weight : float
        :math:`w_r` and :math:`w_c`; one of them may be 0, and then its part is not computed.
    contrast : {"softmax", "nce"}, optional
        Loss of the bank: cross entropy of the own row among the negatives, or its noise-contrastive estimation with a
        fixed Z, which the paper uses and which takes far longer to learn while patches are still alike. None for
        "softmax", and "nce" with `official_compat`.
    negatives : int, optional
        Rows of the bank that a batch is contrasted with; None for all.
    temperature : float
        Of the contrast.
    bank_momentum : float
        Share of the old vector in a row of the bank.
    bank_storage : {"float32", "float16"}
        How the bank is kept.
    pooling : {"mean", "cls"}, optional
        Vector of a patch, contrasted and handed out: the mean of all tokens, or the class token. None for the mean, and
        for the class token with `official_compat`, where the contrast always has the mean.
    crop_scale : (float, float)
        Smallest and largest area of the random crops of training, in areas of the patch; (1, 1) for none.
    orientations : {1, 2, 4, 8}, optional
        How patches are laid while training: as they are; also mirrored left to right; also top to bottom; also with
        rows and columns exchanged, so that all turns and mirror images occur. None for 8, or 2 with `official_compat`.
    stain : float
        How much the amounts of the stains are jittered while training: factors in 1 ± stain, shifts in ± stain / 4 of
        optical density. 0, as published, leaves the colours, by which slides and laboratories are told apart.
    mean, std : sequence of float
        Of red, green and blue, from 0 to 1, by which colours are normalised; kept with the weights.
    official_compat : bool
        The released form with its oddities, for released weights; see docs/gcmae.md.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Examples
    --------
    >>> from histograph.training import PatchDataset
    >>> from histograph.training.graphs import collate
    >>> sizes = {"decoder_dim": 8, "decoder_depth": 1, "decoder_heads": 2}
    >>> method = GCMAE(16, 8, dim=8, depth=2, heads=2, **sizes)
    >>> data = PatchDataset(torch.randint(256, (5, 16, 16, 3), dtype=torch.uint8))
    >>> method.before_epoch(0, data)  # makes the bank, as `pretrain` does
    >>> sorted(method(collate(list(data), method.reads)))
    ['contrast', 'loss', 'reconstruction']
    >>> z = method.encode(data[0])
    >>> z.graph.shape, z.node.shape
    (torch.Size([1, 8]), torch.Size([4, 8]))
    """

    reads: ClassVar[tuple[str, ...]] = ("image",)

    def __init__(
        self,
        image_size: int = 224,
        patch_size: int = 16,
        dim: int = 768,
        depth: int = 12,
        heads: int = 12,
        decoder_dim: int = 512,
        decoder_depth: int = 8,
        decoder_heads: int = 16,
        mlp_ratio: float = 4.0,
        drop_path: float = 0.0,
        mask_ratio: float = 0.5,
        normalise_target: bool = True,
        reconstruction_weight: float = 1.0,
        contrast_weight: float = 0.1,
        contrast: Literal["softmax", "nce"] | None = None,
        negatives: int | None = 8192,
        temperature: float = 0.07,
        bank_momentum: float = 0.5,
        bank_storage: Literal["float32", "float16"] = "float32",
        pooling: Literal["mean", "cls"] | None = None,
        crop_scale: Sequence[float] = (0.2, 1.0),
        orientations: int | None = None,
        stain: float = 0.0,
        mean: Sequence[float] = PATHOLOGY_MEAN,
        std: Sequence[float] = PATHOLOGY_STD,
        official_compat: bool = False,
    ) -> None:
        config = constructor_arguments(locals())
        super().__init__(config)
        _check_arguments(config)
        self.image_size = image_size
        self.mask_ratio, self.normalise_target, self.official_compat = (
            mask_ratio,
            normalise_target,
            official_compat,
        )
        self.reconstruction_weight, self.contrast_weight = reconstruction_weight, contrast_weight
        self.pooling = pooling or ("cls" if official_compat else "mean")
        self.crop_scale = (crop_scale[0], crop_scale[1])
        self.orientations = orientations or (2 if official_compat else 8)
        self.stain = stain
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, 3, 1, 1))
        self.network = MaskedAutoencoder(
            self.image_size,
            patch_size,
            dim,
            depth,
            heads,
            decoder_dim,
            decoder_depth,
            decoder_heads,
            mlp_ratio,
            drop_path,
        )
        if reconstruction_weight == 0:
            for name, parameter in self.network.named_parameters():
                parameter.requires_grad_(not name.startswith(("decoder", "mask_token")))
        self.bank: MemoryBank | ReleasedBank | None = None
        if contrast_weight > 0:
            self.bank = _bank_of(config)
        self._seen: tuple[Tensor, Tensor] | None = None
        # all processes write the same bank; torch would send the first one's to the others before every step
        self._ddp_params_and_buffers_to_ignore = ["bank.memory", "bank.log_z", "bank.params"]

    def before_epoch(self, epoch: int, dataset: Graphs) -> None:
        """Begin training with a bank that has a row for each patch.

        Parameters
        ----------
        epoch : int
            Number of the epoch.
        dataset : PatchDataset
            All training patches.
        """
        if self.bank is not None and (epoch == 0 or self.bank.rows != len(dataset)):
            self.bank.start(len(dataset))
        self._seen = None

    def forward(self, batch: Any) -> dict[str, Tensor]:
        """Hide squares, predict their colours, and tell the patches from all others.

        Parameters
        ----------
        batch : Patches
            ``image`` (B, H, W, 3) of any size, and ``row`` (B,), the numbers of the patches in the data set.

        Returns
        -------
        dict of str to Tensor
            ``loss``, and detached ``reconstruction`` and ``contrast``, before they are weighted.

        Raises
        ------
        TypeError, ValueError
            If it is no batch of patches, or patches have no row or one that the bank has not.
        """
        image = self._normalised(self._laid(self._read(batch)))
        noise = torch.rand(len(image), self.squares, device=image.device)
        hiding = hide(noise, self.mask_ratio, self.official_compat)
        latent = self.network.encode_shown(image, hiding.kept)
        terms: dict[str, Tensor] = {}
        loss = latent.new_zeros(())
        if self.reconstruction_weight > 0:
            predicted = self.network.decode(latent, hiding.place)
            terms["reconstruction"] = reconstruction_loss(predicted, self._goal(image), hiding.hidden)
            loss = loss + self.reconstruction_weight * terms["reconstruction"]
        if self.bank is not None:
            row = _rows_of(batch, image)
            v = normalize(self.contrasted(latent), dim=1)
            terms["contrast"] = self.bank(v, row)
            loss = loss + self.contrast_weight * terms["contrast"]
            if self.training:
                self._seen = row, v.detach()
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}

    def after_step(self, step: int) -> None:
        """Remember the vectors of the patches that the step was made with.

        Parameters
        ----------
        step : int
            Number of the step.
        """
        if self.bank is not None and self._seen is not None:
            self.bank.update(*self._seen)
        self._seen = None

    def encode(self, batch: Any) -> Embedding:
        """Embed patches, with nothing hidden, cropped or turned.

        Parameters
        ----------
        batch : Patches
            ``image`` (B, H, W, 3); H and W are multiples of `patch_size`, and best near `image_size`, for other sizes
            the positions are interpolated.

        Returns
        -------
        Embedding
            ``node`` (B · N, dim) of the squares, row after row of each patch; ``graph`` (B, dim) of the patches.

        Raises
        ------
        TypeError, ValueError
            If it is no batch of patches, or of a size that does not fit.
        """
        image = self._normalised(self._read(batch))
        if self.official_compat:
            return Embedding(*released_features(self.network, image, self.pooling))
        tokens = self.network(image)
        graph = tokens.mean(1) if self.pooling == "mean" else tokens[:, 0]
        return Embedding(tokens[:, 1:].flatten(0, 1), graph)

    @torch.no_grad()
    def restore(self, batch: Any, hidden: Tensor | None = None) -> Restoration:
        """Predict hidden squares and show them in their places.

        With `normalise_target` the network does not predict the mean and the spread of a square; they are taken from
        the square itself, as is usual for pictures of masked autoencoders.

        Parameters
        ----------
        batch : Patches
            ``image`` (B, H, W, 3) of `image_size`.
        hidden : Tensor, optional
            (B, N) bool, the same number in each patch, and not all; drawn at random with `mask_ratio` if None.

        Returns
        -------
        Restoration
            Pictures.

        Raises
        ------
        TypeError, ValueError
            If it is no batch of patches, or a shape does not fit.
        """
        unit = self._read(batch)
        if unit.shape[2:] != (self.image_size, self.image_size):
            raise ValueError(
                f"image must be {self.image_size} pixels high and wide (image_size), found {tuple(unit.shape[2:])}; "
                "crop or resize the patches"
            )
        if hidden is None:
            noise = torch.rand(len(unit), self.squares, device=unit.device)
            hiding = hide(noise, self.mask_ratio, self.official_compat)
        else:
            hiding = _hiding_of(hidden.to(unit.device), (len(unit), self.squares))
        image, mode = self._normalised(unit), self.network.training
        try:
            self.network.eval()
            predicted = self.network.decode(
                self.network.encode_shown(image, hiding.kept), hiding.place
            ).float()
        finally:
            self.network.train(mode)
        true = patchify(image, self.network.patch_size)
        if self.normalise_target:
            mean, spread = square_scale(true)
            predicted = predicted * spread + mean
        shown = hiding.hidden.unsqueeze(2)
        grey = patchify(torch.full_like(unit, _GREY), self.network.patch_size)
        masked = torch.where(shown, grey, patchify(unit, self.network.patch_size))
        restored = torch.where(shown, predicted, true)
        return Restoration(
            self._picture(self._assembled(masked)),
            self._picture(self._assembled(restored) * self.std + self.mean),
            hiding.hidden,
        )

    def contrasted(self, latent: Tensor) -> Tensor:
        """Give the vectors that are contrasted with the bank.

        Parameters
        ----------
        latent : Tensor
            (B, T, dim) from the encoder, the class token first.

        Returns
        -------
        Tensor
            (B, dim) float32, not yet of length 1.
        """
        mean = self.official_compat or self.pooling == "mean"
        return latent.float().mean(1) if mean else latent[:, 0].float()

    def encoder(self) -> VisionTransformer:
        """Give the encoder by itself, with copies of the weights.

        Returns
        -------
        VisionTransformer
            In evaluation mode, for images (B, 3, H, W) from which `mean` is taken and that are divided by `std`.
        """
        names = "patch_size", "dim", "depth", "heads", "mlp_ratio"
        network = VisionTransformer(
            self.image_size, **{name: self.config[name] for name in names}, positions="sincos"
        )
        weights = self.network.state_dict()
        network.load_state_dict({name: weights[name] for name in network.state_dict()})
        return network.to(self.mean.device).eval()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Split the parameters, and let the optimiser forget gradients sooner, as masked autoencoders are trained.

        Returns
        -------
        list of dict
            Groups for AdamW.
        """
        return [group | {"betas": (0.9, 0.95)} for group in super().parameter_groups()]

    def schedule(self, step: int, total_steps: int, warmup_steps: int) -> dict[str, float]:
        """Let the learning rate of the released form fall to 0; otherwise leave it to the trainer.

        Parameters
        ----------
        step, total_steps, warmup_steps : int
            Steps so far, of the run, and of the rise (released: half of the run).

        Returns
        -------
        dict of str to float
            The factor ``"lr"``, or nothing.
        """
        if not self.official_compat:
            return {}
        return {"lr": released_learning_rate(step, 1.0, warmup_steps, total_steps)}

    @property
    def squares(self) -> int:
        """Number N of squares of a patch of `image_size`."""
        return self.network.grid[0] * self.network.grid[1]

    def _read(self, batch: Any) -> Tensor:
        """Take (B, 3, H, W) colours from 0 to 1 out of a batch."""
        image = read_image(batch, "GCMAE")
        unit = image.float() / 255 if image.dtype == torch.uint8 else image.float()
        return unit.permute(0, 3, 1, 2)

    def _laid(self, unit: Tensor) -> Tensor:
        """Crop, mirror, turn and stain at random while training; bring to `image_size`."""
        size = unit.shape[2:]
        turn = None
        box = torch.tensor([[0, 0, *size]]).expand(len(unit), -1)
        if self.training:
            if self.crop_scale != (1, 1):
                box = random_boxes(len(unit), size[0], size[1], self.crop_scale)
            turn = torch.randint(self.orientations, (len(unit),)).to(unit.device)
        elif size == (self.image_size, self.image_size):
            return unit
        # colours have eight bits, and under autocast products would keep fewer
        with torch.autocast(unit.device.type, enabled=False):
            laid = crop_resize(unit.permute(0, 2, 3, 1), box.to(unit.device), self.image_size, turn)
            return random_stains(laid, self.stain) if self.training and self.stain > 0 else laid

    def _normalised(self, unit: Tensor) -> Tensor:
        return ((unit - self.mean) / self.std).to(self.network.cls_token.dtype)

    def _goal(self, image: Tensor) -> Tensor:
        """Give the colours of the squares, standardised if wanted."""
        squares = patchify(image, self.network.patch_size)
        if not self.normalise_target:
            return squares
        mean, spread = square_scale(squares)
        return (squares - mean) / spread

    def _assembled(self, squares: Tensor) -> Tensor:
        return unpatchify(squares, self.network.grid, self.network.patch_size)

    def _picture(self, unit: Tensor) -> Tensor:
        return (255 * unit).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def _bank_of(config: dict[str, Any]) -> MemoryBank | ReleasedBank:
    """Make the bank, without rows as yet."""
    shared = {
        "momentum": config["bank_momentum"],
        "negatives": config["negatives"],
        "temperature": config["temperature"],
    }
    if config["official_compat"]:
        return ReleasedBank(config["dim"], **shared)
    return MemoryBank(
        config["dim"], storage=config["bank_storage"], contrast=config["contrast"] or "softmax", **shared
    )


def _rows_of(batch: Any, image: Tensor) -> Tensor:
    row = getattr(batch, "row", None)
    if not isinstance(row, Tensor):
        raise ValueError(
            "row is missing: to contrast patches with a bank, GCMAE must know the number of each in the data set; "
            "give pretrain a PatchDataset, give Patches a row, or set contrast_weight=0"
        )
    return row.to(image.device)


def _hiding_of(hidden: Tensor, shape: tuple[int, int]) -> Hiding:
    """Hide the squares that the caller wants."""
    if hidden.shape != shape or hidden.dtype != torch.bool:
        raise ValueError(
            f"hidden must be booleans of shape {shape}, found {hidden.dtype} of {tuple(hidden.shape)}"
        )
    counts = hidden.sum(1)
    if len(counts.unique()) > 1 or int(counts.max()) == shape[1]:
        raise ValueError(
            f"hidden must hide the same number of squares in each patch, and not all; found {counts.tolist()}"
        )
    order = hidden.byte().argsort(dim=1, stable=True)
    return Hiding(order[:, : shape[1] - int(counts[0])], order.argsort(1))


def _check_arguments(config: dict[str, Any]) -> None:
    """Refuse what cannot work, naming the argument; sizes of the network are checked by the network."""
    compat = config["official_compat"]
    weights = config["reconstruction_weight"], config["contrast_weight"]
    bounds = [
        ("mask_ratio", 0 < config["mask_ratio"] < 1, "between 0 and 1, both excluded"),
        ("reconstruction_weight", weights[0] >= 0, "at least 0"),
        ("contrast_weight", weights[1] >= 0, "at least 0"),
        ("contrast_weight", max(weights) > 0, "above 0 where reconstruction_weight is 0"),
        ("contrast", config["contrast"] in (None, *CONTRASTS), f"one of {', '.join(CONTRASTS)}, or None"),
        ("negatives", config["negatives"] is None or config["negatives"] >= 1, "at least 1, or None for all"),
        ("temperature", config["temperature"] > 0, "above 0"),
        ("bank_momentum", 0 <= config["bank_momentum"] < 1, "at least 0 and below 1"),
        ("bank_storage", config["bank_storage"] in STORAGE, f"one of {', '.join(STORAGE)}"),
        ("pooling", config["pooling"] in (None, *POOLINGS), f"one of {', '.join(POOLINGS)}, or None"),
        ("orientations", config["orientations"] in (None, 1, 2, 4, 8), "1, 2, 4, 8 or None"),
        ("stain", 0 <= config["stain"] < 1, "at least 0 and below 1"),
        ("stain", not compat or config["stain"] == 0, "0 with official_compat"),
        ("crop_scale", are_numbers(config["crop_scale"], 2), "two numbers"),
        ("mean", are_numbers(config["mean"], 3), "three numbers"),
        ("std", are_numbers(config["std"], 3) and min(config["std"]) > 0, "three numbers above 0"),
        ("contrast", not compat or config["contrast"] != "softmax", '"nce" with official_compat'),
        ("bank_storage", not compat or config["bank_storage"] == "float32", '"float32" with official_compat'),
        ("negatives", not compat or config["negatives"] is not None, "a number with official_compat"),
    ]
    check_bounds(bounds, config)
    low, high = config["crop_scale"]
    if not 0 < low <= high <= 1:
        raise ValueError(
            f"crop_scale must rise from above 0 to at most 1; found {tuple(config['crop_scale'])}"
        )
    squares = (config["image_size"] // max(config["patch_size"], 1)) ** 2
    shown = shown_of(squares, config["mask_ratio"], compat)
    if squares and not 0 < shown < squares:
        raise ValueError(
            f"mask_ratio must hide and show at least one of the {squares} squares of a patch; found "
            f"{config['mask_ratio']}"
        )

"""Weights of Vision Transformers that others trained, read into ours, and ours written for them.

What a file is, and all sizes, are read from its names and shapes; where in a checkpoint the network lies is found by
its patch embedding, so that any prefixes do (``teacher``, ``module.``, ``backbone.``, ``vit.``). The names are in
:mod:`histograph.methods.vit_layouts`.
"""

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from histograph.nn import VIT_SIZES, VisionTransformer, sincos_positions

from .torch_files import some
from .vit_files import find_network, flat_tensors, part_beside, read_weights
from .vit_layouts import LAYOUTS, OUTSIDE, PARTS, Layout, Naming

# what encoders do without: heads, decoders, the bank of GCMAE, tokens in place of hidden squares
_IGNORED = re.compile(
    r"(head|heads|dino_head|ibot_head|mask_token|embeddings\.mask_token|masked_embed|decoder\w*|lemniscate|pooler|"
    r"classifier)(\.|$)"
)
_SWIGLU = re.compile(r"\.mlp\.(w12|w3|weights_in|weights_out|gate_proj|up_proj|down_proj|fc1_g|fc1_x)\.")
_SETTINGS = ("heads", "image_size", "eps", "interpolation_offset", "antialias", "drop_path")


@dataclass(frozen=True)
class VitFacts:
    """What a file of weights told about its network, and how to use it.

    Attributes
    ----------
    layout : str
        Family of the file, a name in ``histograph.methods.vit_layouts.LAYOUTS``.
    prefix : str
        Where in the file the network was.
    ignored : tuple of str
        Groups of tensors of the file that are not part of the encoder.
    pooling : {"cls", "mean"}
        Which vector of an image the network was trained to give; see `VisionTransformer.pooled`.
    mean, std : tuple of float or None
        Of each channel of pixels from 0 to 1, to normalise images with; None where the file does not tell.

    Examples
    --------
    >>> network, facts = load_vit(vit_state_dict(VisionTransformer(16, 8, 8, 1, 2)), heads=2)
    >>> facts.layout, facts.pooling, facts.mean
    ('vit', 'cls', None)
    """

    layout: str
    prefix: str
    ignored: tuple[str, ...]
    pooling: str
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None


def load_vit(
    source: str | os.PathLike[str] | Mapping[str, Any],
    layout: str | None = None,
    branch: str = "teacher",
    **settings: Any,
) -> tuple[VisionTransformer, VitFacts]:
    """Build a Vision Transformer from weights that others trained.

    Read are the released GCMAE and MAE (the encoder, also fine-tuned), DINO (such as the ViT-S/16 of HIPT), DINOv2 in
    Meta's and Hugging Face's form, with registers or without, timm, and Hugging Face's ViT, ViT-MAE and ViT-MSN.

    Parameters
    ----------
    source : path-like or mapping
        A ``.safetensors`` file, a file of ``torch.save`` (opened without running code from it), a folder of Hugging
        Face with such a file and its ``config.json``, or the content: a state dict, or a checkpoint that holds one.
    layout : str or None
        Family of the file, a name in ``histograph.methods.vit_layouts.LAYOUTS``; None recognises it. To be given where
        a bare encoder could be of several and images will have another size than in training, since the families
        interpolate positions in different ways: ``"dino"`` for an encoder of DINO that was saved alone.
    branch : str
        Which of several networks of a checkpoint: a part of the names, such as ``"student"``.
    **settings
        What the file does not tell: ``heads`` where width is none in `VIT_SIZES` or not of their number of heads,
        ``image_size`` where the grid of positions is not square; or what shall differ: ``eps``,
        ``interpolation_offset``, ``antialias``, ``drop_path``.

    Returns
    -------
    network : VisionTransformer
        In single precision and evaluation mode, on the CPU.
    facts : VitFacts
        Family, what was left out, pooling and normalisation.

    Raises
    ------
    FileNotFoundError
        If there is no such file, or a folder has no weights.
    TypeError
        If a setting is not known.
    ValueError
        If the file cannot be read safely, holds no Vision Transformer or several, or one that differs in more than
        names (gated feed-forward layers, for example).

    Examples
    --------
    >>> ours = VisionTransformer(image_size=16, patch_size=8, dim=8, depth=2, heads=2).eval()
    >>> checkpoint = {"teacher": {f"module.backbone.{k}": v for k, v in ours.state_dict().items()}, "epoch": 100}
    >>> network, facts = load_vit(checkpoint, heads=2)
    >>> facts.layout, facts.prefix
    ('dino', 'teacher.module.backbone.')
    >>> image = torch.rand(1, 3, 16, 16)
    >>> torch.equal(network(image), ours(image))
    True
    """
    if unknown := [name for name in settings if name not in _SETTINGS]:
        raise TypeError(
            f"load_vit has no setting {some(unknown)}; there are {', '.join(_SETTINGS)}, all else is in the weights"
        )
    if layout is not None:
        _check_layout(layout)
    content, config = (source, {}) if isinstance(source, Mapping) else read_weights(Path(source))
    tensors = dict(flat_tensors(content))
    prefix = find_network(tensors, branch)
    inner = {_unchunked(key.removeprefix(prefix)): v for key, v in tensors.items() if key.startswith(prefix)}
    # timm names the model in config.json; many of its models have the names of weights that everybody has
    layout = layout or ("timm" if "architecture" in config else _recognise(inner, list(tensors), prefix))
    family = LAYOUTS[layout]
    pooling = "cls"
    if {"fc_norm.weight", "fc_norm.bias"} <= set(inner) and "norm.weight" not in inner:
        pooling = "mean"  # fine-tuned MAE and timm: the last norm comes after the mean of the squares
        for kind in ("weight", "bias"):
            inner[f"norm.{kind}"] = inner.pop(f"fc_norm.{kind}")
    weights = _renamed(inner, family, layout)
    network = _build(weights, family, config, settings)
    _fill(network, weights)
    groups = {part_beside(key, prefix) for key in tensors if not key.startswith(prefix)}
    groups |= {key.split(".")[0] for key in inner if _IGNORED.match(key)}
    processor = config.get("pretrained_cfg", config)
    mean, std = (
        tuple(processor[name]) if name in processor else known
        for name, known in (("mean", family.mean), ("std", family.std))
    )
    return network.eval(), VitFacts(layout, prefix, tuple(sorted(groups)), pooling, mean, std)


def vit_state_dict(network: VisionTransformer, layout: str = "vit") -> dict[str, Tensor]:
    """Give the weights of a Vision Transformer under the names of another library, without changing a bit.

    Parameters
    ----------
    network : VisionTransformer
        Of any size.
    layout : str
        A name in ``histograph.methods.vit_layouts.LAYOUTS``; families of Hugging Face get the names of their files.

    Returns
    -------
    dict of str to Tensor
        Copies on the CPU, without prefix.

    Raises
    ------
    ValueError
        If the family is not known or cannot hold the network's layer scales or registers.

    Examples
    --------
    >>> network = VisionTransformer(image_size=16, patch_size=8, dim=8, depth=1, heads=2)
    >>> [name for name in vit_state_dict(network, "hf-vit") if name.endswith("key.weight")]
    ['encoder.layer.0.attention.attention.key.weight']
    """
    _check_layout(layout)
    family, state = LAYOUTS[layout], network.state_dict()
    _check_family(family, layout, state, "network")
    if layout == "timm" and network.first > 1:
        if state["pos_embed"][0, 0].any():
            raise ValueError(
                "network: timm gives no position to the class token where there are registers; found one that is not 0"
            )
        state["pos_embed"] = state["pos_embed"][:, 1:]
    found: dict[str, Tensor] = {}
    for ours, theirs in _names(family.namings[0], len(network.blocks)):
        if ours in state:
            found |= zip(theirs, state[ours].detach().cpu().chunk(len(theirs)), strict=True)
    return {name: value.clone() for name, value in found.items()}


def _check_layout(layout: str) -> None:
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}; found {layout!r}")


def _check_family(family: Layout, layout: str, weights: Mapping[str, Tensor], name: str) -> None:
    """Refuse layer scales and registers that a family does not know."""
    scales = "blocks.0.ls1.gamma" in weights
    if family.layer_scale is not None and family.layer_scale != scales:
        raise ValueError(
            f"{name} has {'' if scales else 'no '}layer scales, which files of {layout!r} "
            f"{'always' if family.layer_scale else 'never'} have; choose another layout"
        )
    if "register_tokens" in weights and not family.registers:
        raise ValueError(
            f"{name} has register tokens, which files of {layout!r} never have; choose another layout"
        )


def _unchunked(key: str) -> str:
    """Take out the number of the group in which DINOv2's training puts its blocks."""
    return re.sub(r"^blocks\.\d+\.(?=\d+\.)", "blocks.", key)


def _recognise(inner: Mapping[str, Tensor], everything: list[str], prefix: str) -> str:
    """Tell the family of a file by its names."""

    def has(pattern: str) -> bool:
        return any(re.search(pattern, key) for key in everything)

    if "patch_embed.proj.weight" not in inner:
        return "hf-dinov2" if any("layer_scale1.lambda1" in key for key in inner) else "hf-vit"
    scaled = any(key.endswith("ls1.gamma") for key in inner)
    if "lemniscate.memory" in inner:
        return "gcmae"
    if "decoder_embed.weight" in inner:
        return "mae"
    if (
        has(r"(^|\.)(dino_head|ibot_head)\.")
        or "register_tokens" in inner
        or (scaled and "mask_token" in inner)
    ):
        return "dinov2"
    if "reg_token" in inner or scaled:
        return "timm"
    if {"teacher", "student"} & set(prefix.split(".")) or has(r"(^|\.)head\.(mlp|last_layer)\."):
        return "dino"
    positions = inner.get("pos_embed")
    return "mae" if "fc_norm.weight" in inner or (positions is not None and _fixed(positions)) else "vit"


def _names(naming: Naming, depth: int) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Give each of our names and theirs."""
    for ours in OUTSIDE:
        yield ours, (naming.outside.get(ours, ours),)
    for number in range(depth):
        for part in PARTS:
            for kind in ("gamma",) if part.startswith("ls") else ("weight", "bias"):
                yield f"blocks.{number}.{part}.{kind}", naming.of_block(number, part, kind)


def _renamed(inner: dict[str, Tensor], family: Layout, layout: str) -> dict[str, Tensor]:
    """Give the tensors our names; every one has to be known."""
    if gated := [key for key in inner if _SWIGLU.search(key)]:
        raise ValueError(
            f"source has gated (SwiGLU) feed-forward layers ({some(gated, 2)}), which VisionTransformer does not have; "
            "run this network by the library that made it (transformers, timm)"
        )
    best: tuple[int, dict[str, Tensor], list[str]] = (-1, {}, [])
    for naming in family.namings:
        stack = re.compile(re.escape(naming.stack).replace(r"\{\}", r"(\d+)"))
        depth = 1 + max((int(match[1]) for key in inner if (match := stack.match(key))), default=-1)
        weights: dict[str, Tensor] = {}
        used: set[str] = set()
        for ours, theirs in _names(naming, depth):
            if all(name in inner for name in theirs):
                weights[ours] = (
                    torch.cat([inner[name] for name in theirs]) if theirs[1:] else inner[theirs[0]]
                )
                used |= set(theirs)
        left = [key for key in inner if key not in used and not _IGNORED.match(key)]
        if len(used) > best[0]:
            best = len(used), weights, left
    _, weights, left = best
    needed = {"cls_token", "pos_embed", "norm.weight", "blocks.0.mlp.fc1.weight", "blocks.0.attn.qkv.weight"}
    if left or not needed <= set(weights):
        raise ValueError(
            f"source does not hold the Vision Transformer of {layout!r}: unexpected {some(sorted(left))}; without "
            f"{some(sorted(needed - set(weights)))}; give layout if it is of another family"
        )
    _check_family(family, layout, weights, "source")
    for name in [name for name in weights if name.endswith("attn.qkv.weight")]:
        bias = name.removesuffix("weight") + "bias"
        weights.setdefault(bias, weights[name].new_zeros(len(weights[name])))  # some are trained without
    return weights


def _build(
    weights: dict[str, Tensor], family: Layout, config: dict[str, Any], settings: dict[str, Any]
) -> VisionTransformer:
    """Make a network of the sizes of the weights."""
    dim, channels, patch, across = weights["patch_embed.proj.weight"].shape
    hidden, width = weights["blocks.0.mlp.fc1.weight"].shape
    if patch != across or weights["blocks.0.mlp.fc2.weight"].shape[1] != hidden:
        raise ValueError(
            "source: VisionTransformer has square tokens and plain feed-forward layers; found patches of "
            f"{patch} x {across} pixels and layers of {hidden} and {weights['blocks.0.mlp.fc2.weight'].shape[1]}; run "
            "this network by the library that made it"
        )
    if config.get("hidden_act", "gelu") != "gelu":
        raise ValueError(
            f"source: VisionTransformer has GELU layers, config.json says {config['hidden_act']!r}; run this network "
            "by the library that made it"
        )
    registers = weights["register_tokens"].shape[1] if "register_tokens" in weights else 0
    arguments: dict[str, Any] = {
        "heads": config.get("num_attention_heads") or _heads(dim, settings),
        "image_size": _image_size(weights, patch, settings.get("image_size", config.get("image_size"))),
        "eps": config.get("layer_norm_eps", family.eps),
        "interpolation_offset": 0.0 if registers else family.offset,
        "antialias": family.antialias_registers if registers else family.antialias,
    }
    return VisionTransformer(
        patch_size=patch,
        dim=dim,
        depth=1 + max(int(name.split(".")[1]) for name in weights if name.startswith("blocks.")),
        mlp_ratio=hidden / width,
        channels=channels,
        positions="sincos" if _fixed(weights["pos_embed"]) else "learned",
        layer_scale=1.0 if "blocks.0.ls1.gamma" in weights else None,
        registers=registers,
        **arguments | {name: value for name, value in settings.items() if name != "image_size"},
    )


def _heads(dim: int, settings: dict[str, Any]) -> int:
    known = {width: heads for width, _, heads in VIT_SIZES.values()}
    if "heads" not in settings and dim not in known:
        raise ValueError(
            f"heads must be given: no weight tells their number, and width {dim} is none of {', '.join(VIT_SIZES)}"
        )
    return settings["heads"] if "heads" in settings else known[dim]


def _image_size(weights: dict[str, Tensor], patch: int, given: Any) -> tuple[int, int]:
    """Find the grid of the positions, and give the class token one where it has none (timm)."""
    count = weights["pos_embed"].shape[1]
    for places in (count - 1, count):
        side = math.isqrt(places)
        size = (given, given) if isinstance(given, int) else given or (side * patch, side * patch)
        if (size[0] // patch) * (size[1] // patch) == places:
            if places == count:
                positions = weights["pos_embed"]
                weights["pos_embed"] = torch.cat([torch.zeros_like(positions[:, :1]), positions], dim=1)
            return size[0] // patch * patch, size[1] // patch * patch
    raise ValueError(
        f"image_size must be given as (height, width) and fit the {count - 1} positions of squares of {patch} pixels; "
        f"found {given!r}"
    )


def _fixed(positions: Tensor) -> bool:
    """Tell whether positions are the fixed sines and cosines, which are not trained."""
    dim, side = positions.shape[2], math.isqrt(positions.shape[1] - 1)
    if dim % 4 or side < 1 or side * side != positions.shape[1] - 1:
        return False
    # half precision keeps three digits of numbers up to 1
    tolerance = 1e-6 if positions.dtype in (torch.float32, torch.float64) else 4e-3
    return bool((positions[0].double() - sincos_positions(dim, (side, side))).abs().max() < tolerance)


def _fill(network: VisionTransformer, weights: dict[str, Tensor]) -> None:
    """Copy the weights after checking names and shapes."""
    expected = network.state_dict()
    wrong = [
        f"{name} {tuple(weights[name].shape) if name in weights else 'missing'} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name not in weights or weights[name].shape != value.shape
    ]
    if wrong or set(weights) - set(expected):
        raise ValueError(
            f"source: tensors that do not fit a Vision Transformer of width {network.dim} and {len(network.blocks)} "
            f"blocks: {some(wrong)}; further {some(sorted(set(weights) - set(expected)))}"
        )
    with torch.no_grad():
        for name, value in expected.items():
            value.copy_(weights[name])

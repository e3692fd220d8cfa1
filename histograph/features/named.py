"""Patch encoders by name: ours, those of Hugging Face and timm, files of weights, and any torch module."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from importlib.resources import files
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .encoder import PatchEncoder, put_on

if TYPE_CHECKING:
    import torch

__all__ = ["NAMES", "cached_encoder", "load_encoder"]

#: The weights that ship with the package.
BUNDLED = "histograph-vit"
NAMES = (
    f"{BUNDLED!r}, 'hf:org/name', 'hf:/path/to/folder', 'timm:hf-hub:org/name', the path of a file of weights, "
    "a torch module, or a PatchEncoder"
)


def load_encoder(
    encoder: str | os.PathLike[str] | torch.nn.Module | PatchEncoder,
    mpp: float | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size_px: int | None = None,
    tokens: str | None = None,
    name: str | None = None,
    device: str | torch.device | None = None,
) -> PatchEncoder:
    """Make a patch encoder of a name, a file of weights, or a torch module; its normalisation travels with it.

    Parameters
    ----------
    encoder : str, os.PathLike, torch.nn.Module or PatchEncoder
        - ``"histograph-vit"``: the weights that ship with the package;
        - ``"hf:org/name"``, also ``"hf:org/name@revision"`` or ``"hf:/path/to/folder"``: a model for transformers;
        - ``"timm:hf-hub:org/name"``, ``"timm:local-dir:/path/to/folder"`` or ``"timm:name"``: a model for timm;
        - the path of a file: of `save_encoder`, of a method (``method.safetensors`` of a pre-training), or weights of
          a Vision Transformer that `histograph.methods.load_vit` reads;
        - a method of image patches, such as `histograph.methods.GCMAE`;
        - a module that maps normalised (B, 3, H, W) to (B, D), with attributes ``mean``, ``std``, ``size_px`` and, if
          known, ``mpp``, or these as arguments; a `histograph.nn.VisionTransformer` needs no ``size_px``.
    mpp : float, optional
        Micrometres per pixel that it was trained at, where it does not say, or to say otherwise. An encoder whose
        pixel size is not known reads patches whole, whatever their size.
    mean, std : sequence of 3 float, optional
        Of red, green and blue on the scale 0 to 1, where it does not say, or to say otherwise.
    size_px : int, optional
        Side of its images in pixels, likewise.
    tokens : {"cls", "mean", "cls+mean", "mean+std", "all"}, optional
        Which tokens of a Vision Transformer make the vector, likewise.
    name : str, optional
        Prefix of the feature names.
    device : str or torch.device, optional
        Where to put it. Default: a module stays where it is; what is loaded goes to the GPU, if there is one.

    Returns
    -------
    PatchEncoder
        Ready for `embed_entities`, `histograph.build_graph` and `histograph.add_latents`.

    Raises
    ------
    ValueError
        When the name is not understood, or normalisation or size are known neither here nor to the encoder.
    FileNotFoundError, PermissionError
        When weights are missing, gated or cannot be downloaded; the message says what to do.
    ImportError
        When transformers or timm is needed and not installed.

    Examples
    --------
    >>> import torch
    >>> pool = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    >>> encoder = load_encoder(pool, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), size_px=32, name="colour")
    >>> encoder.mpp is None, encoder.fitted(64.0).mpp
    (True, 2.0)
    """
    given = {"mpp": mpp, "mean": mean, "std": std, "size_px": size_px, "tokens": tokens, "name": name}
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if isinstance(encoder, PatchEncoder):
        _refuse(changes, ("mpp", "mean", "std", "size_px", "name"), "a PatchEncoder")
        made = replace(encoder, **changes)
        loaded = False
    elif isinstance(encoder, (str, os.PathLike)):
        made, loaded = _by_name(str(encoder), changes), True
    else:
        made, loaded = _of_module(encoder, changes), False
    target = device or (_default_device() if loaded else None)
    if target is not None:
        put_on(made.module, target)
    if loaded:  # nobody trains through it
        made.module.eval().requires_grad_(False)
    return made


def cached_encoder(encoder: Any, device: str | None = None, **changes: Any) -> PatchEncoder:
    """Load an encoder, or give one of the last two again when it is asked for by the same name.

    A folder of slides is then embedded without loading the weights for each slide. Changed files are read again.

    Parameters
    ----------
    encoder : object
        As of `load_encoder`.
    device : str, optional
        As of `load_encoder`.
    **changes
        As of `load_encoder`.

    Returns
    -------
    PatchEncoder
        To be used and not to be changed.

    Raises
    ------
    ValueError, OSError, ImportError
        As `load_encoder`.

    Examples
    --------
    >>> import torch
    >>> ready = PatchEncoder(torch.nn.Flatten(), (0, 0, 0), (1, 1, 1), size_px=2, mpp=0.5, name="pixels")
    >>> cached_encoder(ready) is ready
    True
    """
    if isinstance(encoder, PatchEncoder) and not changes and device is None:
        return encoder
    if not isinstance(encoder, (str, os.PathLike)):
        return load_encoder(encoder, device=device, **changes)
    frozen = tuple(
        (key, tuple(value) if key in ("mean", "std") else value) for key, value in sorted(changes.items())
    )
    return _last(str(encoder), None if device is None else str(device), frozen, _stamp(str(encoder)))


@lru_cache(maxsize=2)  # one for patches, one for cells
def _last(name: str, device: str | None, changes: tuple[tuple[str, Any], ...], stamp: Any) -> PatchEncoder:
    return load_encoder(name, device=device, **dict(changes))


def _stamp(name: str) -> tuple[Any, ...]:
    """Give times and sizes of the files behind a name that is a path; nothing for other names."""
    path = _bundled() if name == BUNDLED else Path(name.rsplit(":", 1)[-1]).expanduser()
    found = sorted(path.iterdir()) if path.is_dir() else [path]
    return tuple((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in found if p.is_file())


def _default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _bundled() -> Path:
    return Path(str(files("histograph.bundled").joinpath("vit.safetensors")))


def _refuse(changes: dict[str, Any], valid: Sequence[str], what: str) -> None:
    """Refuse options that have no meaning for a kind of encoder."""
    foreign = sorted(set(changes) - set(valid))
    if foreign:
        raise ValueError(f"{foreign[0]} is no option of {what}; valid are {', '.join(valid)}")


def _by_name(text: str, changes: dict[str, Any]) -> PatchEncoder:
    """Load what a name or a path means."""
    if text == BUNDLED:
        if not _bundled().is_file():
            raise FileNotFoundError(
                f"encoder {BUNDLED!r}: this installation lacks its weights, {_bundled()}; install a release of "
                f"histograph that ships them, or give another encoder: {NAMES}"
            )
        return replace(_of_file(_bundled(), changes), source=BUNDLED)
    if text.startswith("hf:"):
        from .hub import transformers_encoder

        return transformers_encoder(text.removeprefix("hf:"), **changes)
    if text.startswith("timm:"):
        from .hub import timm_encoder

        return timm_encoder(text.removeprefix("timm:"), **changes)
    path = Path(text).expanduser()
    if path.exists():
        return replace(_of_file(path, changes), source=text)
    if path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(f"encoder: there is no file {path}. Give {NAMES}")
    raise ValueError(f"encoder: {text!r} is not known. Give {NAMES}")


def _of_file(path: Path, changes: dict[str, Any]) -> PatchEncoder:
    """Read a file of weights, whichever kind it is."""
    from .encoder_file import FORMAT, read_encoder

    kind = _format(path)
    if kind == FORMAT:
        made = read_encoder(path)
        tokens = changes.get("tokens")
        if tokens is not None:
            from .tokens import TokenVectors

            inner: Any = made.module
            made = replace(made, module=TokenVectors(inner.network, tokens, inner.prefix))
        return replace(made, **{key: value for key, value in changes.items() if key != "tokens"})
    if kind == "histograph.method":
        from histograph.methods import load_method

        return _of_module(load_method(path), {"name": path.stem, **changes})
    from histograph.methods import load_vit

    try:
        network, facts = load_vit(path)
    except (FileNotFoundError, ValueError) as error:
        kind_of_error = FileNotFoundError if isinstance(error, FileNotFoundError) else ValueError
        raise kind_of_error(
            f"encoder {str(path)!r}: {error}. What a file does not tell can be said to histograph.methods.load_vit, "
            f"whose network is an encoder too. Others: {NAMES}"
        ) from error
    known: dict[str, Any] = {"mean": facts.mean, "std": facts.std, "name": path.stem}
    known = {key: value for key, value in known.items() if value is not None}
    if facts.pooling == "mean" and "tokens" not in changes:
        from .tokens import PooledVectors

        told = {"size_px": network.grid[0] * network.patch_size, **known, **changes}
        return _checked(PooledVectors(network), told, f"the file {path}", network.patch_size)
    return _of_module(network, {**known, **changes})


def _format(path: Path) -> str | None:
    """Give the format that a safetensors file names in its metadata; None for any other file or folder."""
    if not path.is_file() or path.suffix != ".safetensors":
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return (file.metadata() or {}).get("format")
    except SafetensorError as error:
        raise ValueError(f"{path} is truncated or not a safetensors file ({error}); copy it again") from error


def _of_module(module: Any, changes: dict[str, Any]) -> PatchEncoder:
    """Wrap a torch module with what it says of itself and what is given."""
    import torch

    from histograph.methods import Method
    from histograph.nn import VisionTransformer

    from .tokens import MethodVectors, TokenVectors

    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"encoder: expected {NAMES}; found {type(module).__name__}")
    kind = type(module).__name__
    told: dict[str, Any] = {"name": kind.lower()}
    for key in ("mean", "std", "size_px", "mpp", "name"):
        value = getattr(module, key, None)
        if value is not None:
            told[key] = value
    if isinstance(module, Method):
        _refuse(changes, ("mpp", "size_px", "name"), f"the method {kind}, which normalises images itself")
        config = module.config
        size = told.get("size_px", config.get("image_size"))
        if size is None:
            raise ValueError(
                f"encoder: the method {kind} embeds graphs; give one of image patches, such as GCMAE"
            )
        told |= {"mean": (0, 0, 0), "std": (1, 1, 1), "size_px": size}
        return _checked(
            MethodVectors(module), {**told, **changes}, f"the method {kind}", config.get("patch_size")
        )
    if isinstance(module, VisionTransformer):
        told |= {"size_px": module.grid[0] * module.patch_size}
        tokens = changes.pop("tokens", "cls")
        vectors = TokenVectors(module, tokens, module.first)
        vectors.train(module.training)
        return _checked(vectors, {**told, **changes}, "the VisionTransformer", module.patch_size)
    _refuse(changes, ("mpp", "mean", "std", "size_px", "name"), f"the module {kind}")
    return _checked(module, {**told, **changes}, f"the module {kind}", None)


def _checked(module: Any, facts: dict[str, Any], what: str, step_px: int | None) -> PatchEncoder:
    """Make the encoder once all is known that must be."""
    missing = [key for key in ("mean", "std", "size_px") if key not in facts]
    if missing:
        raise ValueError(
            f"encoder: {what} does not say {', '.join(missing)}; give load_encoder(…, mean=…, std=…, size_px=…) with "
            "the numbers that it was trained with, or set them as attributes of the module"
        )
    size = facts["size_px"]
    if isinstance(size, Real) and float(size).is_integer():
        size = int(facts["size_px"])
    fitting = step_px if step_px is not None and isinstance(size, int) and size % step_px == 0 else None
    return PatchEncoder(
        module, _three(facts["mean"]), _three(facts["std"]), size, facts.get("mpp"), facts["name"], fitting
    )


def _three(value: Any) -> Sequence[float]:
    """Flatten a mean or std of any shape, also a tensor (1, 3, 1, 1)."""
    flat = getattr(value, "flatten", None)
    return flat().tolist() if flat is not None else value  # checked by PatchEncoder

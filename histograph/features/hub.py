"""Models of Hugging Face as patch encoders, through the transformers or the timm library, which load on use."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .encoder import PatchEncoder
from .recipes import recipe_of

if TYPE_CHECKING:
    import torch

__all__ = ["timm_encoder", "transformers_encoder"]

_OFFLINE = {
    "LocalEntryNotFoundError",
    "OfflineModeIsEnabled",
    "ConnectionError",
    "ConnectError",
    "ConnectTimeout",
}


def transformers_encoder(
    model: str,
    mpp: float | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size_px: int | None = None,
    tokens: str | None = None,
    name: str | None = None,
) -> PatchEncoder:
    """Load an image model of the transformers library; code from the repository is never run.

    Parameters
    ----------
    model : str
        ``org/name`` on Hugging Face, ``org/name@revision``, or the path of a folder with the same files.
    mpp : float, optional
        Micrometres per pixel it was trained at; known for some pathology models, else left open.
    mean, std : sequence of 3 float, optional
        In place of those in the model's ``preprocessor_config.json``.
    size_px : int, optional
        Side of its images, in place of that in the model's files; positions are interpolated.
    tokens : {"cls", "mean", "cls+mean", "mean+std", "all"}, optional
        What the vector is made of; default: the class token where there is one, else the mean.
    name : str, optional
        Prefix of the feature names; default: the last part of `model`, in lower case.

    Returns
    -------
    PatchEncoder
        In evaluation mode and float32, on the CPU.

    Raises
    ------
    ImportError
        When transformers is not installed.
    FileNotFoundError, PermissionError, OSError
        When the files are missing, gated or not reachable; the message says what to do.
    ValueError
        When the files lack weights, or do not say how images are normalised.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            f"encoder 'hf:{model}' needs the transformers package: pip install 'histograph[encoders]'"
        ) from error
    from .tokens import TransformersVectors

    where, revision = _folder_or_repository(model)
    recipe = recipe_of(where)
    with _explained(f"hf:{model}", where):
        config: Any = transformers.AutoConfig.from_pretrained(where, revision=revision)
    if hasattr(config, "vision_config"):
        raise ValueError(
            f"encoder 'hf:{model}' is a model of images and text ({config.model_type}); load it yourself and give "
            "its image part as PatchEncoder(module, mean, std, size_px, mpp, name)"
        )
    with _explained(f"hf:{model}", where):
        prepared = _preprocessing(where, revision)
    mean, std = _normalisation(prepared, mean, std, f"hf:{model}")
    size = size_px or _size(prepared) or getattr(config, "image_size", None)
    if not isinstance(size, int):
        raise ValueError(
            f"encoder 'hf:{model}': its files do not say the side of its images; give load_encoder(…, size_px=224)"
        )
    # a masked autoencoder hides at random; its encoder is a ViT of the same names
    kind: Any = transformers.ViTModel if config.model_type == "vit_mae" else transformers.AutoModel
    with _explained(f"hf:{model}", where):
        network, info = kind.from_pretrained(where, revision=revision, output_loading_info=True)
    _check_complete(network, info, f"hf:{model}")
    # a network that merges squares has depths, one a stage, and no grid of tokens as large as its patches say
    plain = not isinstance(getattr(config, "depths", None), (list, tuple))
    patch = getattr(config, "patch_size", None) if plain else None
    vectors = TransformersVectors(network, patch, tokens or recipe.tokens).eval().float()
    return PatchEncoder(
        vectors, mean, std, size, mpp or recipe.mpp, name or _short(where), source=f"hf:{model}"
    )


def timm_encoder(
    model: str,
    mpp: float | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    size_px: int | None = None,
    tokens: str | None = None,
    name: str | None = None,
) -> PatchEncoder:
    """Load an image model of the timm library with its weights.

    Parameters
    ----------
    model : str
        What ``timm.create_model`` takes: ``hf-hub:org/name``, ``local-dir:/path/to/folder``, or a name of its own.
    mpp : float, optional
        Micrometres per pixel it was trained at; known for some pathology models, else left open.
    mean, std : sequence of 3 float, optional
        In place of those in the model's files.
    size_px : int, optional
        Side of its images, in place of that in the model's files; positions are interpolated.
    tokens : {"cls", "mean", "cls+mean", "mean+std", "all"}, optional
        What the vector is made of; default: as the model's makers say, else as timm pools.
    name : str, optional
        Prefix of the feature names; default: the last part of `model`, in lower case.

    Returns
    -------
    PatchEncoder
        In evaluation mode and float32, on the CPU.

    Raises
    ------
    ImportError
        When timm is not installed.
    FileNotFoundError, PermissionError, OSError
        When the files are missing, gated or not reachable; the message says what to do.
    ValueError
        When timm does not know the model or the weights do not fit.
    """
    try:
        import timm
    except ImportError as error:
        raise ImportError(f"encoder 'timm:{model}' needs the timm package: pip install timm") from error
    from .tokens import TimmVectors

    schema, _, repository = model.rpartition(":")
    if schema == "local-dir" and not Path(repository).is_dir():
        raise FileNotFoundError(f"encoder 'timm:{model}': there is no folder {repository}; check the path")
    recipe = recipe_of(repository.partition("@")[0])
    tokens = tokens or recipe.tokens
    if schema in ("hf-hub", "hf_hub"):
        advice = repository
    elif schema == "local-dir":
        advice = ""
    else:
        advice = f"timm/{repository}"
    with _explained(f"timm:{model}", advice):
        arguments = _layers(recipe.arguments, timm)
        network: Any = timm.create_model(model, pretrained=True, num_classes=0, **arguments)
    told: Mapping[str, Any] = network.pretrained_cfg
    mean, std = mean or told.get("mean"), std or told.get("std")
    if mean is None or std is None:
        raise ValueError(f"encoder 'timm:{model}': its files do not say {_WANTED}")
    made_for = told.get("input_size", (3, 224, 224))[-1]
    if size_px and size_px != made_for and hasattr(network, "set_input_size"):
        # transformers of a fixed size: positions are interpolated once
        with _explained(f"timm:{model}", advice):
            network.set_input_size(img_size=size_px)
    vectors = network if tokens is None else TimmVectors(network, tokens)
    return PatchEncoder(
        vectors.eval().float(),
        mean,
        std,
        size_px or made_for,
        mpp or recipe.mpp,
        name or _short(repository),
        source=f"timm:{model}",
    )


_WANTED = (
    "how images are normalised; give load_encoder(…, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)), or "
    "whatever it was trained with"
)


def _short(where: str) -> str:
    """Give the last part of a path or repository, in lower case."""
    return where.partition("@")[0].replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].lower()


def _folder_or_repository(model: str) -> tuple[str, str | None]:
    """Tell a folder from a repository with or without a revision."""
    folder = Path(model).expanduser()
    if folder.is_dir():
        return str(folder), None
    if model.startswith(("/", ".", "~")) or model.count("/") != 1:
        raise FileNotFoundError(
            f"encoder 'hf:{model}': there is no folder {folder}, and a repository has the form org/name; "
            "check the path"
        )
    repository, _, revision = model.partition("@")
    return repository, revision or None


def _layers(arguments: Mapping[str, Any], timm: Any) -> dict[str, Any]:
    """Put the layers in place of their names."""
    from torch import nn

    found = dict(arguments)
    if "mlp_layer" in found:
        found["mlp_layer"] = getattr(timm.layers, found["mlp_layer"])
    if "act_layer" in found:
        found["act_layer"] = getattr(nn, found["act_layer"])
    return found


def _check_complete(network: torch.nn.Module, info: Mapping[str, Any], what: str) -> None:
    """Refuse a model of which weights are missing, for they would be random; drop a pooler that is not trained."""
    part: Any = network
    missing = sorted(str(key) for key in info["missing_keys"])
    pooler = [key for key in missing if key.startswith("pooler.")]
    if pooler:
        part.pooler = None
    if len(missing) > len(pooler):
        lost = [key for key in missing if key not in pooler]
        raise ValueError(
            f"encoder {what!r}: the files lack {len(lost)} weights of the network, first {lost[0]}; they would be "
            "random. Get the files again, or another model"
        )


def _preprocessing(where: str, revision: str | None) -> dict[str, Any]:
    """Read how images are prepared; empty when the model does not say."""
    folder = Path(where)
    for file in ("preprocessor_config.json", "processor_config.json"):
        if folder.is_dir():
            path = folder / file if (folder / file).is_file() else None
        else:
            path = _downloaded(where, file, revision)
        if path is not None:
            content = json.loads(path.read_text(encoding="utf-8"))
            return content.get("image_processor", content)
    return {}


def _downloaded(repository: str, file: str, revision: str | None) -> Path | None:
    """Fetch one file of a repository; None when there is none."""
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(repository, file, revision=revision))
    except OSError as error:
        if "EntryNotFoundError" in _names(error):  # not in the repository, or offline and not in the cache
            return None
        raise


def _normalisation(
    prepared: Mapping[str, Any], mean: Sequence[float] | None, std: Sequence[float] | None, what: str
) -> tuple[Sequence[float], Sequence[float]]:
    """Give mean and std on the scale 0 to 1, whatever the scale of the model's own."""
    from histograph.methods.vit_files import unit_normalisation

    told = unit_normalisation(prepared)
    mean, std = mean or told.get("mean"), std or told.get("std")
    if mean is None or std is None:
        raise ValueError(f"encoder {what!r}: its files do not say {_WANTED}")
    return mean, std


def _size(prepared: Mapping[str, Any]) -> int | None:
    """Give the side of the images that reach the model."""
    size = prepared.get("crop_size") if prepared.get("do_center_crop") else prepared.get("size")
    if isinstance(size, Mapping):
        if "height" in size and size["height"] != size.get("width"):
            raise ValueError(f"the model reads images that are not square, {dict(size)}; patches are square")
        size = size.get("height", size.get("shortest_edge"))
    return size


def _names(error: BaseException) -> set[str]:
    """Give the names of an error's classes, and of those that led to it."""
    found: set[str] = set()
    at: BaseException | None = error
    while at is not None:
        found |= {kind.__name__ for kind in type(at).__mro__}
        at = at.__cause__ or at.__context__
    return found


@contextmanager
def _explained(what: str, repository: str) -> Iterator[None]:
    """Turn what the libraries raise into one sentence that says what to do."""
    try:
        yield
    except (OSError, ValueError, RuntimeError) as error:
        names = _names(error)
        page = f"https://huggingface.co/{repository}"
        folder = repository.rsplit("/", 1)[-1]
        local = f"hf:/path/to/{folder}" if what.startswith("hf:") else f"timm:local-dir:/path/to/{folder}"
        first = str(error).strip().split("\n", 1)[0].rstrip(".")
        if "GatedRepoError" in names:
            raise PermissionError(
                f"encoder {what!r}: its weights are gated. Ask for access at {page}, then run `hf auth login` or set "
                "HF_TOKEN, and try again"
            ) from error
        if "RepositoryNotFoundError" in names:
            raise FileNotFoundError(
                f"encoder {what!r}: there is no model at {page}, or it is private. Check the spelling, or run "
                "`hf auth login`"
            ) from error
        if names & _OFFLINE:
            raise FileNotFoundError(
                f"encoder {what!r}: its files are not on this machine and cannot be downloaded (no connection, or "
                f"HF_HUB_OFFLINE is set). Where there is a connection, run `hf download {repository} --local-dir "
                f"{folder}`, copy the folder here, and give encoder={local!r}"
            ) from error
        hint = ""
        if what.startswith("hf:"):
            schema = "local-dir" if Path(repository).is_dir() else "hf-hub"
            hint = f". If it is a model for timm, give 'timm:{schema}:{repository}'; else load it yourself and give it"
        kind = ValueError if not isinstance(error, OSError) else OSError
        raise kind(f"encoder {what!r} cannot be loaded: {first}{hint}") from error

"""StarDist models on disk: folders and zips of the stardist package, read without TensorFlow, and our own files."""

from __future__ import annotations

import hashlib
import http.client
import io
import json
import os
import re
import urllib.request
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from ..atomic import atomic_path
from ..nn.stardist_config import StarDistConfig
from ..nn.stardist_net import StarDistNet
from .stardist_views import VIEWS

SHIPPED = Path(__file__).parent.parent / "bundled" / "stardist_he.safetensors"

# Released models of the stardist project and the SHA-256 of their files.
_RELEASES = "https://github.com/stardist/stardist-models/releases/download/v0.1/python_{}.zip"
PRETRAINED = {
    "2D_versatile_fluo": "4ad678d0758eed6e55625f1b5ae30771e59adb79f1239e09b9772eac8846c3dd",
    "2D_versatile_he": "f1696ef0631bd7e1c0e5c0d3017e2b4c6a95e284c6aab9c22fc2f08317817b28",
    "2D_paper_dsb2018": "4c11cf68512341d9e8ce3d1278c64ceb8ac400582739f85fcab079a2e82840d2",
    "2D_demo": "a1efaebd7103db6236655bf158b6e21cf5b38d58ec77a509802244a89a260fa4",
}
# Their other names in the stardist package.
ALIASES = {
    "Versatile (fluorescent nuclei)": "2D_versatile_fluo",
    "Versatile (H&E nuclei)": "2D_versatile_he",
    "DSB 2018 (from StarDist 2D paper)": "2D_paper_dsb2018",
}
# The best weights before the last ones, then whatever else there is.
_WEIGHTS = ("weights_best.h5", "weights_best.weights.h5", "weights_last.h5", "weights_last.weights.h5")
_HEADER, _VERSION = "stardist", 1
_DEFAULT_THRESHOLDS = {"prob": 0.5, "nms": 0.4}  # of the stardist package, where thresholds.json is missing


@dataclass(frozen=True, eq=False)
class StarDistModel:
    """A StarDist network with all that is needed to use it.

    Parameters
    ----------
    network : StarDistNet
        The network, in evaluation mode.
    prob_thresh, nms_thresh : float
        Probability above which a place is a candidate, and overlap above which the less probable one is dropped.
    name : str
        For provenance.
    mpp : float, optional
        Pixel size in µm of the images it was trained on, where the file says so.
    percentiles : (float, float) or None
        Which percentiles of an image become 0 and 1; None: values are divided by 255.
    card : dict
        Model card: data, licence, scores.
    classes : tuple of str
        Names of the kinds of nuclei; default: their numbers from 1.
    source : Path, optional
        Folder or zip of the stardist package that it came from.
    views : {1, 2, 4}
        Over how many mirror images of an image its outputs are averaged, see `averaged_views`. More is better and
        takes as many times as long; ``dataclasses.replace(model, views=1)`` is the same model, fast.

    Raises
    ------
    ValueError
        If a number is out of range, or the classes do not fit the network.

    Examples
    --------
    >>> net = StarDistNet(StarDistConfig(n_depth=0, n_filter_base=2, features=0))
    >>> StarDistModel(net, 0.5, 0.4, "untrained").percentiles
    (1.0, 99.8)
    """

    network: StarDistNet
    prob_thresh: float
    nms_thresh: float
    name: str
    mpp: float | None = None
    percentiles: tuple[float, float] | None = (1.0, 99.8)
    card: dict[str, Any] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    source: Path | None = None
    views: int = 1

    def __post_init__(self) -> None:
        for name, low in (("prob_thresh", 0.0), ("nms_thresh", 0.0)):
            value = getattr(self, name)
            if not low <= value <= 1:
                raise ValueError(f"{name}: expected a number from 0 to 1, found {value!r}")
        if self.mpp is not None and not (np.isfinite(self.mpp) and self.mpp > 0):
            raise ValueError(f"mpp: expected a positive number of µm per pixel, found {self.mpp!r}")
        if self.percentiles is not None and not 0 <= self.percentiles[0] < self.percentiles[1] <= 100:
            raise ValueError(
                f"percentiles: expected two rising numbers from 0 to 100, found {self.percentiles!r}"
            )

        if self.views not in VIEWS or (self.views > 1 and self.config.n_rays % 2):
            raise ValueError(
                f"views: expected 1, 2 or 4, and 1 for an odd number of rays, found {self.views!r} with "
                f"{self.config.n_rays} rays"
            )
        if self.classes and len(self.classes) != (self.config.n_classes or 0):
            raise ValueError(
                f"classes: expected {self.config.n_classes or 0} names, found {len(self.classes)}"
            )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the kinds of nuclei that the network tells apart, or their numbers."""
        return self.classes or tuple(str(number + 1) for number in range(self.config.n_classes or 0))

    @property
    def config(self) -> StarDistConfig:
        """Shape of the network."""
        return self.network.config


def load_stardist(model: str | os.PathLike[str] | StarDistModel | None = None) -> StarDistModel:
    """Load a StarDist model: a folder or zip of the stardist package, a file of ours, or a released one by its name.

    A folder or zip holds ``config.json``, ``weights_best.h5`` (or ``weights_last.h5``) and, perhaps,
    ``thresholds.json``; the weights are read with h5py, TensorFlow is not needed. Released models are those of
    `PRETRAINED`, also by their names in `ALIASES`; they are looked for where the stardist package keeps them and
    downloaded if they are not there.

    Parameters
    ----------
    model : path, str or StarDistModel, optional
        The model; None: the weights that come with this package.

    Returns
    -------
    StarDistModel

    Raises
    ------
    FileNotFoundError
        If there is no such model, or it cannot be downloaded; the message says which file to put where.
    ValueError
        If a file is broken, or its weights do not fit its config.
    ImportError
        If h5py is needed and not installed.

    Examples
    --------
    >>> load_stardist("2D_versatile_hee")
    Traceback (most recent call last):
    ...
    FileNotFoundError: model '2D_versatile_hee': no such file or folder, and not one of the released models ...
    """
    if isinstance(model, StarDistModel):
        return model
    path = SHIPPED if model is None else Path(model).expanduser()
    if model is None and not path.exists():
        raise FileNotFoundError(
            f"model: this copy of histograph has no weights at {path}; give model= a StarDist folder or zip, a "
            "file of save_stardist, or the name of a released model such as '2D_versatile_he'"
        )
    if not path.exists():
        path = _released(str(model))
    if path.is_file() and path.suffix == ".safetensors":
        return _read_safetensors(path)
    return _read_package(path)


def save_stardist(model: StarDistModel, path: str | os.PathLike[str]) -> None:
    """Write a model to one safetensors file, with config, thresholds and model card in the header.

    Parameters
    ----------
    model : StarDistModel
        The model.
    path : path
        Ends in ``.safetensors``.

    Raises
    ------
    ValueError
        If the path ends otherwise.

    Examples
    --------
    >>> import tempfile
    >>> net = StarDistNet(StarDistConfig(n_depth=0, n_filter_base=2, features=0)).eval()
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     file = Path(folder) / "model.safetensors"
    ...     save_stardist(StarDistModel(net, 0.5, 0.4, "untrained", mpp=0.5), file)
    ...     load_stardist(file).mpp
    0.5
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path: expected a name that ends in .safetensors, found {path.name!r}")
    facts = {
        "version": _VERSION,
        "config": model.config.to_dict(),
        "thresholds": {"prob": model.prob_thresh, "nms": model.nms_thresh},
        "name": model.name,
        "mpp": model.mpp,
        "percentiles": model.percentiles,
        "card": model.card,
        "classes": list(model.classes),
        "views": model.views,
    }
    tensors = {key: value.contiguous() for key, value in model.network.state_dict().items()}
    with atomic_path(path) as part:
        save_file(tensors, part, metadata={_HEADER: json.dumps(facts)})


def _read_safetensors(path: Path) -> StarDistModel:
    try:
        with safe_open(path, "pt") as file:
            header = (file.metadata() or {}).get(_HEADER)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise ValueError(f"{path}: not a readable safetensors file ({error}); copy it again") from error
    if header is None:
        raise ValueError(f"{path}: its header says nothing of StarDist; write it with save_stardist")
    try:
        return _from_header(json.loads(header), tensors, path)
    except (KeyError, TypeError, IndexError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(
            f"{path}: its header is not what save_stardist writes ({type(error).__name__}: {error}); write it again"
        ) from error


def _from_header(facts: dict[str, Any], tensors: dict[str, torch.Tensor], path: Path) -> StarDistModel:
    """Put together what a file of ours holds."""
    if facts["version"] != _VERSION:
        raise ValueError(
            f"{path}: its header is of version {facts['version']!r}, expected {_VERSION}; use a newer histograph"
        )
    network = StarDistNet(StarDistConfig.from_dict(facts["config"]))
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    found = {key: tuple(value.shape) for key, value in tensors.items()}
    if expected != found:
        differ = sorted(key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key))
        raise ValueError(f"{path}: weights do not fit the config in its header, first {differ[0]!r}")
    broken = sorted(key for key, value in tensors.items() if not value.isfinite().all())
    if broken:
        raise ValueError(f"{path}: weights {broken[0]!r} are not finite; the training went wrong")
    network.load_state_dict(tensors)
    thresholds, percentiles = facts["thresholds"], facts["percentiles"]
    return StarDistModel(
        network.eval(),
        thresholds["prob"],
        thresholds["nms"],
        facts["name"],
        facts["mpp"],
        None if percentiles is None else (percentiles[0], percentiles[1]),
        facts["card"],
        tuple(facts["classes"]),
        views=facts.get("views", 1),
    )


def _read_package(path: Path) -> StarDistModel:
    """Read a folder or zip of the stardist package."""
    files, weights = package_files(path)
    config = _json(files, "config.json", path)
    thresholds = _DEFAULT_THRESHOLDS | (
        _json(files, "thresholds.json", path) if "thresholds.json" in files else {}
    )
    for key in _DEFAULT_THRESHOLDS:
        if type(thresholds[key]) not in (int, float) or not 0 <= thresholds[key] <= 1:
            raise ValueError(
                f"{path}: thresholds.json: {key}: expected a number from 0 to 1, found {thresholds[key]!r}"
            )
    try:
        network = StarDistNet(StarDistConfig.from_dict(config))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: config.json: {error}") from error
    _fill(network, _read_h5(files[weights], f"{path}: {weights}"), f"{path}: {weights}")
    name = path.absolute().name if path.is_dir() else path.stem
    return StarDistModel(
        network.eval(), float(thresholds["prob"]), float(thresholds["nms"]), name, source=path
    )


def package_files(path: Path) -> tuple[dict[str, bytes], str]:
    """Return the files of a StarDist folder or zip that are used, and which of them holds the weights.

    Parameters
    ----------
    path : Path
        The folder or zip.

    Returns
    -------
    dict of str to bytes
        Contents of ``config.json``, the weights and, if it is there, ``thresholds.json``, by name.
    str
        Name of the weights.

    Raises
    ------
    FileNotFoundError
        If there is no config or no weights.
    ValueError
        If it is neither a folder nor a zip.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("config.json", "weights_last.h5", "weights_best.h5"):
    ...         _ = (Path(folder) / name).write_bytes(b"...")
    ...     files, weights = package_files(Path(folder))
    >>> sorted(files), weights
    (['config.json', 'weights_best.h5'], 'weights_best.h5')
    """
    files = _files(path)
    if "config.json" not in files:
        raise FileNotFoundError(
            f"{path}: no config.json in it; expected a StarDist model: config.json, weights_best.h5, thresholds.json"
        )
    weights = [name for name in _WEIGHTS if name in files]
    weights += sorted(name for name in files if name.endswith((".h5", ".hdf5")) and name not in _WEIGHTS)
    if not weights:
        raise FileNotFoundError(
            f"{path}: no weights in it; expected weights_best.h5 or weights_last.h5 beside config.json"
        )
    used = ("config.json", "thresholds.json", weights[0])
    return {name: content for name, content in files.items() if name in used}, weights[0]


def _files(path: Path) -> dict[str, bytes]:
    """Return the files of a model by name: those of a folder, or of the folder in a zip that has the config."""
    if path.is_dir():
        wanted = [item for item in path.iterdir() if item.suffix in (".json", ".h5", ".hdf5")]
        return {item.name: item.read_bytes() for item in wanted}
    if not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path}: expected a StarDist folder, a zip of one or a .safetensors file, found none of them"
        )
    try:
        return _unzipped(path)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged ({error}); copy it again") from error


def _unzipped(path: Path) -> dict[str, bytes]:
    """Return the files of the one model in a zip."""
    with zipfile.ZipFile(path) as packed:
        names = [n for n in packed.namelist() if not n.startswith("__MACOSX")]
        folders = sorted(
            (n[: -len("config.json")] for n in names if n.endswith("config.json")), key=lambda n: n.count("/")
        )
        if not folders:
            return {}
        beside = [n for n in folders if n.count("/") == folders[0].count("/")]
        if len(beside) > 1:
            raise ValueError(
                f"{path}: expected one model, found {', '.join(beside)}; unpack it and choose one"
            )
        inside = [n for n in names if n.startswith(folders[0]) and "/" not in n[len(folders[0]) :]]
        return {n[len(folders[0]) :]: packed.read(n) for n in inside if not n.endswith("/")}


def _json(files: Mapping[str, bytes], name: str, path: Path) -> dict[str, Any]:
    try:
        found = json.loads(files[name])
    except ValueError as error:
        raise ValueError(f"{path}: {name} is not JSON ({error})") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path}: {name}: expected an object, found {type(found).__name__}")
    return found


def _read_h5(content: bytes, where: str) -> dict[str, dict[str, NDArray]]:
    """Return the arrays of each layer, by its name in the file."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "StarDist folders need the h5py package: pip install 'histograph[interop]'"
        ) from error
    layers: dict[str, dict[str, NDArray]] = {}

    def keep(name: str, item: Any) -> None:
        parts = name.split("/")
        if not isinstance(item, h5py.Dataset) or parts[0] in ("optimizer", "optimizer_weights"):
            return
        # Keras 3: layers/<kind>_<number>/vars/<number>; Keras 2: <layer>/<layer>/kernel:0
        layer = parts[-3] if len(parts) > 2 and parts[-2] == "vars" else parts[-2] if len(parts) > 1 else ""
        layers.setdefault(layer, {})[parts[-1].removesuffix(":0")] = np.asarray(item)

    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            file.visititems(keep)
    except OSError as error:
        raise ValueError(f"{where}: not a readable HDF5 file ({error}); copy it again") from error
    return layers


def _fill(network: StarDistNet, layers: dict[str, dict[str, NDArray]], where: str) -> None:
    """Copy the arrays of a Keras file into the network."""
    unnamed = iter(numbered(layers, "conv2d"))
    norms = iter(numbered(layers, "batch_normalization"))
    with torch.no_grad():
        for name, conv, norm in network.keras_layers():
            # Keras 3's own format names no layer: there all convolutions are numbered
            layer = name if name in layers else next(unnamed, None)
            wanted = {"kernel": conv.weight, "bias": conv.bias}
            _copy(layers.get(layer or "", {}), wanted, layer or name or "conv2d", where)
            if norm is not None:
                layer = next(norms, None)
                wanted = {
                    "gamma": norm.weight,
                    "beta": norm.bias,
                    "moving_mean": norm.running_mean,
                    "moving_variance": norm.running_var,
                }
                _copy(layers.get(layer or "", {}), wanted, layer or "batch_normalization", where)
    left = [*unnamed, *norms]
    if left:
        raise ValueError(f"{where}: holds {left[0]!r}, which a network of its config.json does not have")


def numbered(layers: Iterable[str], kind: str) -> list[str]:
    """Return the layers that Keras named by kind and number, in the order of their numbers.

    Parameters
    ----------
    layers : iterable of str
        Names of layers.
    kind : str
        For example ``"conv2d"``.

    Returns
    -------
    list of str

    Examples
    --------
    >>> numbered(["conv2d_10", "conv2d_9", "conv2d", "prob"], "conv2d")
    ['conv2d', 'conv2d_9', 'conv2d_10']
    """
    found = [(re.fullmatch(rf"{kind}(?:_(\d+))?", name), name) for name in layers]
    return [name for _, name in sorted((int(match[1] or 0), name) for match, name in found if match)]


def _copy(arrays: dict[str, NDArray], wanted: Mapping[str, Any], layer: str, where: str) -> None:
    """Copy the arrays of one layer; a kernel's axes go from Keras's order to PyTorch's."""
    for number, (name, target) in enumerate(wanted.items()):
        array = arrays.get(name, arrays.get(str(number)))
        if array is None:
            raise ValueError(f"{where}: no {name} of layer {layer!r}, which its config.json asks for")
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise ValueError(
                f"{where}: {name} of layer {layer!r}: expected finite floats; the file is damaged"
            )
        if name == "kernel" and array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)
        if array.shape != tuple(target.shape):
            raise ValueError(
                f"{where}: {name} of layer {layer!r}: expected shape {tuple(target.shape)} by config.json, "
                f"found {array.shape}"
            )
        target.copy_(torch.from_numpy(np.ascontiguousarray(array, np.float32)))


def _released(name: str) -> Path:
    """Find a released model where the stardist package keeps it, or fetch it there."""
    name = ALIASES.get(name, name)
    if name not in PRETRAINED:
        raise FileNotFoundError(
            f"model {name!r}: no such file or folder, and not one of the released models {', '.join(PRETRAINED)}"
        )
    home = Path(os.environ.get("KERAS_HOME") or Path.home() / ".keras") / "models" / "StarDist2D" / name
    for folder in (home / name, home / f"{name}_extracted", home):
        if (folder / "config.json").is_file():
            return folder
    packed = home / f"{name}.zip"
    if not packed.is_file():
        _fetch(name, packed)
    return packed


def _fetch(name: str, packed: Path) -> None:
    url = _RELEASES.format(name)
    advice = f"download {url} elsewhere and put it at {packed}, or give model= the path of a StarDist folder"
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:
            content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise FileNotFoundError(
            f"model {name!r}: not at {packed}, and not to be downloaded ({error}); {advice}"
        ) from error
    found = hashlib.sha256(content).hexdigest()
    if found != PRETRAINED[name]:
        raise FileNotFoundError(
            f"model {name!r}: what {url} gave is not the released file (SHA-256 {found}); {advice}"
        )
    packed.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(packed) as part:
        part.write_bytes(content)

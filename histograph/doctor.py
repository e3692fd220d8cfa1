"""`histograph doctor`: which parts of the package are usable here, and the line that installs the rest."""

import importlib
import importlib.metadata
import importlib.util
import platform
import sys
from dataclasses import dataclass

from packaging.requirements import Requirement


@dataclass(frozen=True)
class Part:
    """One part of the package: what it is for, the modules it needs and the extra that brings them."""

    name: str
    purpose: str
    modules: tuple[str, ...]
    extra: str | None = None


@dataclass(frozen=True)
class Finding:
    """What `check` found out about a part: usable or not, versions or the reason, the line that mends it."""

    part: Part
    usable: bool
    detail: str
    remedy: str


PARTS = (
    Part("slides", "read whole-slide images", ("openslide", "tifffile", "imagecodecs", "PIL")),
    Part("entities, features", "nuclei, superpixels and their features", ("numba", "scipy", "skimage")),
    Part(
        "graphs",
        "build, store and convert graphs",
        ("torch", "torch_geometric", "safetensors", "networkx", "pyarrow"),
    ),
    Part("training", "pre-train a method", ("torch", "lightning_fabric")),
    Part("evaluation", "probes and intervals", ("sklearn", "pandas")),
    Part("plotting", "figures", ("matplotlib",)),
    Part(
        "stardist",
        "nuclei by the stardist package itself, segment='stardist'",
        ("stardist", "tensorflow"),
        "stardist",
    ),
    Part(
        "nuclei",
        "files of StarDist models, and train_nuclei; without TensorFlow",
        ("h5py", "stardist"),
        "nuclei",
    ),
    Part(
        "openvino", "nuclei by StarDist in OpenVINO, segment='stardist-openvino'", ("openvino",), "openvino"
    ),
    Part("notebook", "the notebooks", ("ipykernel", "jupyterlab"), "notebook"),
    Part("interop", "AnnData and SpatialData, in and out", ("anndata", "spatialdata"), "interop"),
    Part("patch features", "HDF5 files of CLAM, TRIDENT and STAMP", ("h5py",), "interop"),
    Part("cluster", "build_many on a Dask cluster", ("distributed",), "cluster"),
    Part(
        "encoders", "models of Hugging Face and timm as patch encoders", ("transformers", "timm"), "encoders"
    ),
    Part("tensorboard", "pretrain(..., tensorboard=True)", ("tensorboard",), "tensorboard"),
    Part("test", "the tests", ("pytest", "hypothesis", "nbclient", "ruff", "mypy"), "test"),
)

_DISTRIBUTION = {
    "PIL": "pillow",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "openslide": "openslide-python",
}


def check(parts: tuple[Part, ...] = PARTS) -> list[Finding]:
    """Try every part and return one finding each, in order.

    Parameters
    ----------
    parts
        The parts to try; by default all of the package.

    Returns
    -------
    list of Finding

    Examples
    --------
    >>> from histograph.doctor import Part, check
    >>> parts = Part("json", "an example", ("json",)), Part("none", "missing", ("no_such_module",), "x")
    >>> [finding.usable for finding in check(parts)]
    [True, False]
    """
    return [_check_part(part) for part in parts]


def _check_part(part: Part) -> Finding:
    remedy = _remedy(part)
    missing = [module for module in part.modules if importlib.util.find_spec(module) is None]
    if missing:
        return Finding(part, False, "not installed: " + ", ".join(missing), remedy)
    versions = []
    for module in part.modules:
        try:
            importlib.import_module(module)
        except (
            ImportError,
            OSError,
            RuntimeError,
            AttributeError,
        ) as error:  # how broken binary wheels show themselves
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            return Finding(part, False, f"{module} is installed and does not import: {reason}", remedy)
        versions.append(f"{module} {_version(module)}".strip())
    return Finding(part, True, ", ".join(versions), remedy)


def _remedy(part: Part) -> str:
    """Write the line that installs what a part needs, with the version bounds of the package's own metadata."""
    wanted = [Requirement(line) for line in importlib.metadata.requires("histograph") or []]
    if part.extra:
        ours = {"extra": part.extra}
        chosen = [r for r in wanted if "extra" in str(r.marker) and r.marker and r.marker.evaluate(ours)]
        return "pip install " + " ".join(f"'{r.name}{r.specifier}'" for r in chosen)
    return "pip install --force-reinstall " + " ".join(_distribution(module) for module in part.modules)


def _distribution(module: str) -> str:
    return _DISTRIBUTION.get(module, module.replace("_", "-"))


def _version(module: str) -> str:
    try:
        return importlib.metadata.version(_distribution(module))
    except importlib.metadata.PackageNotFoundError:
        return ""


def device_line() -> str:
    """Say in one line what torch would compute on.

    Examples
    --------
    >>> from histograph.doctor import device_line
    >>> "torch" in device_line() or "CPU" in device_line()
    True
    """
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed: no training on this machine"
    import torch

    if torch.cuda.is_available():
        return f"GPU: {torch.cuda.get_device_name(0)} (CUDA {torch.version.cuda})"
    if torch.backends.mps.is_available():
        return "GPU: Apple Metal (mps)"
    return f"no GPU seen by torch {torch.__version__}: all runs on the CPU, {torch.get_num_threads()} threads"


def report() -> tuple[str, bool]:
    """Write the whole report as text.

    Returns
    -------
    text : str
        One line a part; under a part that is not usable, the line that would install it.
    sound : bool
        Whether every part of the core works (extras may be missing).

    Examples
    --------
    >>> from histograph.doctor import report
    >>> text, sound = report()
    >>> text.splitlines()[0].startswith("histograph")
    True
    """
    findings = check()
    lines = [
        f"histograph {_version('histograph')}, Python {platform.python_version()} on {platform.platform()}",
        f"  {sys.executable}",
        f"  {device_line()}",
        "",
    ]
    for finding in findings:
        mark = "ok     " if finding.usable else ("missing" if finding.part.extra else "BROKEN ")
        lines.append(f"{mark} {finding.part.name}: {finding.part.purpose}")
        lines.append(f"        {finding.detail}")
        if not finding.usable:
            lines.append(f"        to get it: {finding.remedy}")
    sound = all(finding.usable for finding in findings if finding.part.extra is None)
    return "\n".join(lines), sound

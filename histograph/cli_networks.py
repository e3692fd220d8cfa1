"""What the command line pre-trains: the methods by name, the data that each reads, and networks of a size."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer


@dataclass(frozen=True)
class Usual:
    """What a method takes when nothing is said.

    Attributes
    ----------
    node_type : str
        Entities.
    window_um : float
        Side of windows in µm; 0 for whole slides.
    options : tuple of str
        Options of the command that only some methods know, and this one does.

    Examples
    --------
    >>> USUAL["pama"].node_type
    'patch'
    """

    node_type: str
    window_um: float
    options: tuple[str, ...]


USUAL = {
    "hmgdm": Usual("tissue", 256.0, ("window_um", "mask_ratio", "representation")),
    "pama": Usual("patch", 0.0, ("window_um", "mask_ratio", "patches_per_anchor")),
    "slpd": Usual("patch", 0.0, ("grid", "prototypes", "min_regions", "start_epoch")),
}


def usual_of(method: str) -> Usual:
    """Find what the method of this name, or of this class, usually takes.

    Parameters
    ----------
    method : str
        A name in `USUAL`, or the name of a class of `histograph.methods`.

    Returns
    -------
    Usual
        That of "hmgdm" on whole slides for a class that has none.

    Examples
    --------
    >>> usual_of("GraphSLPD").options[0]
    'grid'
    """
    name = method.lower().removeprefix("graph")
    return USUAL.get(name, Usual("tissue", 0.0, ("window_um",)))


def check_options(method: str, given: dict[str, Any]) -> dict[str, Any]:
    """Refuse a method that there is not and options that it does not know, and give those that are set.

    Parameters
    ----------
    method : str
        Name in `USUAL`.
    given : dict
        Arguments of the command by name; None where an option is not set. What is no option of any method is left out.

    Returns
    -------
    dict
        Those that are set.

    Raises
    ------
    typer.BadParameter
        If there is no such method, or it has no such option.

    Examples
    --------
    >>> check_options("pama", {"mask_ratio": 0.5, "grid": None, "seed": 3})
    {'mask_ratio': 0.5}
    """
    if method not in USUAL:
        raise typer.BadParameter(f"must be one of {', '.join(USUAL)}; found {method}", param_hint="--method")
    known = {name for usual in USUAL.values() for name in usual.options}
    chosen = {name: value for name, value in given.items() if name in known and value is not None}
    for name in chosen:
        if name not in USUAL[method].options:
            raise typer.BadParameter(
                f"is not an option of {method}", param_hint="--" + name.replace("_", "-")
            )
    return chosen


def regions_of(paths: list[Path], node_type: str, grid: int, min_nodes: int) -> Any:
    """Open graph files with regions, or one folder of them.

    Parameters
    ----------
    paths : list of Path
        Files, or one folder.
    node_type : str
        What the nodes of a region are.
    grid : int
        Patches along a side of a region.
    min_nodes : int
        Leave out regions with fewer nodes.

    Returns
    -------
    RegionDataset
        At least one region.

    Raises
    ------
    ValueError
        If there is none.
    """
    from histograph.graphs import RegionDataset

    source: Any = paths[0] if len(paths) == 1 and paths[0].is_dir() else paths
    data = RegionDataset(
        source, node_type=node_type, grid=grid, min_nodes=min_nodes, edges=node_type != "patch"
    )
    if len(data) == 0:
        raise ValueError(f"no region has at least {min_nodes} nodes of type {node_type}: lower --min-nodes")
    say_left_out(data.left_out, f"with too few nodes of type {node_type}")
    return data


def say_left_out(lost: list[str], why: str) -> None:
    """Say on stderr which slides have no part in what a command does.

    Parameters
    ----------
    lost : list of str
        The slides; nothing is said of none.
    why : str
        What comes after "slides".
    """
    if lost:
        shown = ", ".join(lost[:3]) + ", …" * (len(lost) > 3)
        print(f"left out: {len(lost)} slides {why}: {shown}", file=sys.stderr)


def network_of(method: str, data: Any, hidden_dim: int, epochs: int, options: dict[str, Any]) -> Any:
    """Make a method of a size for data.

    Parameters
    ----------
    method : str
        Name in `USUAL`.
    data : GraphDataset or RegionDataset
        What it will read.
    hidden_dim : int
        Width of the network and of its vectors.
    epochs : int
        Passes over the data.
    options : dict
        Of the method, as set.

    Returns
    -------
    Method
        Untrained.
    """
    from histograph.methods import HMGDM, PAMA

    if method == "slpd":
        return _slpd(data, hidden_dim, epochs, options)
    if method == "hmgdm":
        share = options.get("mask_ratio", 0.6)
        return HMGDM(
            data.node_dim,
            data.edge_dim,
            hidden_dim=hidden_dim,
            representation=options.get("representation", "latent"),
            node_mask_ratio=share,
            edge_mask_ratio=share,
        )
    sizes = {"hidden_dim": hidden_dim, "decoder_dim": max(hidden_dim // 2, 8)}
    return PAMA(data.node_dim, **{**sizes, **options})  # type: ignore[arg-type]  # the method checks them


def _slpd(data: Any, dim: int, epochs: int, options: dict[str, Any]) -> Any:
    """Make SLPD for regions of patches, or GraphSLPD for those of other entities."""
    from histograph.methods import SLPD, GraphSLPD

    grid = options.get("grid", 16)
    shared = {name: value for name, value in options.items() if name != "grid"}
    # prototypes from a fifth of the run on, as published: 21 of 100 epochs
    shared = {"start_epoch": epochs // 5, **shared}
    if "place" not in data[0]:
        return GraphSLPD(data.feature_dim, dim, **shared)
    return SLPD(
        data.feature_dim,
        dim,
        heads=max(1, dim // 32),
        region_size=grid,
        # views of the published shares of a region, 14 and 6 of 16
        global_size=max(1, round(grid * 14 / 16)),
        local_size=max(1, round(grid * 6 / 16)),
        # a head for data sets of thousands of regions; the published one has 24 million weights
        out_dim=4096,
        head_dim=512,
        bottleneck_dim=128,
        **shared,
    )

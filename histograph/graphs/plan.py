"""What `build_graph` was asked to do: options checked, defaults filled in, before a single pixel is read."""

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from histograph.entities import Entities, NucleusSettings, nuclei, patches, regions, superpixels
from histograph.features import GROUPS, CellTokens, FeatureTable, PatchEncoder
from histograph.features.named import cached_encoder
from histograph.graphs.points import ATTRIBUTES
from histograph.graphs.schema import EdgeType

FINDERS: dict[str, Callable[..., Entities]] = {
    "cell": nuclei,
    "tissue": superpixels,
    "patch": patches,
    "region": regions,
}

# What else than the classical method finds nuclei.
_SEGMENTS = ("stardist", "stardist-torch", "stardist-openvino")

# Dataclasses of the settings that a finder takes as further keywords.
_SETTINGS: dict[str, Callable[[], Any]] = {"cell": NucleusSettings}

# Each method with its options, their defaults, and the relation that it makes.
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "delaunay": ("near", {"max_length_um": 50.0}),
    "knn": ("near", {"k": 8}),
    "radius": ("near", {"radius_um": 30.0}),
    "contact": ("touches", {"gap_um": 0.0}),
    "grid": ("next_to", {"spacing_um": None, "neighbors": 8}),
}
_DEFAULT_METHOD = {"cell": "delaunay", "tissue": "contact", "patch": "grid", "region": "grid"}
_DEFAULT_ATTRIBUTES = ("length", "sin", "cos")

_DEFAULT_GROUPS = {
    "cell": ("shape", "color", "stain", "texture"),
    "tissue": ("shape", "color", "stain", "texture"),
    "patch": ("color", "stain", "texture"),
    "region": ("color", "stain", "texture"),
}
# Squares are large: their colour and texture are measured on coarser pixels. Others are measured on their
# raster.
_SQUARE_MPP = {"patch": 1.0, "region": 4.0}

# What the caller of build_graph gives for all finders at once.
_SHARED = ("slide", "mask", "workers", "progress")

# What a finder may be told that does not decide its result: left out of the provenance.
UNRECORDED = ("resume",)


# What goes to `load_encoder` and what to `embed_entities`, when the encoder of patches is given as a dict.
_LOAD_OPTIONS = ("mpp", "mean", "std", "size_px", "tokens", "name", "device")
_EMBED_OPTIONS = ("batch_size", "mixed_precision")


@dataclass(frozen=True)
class PatchVectors:
    """Features of patches by an encoder that reads each patch whole.

    Parameters
    ----------
    encoder : PatchEncoder
        The encoder.
    batch_size : int
        Patches a batch.
    mixed_precision : bool, "bf16" or "fp16"
        As of `histograph.features.embed_entities`.
    device : str or torch.device, optional
        Where it runs; default: where it is.

    Examples
    --------
    >>> encoder = PatchEncoder(torch.nn.Flatten(), (0, 0, 0), (1, 1, 1), size_px=2, mpp=None, name="pixels")
    >>> PatchVectors(encoder).batch_size
    64
    """

    encoder: PatchEncoder
    batch_size: int = 64
    mixed_precision: Any = False
    device: Any = None

    def __post_init__(self) -> None:
        if self.batch_size != int(self.batch_size) or self.batch_size < 1:
            raise ValueError(
                f"encoder['batch_size'] must be a whole number of at least 1, found {self.batch_size!r}"
            )
        if self.mixed_precision not in (False, True, "bf16", "fp16"):
            raise ValueError(
                f"encoder['mixed_precision'] must be False, True, 'bf16' or 'fp16', found {self.mixed_precision!r}"
            )


@dataclass(frozen=True)
class Plan:
    """Options of one build, complete and checked.

    Parameters
    ----------
    entities : dict
        Node type -> `Entities`, ``{"instance_map": …, "mpp": …}``, or the finder's options.
    edges : dict
        Edge type -> ``{"method": …, "attributes": …, further options}``.
    features : dict
        Node type -> ``{"groups": …, "mpp": …}``, `PatchVectors`, `CellTokens`, `PatchEncoder`, `FeatureTable`,
        DataFrame or (N, F) array.

    Examples
    --------
    >>> make_plan(("patch",), None, None).edges
    {('patch', 'next_to', 'patch'): {'method': 'grid', 'spacing_um': None, 'neighbors': 8, ...}}
    """

    entities: dict[str, Any]
    edges: dict[EdgeType, dict[str, Any]]
    features: dict[str, Any]


def make_plan(
    entities: Sequence[str] | Mapping[str, Any],
    edges: Mapping[Any, Any] | None,
    features: Mapping[str, Any] | None,
    encoder: Any = None,
) -> Plan:
    """Check the options of `build_graph` and fill in the defaults.

    Parameters
    ----------
    entities, edges, features, encoder
        As of `histograph.graphs.build_graph`.

    Returns
    -------
    Plan
        Complete.

    Raises
    ------
    ValueError
        An unknown entity, relation, method, option, feature group or attribute; the message lists the valid
        ones.
    TypeError
        A value of a kind that is not understood.

    Examples
    --------
    >>> make_plan(("cell",), {"cell": "knn"}, {"cell": ("shape",)}).edges["cell", "near", "cell"]["k"]
    8
    """
    found = _entities(entities)
    plan = Plan(found, _edges(edges or {}, list(found)), _features(features or {}, list(found)))
    if encoder is not None:
        if "patch" not in found:
            raise ValueError(
                f"encoder: it embeds patches, and entities has {sorted(found)}; add 'patch', or give the encoder to "
                "other entities as features={'cell': histograph.features.load_encoder(…)}"
            )
        if features and features.get("patch") is not None:
            raise ValueError("encoder: features['patch'] is given too; give one of them")
        vectors = plan.features["patch"] = _patch_vectors(encoder)
        squares = found["patch"]
        if isinstance(squares, Mapping) and "size_um" in squares:
            vectors.encoder.fitted(squares["size_um"])  # a size that does not fit is refused before any slide
    return plan


def _patch_vectors(encoder: Any) -> PatchVectors:
    """Load the encoder of patches and take its options apart."""
    if not isinstance(encoder, Mapping):
        return PatchVectors(cached_encoder(encoder))
    for key in encoder:
        _one_of(key, ["encoder", *_LOAD_OPTIONS, *_EMBED_OPTIONS], "encoder")
    if "encoder" not in encoder:
        raise ValueError(
            "encoder: a dict needs the key 'encoder', a name such as 'hf:owkin/phikon' or a module"
        )
    options = {key: value for key, value in encoder.items() if key in _EMBED_OPTIONS}
    loading = {key: value for key, value in encoder.items() if key in _LOAD_OPTIONS and value is not None}
    named = isinstance(encoder["encoder"], (str, os.PathLike))
    # what the caller made stays where it is between slides
    target = None if named else loading.pop("device", None)
    return PatchVectors(cached_encoder(encoder["encoder"], **loading), **options, device=target)


def _one_of(value: Any, valid: Sequence[str], what: str) -> str:
    """Check a name against the valid ones."""
    if value not in valid:
        raise ValueError(f"{what}: unknown {value!r}; valid are {', '.join(valid)}")
    return value


def _entities(entities: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """Resolve the entities asked for to ready ones, instance maps, or a finder's complete options."""
    if isinstance(entities, str):
        raise TypeError(
            f"entities: expected a sequence or dict of names, found the string; write ({entities!r},)"
        )
    asked = dict(entities) if isinstance(entities, Mapping) else {name: {} for name in entities}
    if not asked:
        raise ValueError(f"entities: none asked for; valid are {', '.join(FINDERS)}")
    result: dict[str, Any] = {}
    for name in sorted(asked, key=lambda key: [*FINDERS, key].index(key)):
        value = {} if asked[name] is None else asked[name]
        _one_of(name, list(FINDERS), "entities")
        if isinstance(value, Entities):
            if value.kind != name:
                raise ValueError(
                    f"entities[{name!r}]: expected Entities of kind {name!r}, found {value.kind!r}"
                )
            result[name] = value
        elif isinstance(value, np.ndarray):
            result[name] = {"instance_map": value, "mpp": None}
        elif isinstance(value, Mapping) and "instance_map" in value:
            unknown = set(value) - {"instance_map", "mpp", "origin_um"}
            if unknown:
                raise ValueError(
                    f"entities[{name!r}]: unknown {sorted(unknown)}; valid are mpp and origin_um"
                )
            result[name] = {"mpp": None, **value}
        elif isinstance(value, Mapping):
            result[name] = finder_options(name, value)
        else:
            raise TypeError(
                f"entities[{name!r}]: expected Entities, a dict of options or an instance map, found "
                f"{type(value).__name__}"
            )
    return result


def finder_options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Complete the options of a finder from its signature.

    Parameters
    ----------
    name : str
        Node type.
    given : mapping
        Options that the caller gave.

    Returns
    -------
    dict
        All options but those that `build_graph` gives to every finder.

    Raises
    ------
    ValueError
        An option that the finder does not have.

    Examples
    --------
    >>> finder_options("patch", {"size_um": 64.0})["overlap_um"]
    0.0
    """
    accepted = inspect.signature(FINDERS[name]).parameters
    defaults = {
        key: parameter.default
        for key, parameter in accepted.items()
        if key not in (*_SHARED, *UNRECORDED) and parameter.kind is not inspect.Parameter.VAR_KEYWORD
    }
    if name == "cell" and given.get("segment", "classical") != "classical":
        _one_of(given["segment"], _SEGMENTS, "entities['cell'] segment")
        from histograph.entities.stardist import stardist_nuclei  # its network is loaded only where asked for

        defaults = {"segment": None} | {
            key: parameter.default
            for key, parameter in inspect.signature(stardist_nuclei).parameters.items()
            if key not in (*_SHARED, *UNRECORDED, "backend")
        }
    elif name in _SETTINGS:
        defaults |= asdict(_SETTINGS[name]())
    valid = [key for key in (*defaults, *UNRECORDED) if key in defaults or key in accepted]
    for key in given:
        _one_of(key, valid, f"entities[{name!r}]")
    return {**defaults, **given}


def _edges(edges: Mapping[Any, Any], names: list[str]) -> dict[EdgeType, dict[str, Any]]:
    """Resolve the edges asked for to edge types with a method and its complete options."""
    result: dict[EdgeType, dict[str, Any]] = {}
    replaced: set[str] = set()
    asked: set[EdgeType] = set()
    for key, value in edges.items():
        node_type, relation = _edge_key(key, names)
        if relation is None:
            replaced.add(node_type)
        specs = value if isinstance(value, (list, tuple)) else [value]
        for spec in specs:
            if spec is None:
                if relation is not None:
                    result[node_type, relation, node_type] = {}
                continue
            made, options = _edge_options(node_type, relation, spec)
            edge_type = node_type, made, node_type
            if edge_type in asked:
                raise ValueError(
                    f"edges: {edge_type!r} is asked for twice, the second time by {options['method']!r}, and a graph "
                    "has each relation once; give one method for it, or build a second graph"
                )
            asked.add(edge_type)
            result[edge_type] = options
    defaults: dict[EdgeType, dict[str, Any]] = {}
    for name in names:
        if name not in replaced:
            made, options = _edge_options(name, None, {})
            defaults[name, made, name] = options
    return {key: value for key, value in {**defaults, **result}.items() if value}


def _edge_key(key: Any, names: list[str]) -> tuple[str, str | None]:
    """Find the node type and, where one is named, the relation that a key of `edges` means."""
    relations = sorted({relation for relation, _ in METHODS.values()})
    if isinstance(key, str) and key in FINDERS:
        return _one_of(key, names, "edges"), None
    if isinstance(key, str):
        _one_of(key, [*names, *relations], "edges")
        makers = {relation: method for method, (relation, _) in METHODS.items()}
        fitting = [name for name in names if METHODS[_DEFAULT_METHOD[name]][0] == key]
        fitting = fitting if key != "touches" else [name for name in names if name in ("cell", "tissue")]
        if len(fitting) != 1:
            raise ValueError(
                f"edges: {key!r} fits {fitting or 'none'} of {names}; name the relation in full, e.g. "
                f"('{(fitting or names)[0]}', {key!r}, '{(fitting or names)[0]}'), made by {makers[key]!r}"
            )
        return fitting[0], key
    if isinstance(key, tuple) and len(key) == 3 and key[0] == key[2]:
        return _one_of(key[0], names, "edges"), _one_of(key[1], relations, "edges")
    raise ValueError(
        f"edges: expected a node type, a relation, or a tuple like ('cell', 'near', 'cell'), found {key!r}"
    )


def _edge_options(node_type: str, relation: str | None, spec: Any) -> tuple[str, dict[str, Any]]:
    """Complete one edge specification; return the relation that it makes and its options."""
    if isinstance(spec, str):
        spec = {"method": spec}
    if not isinstance(spec, Mapping):
        raise TypeError(
            f"edges[{node_type!r}]: expected a dict like {{'method': 'knn', 'k': 8}}, found {spec!r}"
        )
    fitting = [name for name, (makes, _) in METHODS.items() if relation in (None, makes)]
    default = _DEFAULT_METHOD[node_type] if _DEFAULT_METHOD[node_type] in fitting else fitting[0]
    method = _one_of(spec.get("method", default), fitting, f"edges[{node_type!r}] method")
    made, defaults = METHODS[method]
    attributes = (*_DEFAULT_ATTRIBUTES, "contact_um") if method == "contact" else _DEFAULT_ATTRIBUTES
    for key in spec:
        _one_of(key, ["method", *defaults, "attributes"], f"edges[{node_type!r}]")
    valid = (*ATTRIBUTES, "contact_um") if method == "contact" else ATTRIBUTES
    chosen = spec.get("attributes", attributes)
    if isinstance(chosen, str):
        raise TypeError(f"edges[{node_type!r}] attributes: expected a sequence of names, found {chosen!r}")
    for name in chosen:
        _one_of(name, valid, f"edges[{node_type!r}] attributes")
    columns = ("length", *(name for name in chosen if name != "length"))
    given = {key: value for key, value in spec.items() if key not in ("method", "attributes")}
    return made, {"method": method, **defaults, **given, "attributes": columns}


def _features(features: Mapping[str, Any], names: list[str]) -> dict[str, Any]:
    """Resolve the features asked for."""
    for name in features:
        _one_of(name, names, "features")
    result: dict[str, Any] = {}
    for name in names:
        value = features.get(name)
        if value is None:
            value = _DEFAULT_GROUPS[name]
        if isinstance(value, (PatchEncoder, FeatureTable, pd.DataFrame, np.ndarray, torch.Tensor)):
            if isinstance(value, pd.DataFrame):
                _check_table(value, name)
            result[name] = value
            continue
        if isinstance(value, CellTokens):
            result[name] = value.loaded()
            continue
        if isinstance(value, str):
            value = (value,)
        options = dict(value) if isinstance(value, Mapping) else {"groups": tuple(value)}
        for key in options:
            _one_of(key, ["groups", "mpp"], f"features[{name!r}]")
        groups = tuple(options.get("groups", _DEFAULT_GROUPS[name]))
        for group in groups:
            _one_of(group, list(GROUPS), f"features[{name!r}]")
        result[name] = {"groups": groups, "mpp": options.get("mpp", _SQUARE_MPP.get(name))}
    return result


def _check_table(table: pd.DataFrame, name: str) -> None:
    """Check that a table of features holds numbers, and in its index labels."""
    if not (pd.api.types.is_numeric_dtype(table.index) or table.empty):
        raise ValueError(
            f"features[{name!r}]: expected the labels of the entities, whole numbers, as the index of the table, found "
            f"{table.index[:1].tolist()[0]!r}; use table.set_index(…), and astype(int) where they are text"
        )
    text = [str(column) for column in table.columns if not _is_number(table[column])]
    if text:
        raise ValueError(
            f"features[{name!r}]: expected numbers in all columns, found others in {', '.join(text[:5])}; drop them, "
            "or turn them into numbers"
        )


def _is_number(column: Any) -> bool:
    """Whether a column can be read as numbers."""
    try:
        np.asarray(column, dtype=np.float64)
    except (TypeError, ValueError):
        return False
    return True

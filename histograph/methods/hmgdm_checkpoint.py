"""Weights of the released H-MGDM code and ours, converted in both directions without changing a bit.

Only ``HMGDM(..., official_compat=True)`` can hold released weights. The default form has another architecture
(residuals, gates of its own, no code of storage order), so it cannot start from a released checkpoint.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor

from .hmgdm import HMGDM
from .released_weights import check_fit, count_blocks, find_weights
from .torch_files import read_torch_file, some

# keys of a checkpoint file under which the weights may lie: pre-training, fine-tuning
_HOLDERS = ("model", "Diffmodel")
ADVICE = "where you trust it, save its weights alone with torch.save(checkpoint['model'], ...) and load that"
# arguments that shapes do not tell: the name in the released configuration, and the default
_SETTINGS: dict[str, tuple[str, str, Any]] = {
    "heads": ("model", "joint_num_heads", 4),
    "theta": ("model", "theta", 1000.0),
    "node_mask_ratio": ("model", "node_mask_ratio", 0.6),
    "edge_mask_ratio": ("model", "edge_mask_ratio", 0.6),
    "schedule": ("model", "beta_schedule", "sigmoid"),
    "beta_start": ("model", "beta_start", 1e-7),
    "beta_end": ("model", "beta_end", 2e-3),
    "kl_weight": ("train", "kl_alpha", 1.0),
    "node_weight": ("train", "node_alpha", 0.5),
    "edge_weight": ("train", "edge_alpha", 0.5),
}


@dataclass(frozen=True)
class _Entry:
    """One released tensor and where it lies here: stacked from several, or transposed."""

    released: str
    ours: tuple[str, ...]
    transposed: bool = False


def _pair(released: str, ours: str) -> Iterator[_Entry]:
    for part in ("weight", "bias"):
        yield _Entry(f"{released}.{part}", (f"{ours}.{part}",))


def _layer_entries(released: str, ours: str, layers: int) -> Iterator[_Entry]:
    """Name the parts of the encoder or of a decoder layer."""
    for i in range(layers):
        yield _Entry(f"{released}.convs.{i}.bias", (f"{ours}.node_convs.{i}.bias",))
        yield _Entry(f"{released}.convs.{i}.lin.weight", (f"{ours}.node_convs.{i}.weight",), transposed=True)
    for i in range(layers):
        yield from _pair(f"{released}.hyperconvs.{i}", f"{ours}.edge_convs.{i}")
    for i in range(layers - 1):
        yield from _pair(f"{released}.scoreconvs.{i}", f"{ours}.gates.{i}")
    for theirs, name in (
        ("e_m", "edge_mean"),
        ("e_v", "edge_logvar"),
        ("x_m", "node_mean"),
        ("x_v", "node_logvar"),
    ):
        for i in (0, 1, 3) if theirs.endswith("m") else (0, 1, 2):
            yield from _pair(f"{released}.mlp_{theirs}.{i}", f"{ours}.{name}.{i}")
    yield from _pair(f"{released}.edge_attr_emblin", f"{ours}.edge_in")
    yield from _pair(f"{released}.node_emblin", f"{ours}.node_in")


def _joint_entries(released: str, ours: str, depth: int) -> Iterator[_Entry]:
    yield from _pair(f"{released}.norm", f"{ours}.norm")
    for i in range(depth):
        yield from _pair(f"{released}.layers.{i}.0.norm", f"{ours}.norms.{i}")
        yield _Entry(f"{released}.layers.{i}.0.to_qkv.weight", (f"{ours}.attentions.{i}.qkv.weight",))
        yield from _pair(f"{released}.layers.{i}.0.to_out.0", f"{ours}.attentions.{i}.out")
        for theirs, place in ((0, 0), (1, 1), (4, 3)):
            yield from _pair(f"{released}.layers.{i}.1.net.{theirs}", f"{ours}.feed_forwards.{i}.{place}")


def _reader_entries(released: str, ours: str) -> Iterator[_Entry]:
    for part in ("weight", "bias"):
        stacked = f"{ours}.attention.query.{part}", f"{ours}.attention.key_value.{part}"
        yield _Entry(f"{released}.in_proj_{part}", stacked)
    yield from _pair(f"{released}.norm", f"{ours}.norm")
    yield from _pair(f"{released}.out_proj", f"{ours}.attention.out")


def _entries(layers: int, joint_depth: int) -> Iterator[_Entry]:
    """All tensors in the released order."""
    for name in ("betas", "alphas"):
        yield _Entry(name, (name,))
    for i in (0, 1):
        yield from _pair(f"x_embedding.{i}", f"node_embed.{i}")
    for i in (0, 1):
        yield from _pair(f"edge_attr_embedding.{i}", f"edge_embed.{i}")
    for theirs, i in (("temb.dense.0", 0), ("temb.dense.1", 2), ("temb_proj", 4)):
        yield from _pair(theirs, f"time.{i}")
    yield from _layer_entries("context_encoder", "encoder", layers)
    yield from _joint_entries("joint_decoder_x", "node_joint", joint_depth)
    yield from _joint_entries("joint_decoder_e", "edge_joint", joint_depth)
    for block in range(layers - 1):
        theirs, ours = f"dec_blks.{block}", f"blocks.{block}"
        yield from _reader_entries(f"{theirs}.0", f"{ours}.node_reader")
        yield from _reader_entries(f"{theirs}.1", f"{ours}.edge_reader")
        yield from _layer_entries(f"{theirs}.2", f"{ours}.layers", 1)
        for part, name in ((3, "node_out"), (4, "edge_out")):
            for i in (0, 1):
                yield from _pair(f"{theirs}.{part}.layers.{i}", f"{ours}.{name}.{i}")
    for theirs, ours in (("dec_joint_x", "node_query"), ("dec_joint_e", "edge_query")):
        for i in (0, 1):
            yield from _pair(f"{theirs}.layers.{i}", f"{ours}.{i}")
    heads = (
        ("grad_dist_mlp", "unused.pair_score"),
        ("grad_node_mlp", "node_head"),
        ("grad_edge_attr_mlp", "edge_head"),
    )
    for theirs, ours in heads:
        for i in (0, 1, 2):
            yield from _pair(f"{theirs}.layers.{i}", f"{ours}.{2 * i}")
    for theirs, ours in (("norm_emb_x", "unused.node_norm"), ("norm_emb_e", "unused.edge_norm")):
        yield from _pair(theirs, ours)


def to_released(method: HMGDM) -> dict[str, Tensor]:
    """Give the weights under the names and in the shapes of the released code.

    Parameters
    ----------
    method : HMGDM
        Made with ``official_compat=True``.

    Returns
    -------
    dict of str to Tensor
        Copies on the CPU, in the released order: 242 entries for the released sizes, those that nothing reads included.

    Raises
    ------
    ValueError
        If the method is not in the released form.

    Examples
    --------
    >>> method = HMGDM(6, 4, hidden_dim=8, embed_dim=12, official_compat=True)
    >>> weights = to_released(method)
    >>> len(weights), weights["context_encoder.convs.0.lin.weight"].shape
    (242, torch.Size([8, 12]))
    """
    if not isinstance(method, HMGDM) or method.released is None:
        raise ValueError(
            "method must be an HMGDM made with official_compat=True, found "
            f"{'one of the default form' if isinstance(method, HMGDM) else type(method).__name__}; "
            "the default form has another architecture and no released counterpart"
        )
    state = method.released.state_dict()
    result = {}
    for entry in _entries(method.config["layers"], method.config["joint_depth"]):
        value = torch.cat([state[name] for name in entry.ours])
        result[entry.released] = (value.T if entry.transposed else value).detach().cpu().clone().contiguous()
    return result


def load_released(
    source: str | os.PathLike[str] | Mapping[str, Any],
    *,
    heads: int | None = None,
    theta: float | None = None,
    node_mask_ratio: float | None = None,
    edge_mask_ratio: float | None = None,
    target: Literal["x0", "step"] = "x0",
    pooling: Literal["mean", "max"] = "mean",
) -> HMGDM:
    """Build the released network from a checkpoint of the released code.

    Sizes come from the shapes, the noise schedule from the tensors ``betas`` and ``alphas``. What neither tells comes
    from the argument, else from the configuration in the checkpoint, else from the released defaults. The
    default form of :class:`HMGDM` has another architecture and cannot be made from a released checkpoint.

    Parameters
    ----------
    source : path-like or mapping
        A file of ``torch.save`` (opened without running code from it), or its content: a bare state dict, a
        pre-training checkpoint (weights under ``model``), or a fine-tuned one (``Diffmodel``). Names may
        begin with ``module.``.
    heads : int, optional
        Attention heads; 4 in the release.
    theta : float, optional
        Base of the rotary frequencies; 1000 in the release.
    node_mask_ratio, edge_mask_ratio : float, optional
        Hidden shares; 0.6 in the release.
    target : {"x0", "step"}
        What further training predicts.
    pooling : {"mean", "max"}
        How `encode` makes the graph vector.

    Returns
    -------
    HMGDM
        With ``official_compat=True``, in evaluation mode, on the CPU.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file cannot be read safely, or keys are missing, unexpected or of the wrong shape.

    Examples
    --------
    >>> import torch
    >>> weights = to_released(HMGDM(6, 4, hidden_dim=8, embed_dim=12, official_compat=True))
    >>> method = load_released({"model": weights, "epoch": 250})
    >>> method.config["embed_dim"], torch.equal(to_released(method)["betas"], weights["betas"])
    (12, True)
    """
    content = source if isinstance(source, Mapping) else read_torch_file(source, "source", ADVICE)
    weights = find_weights(content, _HOLDERS, "H-MGDM")
    given = {
        "heads": heads,
        "theta": theta,
        "node_mask_ratio": node_mask_ratio,
        "edge_mask_ratio": edge_mask_ratio,
    }
    arguments = _sizes(weights) | _settings(content, {name: v for name, v in given.items() if v is not None})
    method = HMGDM(**arguments, target=target, pooling=pooling, official_compat=True)
    _fill(method, weights)
    return method.eval()


def _sizes(weights: dict[str, Tensor]) -> dict[str, Any]:
    """Infer the constructor's sizes from the shapes."""
    first = {
        "node_dim": "x_embedding.0.weight",
        "edge_dim": "edge_attr_embedding.0.weight",
        "hidden_dim": "temb_proj.weight",
        "embed_dim": "x_embedding.1.weight",
        "timesteps": "betas",
    }
    missing = [key for key in first.values() if key not in weights or weights[key].dim() == 0]
    if missing:
        raise ValueError(
            f"source lacks {some(missing)}, which tell the sizes of a released H-MGDM; it has {some(list(weights))}"
        )
    sizes = {name: weights[key].shape[0] for name, key in first.items()}
    sizes["layers"] = count_blocks(weights, "context_encoder.convs")
    sizes["joint_depth"] = count_blocks(weights, "joint_decoder_x.layers")
    return sizes


def _settings(content: Mapping[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """Take each setting from the arguments, else from the checkpoint's configuration, else the default."""
    config = content.get("config")
    config = config if isinstance(config, Mapping) else {}
    settings = {}
    for name, (section, key, default) in _SETTINGS.items():
        # the whole configuration, or its section "model" alone
        part = config.get(section, config)
        settings[name] = given.get(name, part.get(key, default))
    model = config.get("model", config)
    readers = model.get("coatt_num_heads", settings["heads"])
    if "heads" not in given and readers != settings["heads"]:
        raise ValueError(
            f"source: its configuration has {settings['heads']} heads in the joint transformer and {readers} in cross "
            "attention; histograph has one number for both"
        )
    return settings


def _fill(method: HMGDM, weights: dict[str, Tensor]) -> None:
    """Copy released weights into the method after checking names and shapes."""
    expected = to_released(method)
    config = method.config
    check_fit(
        weights,
        expected,
        f"H-MGDM of {config['layers']} layers and joint depth {config['joint_depth']}",
        f"that do not fit node_dim {config['node_dim']}, edge_dim {config['edge_dim']}, hidden_dim "
        f"{config['hidden_dim']}, embed_dim {config['embed_dim']}",
    )
    state = cast(torch.nn.Module, method.released).state_dict()
    for entry in _entries(method.config["layers"], method.config["joint_depth"]):
        value = weights[entry.released]
        value = value.T if entry.transposed else value
        for name, part in zip(
            entry.ours, value.split([state[name].shape[0] for name in entry.ours]), strict=True
        ):
            state[name].copy_(part)

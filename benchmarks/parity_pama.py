"""How `parity.py` computes each kind of file of the released PAMA code with our released form.

python benchmarks/parity.py pama --golden FOLDER
"""

import re
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from histograph.methods import PAMA, ReleasedPAMAClassifier, load_released
from histograph.methods.pama_released import ReleasedPAMA
from histograph.methods.pama_released_input import (
    ReleasedSlides,
    anchor_centres,
    direction_angles,
    direction_bins,
    distance_bins,
    grid_places,
    largest_distance,
    nearest_patches,
)
from histograph.methods.pama_released_layers import DIRECTIONS, ReleasedRound, reorient

Arrays = dict[str, np.ndarray]
Tensors = dict[str, Tensor]

# what our names for the parts of a block are called in the files
ROUND = {
    "x": "x",
    "k": "anchors",
    "paca/x": "x_read",
    "paca/k": "anchors_read",
    "kro_score": "score",
    "kro_in": "direction",
    "kro_out": "turned",
    "attn_k2x": "anchor_weight",
    "attn_x2k": "token_weight",
}
STEP = {
    "patch_embed": "embedded",
    "mask": "mask",
    "ids_restore": "places",
    "latent": "latent",
    "latent_k": "anchors",
    "decoder_norm": "decoded",
    "pred_with_cls": "prediction",
    "loss": "loss",
}


def numbers(found: Tensors) -> Arrays:
    """Give tensors as arrays."""
    return {name: value.detach().numpy() for name, value in found.items()}


def group(arrays: Tensors, folder: str) -> Tensors:
    """Give the arrays of a folder without its name."""
    return {name.removeprefix(folder): value for name, value in arrays.items() if name.startswith(folder)}


def slides_of(a: Tensors) -> ReleasedSlides:
    """Give the network's input."""
    return ReleasedSlides(a["feat"], a["rd"], a["polar"], a["token_mask"], a["kernel_mask"])


def rounds_of(rounds: list[ReleasedRound], names: dict[str, str], encoder: int) -> Tensors:
    """Give what the blocks computed, by the names of the files."""
    stacks = [f"enc{i}" for i in range(encoder)] + [f"dec{i}" for i in range(len(rounds) - encoder)]
    return {
        f"{stack}/{name}": getattr(one, part)
        for stack, one in zip(stacks, rounds, strict=True)
        for name, part in names.items()
    }


def places_of(pos: Tensor) -> Tensor:
    """Give row and column of positions (row, column), through the reader's own way from x and y."""
    return grid_places(pos.flip(1))


def slide(a: Tensors, head: str) -> Tensors:
    """Distances, anchors and directions of one slide."""
    places = places_of(a[f"{head}pos"])
    largest = largest_distance(places)
    # scikit-learn's k-means, started as in the release; the number of anchors is an input
    centres = anchor_centres(a[f"{head}pos"], len(a[f"{head}kcent"]))
    rows = nearest_patches(centres, a[f"{head}pos"].double())
    angles = direction_angles(places[rows], places)
    found = {
        "dist": torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist"),
        "dist_bin": distance_bins(places, places, largest),
        "kcent": centres,
        "kidx": rows,
        "angle": angles,
        "polar_raw": direction_bins(angles),
    }
    return {f"{head}{name}": value for name, value in found.items()}


def loaded_slides(found: Tensors, a: Tensors, heads: list[str]) -> Tensors:
    """Cut and fill the bins of all slides to the size of the file, as the loader does."""
    result = {"rd": torch.zeros_like(a["rd"]), "polar": torch.zeros_like(a["polar"])}
    masks = {
        "token_mask": torch.zeros_like(a["token_mask"]),
        "kernel_mask": torch.zeros_like(a["kernel_mask"]),
    }
    for number, head in enumerate(heads):
        rows = found[f"{head}kidx"][: a["rd"].shape[1]]
        patches, anchors = min(len(found[f"{head}dist"]), a["rd"].shape[2]), len(rows)
        result["rd"][number, :anchors, :patches] = found[f"{head}dist_bin"][rows, :patches]
        bins = found[f"{head}polar_raw"][:anchors, :patches].clamp(max=DIRECTIONS - 1)
        result["polar"][number, :anchors, :patches] = bins
        masks["token_mask"][number, :patches], masks["kernel_mask"][number, :anchors] = 1, 1
    return result | masks


def step(network: ReleasedPAMA, a: Tensors, mode: str) -> Tensors:
    """Run one pre-training step with the noise of the file, and its gradients."""
    network.train(mode == "train").zero_grad()
    rounds: list[ReleasedRound] = []
    out = network.reconstruct(slides_of(a), a[f"{mode}/noise_mask"], a.get(f"{mode}/noise_anchor"), rounds)
    out.loss.backward()
    found = {name: getattr(out, part) for name, part in STEP.items()}
    found |= rounds_of(rounds, ROUND, len(network.blocks))
    found |= {f"grad/{name}": weight.grad for name, weight in network.named_parameters()}
    return {f"{mode}/{name}": value for name, value in found.items()}


def downstream(method: PAMA, a: Tensors) -> Tensors:
    """Run the downstream model in evaluation mode, with the encoder of the file and the head beside it."""
    head = group(a, "cls/sd/")
    model = ReleasedPAMAClassifier.from_pretrained(method, classes=len(head["head.bias"])).eval()
    model.released.load_state_dict(model.released.state_dict() | head)
    rounds: list[ReleasedRound] = []
    x, anchors = model.released.represent(slides_of(a), rounds=rounds)
    found = {
        "logits": model.released.head(x[:, 0]),
        "slide_embedding": x[:, 0],
        "kernel_tokens": anchors,
    }
    found |= rounds_of(rounds, ROUND, len(rounds))
    return {f"cls/{name}": value for name, value in found.items()}


def case(arrays: Arrays) -> Arrays:
    """Geometry, a step in each mode with its gradients, and the downstream model.

    The files do not say whether each patch was normalised before it was predicted. Of the two, the step whose loss
    is nearer to the recorded one is taken, in every mode the same; losses differ far more than the tolerance.
    """
    a = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
    method = load_released(
        group(a, "sd/"), mask_ratio=float(a["mask_ratio"]), anchor_dropout=float(a["kernel_drop"])
    )
    heads = sorted({match[0] for name in a if (match := re.match(r"slide\d+/", name))})
    found: Tensors = {}
    for head in heads:
        found |= slide(a, head)
    found |= loaded_slides(found, a, heads)
    modes = [mode for mode in ("eval", "train") if f"{mode}/noise_mask" in a]
    tried = []
    for normalised in (False, True):
        method.released.normalise_target = normalised
        steps = [step(method.released, a, mode) for mode in modes]
        gap = sum(
            abs(float(one[f"{mode}/loss"].detach()) - float(a[f"{mode}/loss"]))
            for one, mode in zip(steps, modes, strict=True)
        )
        tried.append((gap, normalised, steps))
    for one in min(tried)[2]:
        found |= one
    return numbers(found | downstream(method, a))


def rotation(arrays: Arrays) -> Arrays:
    """Bins of a slide in four positions, and main directions with and without the anchor's own patch."""
    a = {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}
    rows, places = a["kidx"], places_of(a["pos0"])
    here = rows.unsqueeze(1) == torch.arange(len(places))
    found = {
        "dist_bin": distance_bins(places[rows], places, largest_distance(places)),
        "self_edge": here,
    }
    for name in [name for name in arrays if re.fullmatch(r"pos\d+", name)]:
        turn, places = name.removeprefix("pos"), places_of(a[name])
        bins = direction_bins(direction_angles(places[rows], places))
        found[f"bins_clamp{turn}"] = bins.clamp(max=DIRECTIONS - 1)
        found[f"bins_wrap{turn}"] = wrapped = bins % DIRECTIONS
        found[f"kro_wrap{turn}"] = reorient(a["score"], wrapped.unsqueeze(0))
        others = a["score"].masked_fill(here, 0.0)
        found[f"kro_noself{turn}"] = reorient(others, wrapped.unsqueeze(0))
    return numbers(found)


KINDS: dict[str, tuple[tuple[str, ...], Callable[[Arrays], Arrays]]] = {
    "case": (
        (
            "feat",
            "mask_ratio",
            "kernel_drop",
            "slide*/pos",
            "sd/*",
            "cls/sd/*",
            "*/noise_mask",
            "*/noise_anchor",
        ),
        case,
    ),
    "rotation": (("pos*", "kidx", "feat", "score"), rotation),
}

"""How `parity.py` computes each kind of file of the released GCMAE code with our released form.

python benchmarks/parity.py gcmae --golden FOLDER
"""

import re
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from histograph.evaluation.vote import neighbour_vote
from histograph.methods import GCMAE, load_released
from histograph.methods.gcmae import reconstruction_loss
from histograph.methods.gcmae_released import (
    AliasSampler,
    ReleasedBank,
    released_features,
    released_learning_rate,
)
from histograph.nn import hide, patchify, sincos_positions, square_scale

Arrays = dict[str, np.ndarray]
Tensors = dict[str, Tensor]

# seed of the recorded draws, which another version of torch may draw otherwise
DRAW_SEED, DRAWS = 3, 2000


def tensors_of(arrays: Arrays) -> Tensors:
    """Give arrays as tensors."""
    return {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}


def numbers(found: Tensors) -> Arrays:
    """Give tensors as arrays."""
    return {name: value.detach().numpy() for name, value in found.items()}


def group(arrays: Tensors, folder: str) -> Tensors:
    """Give the arrays of a folder without its name."""
    return {name.removeprefix(folder): value for name, value in arrays.items() if name.startswith(folder)}


def pos_embed(arrays: Arrays) -> Arrays:
    """Give fixed positions."""
    found = {}
    for name in arrays:
        dim, grid, cls = (int(number) for number in re.findall(r"\d+", name))
        found[name] = sincos_positions(dim, (grid, grid), cls=bool(cls)).numpy()
    return found


def masking(arrays: Arrays) -> Arrays:
    """Give the squares that are shown, from given noise; and the dead mode that shows the middle of a grid of 14."""
    a, found = tensors_of(arrays), {}
    for case in sorted({name.split("_")[0] for name in arrays} - {"block"}):
        hiding = hide(a[f"{case}_noise"], float(a[f"{case}_ratio"]))
        x = a[f"{case}_x"]
        found[f"{case}_x_kept"] = x.gather(1, hiding.kept.unsqueeze(2).expand(-1, -1, x.shape[2]))
        found[f"{case}_mask"] = hiding.hidden.float()
        found[f"{case}_ids_restore"] = hiding.place
    if "block_x" in a:
        # released, but called by nothing and only for this grid and share, so not part of the package
        shown = torch.zeros(14, 14)
        shown[3:10, 3:10] = 1
        found["block_mask"] = (1 - shown).flatten().expand(len(a["block_x"]), -1)
    return numbers(found)


def alias(arrays: Arrays) -> Arrays:
    """Give tables of the alias sampler, and what they draw."""
    a, found = tensors_of(arrays), {}
    for name in (name.removesuffix("_p") for name in arrays if name.endswith("_p")):
        sampler = AliasSampler(a[f"{name}_p"])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(DRAW_SEED)
            drawn = sampler.draw(DRAWS)
        found[f"{name}_prob"], found[f"{name}_alias"] = sampler.prob, sampler.alias
        found[f"{name}_draw{DRAWS}_hist"] = drawn.bincount(minlength=len(sampler.prob))
    return numbers(found)


def nce(arrays: Arrays) -> Arrays:
    """Do three steps of the contrast with its bank."""
    a, found = tensors_of(arrays), {}
    bank = ReleasedBank(
        a["memory_init"].shape[1], int(a["ndata"]), float(a["momentum"]), int(a["K"]), float(a["T"])
    )
    bank.memory.copy_(a["memory_init"])
    for step in sorted({name.split("_")[0] for name in arrays if name.startswith("step")}):
        feature = a[f"{step}_feat"].clone().requires_grad_()
        v = normalize(feature, dim=1)
        v.retain_grad()
        found[f"{step}_memory_before"] = bank.memory.clone()
        contrast = bank.contrast(v, a[f"{step}_y"], a[f"{step}_idx"])
        contrast.loss.backward()
        bank.update(a[f"{step}_y"], v)
        found |= {
            f"{step}_v": v,
            f"{step}_out": contrast.chance,
            f"{step}_Z": bank.params[2].clone(),
            f"{step}_loss": contrast.loss.view(1),
            f"{step}_grad_v": v.grad,
            f"{step}_grad_feat": feature.grad,
            f"{step}_memory_after": bank.memory.clone(),
        }
    return numbers(found)


def step_of(method: GCMAE, a: Tensors) -> Tensors:
    """Do one pre-training step with given noise and rows, and the bank after it."""
    network, bank = method.network, method.bank
    hiding = hide(a["noise"], float(a["mask_ratio"]))
    latent = network.encode_shown(a["img"], hiding.kept)
    predicted = network.decode(latent, hiding.place)
    squares = patchify(a["img"], int(a["patch"]))
    mean, spread = square_scale(squares)
    mae = reconstruction_loss(predicted, (squares - mean) / spread, hiding.hidden)
    v = normalize(method.contrasted(latent), dim=1)
    contrast = bank.contrast(v, a["y"], a["nce_idx"])
    total = mae + method.contrast_weight * contrast.loss
    network.zero_grad()
    total.backward()
    bank.update(a["y"], v)
    found = {
        "patchified": squares,
        "latent": latent,
        "ids_restore": hiding.place,
        "mask": hiding.hidden.float(),
        "pred": predicted,
        "loss_mae": mae,
        "loss_mae_raw_pixels": reconstruction_loss(predicted, squares, hiding.hidden),
        "nce_out": contrast.chance,
        "Z": bank.params[2].clone(),
        "loss_nce": contrast.loss.view(1),
        "loss_total": total.view(1),
        "npid_feature": v,
        "memory_after": bank.memory.clone(),
    }
    return found | {
        f"grad/{name}": parameter.grad
        for name, parameter in network.named_parameters()
        if parameter.grad is not None
    }


def model(arrays: Arrays) -> Arrays:
    """Do one step of the whole method, and give the vectors of whole images."""
    a = tensors_of(arrays)
    heads = {"heads": int(a["heads"]), "decoder_heads": int(a["dec_heads"])}
    method = load_released(group(a, "sd/"), **heads, mask_ratio=float(a["mask_ratio"]))
    found = {
        f"{name}_feature_unmasked": released_features(method.network, a["img"], pooling)[1]
        for name, pooling in (("cls", "cls"), ("globalpool", "mean"))
    }
    return numbers(found | step_of(method, a))


def knn(arrays: Arrays) -> Arrays:
    """Count votes of neighbours."""
    found = {}
    for case in sorted({name.split("_")[0] for name in arrays}):
        train, labels, test = (arrays[f"{case}_{name}"] for name in ("train", "labels", "test"))
        vote = neighbour_vote(train, labels, test, k=int(arrays[f"{case}_K"]))
        found |= {f"{case}_scores": vote.scores, f"{case}_pred": vote.predicted}
    return found


def lr_schedule(arrays: Arrays) -> Arrays:
    """Give learning rates over the epochs."""
    peak, warmup, epochs = (float(arrays[name]) for name in ("base_lr", "warmup", "epochs"))
    rates = [released_learning_rate(epoch, peak, warmup, epochs) for epoch in arrays["epoch"].tolist()]
    return {"lr": np.array(rates)}


KINDS: dict[str, tuple[tuple[str, ...], Callable[[Arrays], Arrays]]] = {
    "pos_embed": ((), pos_embed),
    "masking": (("*_x", "*_ratio", "*_noise"), masking),
    "alias": (("*_p",), alias),
    "nce": (("K", "T", "momentum", "ndata", "memory_init", "step?_feat", "*_y", "*_idx"), nce),
    "model": (("img", "y", "noise", "mask_ratio", "patch", "heads", "dec_heads", "nce_idx", "sd/*"), model),
    "knn": (("*_train", "*_test", "*_labels", "*_K"), knn),
    "lr_schedule": (("epoch", "base_lr", "warmup", "epochs"), lr_schedule),
}

"""How `parity.py` computes each kind of file of the released SLPD code with our released form.

python benchmarks/parity.py slpd --golden FOLDER

The random numbers of the released k-means cannot be had, so that its clusters are inputs; k-means is compared from
given first centroids, and the prototypes of a training step are made of our vectors and the given clusters.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from parity_dino import group, numbers, settle
from torch import Tensor
from torch.nn.functional import normalize

from histograph.methods import SLPD
from histograph.methods.prototype_distillation import PrototypeDistillation
from histograph.nn import RegionTransformer, crop_grids
from histograph.nn.dino_head import DINOHead
from histograph.nn.dino_loss import DINOLoss, cross_entropies
from histograph.nn.prototype_sets import nearest_slides, set_similarity
from histograph.nn.segment_kmeans import segment_kmeans

Arrays = dict[str, np.ndarray]
Tensors = dict[str, Tensor]

# size of a gradient below which AdamW with a learning rate of 0.01 makes visible how it was rounded
_ROUNDING = 1e-6


def tensors_of(arrays: Arrays) -> Tensors:
    """Give arrays as tensors of their own, text left out."""
    return {
        name: torch.from_numpy(np.array(value)) for name, value in arrays.items() if value.dtype.kind != "U"
    }


def kmeans(arrays: Arrays) -> Arrays:
    """Move given centroids 1, 2 and 10 times; what each time begins with is the sum of squares."""
    a = tensors_of(arrays)
    x, start = a["x"], a["fixed/init"]
    segment = torch.zeros(len(x), dtype=torch.long)

    def after(iterations: int) -> Any:
        return segment_kmeans(
            x, segment, len(start), iterations=iterations, restarts=1, start=start.unsqueeze(0)
        )

    found: Tensors = {}
    for folder in sorted({name.rsplit("/", 1)[0] for name in a if name.startswith("fixed/it")}):
        result = after(int(folder.removeprefix("fixed/it")))
        distance = torch.cdist(x.double(), result.centroid[0].double()).square()
        sums = [torch.cdist(x.double(), start.double()).square().amin(1).sum()]
        sums += [after(number).inertia[0] for number in range(1, len(a[f"{folder}/obj"]))]
        found |= {
            f"{folder}/centroids": result.centroid[0],
            f"{folder}/assign": result.assignment,
            f"{folder}/sqdist": distance.amin(1),
            f"{folder}/obj": torch.stack(sums),
        }
    return numbers(found)


def neighbours(arrays: Arrays) -> Arrays:
    """Compare all sets of prototypes, and find the most similar ones and what matches in them."""
    a = tensors_of(arrays)
    p, r = a["centroids"], int(a["num_neighbours"])
    slides, k, _ = p.shape
    valid = torch.ones(slides, dtype=torch.bool)
    valid[a["ignored"]] = False
    similarity = set_similarity(p, p)
    gram = torch.einsum("skd,tld->stkl", p, p)
    by_order = torch.stack([gram[:, :, range(k), order].sum(2) for order in a["perms"].tolist()], dim=2)
    known = valid[:, None] & valid
    # what is not asked for: a slide is matched with itself in order, and so are those without prototypes
    match = torch.arange(k).repeat(slides, slides, 1)
    everyone, _, matching = nearest_slides(p, valid, slides - 1)
    source, rank = (everyone >= 0).nonzero().unbind(1)
    match[source, everyone[source, rank]] = matching[source, rank]
    length = p.square().sum((1, 2))
    found = {
        "sim_perms": by_order,
        "matching_sim_after_penalty": similarity.masked_fill(~known, -4),
        "hungarian_sim": similarity,
        "hungarian_match": match,
        "set_sqdist": length[:, None] + length - 2 * similarity,
    }
    for name, rule in (("argmax", "nearest"), ("bijective", "bijective")):
        other, _, matching = nearest_slides(p, valid, r, match=rule)
        wanted = a[f"neighbor_proto_inds_{name}"].transpose(1, 2)
        found[f"neighbor_proto_inds_{name}"] = _of_valid(matching, wanted, valid).transpose(1, 2)
        found["neighbor_slide_inds"] = _of_valid(other, a["neighbor_slide_inds"], valid)
    return numbers(found)


def _of_valid(found: Tensor, wanted: Tensor, valid: Tensor) -> Tensor:
    """Give what was found of slides with prototypes; of others the released numbers mean nothing."""
    return torch.where(valid.view(-1, *[1] * (found.dim() - 1)), found, wanted)


def dino_loss(arrays: Arrays) -> Arrays:
    """Loss, gradient and centre at several temperatures; and with every pair."""
    a = tensors_of(arrays)
    found: Tensors = {}
    views = int(a["n_teacher_crops"])
    for folder in sorted({name.split("/")[0] for name in arrays if name.startswith("ep")}):
        criterion = DINOLoss(a["student"].shape[1], float(a["student_temp"]), float(a["center_momentum"]))
        criterion.center.copy_(a["center0"])
        temperature = float(a["teacher_temp_schedule"][int(folder.removeprefix("ep"))])
        student = a["student"].clone().requires_grad_()
        loss, _ = criterion(student, a["teacher"], views, temperature)
        loss.backward()
        p, _ = criterion.targets(a["teacher"], temperature)
        every = cross_entropies(p.view(views, -1, p.shape[1]), student, criterion.student_temperature)
        criterion.update(a["teacher"])
        found |= {f"{folder}/loss": loss, f"{folder}/grad_student": student.grad}
        found |= {f"{folder}/center1": criterion.center, f"{folder}/loss_noskip": every.mean()}
    return numbers(found)


def sizes(weights: Tensors) -> dict[str, int | float]:
    """Read the sizes of encoder and head off their weights."""
    blocks = {int(match[1]) for name in weights if (match := re.match(r"backbone\.blocks\.(\d+)\.", name))}
    dim, feature_dim = weights["backbone.phi.0.weight"].shape
    out_dim, bottleneck = weights["head.last_layer.weight_v"].shape
    return {
        "feature_dim": feature_dim,
        "dim": dim,
        "depth": len(blocks),
        "mlp_ratio": len(weights["backbone.blocks.0.mlp.fc1.bias"]) / dim,
        "out_dim": out_dim,
        "head_dim": len(weights["head.mlp.0.bias"]),
        "bottleneck_dim": bottleneck,
    }


def vit4k_dinohead(arrays: Arrays) -> Arrays:
    """Run encoder and head, on several sizes of view, and the last layer alone on prototypes."""
    a = tensors_of(arrays)
    weights = group(a, "sd/")
    size = sizes(weights)
    names = "feature_dim", "dim", "depth", "mlp_ratio"
    given: Any = {name: size[name] for name in names}
    network = RegionTransformer(**given, heads=int(a["num_heads"]), interpolation_offset=0.1).eval()
    network.load_state_dict(group(weights, "backbone."))
    head = DINOHead(*(int(size[name]) for name in ("dim", "out_dim", "head_dim", "bottleneck_dim")))
    head.load_state_dict(group(weights, "head."))
    views = [a[name] for name in sorted(arrays) if re.fullmatch(r"in\d", name)]
    classes = [network.pooled(view) for view in views]
    found: Tensors = {f"cls{number}": value for number, value in enumerate(classes)}
    for name in arrays:
        if name.startswith("posenc_"):
            side = int(name.removeprefix("posenc_"))
            found[name] = network.positions(side, side)
    rows = torch.cat(classes)
    attention = network.attention(views[0])
    found |= {
        "attn_last_in0": attention,
        "attn_last_in0_class_token": attention[:, :, 0],  # all that the package's tests keep of it
        "out_bottleneck": head.bottleneck(rows),
        "out_logits": head(rows),
        "proto_logits": head.last_layer(normalize(a["proto_in"], dim=1)),
    }
    return numbers(found)


def _method(a: Tensors, intra_only: bool) -> SLPD:
    """Build the method of a training step, as it is before the step."""
    given: Any = sizes(group(a, "student0/"))
    method = SLPD(
        **given,
        heads=int(a["num_heads"]),
        drop_path=0.0,
        local_views=len(a["crop_r_c_size_flip"]) - 2,
        momentum=float(a["momentum"]),
        prototypes=int(a["num_cluster"]),
        min_regions=int(a["min_num_region"]),
        neighbors=int(a["neighbor_num"]),
        intra_weight=float(a["w_intra"]),
        inter_weight=0.0 if intra_only else float(a["w_inter"]),
        start_epoch=0,
        official_compat=True,
    )
    method.student.load_state_dict(group(a, "student0/"))
    method.teacher.load_state_dict(group(a, "teacher0/"))
    method.loss.center.copy_(a["center_dino0"])
    method.intra.center.copy_(a["center_proto0"])
    return method


def _tables(method: SLPD, a: Tensors) -> Tensors:
    """Give the tables of prototypes from our vectors, with the clusters of the file."""
    slide, regions = a["slide_of_region"], a["regions"]
    of_slide, k = a["clusters/im2cluster"], int(a["num_cluster"])
    assignment = of_slide[slide, a["region_in_slide"]]
    valid = torch.bincount(slide) >= int(a["min_num_region"])
    assignment = torch.where(valid[slide], assignment, -1)
    middle = regions[:, :, 1:15, 1:15]
    with torch.no_grad():
        z = method.teacher.head.bottleneck(method.represent(method.teacher.backbone, [(middle, None)]))
    centroid = torch.zeros(len(valid) * k, z.shape[1])
    kept = assignment >= 0
    centroid.index_add_(0, (slide * k + assignment)[kept], z[kept])
    p = normalize(centroid, dim=1).view(len(valid), k, -1)
    other, similarity, matching = nearest_slides(p, valid, int(a["neighbor_num"]), match="nearest")
    tables = {"centroid": p, "valid": valid, "slide": slide, "assignment": assignment}
    return tables | {"neighbor": other, "similarity": similarity, "matching": matching}


def _step(method: PrototypeDistillation, a: Tensors, crops: list[Any], found: Tensors) -> None:
    """Make the step: losses, gradients, clipping, AdamW, teacher, centres."""
    method.train()
    optimizer = torch.optim.AdamW(method.parameter_groups(), lr=float(a["lr"]), weight_decay=float(a["wd"]))
    targets = method.prototypes(a["batch"])
    terms = method.distil(crops[:2], crops[2:], targets)
    with torch.no_grad():
        said = method.student.head(method.represent(method.student.backbone, crops))
        wanted = method.teacher.head(method.represent(method.teacher.backbone, crops[:2]))
        known = targets.known[0]
        spoken = method.teacher.head.last_layer(targets.vector[:, known])
    found |= {"loss0/student": said, "loss0/teacher": wanted, "loss0/value": terms["self"]}
    of_known = said.view(len(crops), -1, said.shape[1])[:, known].flatten(0, 1)
    center = method.intra.moved(spoken[0])
    found |= {"loss1/student": of_known, "loss1/teacher": spoken[0], "loss1/value": terms["intra"]}
    found["loss1/center_after"] = center
    if method.config["inter_weight"] > 0:
        found |= {"loss2/student": of_known, "loss2/value": terms["inter"]}
        found["loss2/teacher"] = spoken[1:].flatten(0, 1)
    terms["loss"].backward()
    method.limit_gradients(3.0)
    found |= {
        f"grad_clipped/{name}": w.grad for name, w in method.student.named_parameters() if w.grad is not None
    }
    settle(method.student, group(a, "grad_clipped/"), _ROUNDING)
    optimizer.step()
    method.after_step(1)
    found["loss0/center_after"] = method.loss.center
    if method.config["inter_weight"] > 0:
        found["loss2/center_after"] = method.inter.center
    for name in ("student", "teacher"):
        network = getattr(method, name)
        found |= {f"{name}1/{key}": value for key, value in network.state_dict().items()}


def train_step(arrays: Arrays) -> Arrays:
    """Cut the views, make the prototypes, and make one training step."""
    a = tensors_of(arrays)
    intra_only = str(arrays["loss_type"]) == "intra"
    method = _method(a, intra_only)
    method.epoch = int(a["epoch"])
    tables = _tables(method, a)
    method.prototypes.load_state_dict(tables)
    batch = a["regions"][a["batch"]]
    present = torch.ones(len(batch), 16, 16, dtype=torch.bool)
    found, crops = {}, []
    for number, (row, column, size, flip) in enumerate(a["crop_r_c_size_flip"].tolist()):
        place = [torch.full((len(batch),), value) for value in (row, column, flip)]
        found[f"crop{number}"], _ = crop_grids(batch, present, place[0], place[1], size, place[2])
        crops.append((found[f"crop{number}"], None))
    valid = tables["valid"]
    found |= {
        "clusters/centroids": tables["centroid"],
        "matching_sim_after_penalty": set_similarity(tables["centroid"], tables["centroid"]).masked_fill(
            ~(valid[:, None] & valid), -4
        ),
        "neighbor_slide_inds": _of_valid(tables["neighbor"], a["neighbor_slide_inds"], valid),
        "neighbor_proto_inds": _of_valid(tables["matching"].transpose(1, 2), a["neighbor_proto_inds"], valid),
    }
    _step(method, a, crops, found)
    return numbers(found)


_GIVEN = (
    *(
        "regions",
        "slide_of_region",
        "region_in_slide",
        "batch",
        "crop_r_c_size_flip",
        "num_*",
        "neighbor_num",
    ),
    *("min_num_region", "w_*", "loss_type", "center_*0", "epoch", "lr", "wd", "momentum", "student0/*"),
    *("teacher0/*", "clusters/im2cluster", "clusters/density", "loss?/which", "loss?/ncrops_tea"),
)
KINDS: dict[str, tuple[tuple[str, ...], Callable[[Arrays], Arrays]]] = {
    "kmeans": (("x", "k", "official_*", "fixed/init", "*/nsplit"), kmeans),
    "neighbours": (("centroids", "num_neighbours", "ignored", "perms"), neighbours),
    "dino_loss": (
        ("student", "teacher", "center0", "n_*", "student_temp", "teacher_temp_schedule", "center_momentum"),
        dino_loss,
    ),
    "vit4k_dinohead": (("sd/*", "in?", "proto_in", "num_heads"), vit4k_dinohead),
    "train_step": (_GIVEN, train_step),
}

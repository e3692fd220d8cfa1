"""How `parity.py` computes each kind of file of the released DINO code with our form of it.

python benchmarks/parity.py dino --golden FOLDER
"""

import re
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from histograph.evaluation import mass_mask, neighbour_vote, prediction_probability
from histograph.methods import load_released
from histograph.methods.dino import DINO
from histograph.nn.dino_head import DINOHead
from histograph.nn.dino_loss import DINOLoss
from histograph.nn.schedules import cosine_schedule, linear_rise

Arrays = dict[str, np.ndarray]
Tensors = dict[str, Tensor]

# size of a gradient below which AdamW with a learning rate of 0.001 makes visible how it was rounded
_ROUNDING = 1e-7


def numbers(found: Tensors) -> Arrays:
    """Give tensors as arrays."""
    return {name: value.detach().numpy() for name, value in found.items()}


def tensors(arrays: Arrays) -> Tensors:
    """Give arrays as tensors of their own."""
    return {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}


def group(arrays: Tensors, folder: str) -> Tensors:
    """Give the arrays of a folder without its name."""
    return {name.removeprefix(folder): value for name, value in arrays.items() if name.startswith(folder)}


def loss(arrays: Arrays) -> Arrays:
    """Go through the epochs: the loss, the student's gradient, and the centre that one epoch hands to the next."""
    a = tensors(arrays)
    first, last = float(a["warmup_teacher_temp"]), float(a["teacher_temp"])
    epochs, rising = int(a["nepochs"]), int(a["warmup_epochs"])
    temperatures = [linear_rise(first, last, epoch, rising) for epoch in range(epochs)]
    found: Tensors = {"teacher_temp_schedule": torch.tensor(temperatures, dtype=torch.float64)}
    criterion = DINOLoss(a["e0_student"].shape[1], float(a["student_temp"]), float(a["center_momentum"]))
    for epoch, temperature in enumerate(temperatures):
        head = f"e{epoch}_"
        student = a[f"{head}student"].requires_grad_()
        found[f"{head}center_before"] = criterion.center.clone()
        value, _ = criterion(student, a[f"{head}teacher"], 2, temperature)
        value.backward()
        criterion.update(a[f"{head}teacher"])
        found |= {f"{head}loss": value, f"{head}grad_student": student.grad}
        found[f"{head}center_after"] = criterion.center.clone()
    return numbers(found)


def schedules(arrays: Arrays) -> Arrays:
    """Learning rate, weight decay and momentum of each step."""
    found = {}
    for name in ("lr", "wd", "mom"):
        start, end, epochs, steps, warmup = arrays[f"{name}_args"].tolist()
        total, rising = int(epochs * steps), int(warmup * steps)
        found[name] = np.array([cosine_schedule(start, end, step, total, rising) for step in range(total)])
    return found


def head(arrays: Arrays) -> Arrays:
    """Each head in evaluation mode; its layers are counted in the weights."""
    a = tensors(arrays)
    found = {}
    for name in [name for name in a if name.endswith("_x")]:
        case = name.removesuffix("_x")
        weights = group(a, f"{case}_sd/")
        linear = [
            value for key, value in weights.items() if re.fullmatch(r"mlp.*weight", key) and value.dim() == 2
        ]
        out_dim, bottleneck = weights["last_layer.weight_v"].shape
        network = DINOHead(
            a[name].shape[1],
            out_dim,
            linear[0].shape[0],
            bottleneck,
            len(linear),
            batch_norm="mlp.1.running_mean" in weights,
        )
        network.load_state_dict(weights)
        found[f"{case}_out"] = network.eval()(a[name])
    return numbers(found)


def settle(network: nn.Module, given: Tensors, below: float) -> None:
    """Take the file's gradient where it is nothing but rounding, after our own was noted for comparison.

    The first step of AdamW divides a gradient by its own size and a 1e-8: what rounding left of a gradient of 0, such
    as that of the biases of keys, moves a weight by up to the learning rate.
    """
    for name, weight in network.named_parameters():
        if weight.grad is not None:
            weight.grad = torch.where(given[name].abs() < below, given[name], weight.grad)


def step(method: DINO, a: Tensors, crops: list[Tensor]) -> Tensors:
    """Make one training step with the crops of the file: loss, gradients, clipping, AdamW, centre, teacher."""
    found: Tensors = {
        "student_out": method.student.head(method.represent(method.student.backbone, crops)),
        "teacher_out": method.teacher.head(method.represent(method.teacher.backbone, crops[:2])),
    }
    optimizer = torch.optim.AdamW(method.parameter_groups(), lr=float(a["lr"]), weight_decay=float(a["wd"]))
    method.train()
    found["loss"] = method.distil(crops[:2], crops[2:])["loss"]
    found["loss"].backward()
    weights = dict(method.student.named_parameters())
    found |= {f"grad/{name}": w.grad.clone() for name, w in weights.items() if w.grad is not None}
    method.limit_gradients(float(a["clip"]))
    found |= {f"gradclip/{name}": w.grad for name, w in weights.items() if w.grad is not None}
    settle(method.student, group(a, "gradclip/"), _ROUNDING)
    optimizer.step()
    method.after_step(1)
    found["center_after"] = method.loss.center
    found |= {f"student_after/{name}": value for name, value in method.student.state_dict().items()}
    return found | {f"teacher_after/{name}": value for name, value in method.teacher.state_dict().items()}


def vit(arrays: Arrays) -> Arrays:
    """Run the backbone on several sizes of image, give its attention, and make one training step."""
    a = tensors(arrays)
    crops = [a[f"crop{number}"] for number in range(sum(name.startswith("crop") for name in a))]
    method = load_released(
        {"teacher": group(a, "sd/")},
        heads=int(a["heads"]),
        drop_path=0.0,
        local_size=crops[-1].shape[-1],
        local_views=len(crops) - 2,
        momentum=float(a["ema_m"]),
        freeze_epochs=0,
    )
    backbone = method.student.backbone
    found: Tensors = {
        name: backbone(crops[int(name.removeprefix("backbone_im"))])[:, 0]
        for name in arrays
        if name.startswith("backbone_im")
    }
    for number, block in enumerate(backbone.intermediate(crops[0], range(len(backbone.blocks)))):
        found[f"intermediate{number}"] = block
    local = crops[-1].shape[-1] // int(a["patch"])
    found |= {
        "last_attn_im0": backbone.attention(crops[0]),
        "backbone_big": backbone(a["big"])[:, 0],
        "last_attn_big": backbone.attention(a["big"]),
        "pos_loc": backbone.positions(local, local),
    }
    return numbers(found | step(method, a, crops))


def attention_threshold(arrays: Arrays) -> Arrays:
    """Keep the tokens that hold most of the attention of each head."""
    cases = {name.split("_")[0]: value.shape for name, value in arrays.items() if name.endswith("_mask")}
    return {
        f"{case}_mask": mass_mask(arrays[f"{case}_attn"], float(arrays[f"{case}_mass"])).reshape(shape)
        for case, shape in cases.items()
    }


def knn(arrays: Arrays) -> Arrays:
    """Let weighted neighbours vote; top-1 and top-5 in percent."""
    found = {}
    for case in sorted({name.split("_")[0] for name in arrays}):
        train, labels, test, truth = (
            arrays[f"{case}_{name}"] for name in ("train", "train_labels", "test", "test_labels")
        )
        vote = neighbour_vote(train, labels, test, int(arrays[f"{case}_K"]), float(arrays[f"{case}_T"]))
        found |= {f"{case}_top{top}": np.array(100 * vote.accuracy(truth, top)) for top in (1, 5)}
    return found


def probability_of_order(arrays: Arrays) -> Arrays:
    """Give the prediction probability, and the value of the released evaluation."""
    found = {}
    for case in sorted({name.split("_")[0] for name in arrays}):
        pair = arrays[f"{case}_truth"], arrays[f"{case}_score"]
        found[f"{case}_bruteforce"] = np.array(prediction_probability(*pair))
        found[f"{case}_tau_d"] = np.array(prediction_probability(*pair, legacy=True))
    return found


KINDS: dict[str, tuple[tuple[str, ...], Callable[[Arrays], Arrays]]] = {
    "loss": (
        (
            "ncrops",
            "batch",
            "warmup_*",
            "teacher_temp",
            "nepochs",
            "student_temp",
            "center_momentum",
            "e[0-9]_student",
            "e[0-9][0-9]_student",
            "e*_teacher",
        ),
        loss,
    ),
    "schedules": (("*_args",), schedules),
    "head": (("*_x", "*_sd/*"), head),
    "vit": (
        ("patch", "img", "heads", "depth", "crop*", "big", "sd/*", "clip", "ema_m", "lr", "wd"),
        vit,
    ),
    "attention_threshold": (("*_attn", "*_mass"), attention_threshold),
    "knn": (("*_train", "*_train_labels", "*_test", "*_test_labels", "*_K", "*_T"), knn),
    "prediction_probability": (("*_truth", "*_score"), probability_of_order),
}

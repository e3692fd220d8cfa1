"""The evaluation of frozen patch encoders that the data-set scripts of `dino/` and `gcmae/` share.

Pictures are embedded whole: the shorter side is made the encoder's, and the middle square is taken. Then a vote of
neighbours, a linear probe or a linear regression reads the vectors, and its scores stand beside the paper's.
"""

import argparse
import importlib
import json
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hmgdm.common import folder_of
from tqdm.auto import tqdm

from histograph.atomic import atomic_path
from histograph.evaluation import (
    Fold,
    ProbeResult,
    check_split,
    grouped_split,
    held_out_probe,
    held_out_regression,
    score_classes,
    score_values,
)
from histograph.features import PatchEncoder, load_encoder, region_features
from histograph.nn import vit

from .figures import draw
from .pictures import Picture, sampled, slug, squared

HAND, UNTRAINED, BUNDLED = "hand-made", "untrained", "histograph-vit"
KNN, WEIGHTED, LINEAR = "kNN, k = 5", "weighted kNN, k = 20", "linear probe"
LEAST_SQUARES, RIDGE = "least squares", "ridge"
PROBES: dict[str, dict[str, Any]] = {
    KNN: {"probe": "vote", "k": 5, "temperature": None, "distance": "euclidean"},
    WEIGHTED: {"probe": "vote", "k": 20, "temperature": 0.07},
    LINEAR: {"probe": "linear"},
}
METRICS = ("accuracy", "balanced_accuracy", "f1", "auc")
VALUE_METRICS = ("mse", "prediction_probability", "prediction_probability_legacy")
ENCODERS = (
    f'"{BUNDLED}", "hf:org/name", "timm:hf-hub:org/name", a file of weights or of a pre-trained method, '
    f'"python:module:name" for a torch module of yours (with mean, std, size_px) or a function that makes it, '
    f'"{UNTRAINED}" (a ViT-S/16 of random weights) or "{HAND}" (colour, stain and texture); may be given several times'
)
Paper = dict[str, tuple[str, ...]]


class UnreadablePicture(ValueError):
    """A picture of the data set is damaged, or none at all."""


@dataclass(frozen=True)
class Task:
    """A data set, what is asked of it, and what a paper says.

    Parameters
    ----------
    name : str
        Of the cache folder, below `runs/`.
    expected : str
        What `--data` must hold, for messages.
    read : callable
        Gives the pictures of a folder, from the parsed options.
    mpp : float
        Micrometres per pixel of the pictures.
    each : sequence of str
        Classes whose areas under the curve the paper lists, in its order; empty leaves that table out.
    each_paper : dict
        Its rows of that table, kNN: an area for each class, then that of all.
    paper : dict
        Accuracy, or error and prediction probabilities, by row of the table: (name of the row, numbers…).
    values : bool
        A value is predicted, not a class.
    note : str
        What must be known to read the tables.
    options : callable
        Adds options of the data set to the parser.
    """

    name: str
    expected: str
    read: Callable[[Path, argparse.Namespace], list[Picture]]
    mpp: float
    each: Sequence[str] = ()
    each_paper: Callable[[argparse.Namespace], Paper] = field(default=lambda options: {})
    paper: Paper = field(default_factory=dict)
    values: bool = False
    note: str = ""
    options: Callable[[argparse.ArgumentParser], None] = field(default=lambda parser: None)


def options_of(task: Task, doc: str | None) -> argparse.ArgumentParser:
    """Make the parser of a task."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help=f"folder with {task.expected}")
    parser.add_argument("--encoder", action="append", help=f"{ENCODERS}; default {BUNDLED}")
    parser.add_argument(
        "--size-px", type=int, help="side of the encoder's images, to read them finer or coarser"
    )
    parser.add_argument("--tokens", help='"cls", "mean", "cls+mean"…, of encoders that are loaded by name')
    parser.add_argument(
        "--mean", type=float, nargs=3, help="normalisation of encoders that do not tell theirs"
    )
    parser.add_argument("--std", type=float, nargs=3)
    cache = Path("runs") / task.name
    parser.add_argument(
        "--cache", type=Path, default=cache, help=f"vectors, taken again by a re-run ({cache})"
    )
    parser.add_argument("--limit", type=int, help="pictures of each class and side, for a smaller run")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2, help="threads that read pictures")
    parser.add_argument("--device", help="cpu, cuda…; default: the GPU if there is one")
    parser.add_argument("--folds", type=int, default=5, help="folds by patient, where no split is given")
    parser.add_argument("--n-boot", type=int, default=1000, help="resamples of the intervals")
    parser.add_argument(
        "--figures", type=Path, help="folder for figures: vectors in the plane, attention of the heads"
    )
    parser.add_argument("--projection", choices=("umap", "pca"), default="umap", help="of --figures (umap)")
    task.options(parser)
    return parser


def main(task: Task, doc: str | None, argv: Sequence[str] | None) -> int:
    """Run the benchmark of a task and print its tables."""
    options = options_of(task, doc).parse_args(argv)
    folder = folder_of(options, task.expected)
    if folder is None:
        return 0
    try:
        pictures = sampled(task.read(folder, options), options.limit)
        folds, how = folds_of(task, pictures, options)
    except (ValueError, OSError) as error:
        sys.exit(f"--data: {error}")
    print(described(task, pictures, how))
    scores = {}
    for name in options.encoder or [BUNDLED]:
        try:
            encoder = encoder_of(name, options)
            z = vectors(name, encoder, pictures, task.mpp, options)
            scores[name] = (regressed if task.values else classified)(z, pictures, folds, options)
        except UnreadablePicture as error:
            sys.exit(f"--data: {error}")
        except (ValueError, TypeError, OSError, ImportError) as error:
            sys.exit(f"--encoder {name}: {error}")
        if options.figures:
            print(draw(name, encoder, z, pictures, task.mpp, options))
    print_values(task, scores) if task.values else print_classes(task, scores, options)
    if task.note:
        print(f"\n{task.note}")
    return 0


def described(task: Task, pictures: Sequence[Picture], how: str) -> str:
    """Say in a line what is scored."""
    patients = {picture.patient for picture in pictures} - {""}
    parts = [f"{len(pictures)} pictures" + (f" of {len(patients)} patients or slides" if patients else "")]
    if not task.values:
        names, counts = np.unique([picture.label for picture in pictures], return_counts=True)
        parts.append(", ".join(f"{n} {name}" for name, n in zip(names, counts, strict=True)))
    return "; ".join([*parts, how]) + "\n"


def patients_of(pictures: Sequence[Picture]) -> np.ndarray:
    """Give the patient of each picture; where he is not known, each picture is one."""
    return np.array([picture.patient or f"picture {row}" for row, picture in enumerate(pictures)])


def folds_of(task: Task, pictures: Sequence[Picture], options: argparse.Namespace) -> tuple[list[Fold], str]:
    """Give the official split, where there is one, or folds by patient; refuse a split that shares patients."""
    test = np.array([picture.test for picture in pictures])
    patients = patients_of(pictures)
    known = any(picture.patient for picture in pictures)
    if test.any():
        split = Fold(np.flatnonzero(~test), np.flatnonzero(test))
        if known and not task.values:
            check_split(split.train, split.test, patients)
        if not task.values:
            _check_classes(pictures)
        if task.values and (shared := set(patients[split.train]) & set(patients[split.test])):
            print(f"the official split has {len(shared)} slides on both sides, which flatters all scores")
        return [split], f"{len(split.test)} of them are the official test side"
    y = None if task.values else [picture.label for picture in pictures]
    folds = grouped_split(patients, y, options.folds)
    return folds, f"{len(folds)} folds by {'patient' if known else 'picture: patients are not known'}"


def _check_classes(pictures: Sequence[Picture]) -> None:
    """Refuse a test side with a class that the training side has not."""
    train, test = ({p.label for p in pictures if p.test == side} for side in (False, True))
    if lacking := sorted(test - train):
        raise ValueError(
            f"the training side has no picture of {', '.join(lacking)}, which the test side has; it has "
            f"{', '.join(sorted(train)) or 'none at all'}. Unpack all of its folders"
        )


def encoder_of(name: str, options: argparse.Namespace) -> PatchEncoder | None:
    """Make the encoder of a name; None for hand-made features."""
    if name == HAND:
        return None
    changes = {key: getattr(options, key) for key in ("size_px", "tokens", "mean", "std")}
    changes = {key: value for key, value in changes.items() if value is not None}
    if name == UNTRAINED:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = vit("small")
        return load_encoder(
            network,
            name=UNTRAINED,
            device=options.device,
            **{"mean": (0.5,) * 3, "std": (0.5,) * 3} | changes,
        )
    if name.startswith("python:"):
        _, module, attribute = [*name.split(":"), "", ""][:3]
        if not module or not attribute:
            raise ValueError("give python:MODULE:NAME, such as python:my_models:encoder")
        made = getattr(importlib.import_module(module), attribute, None)
        if made is None:
            raise ValueError(f"module {module} has no {attribute}")
        is_ready = isinstance(made, torch.nn.Module | PatchEncoder)
        return load_encoder(made if is_ready else made(), device=options.device, **changes)
    return load_encoder(name, device=options.device, **changes)


def vectors(
    name: str,
    encoder: PatchEncoder | None,
    pictures: Sequence[Picture],
    mpp: float,
    options: argparse.Namespace,
) -> np.ndarray:
    """Give (n, D) vectors, taken from the cache where the same encoder has embedded the same files before."""
    from histograph.graphs.provenance import describe  # takes seconds to import

    if name.startswith("python:"):  # what a module of one's own does may change
        return embedded(encoder, pictures, mpp, options)
    stamps = [path.stat() for path in dict.fromkeys(picture.source for picture in pictures)]
    # its weights, normalisation, size and tokens: another model may come under an old name
    facts = [name, None if encoder is None else json.dumps(describe(encoder), sort_keys=True)]
    facts += [picture.name for picture in pictures] + [(stamp.st_size, stamp.st_mtime_ns) for stamp in stamps]
    code = zlib.crc32("\n".join(map(str, facts)).encode())
    target = options.cache / f"{slug(name)} {code:08x}.npy"
    if target.exists():
        return np.load(target)
    z = embedded(encoder, pictures, mpp, options)
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(target) as part, part.open("wb") as file:
        np.save(file, z)
    return z


def embedded(
    encoder: PatchEncoder | None, pictures: Sequence[Picture], mpp: float, options: argparse.Namespace
) -> np.ndarray:
    """Embed all pictures, reading the next batch while one is worked on."""
    size = None if encoder is None else encoder.size_px
    parts = []
    with tqdm(total=len(pictures), desc="hand-made" if encoder is None else encoder.name) as bar:
        for batch in batches(pictures, size, options.batch_size, options.workers):
            if encoder is None:
                parts.append(np.stack([hand_made(image, mpp) for image in batch]))
            else:
                parts.append(encoder.encode(np.stack(batch)).cpu().numpy())
            bar.update(len(batch))
    z = np.concatenate(parts)
    if encoder is None:  # of many units: put on one scale, without labels
        z = (z - z.mean(axis=0)) / np.where(z.std(axis=0) > 0, z.std(axis=0), 1)
    return z.astype(np.float32)


def batches(
    pictures: Sequence[Picture], size: int | None, batch_size: int, workers: int
) -> Iterator[list[np.ndarray]]:
    """Yield lists of images, two batches read ahead."""

    def ready(picture: Picture) -> np.ndarray:
        try:
            image = picture.read()
        except (ValueError, OSError) as error:
            raise UnreadablePicture(f"{picture.source}: {picture.name} cannot be read: {error}") from error
        return image if size is None else squared(image, size)

    starts = range(0, len(pictures), batch_size)
    with ThreadPoolExecutor(workers) as pool:
        waiting = []
        for start in starts:
            waiting.append([pool.submit(ready, picture) for picture in pictures[start : start + batch_size]])
            if len(waiting) > 2:
                yield [job.result() for job in waiting.pop(0)]
        for jobs in waiting:
            yield [job.result() for job in jobs]


def hand_made(image: np.ndarray, mpp: float) -> np.ndarray:
    """Give colour, stain and texture features of a whole picture."""
    whole = np.ones(image.shape[:2], dtype=np.int64)
    table = region_features(whole, image, mpp, groups=("color", "stain", "texture"), workers=1)
    return np.nan_to_num(table.values[0])


def classified(
    z: np.ndarray, pictures: Sequence[Picture], folds: Sequence[Fold], options: argparse.Namespace
) -> dict[str, ProbeResult]:
    """Score all probes on the parts that are tested."""
    y, patients = np.array([picture.label for picture in pictures]), patients_of(pictures)
    classes = np.unique(y)
    found = {}
    for how, settings in PROBES.items():
        probability, fold_of = np.full((len(y), len(classes)), np.nan), np.zeros(len(y), dtype=np.int64)
        for number, (train, test) in enumerate(folds):
            k = min(settings.get("k", 1), len(train))
            known = settings | {"k": k} if "k" in settings else settings
            part = held_out_probe(
                z[train],
                y[train],
                z[test],
                y[test],
                groups=patients[train],
                n_boot=1,
                metrics=("accuracy",),
                **known,
            )
            names = [np.flatnonzero(classes == name)[0] for name in part.classes]
            chance = part.predictions[[f"p_{name}" for name in part.classes]].to_numpy()
            probability[test] = 0.0
            probability[np.ix_(test, names)] = chance
            fold_of[test] = number
        rows = np.flatnonzero(np.isfinite(probability[:, 0]))
        found[how] = score_classes(
            y[rows],
            probability[rows],
            classes,
            patients[rows],
            fold_of[rows],
            METRICS,
            each_class=how == KNN,
            n_boot=options.n_boot,
        )
    return found


def regressed(
    z: np.ndarray, pictures: Sequence[Picture], folds: Sequence[Fold], options: argparse.Namespace
) -> dict[str, ProbeResult]:
    """Score linear regressions on the parts that are tested."""
    y, patients = np.array([picture.value for picture in pictures]), patients_of(pictures)
    found = {}
    for how, model in {LEAST_SQUARES: "least_squares", RIDGE: "ridge"}.items():
        predicted, fold_of = np.full(len(y), np.nan), np.zeros(len(y), dtype=np.int64)
        for number, (train, test) in enumerate(folds):
            part = held_out_regression(
                z[train],
                y[train],
                z[test],
                y[test],
                model,
                groups=patients[train],
                n_boot=1,
                metrics=("mse",),
            )
            predicted[test], fold_of[test] = part.predictions["predicted"], number
        rows = np.flatnonzero(np.isfinite(predicted))
        found[how] = score_values(
            y[rows], predicted[rows], patients[rows], fold_of[rows], VALUE_METRICS, n_boot=options.n_boot
        )
    return found


def print_classes(task: Task, scores: dict[str, dict[str, ProbeResult]], options: argparse.Namespace) -> None:
    """Print areas of each class by kNN as the paper lists them, and all scores of all probes."""
    if task.each:
        names = [*task.each, "all"]
        print(f"Area under the ROC curve, one class against the rest, {KNN}\n")
        print("| vectors | " + " | ".join(names) + " |\n" + "|---" * (len(names) + 1) + "|")
        for row, numbers in task.each_paper(options).items():
            print(f"| {row} (paper) | " + " | ".join(numbers) + " |")
        for row, probes in scores.items():
            metrics = probes[KNN].metrics
            cells = [
                f"{metrics[f'auc_{name}'][0]:.3f}" if f"auc_{name}" in metrics else "–" for name in task.each
            ]
            print(f"| {row} | " + " | ".join([*cells, spread(metrics["auc"])]) + " |")
        print()
    print("| vectors | how | accuracy | balanced accuracy | F1 (macro) | AUC |\n" + "|---" * 6 + "|")
    for row, (how, *numbers) in task.paper.items():
        print(f"| {row} (paper) | {how} | " + " | ".join(numbers) + " |")
    for row, probes in scores.items():
        for how, result in probes.items():
            print(f"| {row} | {how} | " + " | ".join(spread(result.metrics[name]) for name in METRICS) + " |")
    print(
        "\nIn brackets 95 % intervals over patients or slides where they are known, and over pictures elsewhere."
    )


def print_values(task: Task, scores: dict[str, dict[str, ProbeResult]]) -> None:
    """Print errors and prediction probabilities."""
    print("| vectors | how | MSE | prediction probability | as published (biased) |\n" + "|---" * 5 + "|")
    for row, (how, *numbers) in task.paper.items():
        print(f"| {row} (paper) | {how} | " + " | ".join(numbers) + " |")
    for row, probes in scores.items():
        for how, result in probes.items():
            print(
                f"| {row} | {how} | "
                + " | ".join(spread(result.metrics[name]) for name in VALUE_METRICS)
                + " |"
            )
    print("\nIn brackets 95 % intervals over slides.")


def spread(values: tuple[float, float, float]) -> str:
    """Write a value and its interval."""
    value, low, high = values
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"

"""Weakly supervised probe of slides: a head on the frozen vectors of their regions, trained and scored by folds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from tqdm.auto import tqdm

from .bags import Bags, as_bags
from .bootstrap import check_bootstrap
from .fold_tables import few_labels
from .inputs import Labels, as_groups, as_labels
from .metrics import check_metrics
from .result import ProbeResult
from .scores import score_classes
from .splits import Fold, check_split, split_codes

if TYPE_CHECKING:
    from histograph.nn import SlideHead

    from .slide_training import HeadTraining, Said


@dataclass(frozen=True, repr=False)
class SlideProbeResult(ProbeResult):
    """Scores of heads of slides, and what they looked at.

    As `ProbeResult`, with one row of `predictions` for each time that a slide was tested: with folds of one's own that
    may be several times, and `row` is the number of the slide.

    Parameters
    ----------
    attention
        One row for each region of each tested slide: `fold`, `slide`, `row` (in z; regions are counted through where
        z is a sequence) and `weight`, 1 in sum over the regions of a slide.

    Examples
    --------
    >>> scores = {"auc": (0.9, 0.8, 0.95)}
    >>> SlideProbeResult("clam", scores, pd.DataFrame(), pd.DataFrame(), ["IDC", "ILC"], 40, 38)
    SlideProbeResult(clam probe, 40 samples, 38 groups, 2 classes: auc 0.900 [0.800, 0.950])
    """

    attention: pd.DataFrame = field(default_factory=pd.DataFrame)


def mil_probe(
    z: Any,
    y: ArrayLike,
    slide: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    head: "str | Callable[[int, int], SlideHead]" = "transformer",
    folds: int | Sequence[Fold] = 5,
    seed: int = 0,
    share: float = 1.0,
    metrics: Sequence[str] = ("accuracy", "f1", "auc"),
    confidence: float = 0.95,
    n_boot: int = 1000,
    epochs: int = 20,
    lr: float = 2e-4,
    weight_decay: float = 1e-5,
    batch_size: int = 1,
    balance: bool = True,
    standardise: bool = True,
    device: str = "cpu",
    progress: bool = False,
    **options: Any,
) -> SlideProbeResult:
    """Train a head on the regions of slides with labels of slides only; score it out of fold, with intervals.

    The protocol is HIPT's: the vectors stay as they are, Adam, a fixed number of epochs without a choice among them,
    one slide a step, slides drawn by the inverse frequency of their class.

    Parameters
    ----------
    z
        (N, D) vectors of all regions, with `slide`; or a sequence with the (n_s, D) vectors of each slide.
    y
        (S,) class of each slide.
    slide
        (N,) number of the slide of each region, 0 … S-1, in any order.
    groups
        (S,) patient of each slide: never on both sides of a fold, and the unit of the bootstrap. None: each slide.
    head
        "mean", "attention", "clam" or "transformer", the heads of `histograph.nn`; or a function that makes a
        `histograph.nn.SlideHead` from the width D and the number of classes.
    folds
        Number of folds; or folds with row numbers of slides, such as those of `read_folds` or `grouped_split`, whose
        test parts may overlap.
    seed
        Seed of folds, labels that are kept, weights, order, dropout and resampling.
    share
        Share of the patients of each training part to keep, by class, in (0, 1].
    metrics
        As in `linear_probe`. Areas compare slides of one fold.
    confidence
        Coverage of the percentile intervals.
    n_boot
        Number of bootstrap resamples of groups.
    epochs
        Passes over the training part.
    lr, weight_decay
        Of Adam.
    batch_size
        Slides a step.
    balance
        Whether slides are drawn, with replacement, by the inverse frequency of their class; else each once a pass.
    standardise
        Whether columns are centred and scaled by the regions of the training part, each slide of equal weight; HIPT
        takes them as they are.
    device
        Where heads are trained, for instance "cuda".
    progress
        Show a bar over folds.
    **options
        Further arguments of a named head, for instance ``hidden_dim=64`` or ``dropout=0.0``.

    Returns
    -------
    SlideProbeResult
        Scores with intervals, out-of-fold predictions, and the attention to each region.

    Raises
    ------
    ValueError
        If lengths differ, a slide has no region, an argument is out of range, a fold shares patients, or the training
        part of a fold lacks a class.
    FloatingPointError
        If a loss is not finite.

    References
    ----------
    Chen et al., "Scaling vision transformers to gigapixel images via hierarchical self-supervised learning", CVPR
    2022, weakly supervised subtyping.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y = np.arange(12) % 2
    >>> z = [rng.normal(3.0 * label, size=(4, 3)) for label in y]
    >>> result = mil_probe(z, y, head="attention", folds=2, epochs=5, lr=0.01, n_boot=50, hidden_dim=8)
    >>> result.metrics["auc"][0], len(result.attention)
    (1.0, 48)
    """
    # not at the top: torch is slow to import, and most of this room does without
    from .slide_training import HeadTraining

    check_bootstrap(n_boot, confidence)
    names = check_metrics(metrics)
    make = _maker(head, options)
    labels = as_labels(y, len(np.asarray(y)))
    bags = as_bags(z, slide, len(labels.code))
    code = as_groups(groups, len(bags))
    parts = _folds(folds, labels, code, groups, share, seed)
    training = HeadTraining(epochs, lr, weight_decay, batch_size, balance, standardise, device)
    said = _read(training, make, bags, labels, parts, seed, progress)
    tables = [_attention(bags, fold.test, found, i) for i, (fold, found) in enumerate(zip(parts, said))]
    row = np.concatenate([fold.test for fold in parts])
    number = np.repeat(np.arange(len(parts)), [len(fold.test) for fold in parts])
    order = np.lexsort([number, row])  # by slide, as the other probes
    row, number = row[order], number[order]
    scored = score_classes(
        labels.classes[labels.code[row]],
        np.concatenate([found.probability for found in said])[order],
        labels.classes,
        code[row],
        number,
        names,
        confidence=confidence,
        n_boot=n_boot,
        seed=seed,
    )
    shown = row if groups is None else np.asarray(groups)[row]
    settings = {"head": head if isinstance(head, str) else getattr(head, "__name__", str(head))}
    settings |= {"share": share, **vars(training), **options}
    return SlideProbeResult(
        **vars(
            replace(
                scored,
                probe=settings["head"],
                # columns that score_classes cannot know; folds keep their own numbers
                predictions=scored.predictions.assign(row=row, fold=number, group=shown),
                n=len(np.unique(row)),
                parameters=scored.parameters | settings,
            )
        ),
        attention=pd.concat(tables, ignore_index=True),
    )


def fold_scores(result: ProbeResult, metrics: Sequence[str] = ("auc",)) -> pd.DataFrame:
    """Score each fold by itself, as papers do that give mean and standard deviation over folds.

    Folds share most of their training slides, so their spread is no standard error; the intervals of the result are.

    Parameters
    ----------
    result
        Of a probe of classes.
    metrics
        As in `linear_probe`.

    Returns
    -------
    DataFrame
        One row for each repeat and fold: `repeat`, `fold`, `n` and the metrics; NaN where a score does not exist, as
        the area of one class only.

    Raises
    ------
    ValueError
        If a metric is unknown.

    Examples
    --------
    >>> from histograph.evaluation import score_classes
    >>> chance = [[0.9, 0.1], [0.6, 0.4], [0.7, 0.3], [0.2, 0.8]]
    >>> fold_scores(score_classes([0, 1, 0, 1], chance, fold=[0, 0, 1, 1], n_boot=1))["auc"].tolist()
    [1.0, 1.0]
    """
    names = check_metrics(metrics)
    rows = []
    columns = [f"p_{name}" for name in result.classes]
    for (repeat, fold), part in result.predictions.groupby(["repeat", "fold"], sort=True):
        found = score_classes(part["y"], part[columns], result.classes, metrics=names, n_boot=1).metrics
        rows.append(
            {"repeat": repeat, "fold": fold, "n": len(part)} | {name: found[name][0] for name in names}
        )
    return pd.DataFrame(rows)


def _maker(head: Any, options: dict[str, Any]) -> Any:
    """Give the function that makes a head of a width and a number of classes."""
    from .slide_training import SLIDE_HEADS

    if callable(head):
        if options:
            raise ValueError(
                f"options {sorted(options)} are for named heads; let the function that makes the head set them."
            )
        return head
    if head not in SLIDE_HEADS:
        raise ValueError(f"head must be a function or among {', '.join(SLIDE_HEADS)}; found {head!r}.")
    return partial(SLIDE_HEADS[head], **options)


def _folds(
    folds: int | Sequence[Fold],
    labels: Labels,
    code: NDArray[np.int64],
    groups: ArrayLike | None,
    share: float,
    seed: int,
) -> list[Fold]:
    """Make or check folds, and keep a share of the patients of each training part."""
    if isinstance(folds, int):
        parts = split_codes(labels, code, folds, seed)
    else:
        parts = [_checked(fold, len(code), i) for i, fold in enumerate(folds)]
        if not parts:
            raise ValueError("folds must hold at least one fold, found none.")
        for i, fold in enumerate(parts):
            try:
                check_split(fold.train, fold.test, code if groups is None else np.asarray(groups))
            except ValueError as error:
                raise ValueError(f"folds[{i}]: {error}") from error
    parts = few_labels(parts, labels.code, share, code, seed)
    for i, fold in enumerate(parts):
        missing = np.setdiff1d(labels.code, labels.code[fold.train])
        if len(missing):
            raise ValueError(
                f"folds[{i}] would train without class {labels.classes[missing].tolist()}. Drop the fold, or the class "
                "everywhere."
            )
    return parts


def _checked(fold: Fold, n: int, number: int) -> Fold:
    """Check that both sides are rows."""
    sides = [np.asarray(side) for side in fold]
    if len(sides) != 2 or any(side.ndim != 1 or side.dtype.kind not in "iu" for side in sides):
        raise ValueError(
            f"folds[{number}] must be two lists of row numbers of slides, train and test. To read tables of names, use "
            "read_folds."
        )
    for name, side in zip(("train", "test"), sides):
        if not len(side) or side.min() < 0 or side.max() >= n or len(np.unique(side)) < len(side):
            raise ValueError(
                f"folds[{number}]: {name} must hold distinct row numbers from 0 to {n - 1}, at least one; found "
                f"{len(side)}" + (f" from {side.min()} to {side.max()}." if len(side) else ".")
            )
    return Fold(*(np.sort(side).astype(np.int64) for side in sides))


def _read(
    training: "HeadTraining",
    make: Any,
    bags: Bags,
    labels: Labels,
    parts: Sequence[Fold],
    seed: int,
    progress: bool,
) -> list["Said"]:
    """Train a head for each fold, and let it read the test part."""
    said = []
    for fold in tqdm(parts, desc="folds", disable=not progress):
        trained = training.fit(make, bags, fold.train, labels.code[fold.train], len(labels.classes), seed)
        said.append(trained.read(bags, fold.test))
    return said


def _attention(bags: Bags, slides: NDArray[np.int64], said: "Said", number: int) -> pd.DataFrame:
    rows, place = bags.rows_of(slides)
    return pd.DataFrame(
        {"fold": number, "slide": slides[place], "row": bags.row[rows], "weight": said.attention}
    )

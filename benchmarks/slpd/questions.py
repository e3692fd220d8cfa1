"""What is asked of region and slide vectors, and how answers of several seeds are scored together."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from slpd.sources import KINDS, LAYOUT, Pool, Slides, crc, pieced

import histograph as hg
from histograph.evaluation import Fold

#: Typed cells of a region that is asked about, at least.
FEWEST_CELLS = 5
SHARES = (0.25, 1.0)
#: Made-up slides to learn from, and to be asked about; the seed of the latter, which is none of the former.
TRAINED_ON, ASKED, ASKED_SEED = 64, 60, 12345
#: Of the training of heads; HIPT's takes one slide a step and a rate of 2e-4.
HEADS: dict[str, Any] = {"epochs": 20, "lr": 1e-3, "batch_size": 4}
METRICS = {"class": "auc", "value": "r2"}
#: Of each question (its title), what was said of each sample, and the fold whose model said it.
Answers = dict[str, tuple[np.ndarray, np.ndarray]]


@dataclass
class Question:
    """A question with its true answers.

    Parameters
    ----------
    title : str
        Name of the column, with the score.
    kind : {"class", "value"}
        What is predicted.
    y : ndarray
        (n,) true answers.
    group : ndarray
        (n,) picture or slide of each sample: what is drawn by the bootstrap.
    """

    title: str
    kind: Literal["class", "value"]
    y: np.ndarray
    group: np.ndarray


@dataclass
class Task:
    """Slides and questions.

    Parameters
    ----------
    title : str
        What is scored, for the table.
    prototypes : int
        Clusters of a slide.
    questions : list of Question
        What is asked.
    sides : callable
        Seed -> slides: those that a method is trained on, and others that are asked about, if there are.
    answers : callable
        Vectors of the regions of the sides, the sides, and the seed -> answers.
    """

    title: str
    prototypes: int
    questions: list[Question]
    sides: Callable[[int], list[Slides]]
    answers: Callable[[Sequence[np.ndarray], Sequence[Slides], int], Answers]


def scored(question: Question, answers: Sequence[Answers]) -> Any:
    """Score the answers of all seeds together: a sample is drawn with all its seeds, and folds stay apart."""
    said = [answer[question.title] for answer in answers]
    folds = [fold + 1000 * seed for seed, (_, fold) in enumerate(said)]
    score = hg.evaluation.score_classes if question.kind == "class" else hg.evaluation.score_values
    return score(
        np.tile(question.y, len(said)),
        np.concatenate([predicted for predicted, _ in said]),
        groups=np.tile(question.group, len(said)),
        fold=np.concatenate(folds),
        metrics=(METRICS[question.kind],),
    )


def _read(result: Any) -> tuple[np.ndarray, np.ndarray]:
    """Give what a probe said of each sample, and by which fold."""
    table = result.predictions.sort_values("row")
    columns = [f"p_{name}" for name in result.classes] or "predicted"
    return table[columns].to_numpy(), table["fold"].to_numpy()


def crc_task(folder: Path, options: argparse.Namespace) -> Task:
    """Ask for the most frequent kind of cells of a region, and for the share of epithelial cells."""
    slides, count = crc(folder, options.limit)
    picture = slides.regions.slide.numpy()
    total, best = count.sum(1), count.max(1)
    enough = total >= FEWEST_CELLS
    # the one kind that leads; of "others" there are too few regions
    leads = enough & ((count == best[:, None]).sum(1) == 1) & (count.argmax(1) < len(KINDS) - 1)
    kind, share = count.argmax(1)[leads], (count[:, 0] / np.maximum(total, 1))[enough]
    names = [f"kind of {leads.sum()} regions, AUC", f"epithelial share of {enough.sum()} regions, R²"]
    questions = [
        Question(names[0], "class", kind, picture[leads]),
        Question(names[1], "value", share, picture[enough]),
    ]

    def answers(vectors: Sequence[np.ndarray], sides: Sequence[Slides], seed: int) -> Answers:
        z, plain = vectors[0], {"seed": seed, "n_boot": 1}
        found = hg.evaluation.linear_probe(z[leads], kind, picture[leads], metrics=("auc",), **plain)
        ridge = hg.evaluation.regression_probe(z[enough], share, picture[enough], metrics=("r2",), **plain)
        return {names[0]: _read(found), names[1]: _read(ridge)}

    number = len(slides.regions.slide_ids)
    title = f"{number} pictures of {len(count) // number} regions; linear probes out of fold by picture"
    return Task(title, 2, questions, lambda seed: [slides], answers)


def pcam_task(folder: Path, options: argparse.Namespace) -> Task:
    """Ask which of the slides, pieced together of patches, have tumour."""
    pools = {split: Pool.read(folder, split, options.out / "pcam") for split in ("train", "valid")}
    trained_on, asked = (min(number, options.limit or number) for number in (TRAINED_ON, ASKED))
    pictured = 8 if options.pictures else 0
    shown = {0.25: "25 % of labels", 1.0: "100 % of labels"}
    titles = {
        (how, share): f"{how}, {shown[share]}, AUC"
        for how in ("kNN of means", *(f"{head} head" for head in options.heads))
        for share in SHARES
    }
    beside, y_asked = pieced(pools["valid"], asked, ASKED_SEED, "test")

    @cache
    def sides(seed: int) -> list[Slides]:
        return [pieced(pools["train"], trained_on, seed, "training", pictured)[0], beside]

    def answers(vectors: Sequence[np.ndarray], sides: Sequence[Slides], seed: int) -> Answers:
        slide = [side.regions.slide.numpy() for side in sides]
        y = np.concatenate([np.arange(trained_on) % 2, y_asked])
        whole = Fold(np.arange(trained_on), trained_on + np.arange(asked))
        found = {}
        for share in SHARES:
            known = hg.evaluation.few_labels([whole], y, share, seed=seed)[0].train
            means, test = (
                hg.evaluation.slide_means(z, number) for z, number in zip(vectors, slide, strict=True)
            )
            mean, spread = means.mean(0), means.std(0) + 1e-8
            scaled = (means - mean) / spread, (test - mean) / spread
            k = min(5, len(known))
            vote = hg.evaluation.neighbour_vote(scaled[0][known], y[known], scaled[1], k, None, "euclidean")
            found[titles["kNN of means", share]] = vote.probability, np.zeros(asked, dtype=int)
            for head in options.heads:
                result = hg.evaluation.mil_probe(
                    np.concatenate(vectors),
                    y,
                    np.concatenate([slide[0], slide[1] + trained_on]),
                    head=head,
                    folds=[whole],
                    share=share,
                    seed=seed,
                    n_boot=1,
                    metrics=("auc",),
                    **HEADS,
                )
                found[titles[f"{head} head", share]] = _read(result)
        return found

    questions = [Question(title, "class", y_asked, np.arange(asked)) for title in titles.values()]
    title = (
        f"{trained_on} made-up slides of {np.prod(LAYOUT)} regions to learn from, {asked} others to be asked"
    )
    return Task(title, 3, questions, sides, answers)

"""From pictures and slides to cached tissue graphs, which a re-run finds again."""

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

import histograph as hg
from histograph.quickstart import SUPERPIXELS
from histograph.slides import Slide, TissueMask

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff"})
# What an unreadable or strange file may raise; it is reported and left out.
FILE_ERRORS = (OSError, ValueError, RuntimeError)


@dataclass(frozen=True)
class Case:
    """One labelled picture or slide.

    Parameters
    ----------
    path : Path
        The file.
    name : str
        Its name, unlike that of any other.
    patient : str
        Whose it is; a patient is never on both sides of a fold.
    label : str
        Its class; empty where the outcome is survival.
    time, event : float, bool
        Follow-up of the patient, where the outcome is survival.
    """

    path: Path
    name: str
    patient: str
    label: str = ""
    time: float = 0.0
    event: bool = False


@dataclass(frozen=True)
class Recipe:
    """How graphs are made; it names the folder of the cache, so that graphs of another recipe are never taken.

    Parameters
    ----------
    mpp : float, optional
        Micrometres per pixel of files that do not say.
    window_um : float, optional
        Side of the windows that slides are read in; None makes one graph of a whole picture.
    windows : int
        Windows a slide, those with the most tissue.
    superpixels : dict
        Options of the finder.
    """

    mpp: float | None = None
    window_um: float | None = None
    windows: int = 0
    superpixels: dict[str, Any] = field(default_factory=lambda: dict(SUPERPIXELS))

    @property
    def folder(self) -> str:
        """Name of the folder in the cache."""
        parts = [f"{name}={value}" for name, value in self.superpixels.items()]
        parts += [f"slide-mpp={self.mpp}"] if self.mpp else []
        parts += [f"window={self.window_um}", f"windows={self.windows}"] if self.window_um else []
        return "graphs " + " ".join(parts)

    def build(self, case: Case, target: Path) -> None:
        """Make the graph of one picture or slide and write it."""
        with hg.open_slide(case.path, mpp=self.mpp, slide_id=case.name) as slide:
            mask, options = None, self.superpixels
            if self.window_um is not None:
                mask = windows_of(slide, self.window_um, self.windows)
                # a block is a window, so that no superpixel is cut where none of its neighbours is read
                options = {**options, "block_um": self.window_um}
            graph = hg.build_graph(slide, {"tissue": options}, mask=mask, progress=False, workers=1)
        if graph["tissue"].num_nodes == 0:
            raise ValueError("no tissue was found")
        target.parent.mkdir(parents=True, exist_ok=True)
        hg.save(graph, target)


def windows_of(slide: Slide, window_um: float, windows: int) -> TissueMask:
    """Choose the windows of a slide with the most tissue, at least half of it; ties go by place.

    The windows lie on the grid that `histograph.GraphDataset` tiles a slide by, and are the pixels of the mask.
    """
    tissue = slide.tissue_mask()
    across, down = (max(1, int(np.ceil(side / window_um))) for side in slide.size_um)
    row, column = np.divmod(np.arange(across * down), across)
    share = np.asarray(tissue.fraction(column * window_um, row * window_um, window_um, window_um))
    best = np.argsort(-share, kind="stable")[:windows]
    chosen = np.zeros(across * down, dtype=bool)
    chosen[best[share[best] >= 0.5]] = True
    return TissueMask(chosen.reshape(down, across), window_um)


def _made(case: Case, target: Path) -> bool:
    """Tell whether the graph is there and of this file, not of another of the same name in another folder."""
    if not target.exists():
        return False
    with hg.graphs.GraphFile(target) as file:
        return file.header["provenance"]["slide"]["bytes"] == case.path.stat().st_size


def _one(case: Case, recipe: Recipe, cache: Path) -> str | None:
    """Make what is missing; return what went wrong."""
    target = cache / f"{case.name}.safetensors"
    try:
        if not _made(case, target):
            recipe.build(case, target)
    except FILE_ERRORS as error:
        return f"{case.path}: {error}"
    return None


def graphs_of(
    cases: Sequence[Case], recipe: Recipe, cache: Path, workers: int = 1
) -> tuple[hg.GraphDataset, list[Case]]:
    """Make or find the graphs of all cases.

    Parameters
    ----------
    cases : sequence of Case
        Pictures or slides.
    recipe : Recipe
        How.
    cache : Path
        Folder for the graph files.
    workers : int
        Processes.

    Returns
    -------
    data : GraphDataset
        One item a picture, or one a window of a slide.
    cases : list of Case
        The case of each item. Files that could not be read or show no tissue are named and left out.
    """
    folder = cache / recipe.folder
    job = partial(_one, recipe=recipe, cache=folder)
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            problems = list(tqdm(pool.map(job, cases, chunksize=4), "graphs", len(cases)))
    else:
        problems = [job(case) for case in tqdm(cases, "graphs")]
    for problem in filter(None, problems):
        print(f"left out: {problem}")
    made = [case for case, problem in zip(cases, problems, strict=True) if problem is None]
    if not made:
        raise ValueError(f"no graph could be made of {len(cases)} files; the reasons are above")
    files = [folder / f"{case.name}.safetensors" for case in made]
    data = hg.GraphDataset(files, node_type="tissue", window_um=recipe.window_um, min_nodes=2)
    for name in data.left_out:
        print(f"left out: {name}: fewer than two superpixels")
    by_name = {case.name: case for case in made}
    return data, [by_name[name] for name in data.slide_ids]


def sampled(cases: Sequence[Case], limit: int | None, seed: int = 0) -> list[Case]:
    """Keep at most `limit` cases of each class, spread over patients: one of each patient before a second of any."""
    if limit is None:
        return list(cases)
    rng = np.random.default_rng(seed)
    by_class: dict[str, list[Case]] = {}
    for case in sorted(cases, key=lambda case: case.name):
        by_class.setdefault(case.label, []).append(case)
    kept = []
    for found in by_class.values():
        turn: dict[str, int] = {}
        ranked = []
        for i in rng.permutation(len(found)):
            patient = found[i].patient
            turn[patient] = turn.get(patient, 0) + 1
            ranked.append((turn[patient], len(ranked), found[i]))
        kept += [case for *_, case in sorted(ranked, key=lambda entry: entry[:2])[:limit]]
    return kept

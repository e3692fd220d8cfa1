"""The main job on the bundled slide: slide, graph, pre-training, vectors, evaluation, pictures, report.

`histograph quickstart` runs it. Read it top to bottom as the example of the whole package; every step is one
call that works the same on any slide.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from torch_geometric.data import Data, HeteroData

    from histograph.entities import Entities
    from histograph.methods import Method
    from histograph.slides import Slide

BASELINES = ("hand-made features", "untrained encoder")
TRAINED = "pre-trained H-MGDM"
ENCODED = "patch encoder that ships"
ENCODER = "histograph-vit"  # its weights come with the package
WINDOW_UM = 96.0  # side of a training window: the field of one labelled patch
SUPERPIXELS: dict[str, Any] = {"size_um": 12.0, "mpp": 1.0}  # some 40 nodes in such a window
NETWORK: dict[str, Any] = {
    "hidden_dim": 128,
    "joint_depth": 1,
    "representation": "layers",
}  # small enough for a minute or two on two cores


@dataclass
class Journal:
    """Times the steps and keeps the facts that the report tells."""

    seconds: dict[str, float] = field(default_factory=dict)
    _start: float = field(default_factory=time.perf_counter)

    def step(self, name: str) -> None:
        """Close the step that just ended under `name`."""
        now = time.perf_counter()
        self.seconds[name] = now - self._start
        self._start = now


def quickstart(
    out: str | Path, seed: int = 0, epochs: int = 60, n_patches: int | None = None, progress: bool = True
) -> Path:
    """Run the main job on the bundled slide and leave everything in a folder.

    Parameters
    ----------
    out
        Folder for the results; made when it does not exist.
    seed
        Seed of weights, masks, order, folds and bootstrap.
    epochs
        Passes of pre-training over the windows of the slide.
    n_patches
        How many of the bundled labelled patches to evaluate on (balanced); None takes all.
    progress
        Show progress bars.

    Returns
    -------
    Path
        The one-page report, `out/report.html`; beside it `graphs/`, `run/` (the trained method), tables, pictures.

    Raises
    ------
    OSError
        When `out` cannot be written.
    """
    import torch

    import histograph as hg
    from histograph.report import write_report

    out = Path(out)
    (out / "graphs").mkdir(parents=True, exist_ok=True)
    journal = Journal()

    slide = hg.open_slide(hg.bundled.slide_path())
    mask = slide.tissue_mask()
    superpixels = hg.entities.superpixels(slide, mask=mask, progress=progress, **SUPERPIXELS)
    entities = {"cell": {}, "tissue": superpixels, "patch": {}}
    graph = hg.build_graph(slide, entities=entities, mask=mask, progress=progress, encoder=ENCODER)
    hg.validate(graph)
    hg.save(graph, out / "graphs" / f"{slide.slide_id}.safetensors")
    journal.step("slide to graph")

    data = hg.GraphDataset(out / "graphs", node_type="tissue", window_um=WINDOW_UM, min_nodes=8)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        method = hg.methods.HMGDM(data.node_dim, data.edge_dim, **NETWORK)
        untrained = hg.methods.HMGDM(data.node_dim, data.edge_dim, **NETWORK)
    untrained.before_epoch(0, data)  # the same standardisation of features: only the training differs
    losses = hg.pretrain(
        method, data, epochs=epochs, out=out / "run", seed=seed, resume=False, progress=progress
    )
    journal.step("pre-training")

    vectors = hg.embed(method, [hg.graphs.layer(graph, "tissue")], progress=False)
    clusters = cluster_nodes(np.asarray(vectors.node), seed=seed)
    journal.step("embedding and clusters")

    patches = patch_graphs(n_patches, progress=progress)
    table = evaluate(method, untrained, patches, seed=seed)
    table.to_csv(out / "evaluation.csv", index=False)
    journal.step("evaluation")

    pictures = draw(out, slide, graph, superpixels, clusters, losses, table)
    journal.step("pictures")
    return write_report(out / "report.html", slide, graph, losses, table, TRAINED, pictures, journal.seconds)


def cluster_nodes(vectors: np.ndarray, n_clusters: int = 6, seed: int = 0) -> np.ndarray:
    """Group node vectors by k-means; clusters are numbered from the largest to the smallest.

    Parameters
    ----------
    vectors
        (N, D) node vectors.
    n_clusters
        Number of clusters, at most N.
    seed
        Seed of k-means.

    Returns
    -------
    ndarray
        (N,) int64 cluster of each node.

    Examples
    --------
    >>> import numpy as np
    >>> from histograph.quickstart import cluster_nodes
    >>> cluster_nodes(np.array([[0.0], [0.1], [0.2], [5.0]]), n_clusters=2).tolist()
    [0, 0, 0, 1]
    """
    from sklearn.cluster import KMeans
    from sklearn.preprocessing import StandardScaler

    n_clusters = min(n_clusters, len(vectors))
    labels = KMeans(n_clusters, n_init=4, random_state=seed).fit_predict(
        StandardScaler().fit_transform(vectors)
    )
    order = np.argsort(-np.bincount(labels, minlength=n_clusters), kind="stable")
    rank = np.empty(n_clusters, np.int64)
    rank[order] = np.arange(n_clusters)
    return rank[labels]


@dataclass
class PatchGraphs:
    """Graphs and pixels of the labelled patches, with their labels and groups in the same order."""

    graphs: list[Data]
    images: np.ndarray
    y: np.ndarray
    group: np.ndarray


def patch_graphs(n_patches: int | None = None, progress: bool = True) -> PatchGraphs:
    """Build the tissue graph of each bundled labelled patch.

    Parameters
    ----------
    n_patches
        How many patches, half of each class; None takes all.
    progress
        Show a progress bar.

    Returns
    -------
    PatchGraphs
    """
    from tqdm.auto import tqdm

    import histograph as hg

    bundled = hg.bundled.patches()
    chosen = np.arange(len(bundled.y))
    if n_patches is not None:
        chosen = np.sort(np.concatenate([np.flatnonzero(bundled.y == c)[: n_patches // 2] for c in (0, 1)]))
    graphs = []
    for i in tqdm(chosen, desc="labelled patches", disable=not progress):
        patch = hg.open_slide(bundled.images[i], mpp=bundled.mpp)
        whole = hg.build_graph(patch, entities={"tissue": SUPERPIXELS}, mask=None, progress=False)
        graphs.append(hg.graphs.layer(whole, "tissue"))
    return PatchGraphs(graphs, bundled.images[chosen], bundled.y[chosen], bundled.group[chosen])


def evaluate(method: Method, untrained: Method, patches: PatchGraphs, seed: int = 0) -> pd.DataFrame:
    """Probe the vectors of the pre-trained encoder, and those of the patch encoder that ships, beside two baselines.

    The baselines are the mean of the hand-made node features and the graph encoder before training.

    Parameters
    ----------
    method, untrained
        The encoder after and before pre-training.
    patches
        Labelled graphs and their pixels.
    seed
        Seed of folds and bootstrap.

    Returns
    -------
    DataFrame
        One row per probe, baseline, representation and metric: value, interval, and the paired difference to
        the baseline with its interval.
    """
    import pandas as pd

    import histograph as hg

    vectors = {
        BASELINES[0]: np.stack([graph.x.mean(0).numpy() for graph in patches.graphs]),
        BASELINES[1]: np.asarray(hg.embed(untrained, patches.graphs, progress=False)),
        TRAINED: np.asarray(hg.embed(method, patches.graphs, progress=False)),
        ENCODED: encoded(patches.images),
    }
    tables = []
    for probe in ("linear", "knn"):
        options: dict[str, Any] = {"groups": patches.group, "probe": probe, "seed": seed}
        table = hg.evaluation.compare(vectors, patches.y, baseline=BASELINES, **options)
        tables.append(table.assign(probe=probe))
    return pd.concat(tables, ignore_index=True)


def encoded(images: np.ndarray, batch_size: int = 64) -> np.ndarray:
    """Give the vectors of whole patches by the encoder that ships.

    Parameters
    ----------
    images
        (n, 96, 96, 3) uint8.
    batch_size
        Patches at a time.

    Returns
    -------
    ndarray
        (n, D).
    """
    import histograph as hg

    encoder = hg.features.load_encoder(ENCODER)
    parts = np.array_split(images, range(batch_size, len(images), batch_size))
    return np.concatenate([encoder.encode(part).cpu().numpy() for part in parts])


def draw(
    out: Path,
    slide: Slide,
    graph: HeteroData,
    superpixels: Entities,
    clusters: np.ndarray,
    losses: pd.DataFrame,
    table: pd.DataFrame,
) -> dict[str, Path]:
    """Draw the pictures of the report into `out` and return their paths by caption."""
    from matplotlib.figure import Figure

    import histograph as hg

    width_um, height_um = slide.size_um
    detail = (width_um * 0.4, height_um * 0.4, min(250.0, width_um), min(250.0, height_um))

    def cells(ax):
        hg.plot(graph, slide=slide, node_type="cell", ax=ax)

    def cells_detail(ax):
        hg.plot(graph, slide=slide, node_type="cell", window_um=detail, ax=ax)

    def tissue_clusters(ax):
        hg.plotting.plot_clusters(
            graph, clusters, slide=slide, node_type="tissue", entities=superpixels, ax=ax
        )

    def loss(ax):
        hg.plotting.plot_training(losses, columns=("loss", "node", "edge"), ax=ax)

    chosen = table[(table.probe == "linear") & (table.metric == "auc") & (table.baseline == BASELINES[0])]

    def comparison(ax):
        hg.plotting.plot_comparison(chosen, ax=ax)

    drawings = {
        "cells.png": ("Cells and their Delaunay edges (at most 50 µm) over the slide", cells, (8, 10)),
        "cells_detail.png": ("The same, closer", cells_detail, (7, 7)),
        "clusters.png": ("Superpixels coloured by the cluster of their vector", tissue_clusters, (8, 10)),
        "training.png": ("Pre-training: loss, and error of the hidden nodes and edges", loss, (6, 3.5)),
        "comparison.png": (
            "Tumour or not: area under the ROC curve of a linear probe, 95 % interval",
            comparison,
            (6, 3),
        ),
    }
    pictures = {}
    for name, (caption, drawing, size) in drawings.items():
        figure = Figure(figsize=size, layout="constrained")
        drawing(figure.subplots())
        figure.savefig(out / name, dpi=130)
        pictures[caption] = out / name
    return pictures

"""Generation as a check of H-MGDM: is hidden tissue restored, that it was not trained on, better than by means.

    python benchmarks/hmgdm/generation.py [--data FOLDER] [--epochs 60] [--schedule sigmoid] [--target x0] [--seed 0]

Without --data the bundled slide is cut in two: H-MGDM trains on the windows of the upper half and is asked about
the lower one. FOLDER holds tissue graphs (`*.safetensors`); of several, the second half of the slides is asked about.
The first table compares, on the same hidden nodes and edges, what is generated from noise with means of visible
neighbours and with a ridge regression on these means, fitted on the training windows. The second says how well one
evaluation restores a copy with noise of level t, beside linear filters that know the covariance of the training
windows: of the noisy copy alone (no graph), and of the noisy copy and the ridge regression. Errors are root mean
squares over rows and columns, in training standard deviations.
"""

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from sklearn.linear_model import Ridge
from torch import Tensor
from torch_geometric.data import Batch, Data
from tqdm.auto import tqdm

import histograph as hg
from histograph.methods import HMGDM, restore_hidden, sample_hidden
from histograph.nn import burn_in_rounds
from histograph.nn.seeded import seeded
from histograph.quickstart import NETWORK, SUPERPIXELS, WINDOW_UM

# Mask draws per training window that the regressions are fitted on.
FITTED_MASKS = 8


def read_windows(folder: Path) -> tuple[list[Data], list[Data]]:
    """Give the windows to train on and those to be asked about, which share no tissue."""
    data = hg.GraphDataset(folder, node_type="tissue", window_um=WINDOW_UM, min_nodes=8)
    slides = sorted(set(data.slide_ids))
    if len(slides) > 1:
        known = set(slides[: len(slides) // 2])
        side = [slide in known for slide in data.slide_ids]
    else:
        top = np.array([window[1] for window in data.windows])
        side = (top < np.median(top)).tolist()
    windows = [Data(x=w.x, edge_index=w.edge_index, edge_attr=w.edge_attr) for w in data]
    return [w for w, first in zip(windows, side) if first], [
        w for w, first in zip(windows, side) if not first
    ]


@dataclass
class Question:
    """Standardised attributes of nodes or edges of a batch, which rows are hidden, and guesses from visible rows."""

    values: Tensor
    hidden: Tensor
    whole: Tensor  # mean of the visible rows of the graph
    near: Tensor  # mean of the visible neighbours, else that of the graph
    smooth: Tensor  # harmonic interpolation: each hidden row the mean of its neighbours

    def inputs(self) -> np.ndarray:
        """Give the columns that a regression may use."""
        return torch.cat([self.whole, self.near, self.smooth], 1)[self.hidden].numpy()

    def truth(self) -> np.ndarray:
        """Give the hidden rows."""
        return self.values[self.hidden].numpy()

    def rmse(self, guess: Tensor | np.ndarray) -> float:
        """Compare a guess for the hidden rows with the truth."""
        return float(np.sqrt(np.mean((np.asarray(guess) - self.truth()) ** 2)))


def spread(values: Tensor, weight: Tensor, index: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Sum weighted rows and weights by index."""
    total = torch.zeros(size, values.shape[1]).index_add_(0, index, values * weight[:, None])
    return total, torch.zeros(size).index_add_(0, index, weight)[:, None]


def whole_mean(values: Tensor, hidden: Tensor, batch: Tensor) -> Tensor:
    """Give every row the mean of the visible rows of its graph (0, the training mean, without any)."""
    total, count = spread(values, (~hidden).float(), batch, int(batch.max()) + 1)
    return (total / count.clamp(min=1))[batch]


def node_question(method: HMGDM, batch: Batch, hidden: Tensor) -> Question:
    """Ask for hidden nodes."""
    x, (source, target) = method.node_scale(batch.x), batch.edge_index
    whole = whole_mean(x, hidden, batch.batch)
    total, count = spread(x[source], (~hidden[source]).float(), target, len(x))
    smooth = torch.where(hidden[:, None], whole, x)
    every = torch.ones(len(source))
    for _ in range(100):
        mean, degree = spread(smooth[source], every, target, len(x))
        smooth = torch.where(hidden[:, None] & (degree > 0), mean / degree.clamp(min=1), smooth)
    return Question(x, hidden, whole, torch.where(count > 0, total / count.clamp(min=1), whole), smooth)


def edge_question(method: HMGDM, batch: Batch, hidden: Tensor) -> Question:
    """Ask for hidden edges; neighbours are the edges at both ends."""
    e, ends, size = method.edge_scale(batch.edge_attr), batch.edge_index, batch.num_nodes
    whole = whole_mean(e, hidden, batch.batch[ends[0]])

    def around(values: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        total, count = spread(values.repeat(2, 1), weight.repeat(2), ends.reshape(-1), size)
        return total[ends].sum(0), count[ends].sum(0)

    total, count = around(e, (~hidden).float())
    smooth = torch.where(hidden[:, None], whole, e)
    for _ in range(100):
        mean, degree = around(smooth, torch.ones(len(e)))
        smooth = torch.where(hidden[:, None], mean / degree, smooth)
    return Question(e, hidden, whole, torch.where(count > 0, total / count.clamp(min=1), whole), smooth)


QUESTIONS = {"node": node_question, "edge": edge_question}


@dataclass
class Gaussian:
    """Hidden rows as normal: one covariance, and a mean read off the visible rows, or 0; fitted on training windows."""

    model: Ridge | None
    covariance: np.ndarray

    @classmethod
    def fit(cls, questions: list[Question], informed: bool) -> "Gaussian":
        """Fit on several draws of masks; informed, the mean is a ridge regression, else it is the training mean."""
        y = np.concatenate([question.truth() for question in questions])
        if not informed:
            return cls(None, np.cov(y.T))
        x = np.concatenate([question.inputs() for question in questions])
        model = Ridge(alpha=10.0).fit(x, y)
        return cls(model, np.cov((y - model.predict(x)).T))

    def mean(self, question: Question) -> np.ndarray:
        """Guess the hidden rows."""
        return (
            np.zeros_like(question.truth()) if self.model is None else self.model.predict(question.inputs())
        )

    def restore(self, question: Question, noisy: np.ndarray, kept: float) -> np.ndarray:
        """Guess the hidden rows from noisy copies as well, by the rule of Bayes (a Wiener filter)."""
        guess, total = self.mean(question), kept * self.covariance + (1 - kept) * np.eye(len(self.covariance))
        return guess + kept**0.5 * (noisy - kept**0.5 * guess) @ np.linalg.solve(total, self.covariance)


def fit_gaussians(method: HMGDM, windows: list[Data], seed: int) -> dict[str, dict[bool, Gaussian]]:
    """Fit normal distributions for nodes and for edges, uninformed and informed, with masks as in training."""
    batch = Batch.from_data_list(windows)
    masks = []
    for draw in range(FITTED_MASKS):
        shown = restore_hidden(method, batch, 0, seed=seed + 1000 + draw)
        masks.append({"node": shown.node.mask, "edge": shown.edge.mask})
    asked = {kind: [ask(method, batch, mask[kind]) for mask in masks] for kind, ask in QUESTIONS.items()}
    return {
        kind: {informed: Gaussian.fit(questions, informed) for informed in (False, True)}
        for kind, questions in asked.items()
    }


def generate(method: HMGDM, batch: Batch, masks: tuple[Tensor, Tensor], steps: int, draws: int) -> dict:
    """Draw the hidden part in several ways."""
    settings = {"DDPM": {"sampler": "ddpm"}, "DDIM": {"sampler": "ddim"}}
    if burn_in_rounds(method.diffusion) > 0:
        settings["DDIM, no rounds before"] = {"sampler": "ddim", "burn_in": 0}
    return {
        name: sample_hidden(method, batch, steps=steps, draws=draws, masks=masks, **options)
        for name, options in tqdm(settings.items(), desc="sampling", leave=False)
    }


def print_errors(
    samples: dict, questions: dict[str, Question], fitted: dict[str, dict[bool, Gaussian]]
) -> None:
    """Print the errors of what is generated and of simple guesses."""
    print(
        "| guess | nodes | edges | nodes: energy score | nodes: diversity of draws | nodes: nearest draw |\n"
        "|---|---|---|---|---|---|"
    )
    for name, sample in samples.items():
        node, edge = sample.node.errors(), sample.edge.errors()
        more = " | ".join(f"{node[key]:.3f}" for key in ("energy", "diversity", "nearest"))
        print(f"| H-MGDM, draws by {name} | {node['draw']:.3f} | {edge['draw']:.3f} | {more} |")
    for name, sample in samples.items():
        node, edge = sample.node.errors(), sample.edge.errors()
        for key, text in (("mean", "mean predictor of"), ("mean_of_draws", "mean of the draws by")):
            print(f"| H-MGDM, {text} {name} | {node[key]:.3f} | {edge[key]:.3f} | | | |")
    guesses = {
        "mean of visible neighbours": lambda kind: questions[kind].near[questions[kind].hidden],
        "harmonic interpolation on the graph": lambda kind: questions[kind].smooth[questions[kind].hidden],
        "mean of the visible window": lambda kind: questions[kind].whole[questions[kind].hidden],
        "ridge regression on these three": lambda kind: fitted[kind][True].mean(questions[kind]),
        "training mean": lambda kind: fitted[kind][False].mean(questions[kind]),
    }
    for name, guess in guesses.items():
        cells = [f"{questions[kind].rmse(guess(kind)):.3f}" for kind in QUESTIONS]
        print(f"| {name} | {cells[0]} | {cells[1]} | | | |")


def print_levels(
    method: HMGDM,
    train: Batch,
    batch: Batch,
    masks: tuple,
    fitted: dict[str, dict[bool, Gaussian]],
    seed: int,
) -> None:
    """Print the error of one evaluation by noise level, for hidden nodes."""
    question, levels = node_question(method, batch, masks[0]), method.diffusion.timesteps
    truth = question.truth()
    print(
        "\n| t | abar | H-MGDM, unseen windows | H-MGDM, training windows | noisy copy, filtered | "
        "visible rows and noisy copy, filtered |\n|---|---|---|---|---|---|"
    )
    for time in sorted({round(share * (levels - 1)) for share in (0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0)}):
        kept = float(method.diffusion.kept(torch.tensor([time])))
        with seeded(seed):
            noisy = kept**0.5 * truth + (1 - kept) ** 0.5 * torch.randn(truth.shape).numpy()
        restored = restore_hidden(method, batch, time, masks, seed=seed).node.errors()["mean"]
        known = restore_hidden(method, train, time, seed=seed).node.errors()["mean"]
        alone, both = (
            question.rmse(fitted["node"][informed].restore(question, noisy, kept))
            for informed in (False, True)
        )
        print(f"| {time} | {kept:.4f} | {restored:.3f} | {known:.3f} | {alone:.3f} | {both:.3f} |")


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, help="folder of tissue graphs; the bundled slide by default")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--windows", type=int, default=40, help="windows to be asked about, at most")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--schedule", default="sigmoid")
    parser.add_argument("--target", default="x0")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.data is not None and not any(options.data.glob("*.safetensors")):
        print(f"skipped: --data {options.data} holds no graph (*.safetensors)")
        return
    with tempfile.TemporaryDirectory() as folder:
        if options.data is None:
            with hg.open_slide(hg.bundled.slide_path()) as slide:
                graph = hg.build_graph(slide, entities={"tissue": SUPERPIXELS})
            hg.save(graph, Path(folder) / "slide.safetensors")
        train, unseen = read_windows(options.data or Path(folder))
    torch.manual_seed(options.seed)
    settings = {"schedule": options.schedule, "target": options.target}
    method = HMGDM(train[0].x.shape[1], train[0].edge_attr.shape[1], **(NETWORK | settings))
    hg.pretrain(method, train, epochs=options.epochs, seed=options.seed)
    chosen = np.random.default_rng(options.seed).permutation(len(unseen))[: options.windows]
    batch, known = (
        Batch.from_data_list([unseen[i] for i in chosen]),
        Batch.from_data_list(train[: options.windows]),
    )
    shown = restore_hidden(method, batch, 0, seed=options.seed)
    masks = (shown.node.mask, shown.edge.mask)
    fitted = fit_gaussians(method, train, options.seed)
    questions = {kind: ask(method, batch, mask) for (kind, ask), mask in zip(QUESTIONS.items(), masks)}
    print(
        f"{len(train)} windows trained on, {len(chosen)} unseen ones asked about, {int(masks[0].sum())} hidden nodes\n"
    )
    print_errors(generate(method, batch, masks, options.steps, options.draws), questions, fitted)
    print_levels(method, known, batch, masks, fitted, options.seed)


if __name__ == "__main__":
    main()

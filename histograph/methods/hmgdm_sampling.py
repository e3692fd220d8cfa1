"""Generation with H-MGDM: the hidden part of a graph drawn from noise, given the visible part.

Training asks for the hidden attributes at one noise level at a time. Here the levels are walked from the
noisiest to the first, nodes and edges together, which shows what the model holds to be possible rather than
what it can read off a noisy copy. The visible part is encoded once; each step evaluates the decoder once. In the
decoder nodes and edges do not read each other: given the visible part, hidden nodes and hidden edges are drawn
independently.

Where the noise does not end in pure noise. The default schedule, and all others but "cosine" and "jsd", stop
at ``abar_T`` of 0.14 to 0.51 (0.37 for "sigmoid"): the noisiest rows still hold a trace of the clean ones. Rows
from N(0, I) have the mean and variance of all noisiest rows together (attributes are standardised), but not those of
the noisiest rows *of this graph*, and the decoder takes the trace that it finds for a fact. So the process starts from
N(0, I), runs to clean rows with fresh noise, noises those again, and only after some such rounds
(:func:`histograph.nn.burn_in_rounds`) draws the rows that are handed out.
"""

from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd
import torch
from torch import Tensor

from ..nn import burn_in_rounds, reverse_process, reverse_times
from ..nn.seeded import seeded
from .hmgdm import HMGDM

Masks = tuple[Tensor, Tensor]
SAMPLERS = ("ddim", "ddpm")


@dataclass(frozen=True)
class HiddenRows:
    """Hidden nodes or hidden edges: what was generated, and what is there. All in the attributes' own units.

    Attributes
    ----------
    mask : Tensor
        (N,) bool over the rows of the batch, True for the n hidden ones; other tables hold these, in their order.
    draws : Tensor
        (K, n, F) generated attributes.
    mean : Tensor
        (n, F) expected attributes given the visible part: the estimate at the noisiest level, averaged over the
        draws. It minimises the squared error, and is smoother than any draw.
    truth : Tensor
        (n, F) true attributes, clipped as the method reads them.
    centre, spread : Tensor
        (F,) mean and standard deviation of the training data.

    Examples
    --------
    >>> import torch
    >>> one, none = torch.ones(2), torch.zeros(2)
    >>> rows = HiddenRows(torch.tensor([True]), torch.ones(3, 1, 2), torch.ones(1, 2), torch.zeros(1, 2), none, one)
    >>> rows.errors()["draw"], rows.errors()["diversity"]
    (1.0, 0.0)
    """

    mask: Tensor
    draws: Tensor
    mean: Tensor
    truth: Tensor
    centre: Tensor
    spread: Tensor

    def rmse(self, guess: Tensor) -> float:
        """Compare a guess with the truth: root mean square over rows and columns, in training standard deviations.

        Parameters
        ----------
        guess : Tensor
            (n, F), (K, n, F) or (F,), in the attributes' own units.

        Returns
        -------
        float
            NaN without hidden rows.

        Examples
        --------
        >>> import torch
        >>> one = torch.ones(1)
        >>> rows = HiddenRows(one.bool(), one.view(1, 1, 1), one.view(1, 1), one.view(1, 1), one, one)
        >>> rows.rmse(torch.tensor([3.0]))
        2.0
        """
        return float(((guess - self.truth) / self.spread).square().mean().sqrt())

    def errors(self) -> dict[str, float]:
        """Score draws and mean, all in training standard deviations.

        Returns
        -------
        dict of str to float
            ``draw``, ``mean``, ``mean_of_draws``, ``training_mean``: root mean square errors of a draw, the
            mean predictor, the average draw, and the training mean. ``nearest``: of the draw that is nearest to
            the truth, row by row. ``diversity``: root mean variance of draws; where draws are as
            diverse as the truth, it is close to the error of the mean, and the error of a draw is sqrt(2) times
            that. ``energy``: the energy score per row, ``(E|X - y| - E|X - X'| / 2) / sqrt(F)``,
            which only the true distribution minimises. The last two are NaN for a single draw.

        References
        ----------
        Gneiting and Raftery, "Strictly proper scoring rules", JASA 2007, eq. 21.
        """
        draws = (self.draws - self.truth) / self.spread
        count, hidden, columns = draws.shape
        errors = {
            "draw": self.rmse(self.draws),
            "mean": self.rmse(self.mean),
            "mean_of_draws": self.rmse(self.draws.mean(0)),
            "training_mean": self.rmse(self.centre),
            "nearest": float(draws.square().mean(2).min(0).values.mean().sqrt()),
            "diversity": float("nan"),
            "energy": float("nan"),
        }
        if count > 1 and hidden > 0:
            rows = draws.transpose(0, 1)
            between = torch.cdist(rows, rows).sum((1, 2)) / (count * (count - 1))
            errors["diversity"] = float(draws.var(0).mean().sqrt())
            errors["energy"] = float((rows.norm(dim=2).mean(1) - between / 2).mean()) / columns**0.5
        return errors


@dataclass(frozen=True)
class HiddenSample:
    """The hidden part of a batch, generated.

    Attributes
    ----------
    node : HiddenRows
        Hidden nodes.
    edge : HiddenRows or None
        Hidden edges; None for a method without edge latents.
    """

    node: HiddenRows
    edge: HiddenRows | None

    def errors(self) -> pd.DataFrame:
        """Score nodes and edges.

        Returns
        -------
        DataFrame
            One row for "node" and, with edge latents, "edge"; columns as in :meth:`HiddenRows.errors`.
        """
        tables = {"node": self.node} | ({} if self.edge is None else {"edge": self.edge})
        return pd.DataFrame({name: rows.errors() for name, rows in tables.items()}).T


def sample_hidden(
    method: HMGDM,
    batch: Any,
    sampler: Literal["ddim", "ddpm"] = "ddim",
    steps: int = 50,
    masks: Masks | None = None,
    eta: float = 0.0,
    draws: int = 1,
    seed: int = 0,
    burn_in: int | None = None,
    start: tuple[Tensor, Tensor | None] | None = None,
) -> HiddenSample:
    """Draw the attributes of hidden nodes and edges from noise, given the visible part of each graph.

    Parameters
    ----------
    method : HMGDM
        Trained at all noise levels. Its posterior mean conditions the decoder, in training mode too.
    batch : torch_geometric.data.Batch or Data
        As in :meth:`HMGDM.forward`. Graphs do not see each other.
    sampler : {"ddim", "ddpm"}
        Deterministic after the start (unless `eta` is above 0), or with fresh noise at every step.
    steps : int
        Evaluations of the decoder per draw and round. For the target "step", whose estimates of the clean rows are
        as many times less certain as there are levels, take ``timesteps - 1``.
    masks : (Tensor, Tensor), optional
        (N,) and (E,) bool, hidden nodes and edges; drawn as in training by default.
    eta : float
        Fresh noise of "ddim", 0 to 1; 1 is "ddpm", which takes no other.
    draws : int
        How many times each graph is drawn.
    seed : int
        Of masks, start and noise. Torch's generator is left as it was.
    burn_in : int, optional
        Rounds before the one that counts, see the module's text; as many as the schedule needs by default, 3 for
        "sigmoid" and 0 for "cosine".
    start : (Tensor, Tensor or None), optional
        (draws, n, F) and (draws, m, D) noise to start from, in training standard deviations, hidden rows in the
        order of the batch; standard normal numbers by default.

    Returns
    -------
    HiddenSample
        Draws, mean predictor and truth. The two directions of a hidden edge are drawn like two edges.

    Raises
    ------
    ValueError
        If an argument is outside its range, masks or start do not fit the batch, or the method knows
        one noise level only or is the released network.

    References
    ----------
    Ho et al., NeurIPS 2020; Song et al., ICLR 2021.

    Examples
    --------
    >>> import torch
    >>> from torch_geometric.data import Data
    >>> edge_index = torch.tensor([[0, 1, 1, 2], [1, 0, 2, 1]])
    >>> graph = Data(x=torch.randn(5, 3), edge_index=edge_index, edge_attr=torch.ones(4, 1))
    >>> sample = sample_hidden(HMGDM(3, 1, hidden_dim=16), graph, steps=4, draws=2)
    >>> sample.node.draws.shape, sample.edge.draws.shape
    (torch.Size([2, 3, 3]), torch.Size([2, 2, 1]))
    """
    _check_own(method)
    fresh = _fresh_noise(sampler, eta)
    if draws < 1:
        raise ValueError(f"draws must be at least 1, found {draws}")
    if method.fixed_time is not None:
        raise ValueError(
            f"the method knows the noise level {method.fixed_time} only (fixed_time), and sampling walks through all; "
            "set method.fixed_time = None if it was trained at all levels"
        )
    process = method.diffusion
    times = reverse_times(process, steps, method.target)
    rounds = burn_in_rounds(process) if burn_in is None else burn_in
    device = method.node_scale.mean.device
    with torch.no_grad(), seeded(seed, device):
        hidden = _Hidden(method, batch, masks)
        begin = _checked_start(start, hidden, draws)
        drawn = []
        for draw in range(draws):
            noise = [torch.randn_like(table) if given is None else given[draw] for table, given in begin]
            drawn.append(
                reverse_process(process, hidden.restore, noise, times, torch.randn_like, fresh, rounds)
            )
        rows, first = (
            [torch.stack(tables) for tables in zip(*part, strict=True)] for part in zip(*drawn, strict=True)
        )
    return hidden.pack(rows, [estimates.mean(0) for estimates in first])


def restore_hidden(
    method: HMGDM, batch: Any, time: int, masks: Masks | None = None, seed: int = 0
) -> HiddenSample:
    """Restore hidden nodes and edges from noisy copies of themselves in one evaluation, as in training.

    The copy gives much away at low noise: a guess of ``sqrt(abar_t) x_t``, which needs no network, has the
    error ``sqrt(1 - abar_t)``.

    Parameters
    ----------
    method : HMGDM
        Trained.
    batch : torch_geometric.data.Batch or Data
        As in :meth:`HMGDM.forward`.
    time : int
        Noise level, ``0 .. timesteps - 1``.
    masks : (Tensor, Tensor), optional
        As in :func:`sample_hidden`.
    seed : int
        Of masks and noise. The same seed gives the same masks at all levels.

    Returns
    -------
    HiddenSample
        ``mean`` and the only one of ``draws`` are the estimate.

    Raises
    ------
    ValueError
        If the time is outside, the masks do not fit, or the method is the released network.

    Examples
    --------
    >>> import torch
    >>> from torch_geometric.data import Data
    >>> graph = Data(x=torch.randn(5, 3), edge_index=torch.zeros(2, 0, dtype=torch.long))
    >>> restore_hidden(HMGDM(3, hidden_dim=16), graph, time=999).node.mean.shape
    torch.Size([3, 3])
    """
    _check_own(method)
    process = method.diffusion
    if not 0 <= time < process.timesteps:
        raise ValueError(f"time must lie in 0 .. timesteps - 1 = {process.timesteps - 1}, found {time}")
    with torch.no_grad(), seeded(seed, method.node_scale.mean.device):
        hidden = _Hidden(method, batch, masks)
        noisy = [
            process.noisy(
                table, torch.randn_like(table), torch.full((len(table),), time, device=table.device)
            )
            for table in hidden.clean
        ]
        estimates = hidden.restore(noisy, time)
    return hidden.pack([table.unsqueeze(0) for table in estimates], estimates)


class _Hidden:
    """A batch split once and encoded once, whose hidden tables can be restored at any noise level."""

    def __init__(self, method: HMGDM, batch: Any, masks: Masks | None) -> None:
        self.method = method
        graphs = method._read(batch)
        masks = method._masks(graphs) if masks is None else _checked(masks, graphs)
        self.num_graphs, self.masks = graphs.num_graphs, masks
        self.split = split = method._split(graphs, *masks)
        self.encoded = method._condition(split)
        self.clean = [split.x[split.visible :]]
        if split.edge_attr is not None:
            self.clean.append(split.edge_attr[split.known :])

    def restore(self, tables: list[Tensor], time: int) -> list[Tensor]:
        """Estimate the clean tables, within the range that attributes are clipped to."""
        method, split, encoded = self.method, self.split, self.encoded
        edge_rows = None
        if split.edge_attr is not None:
            edge_rows = torch.cat([split.edge_attr[split.condition : split.known], tables[1]])
        times = split.node_batch.new_full((self.num_graphs,), time)
        latents = (encoded.node_mean, encoded.edge_mean)
        predictions = method._denoise(split, encoded, latents, tables[0], edge_rows, times)
        limit, clean = method.node_scale.clip, []
        for prediction, rows in zip(predictions, tables):
            if prediction is not None:
                when = split.node_batch.new_full((len(rows),), time)
                clean.append(
                    method.diffusion.clean(method.target, prediction, rows, when).clamp(-limit, limit)
                )
        return clean

    def pack(self, draws: list[Tensor], mean: list[Tensor]) -> HiddenSample:
        """Give everything its own units back; `draws` (K, n, F) and `mean` (n, F) for nodes, then edges."""
        scales = [self.method.node_scale, *([self.method.edge_scale] if self.method.edge_latents else [])]
        kinds = []
        for mask, scale, *tables in zip(self.masks, scales, draws, mean, self.clean):
            generated, expected, truth = (table * scale.std + scale.mean for table in tables)
            kinds.append(HiddenRows(mask, generated, expected, truth, scale.mean, scale.std))
        return HiddenSample(kinds[0], kinds[1] if len(kinds) > 1 else None)


def _check_own(method: HMGDM) -> None:
    if method.released is not None:
        raise ValueError(
            "the released network (official_compat=True) lets its encoder see the hidden nodes, so that nothing is "
            "generated; use HMGDM in its own form"
        )


def _fresh_noise(sampler: str, eta: float) -> float:
    """Give the share of fresh noise that a sampler means."""
    if sampler not in SAMPLERS:
        raise ValueError(f"sampler must be one of {', '.join(SAMPLERS)}, found {sampler!r}")
    if sampler == "ddpm":
        if eta not in (0.0, 1.0):
            raise ValueError(f'eta belongs to the sampler "ddim", with which "ddpm" is eta = 1; found {eta}')
        return 1.0
    if not 0 <= eta <= 1:
        raise ValueError(f"eta must lie between 0 (deterministic) and 1 (DDPM), found {eta}")
    return eta


def _checked(masks: Masks, graphs: Any) -> Masks:
    """Refuse masks that do not fit, and bring them to the batch's device."""
    shapes = {"node": (graphs.x.shape[0],), "edge": (graphs.edge_index.shape[1],)}
    for mask, (name, shape) in zip(masks, shapes.items(), strict=True):
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != shape:
            found = f"{tuple(mask.shape)} {mask.dtype}" if isinstance(mask, Tensor) else type(mask).__name__
            raise ValueError(
                f"masks: expected a bool tensor of shape {shape} for every {name}, found {found}"
            )
    return masks[0].to(graphs.x.device), masks[1].to(graphs.x.device)


def _checked_start(
    start: tuple[Tensor, Tensor | None] | None, hidden: _Hidden, draws: int
) -> list[tuple[Tensor, Tensor | None]]:
    """Pair every hidden table with the noise that it shall start from, if any is given."""
    given: list[Tensor | None] = [None] * len(hidden.clean) if start is None else list(start)
    paired = []
    for number, table in enumerate(hidden.clean):
        noise, shape = given[number], (draws, *table.shape)
        if noise is not None and noise.shape != shape:
            raise ValueError(
                f"start: expected noise of shape {shape} for hidden {('nodes', 'edges')[number]}, "
                f"found {tuple(noise.shape)}"
            )
        paired.append((table, None if noise is None else noise.to(table)))
    return paired

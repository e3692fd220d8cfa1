"""Which entities matter: how much a score of the embedding, or the method's own attention, hangs on each node.

Gradients are taken through `Method.encode`, which every method has, so that nothing is assumed about its layers.
Explainers of other packages (captum, `torch_geometric.explain`) wrap a model of node features and edges that returns
class scores; here the model takes a graph and returns vectors, and what they would add is one call of autograd.
"""

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

    from histograph.methods import Embedding, Method

Score = Callable[["Embedding"], "Tensor"]
KINDS = ("gradient", "gradient_input", "attention")
# Random directions of the graph vector, and rounds in which each node must be visible.
_DIRECTIONS, _VISIBLE = 32, 8


def saliency(
    method: "Method",
    graph: Any,
    kind: Literal["gradient", "gradient_input", "attention"] = "gradient",
    score: Score | None = None,
    draws: int | None = None,
    seed: int = 0,
) -> NDArray[np.float64]:
    r"""Say how much each entity matters.

    - "gradient": ``sum_f |d score / d x_f| s_f``, the change of the score when a node's features move
      by their spread, where ``s_f`` is the standard deviation of column f over the nodes of `graph`, for
      features differ in units. Without a score, the size of the change of the graph vector g: the root of
      ``sum_f s_f^2 |d g / d x_f|^2``, estimated from random directions.
    - "gradient_input": ``sum_f d score / d x_f (x_f - m_f)`` with the mean ``m_f`` over the nodes: signed, the part of
      the score for which a node's departure from the average node speaks. For a linear method and score it sums over
      nodes to ``score(x) - score(m)``.
    - "attention" (H-MGDM): how much hidden nodes read a node when it is visible, 1 where attention is even; see
      :func:`histograph.methods.attention_read`.

    Parameters
    ----------
    method
        Any method; for "attention" an `HMGDM`.
    graph
        A `Data` (or `Batch`) as the method reads it; of a `HeteroData` take one layer first.
    kind
        What to measure.
    score
        From an `Embedding` to a scalar tensor, for instance from :func:`probe_score`. Not for "attention"; needed
        for "gradient_input".
    draws
        "gradient" without a score: number of random directions, 32 by default. "attention": how often each
        node must be visible, 8 by default. With a score nothing is drawn.
    seed
        Of directions or masks; torch's generator is left as it was.

    Returns
    -------
    ndarray
        (N,) float64; NaN where a node was never visible ("attention" in a graph of one node).

    Raises
    ------
    TypeError
        If the graph is a `HeteroData`, or attention is asked of another method.
    ValueError
        If the kind is unknown, an argument does not belong to it, or the score is no scalar that depends on the graph.

    References
    ----------
    Gradient: Simonyan et al., arXiv:1312.6034. Times input: Shrikumar et al., ICML 2017.

    Examples
    --------
    >>> import torch
    >>> from torch_geometric.data import Data
    >>> from histograph.methods import HMGDM
    >>> graph = Data(x=torch.randn(6, 3), edge_index=torch.tensor([[0, 1], [1, 0]]))
    >>> method = HMGDM(3, hidden_dim=16)
    >>> saliency(method, graph).shape
    (6,)
    >>> of_first = saliency(method, graph, score=lambda z: z.node[0].sum())
    >>> np.flatnonzero(of_first > 0).tolist()
    [0, 1]
    """
    _check(graph, kind, score, draws)
    if kind == "attention":
        return _attention(method, graph, _VISIBLE if draws is None else draws, seed)
    training = method.training
    try:
        method.eval()
        if score is None:
            return _movement(method, graph, _DIRECTIONS if draws is None else draws, seed)
        return _slope(method, graph, score, signed=kind == "gradient_input")
    finally:
        method.train(training)


def probe_score(
    model: Any, label: Any = None, intercept: float = 0.0, level: Literal["graph", "node"] = "graph"
) -> Score:
    """Turn a fitted linear model into a score of embeddings: a class's logit, or the log hazard of a Cox model.

    Parameters
    ----------
    model
        Coefficients (D,) over the columns of the vectors; or a fitted scikit-learn linear classifier or regression,
        or a `Pipeline` of a `StandardScaler` and one; or a fitted `lifelines.CoxPHFitter` whose covariates are the
        columns in order (its log hazard up to a constant). A `ProbeResult` holds scores of many folds and no
        model: fit one on all rows.
    label
        Class whose logit is wanted. Needed with three or more classes; with two, the second by default.
    intercept
        Added to the score; only with coefficients given as an array.
    level
        Which vectors are scored: of graphs, or of nodes, as when the model was fitted on these. The score is the sum
        over them.

    Returns
    -------
    callable
        From an `Embedding` to a scalar tensor.

    Raises
    ------
    TypeError
        If the model is of no known kind or not fitted.
    ValueError
        If the class is not one of the model's or must be named, the level is unknown, or an argument does not
        belong to the model. When called: if the vectors have another width or there are none.

    Examples
    --------
    >>> import torch
    >>> from histograph.methods import Embedding
    >>> score = probe_score([1.0, -2.0], intercept=0.5)
    >>> score(Embedding(node=None, graph=torch.tensor([[3.0, 1.0]])))
    tensor(1.5000)
    """
    if level not in ("graph", "node"):
        raise ValueError(f'level must be "graph" or "node", found {level!r}.')
    scaler, linear = _parts(model)
    weight, bias = _linear_map(linear, label, intercept)
    centre, spread = np.zeros_like(weight), np.ones_like(weight)
    if scaler is not None:
        # a scaler that does not centre knows the mean all the same
        centre = np.asarray(scaler.mean_, dtype=np.float64) if scaler.with_mean else centre
        spread = spread if scaler.scale_ is None else np.asarray(scaler.scale_, dtype=np.float64)
    slope = weight / spread
    offset = bias - float(slope @ centre)

    def score(embedding: "Embedding") -> "Tensor":
        """Sum the linear model over the vectors."""
        z = embedding.graph if level == "graph" else embedding.node
        if z is None or z.shape[1] != len(slope):
            found = "no such vectors" if z is None else f"vectors of width {z.shape[1]}"
            raise ValueError(f"the model has {len(slope)} coefficients for {level} vectors, found {found}.")
        return z.sum(0) @ z.new_tensor(slope) + offset * z.shape[0]

    return score


def _check(graph: Any, kind: str, score: Score | None, draws: int | None) -> None:
    """Refuse arguments that do not go together."""
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, found {kind!r}.")
    if hasattr(graph, "node_types"):
        raise TypeError(
            "graph must be one layer, found a HeteroData. Take it with histograph.graphs.layer(graph, node_type)."
        )
    if kind == "attention" and score is not None:
        raise ValueError(
            'score does not belong to kind="attention", which asks how the method reads the graph.'
        )
    if kind == "gradient_input" and score is None:
        raise ValueError('score is needed with kind="gradient_input": a sign has no meaning without one.')
    if draws is not None and score is not None:
        raise ValueError(
            f"draws is for what is drawn at random; with a score nothing is, found draws={draws}."
        )
    if draws is not None and draws < 1:
        raise ValueError(f"draws must be at least 1, found {draws}.")


def _attention(method: Any, graph: Any, visible: int, seed: int) -> NDArray[np.float64]:
    from histograph.methods import HMGDM, attention_read

    if not isinstance(method, HMGDM):
        raise TypeError(
            f'kind="attention" reads the decoder of an HMGDM, found {type(method).__name__}. Use kind="gradient".'
        )
    return attention_read(method, graph, visible, seed).cpu().numpy().astype(np.float64)


def _with_gradient(graph: Any) -> tuple[Any, "Tensor"]:
    """Give a graph that shares all but x, which asks for its gradient."""
    data = copy.copy(graph)
    data.x = graph.x.detach().clone().requires_grad_(True)
    return data, data.x


def _slope(method: "Method", graph: Any, score: Score, signed: bool) -> NDArray[np.float64]:
    """Differentiate a score by the features of the nodes, and sum over features in comparable units."""
    import torch

    data, x = _with_gradient(graph)
    with torch.enable_grad():
        value = score(method.encode(data))
        if not isinstance(value, torch.Tensor) or value.numel() != 1:
            found = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
            raise ValueError(f"score must give a tensor with one value, found {found}.")
        if not value.requires_grad:
            raise ValueError(
                "score must depend on the embedding through torch operations; its value has no gradient."
            )
        (slope,) = torch.autograd.grad(value.sum(), x, allow_unused=True)
    if slope is None:
        raise ValueError("score must depend on the features of the graph; its value does not.")
    columns = x.detach().double()
    if signed:
        return (slope.double() * (columns - columns.mean(0))).sum(1).cpu().numpy()
    return (slope.double().abs() * columns.std(0, correction=0)).sum(1).cpu().numpy()


def _movement(method: "Method", graph: Any, directions: int, seed: int) -> NDArray[np.float64]:
    """Estimate the norm of the Jacobian of the graph vector by node: the mean square over random signs is exact."""
    import torch

    data, x = _with_gradient(graph)
    generator = torch.Generator().manual_seed(seed)
    spread = x.detach().double().std(0, correction=0)
    total = torch.zeros(x.shape[0], dtype=torch.float64, device=x.device)
    with torch.enable_grad():
        z = method.encode(data).graph
        if not z.requires_grad:
            raise ValueError(f"{type(method).__name__}.encode gives graph vectors without a gradient.")
        for number in range(directions):
            signs = torch.randint(0, 2, z.shape, generator=generator) * 2 - 1
            (slope,) = torch.autograd.grad((z * signs.to(z)).sum(), x, retain_graph=number < directions - 1)
            total += (slope.double() * spread).square().sum(1)
    return (total / directions).sqrt().cpu().numpy()


def _parts(model: Any) -> tuple[Any, Any]:
    """Take a pipeline apart into its scaler and its linear model."""
    steps = getattr(model, "steps", None)
    if steps is None:
        return None, model
    stages = [stage for _, stage in steps]
    scalers = stages[:-1]
    if len(scalers) > 1 or any(
        not hasattr(stage, "scale_") or not hasattr(stage, "with_mean") for stage in scalers
    ):
        names = ", ".join(type(stage).__name__ for stage in stages)
        raise TypeError(
            f"model: expected a pipeline of a fitted StandardScaler and a linear model, found {names}."
        )
    return (scalers[0] if scalers else None), stages[-1]


def _linear_map(model: Any, label: Any, intercept: float) -> tuple[NDArray[np.float64], float]:
    """Read coefficients and intercept of one class, one target or one hazard."""
    classes = getattr(model, "classes_", None)
    if label is not None and classes is None:
        raise ValueError(f"label={label!r} chooses a class, but the model has none.")
    fitted = hasattr(model, "coef_") or hasattr(model, "params_")
    if fitted and intercept != 0.0:
        raise ValueError("intercept belongs to coefficients given as an array; a fitted model has its own.")
    if hasattr(model, "params_"):
        return np.asarray(model.params_, dtype=np.float64), 0.0
    if hasattr(model, "coef_"):
        weight = np.atleast_2d(np.asarray(model.coef_, dtype=np.float64))
        bias = np.broadcast_to(np.asarray(model.intercept_, dtype=np.float64), len(weight))
        row, sign = _row(classes, label, len(weight))
        return sign * weight[row], sign * float(bias[row])
    try:
        weight = np.asarray(model, dtype=np.float64)
    except (TypeError, ValueError):
        weight = np.zeros((0, 0))
    if weight.ndim != 1 or not len(weight):
        raise TypeError(
            "model must be coefficients (D,), a fitted linear model of scikit-learn or lifelines, or a pipeline of a "
            f"StandardScaler and one; found {type(model).__name__}."
        )
    return weight, float(intercept)


def _row(classes: Any, label: Any, rows: int) -> tuple[int, float]:
    """Find the row of coefficients of a class; two classes share one row with opposite signs."""
    if classes is None or label is None:
        if rows > 1:
            raise ValueError(f"label must name one of the {rows} classes or targets of the model.")
        return 0, 1.0
    found = np.flatnonzero(np.asarray(classes) == label)
    if not len(found):
        raise ValueError(f"label must be one of {np.asarray(classes).tolist()}, found {label!r}.")
    return (0, 1.0 if found[0] == 1 else -1.0) if rows == 1 else (int(found[0]), 1.0)

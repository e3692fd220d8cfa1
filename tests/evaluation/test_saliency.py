"""Saliency: closed forms for a linear method, planted signals, order, and scores of fitted models."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from torch_geometric.data import Batch, Data, HeteroData

from histograph.evaluation import probe_score, saliency
from histograph.methods import HMGDM, Embedding, Method
from tests.methods.graphs import graph


class Linear(Method):
    """Each node is the sum of its own and its neighbours' features times a matrix, a graph the sum of its nodes."""

    def __init__(self, width: int = 4) -> None:
        super().__init__({"width": width})
        self.weight = torch.nn.Parameter(torch.randn(6, width, generator=torch.Generator().manual_seed(0)))
        self.dropout = torch.nn.Dropout(0.5)

    def encode(self, batch):
        source, target = batch.edge_index
        node = self.dropout(batch.x @ self.weight)
        node = node.index_add(0, target, node[source])
        return Embedding(node, node.sum(0, keepdim=True))


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def chain(n: int = 12) -> Data:
    here = torch.arange(n - 1)
    edge_index = torch.stack([torch.cat([here, here + 1]), torch.cat([here + 1, here])])
    return Data(x=torch.randn(n, 6, generator=torch.Generator().manual_seed(1)), edge_index=edge_index)


def encoder(**settings) -> HMGDM:
    torch.manual_seed(0)
    method = HMGDM(6, hidden_dim=16, layers=2, **settings)
    method.before_epoch(0, [chain()])
    return method


def test_gradient_of_a_linear_method_is_its_closed_form():
    method, data = Linear(), graph(9, 12)
    direction = np.array([1.0, -2.0, 0.5, 0.0])
    values = saliency(method, data, score=probe_score(direction))
    degree = np.bincount(data.edge_index[0], minlength=9)
    per_column = np.abs(method.weight.detach().numpy() @ direction) * data.x.numpy().std(0)
    np.testing.assert_allclose(values, (1 + degree) * per_column.sum(), rtol=1e-5)
    assert method.training and method.weight.grad is None and not data.x.requires_grad


def test_gradient_times_input_sums_to_the_difference_from_the_average():
    method, data = Linear().eval(), graph(9, 12)
    score = probe_score([1.0, -2.0, 0.5, 3.0], intercept=7.0)
    values = saliency(method, data, "gradient_input", score)
    average = data.clone()
    average.x = data.x.mean(0, keepdim=True).expand_as(data.x)
    wanted = float((score(method.encode(data)) - score(method.encode(average))).detach())
    assert values.sum() == pytest.approx(wanted, rel=1e-4)
    assert (values < 0).any() and (values > 0).any()


def test_change_of_the_graph_vector_is_the_norm_of_its_jacobian():
    data = graph(9, 12)
    degree, spread = np.bincount(data.edge_index[0], minlength=9), data.x.numpy().std(0)[:, None]
    one = Linear(1)
    exact = (1 + degree) * np.linalg.norm(one.weight.detach().numpy() * spread)
    np.testing.assert_allclose(
        saliency(one, data, draws=1), exact, rtol=1e-5
    )  # in one dimension nothing is drawn
    wide = Linear(30)
    exact = (1 + degree) * np.linalg.norm(wide.weight.detach().numpy() * spread)
    np.testing.assert_allclose(saliency(wide, data, draws=400), exact, rtol=0.1)
    first, again, other = (saliency(wide, data, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_gradient_is_what_a_small_push_does():
    method, data = encoder().double().eval(), chain()
    data.x = data.x.double()

    def score(z: Embedding) -> torch.Tensor:
        return z.graph.square().sum()

    values = saliency(method, data, score=score)
    wanted = np.zeros(12)
    for i in range(12):
        for f in range(6):
            both = []
            for push in (1e-5, -1e-5):
                moved = data.clone()
                moved.x[i, f] += push
                both.append(float(score(method.encode(moved)).detach()))
            wanted[i] += abs(both[0] - both[1]) / 2e-5 * float(data.x[:, f].std(correction=0))
    np.testing.assert_allclose(values, wanted, rtol=1e-3)


def test_a_planted_signal_is_found_where_it_was_planted():
    """A score of one node's vector is attributed to what the encoder lets it see: as many hops as it has layers."""
    method, data = encoder(), chain()
    values = saliency(method, data, score=lambda z: z.node[7].sum())
    assert np.flatnonzero(values).tolist() == [5, 6, 7, 8, 9]
    signed = saliency(method, data, "gradient_input", lambda z: z.node[7].sum())
    assert np.flatnonzero(signed).tolist() == [5, 6, 7, 8, 9]


def test_a_score_of_one_feature_finds_the_nodes_that_have_it():
    data = chain(40)
    data.x[:, 0] = 0
    data.x[13:16, 0] = 5.0
    own = saliency(_FirstColumn(), data, "gradient_input", lambda z: z.graph.sum())
    assert sorted(np.argsort(own)[-3:].tolist()) == [13, 14, 15] and own[13] > 0 > own[0]


class _FirstColumn(Method):
    def __init__(self) -> None:
        super().__init__({})

    def encode(self, batch):
        return Embedding(batch.x, batch.x[:, :1].mean(0, keepdim=True))


@pytest.mark.parametrize("kind", ["gradient", "gradient_input", "free"])
def test_storage_order_does_not_matter(kind):
    method, data = encoder(), chain()
    options = {} if kind == "free" else {"kind": kind, "score": lambda z: z.graph.square().sum()}
    order = torch.randperm(12)
    shuffled = Data(x=data.x[order], edge_index=order.argsort()[data.edge_index])
    np.testing.assert_allclose(
        saliency(method, shuffled, **options),
        saliency(method, data, **options)[order.numpy()],
        rtol=1e-3,
        atol=1e-6,
    )


def test_graphs_of_a_batch_are_explained_one_by_one():
    method, graphs = encoder(), [chain(5), chain(9)]
    both = Batch.from_data_list(graphs)
    score = probe_score(np.ones(16))
    values = saliency(method, both, score=lambda z: score(Embedding(None, z.graph[:1])))
    assert (values[:5] > 0).all() and not values[5:].any()


def test_attention_is_the_method_s_own():
    method, data = encoder(), chain()
    values = saliency(method, data, "attention", draws=3)
    assert values.shape == (12,) and np.isfinite(values).all()
    np.testing.assert_array_equal(values, saliency(method, data, "attention", draws=3))
    assert np.isnan(saliency(method, chain(1), "attention")).all()


@pytest.mark.parametrize("level", ["graph", "node"])
def test_score_of_a_classifier_is_its_logit(level):
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(60, 5)), rng.integers(0, 3, 60)
    rows = torch.tensor(z[:4])
    embedding = Embedding(rows, rows[:2]) if level == "node" else Embedding(None, rows)
    several = make_pipeline(StandardScaler(), LogisticRegression()).fit(z * 3 + 1, y)
    wanted = several.decision_function(z[:4]).sum(0)
    for label in range(3):
        assert float(probe_score(several, label, level=level)(embedding)) == pytest.approx(wanted[label])
    two = LogisticRegression().fit(z, np.where(y > 0, "tumour", "normal"))
    logit = two.decision_function(z[:4]).sum()
    assert float(probe_score(two, level=level)(embedding)) == pytest.approx(logit)
    assert float(probe_score(two, "tumour", level=level)(embedding)) == pytest.approx(logit)
    assert float(probe_score(two, "normal", level=level)(embedding)) == pytest.approx(-logit)
    line = make_pipeline(StandardScaler(with_mean=False), Ridge()).fit(z, z[:, 0])
    assert float(probe_score(line, level=level)(embedding)) == pytest.approx(line.predict(z[:4]).sum())


def test_score_of_a_cox_model_is_its_log_hazard_up_to_a_constant():
    class Fitted:  # what lifelines.CoxPHFitter has
        params_ = np.array([0.5, -1.0])

    score = probe_score(Fitted())
    first, second = (score(Embedding(None, torch.tensor([row]))) for row in ([1.0, 2.0], [0.0, 1.0]))
    assert float(first - second) == pytest.approx(0.5 - 1.0)


def test_a_probe_of_tumour_is_explained_end_to_end():
    """Graphs of class 1 have three odd nodes; the gradient of the class's logit times input points at them."""
    rng = np.random.default_rng(0)
    graphs = []
    for number in range(40):
        data = chain(12)
        data.x = torch.tensor(rng.normal(size=(12, 6)), dtype=torch.float32)
        data.x[3:6, 2] += 4.0 * (number % 2)
        graphs.append(data)
    method, y = encoder(pooling="mean", representation="layers"), np.arange(40) % 2
    z = method.encode(Batch.from_data_list(graphs)).graph.detach().numpy()
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01)).fit(z, y)
    values = np.mean(
        [saliency(method, g, "gradient_input", probe_score(model)) for g in graphs[1::2]], axis=0
    )
    assert sorted(np.argsort(values)[-3:].tolist()) == [3, 4, 5]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kind": "lime"}, ValueError, "kind must be one of gradient, gradient_input, attention"),
        ({"kind": "attention"}, TypeError, "reads the decoder of an HMGDM, found Linear"),
        ({"kind": "attention", "score": torch.sum}, ValueError, "score does not belong"),
        ({"kind": "gradient_input"}, ValueError, "score is needed"),
        ({"score": torch.sum, "draws": 3}, ValueError, "with a score nothing is"),
        ({"draws": 0}, ValueError, "draws must be at least 1"),
        ({"score": lambda z: z.graph}, ValueError, r"one value, found \(1, 4\)"),
        ({"score": lambda z: 1.0}, ValueError, "one value, found float"),
        ({"score": lambda z: z.graph.sum().detach()}, ValueError, "has no gradient"),
        ({"score": lambda z: torch.ones(1, requires_grad=True)}, ValueError, "its value does not"),
        (
            {"score": probe_score([1.0])},
            ValueError,
            "1 coefficients for graph vectors, found vectors of width 4",
        ),
    ],
)
def test_mistakes_are_named(options, error, message):
    with pytest.raises(error, match=message):
        saliency(Linear(), chain(), **options)


def test_wrong_models_and_graphs_are_named():
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(30, 2)), np.arange(30) % 3
    model = LogisticRegression().fit(z, y)
    with pytest.raises(TypeError, match="HeteroData"):
        saliency(Linear(), HeteroData())
    with pytest.raises(ValueError, match="label must name one of the 3"):
        probe_score(model)
    with pytest.raises(ValueError, match=r"label must be one of \[0, 1, 2\], found 7"):
        probe_score(model, 7)
    with pytest.raises(ValueError, match="the model has none"):
        probe_score([1.0, 2.0], "tumour")
    with pytest.raises(ValueError, match="intercept belongs"):
        probe_score(model, 1, intercept=2.0)
    with pytest.raises(ValueError, match="level must be"):
        probe_score([1.0], level="edge")
    with pytest.raises(TypeError, match="model must be coefficients"):
        probe_score("tumour")
    with pytest.raises(TypeError, match=r"expected a pipeline .* MinMaxScaler"):
        probe_score(make_pipeline(MinMaxScaler(), LogisticRegression()).fit(z, y), 1)
    with pytest.raises(ValueError, match="found no such vectors"):
        probe_score([1.0], level="node")(Embedding(None, torch.ones(1, 1)))

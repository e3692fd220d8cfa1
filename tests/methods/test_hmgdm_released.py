"""The released form of H-MGDM: its numbers, its oddities, and the way to and from released checkpoints.

`tests/test_parity.py` compares every array of the released code; here is what those arrays cannot show.
"""

import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data

from histograph.methods import HMGDM, hmgdm_checkpoint, load_method, load_released, to_released
from histograph.methods.hmgdm_released_noise import first_of, paired_times, rotary_code
from tests.methods.graphs import graph
from tests.methods.test_hmgdm import outputs
from tests.methods.test_hmgdm import small as small_default

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "hmgdm"
SIZES = {"hidden_dim": 8, "embed_dim": 12, "joint_depth": 1, "official_compat": True}


def small(**settings):
    torch.manual_seed(0)
    return HMGDM(6, 2, **(SIZES | settings))


def batch_of(*sizes, change=None):
    """Batch graphs; `change` edits the last."""
    graphs = [graph(n, 2 * n, seed=k) for k, n in enumerate(sizes)]
    if change is not None:
        change(graphs[-1])
    return Batch.from_data_list(graphs)


def run(method, batch, time=300, seed=0):
    """Give masks, encoding and predictions of one released step with seeded masks and without sampling."""
    torch.manual_seed(seed)
    network = method.released
    graphs = network.read(batch)
    hidden = (
        first_of(torch.randperm(len(graphs.x)), 0.6),
        first_of(torch.randperm(len(graphs.edge_attr)), 0.6),
    )
    encoding = network.encode_rows(graphs, ~hidden[1])
    times = torch.full((graphs.num_graphs,), time)
    latents = (encoding.node_mean, encoding.edge_mean)
    return graphs, hidden, encoding, network.decode(graphs, hidden, encoding, latents, times)


def double(g):
    g.x, g.edge_attr = g.x * 2 + 1, g.edge_attr * 2 + 1


@pytest.fixture(scope="module")
def released():
    """Weights of the golden model."""
    with np.load(GOLDEN / "released" / "model_s2.npz") as file:
        return {name[3:]: torch.tensor(file[name]) for name in file.files if name.startswith("sd/")}


# ---- the network


def test_the_public_form_trains_on_what_the_parity_command_checks(released):
    """The loss of forward is made of the terms whose parts the golden arrays check."""
    method = load_released(released)
    batch = batch_of(6, 9)
    batch.x, batch.edge_attr = torch.randn(15, 24), torch.randn(batch.num_edges, 24)
    method.released.fixed_time = 300
    torch.manual_seed(3)
    terms = method(batch)
    torch.manual_seed(3)
    network = method.released
    graphs = network.read(batch)
    hidden = first_of(torch.randperm(15), 0.6), first_of(torch.randperm(batch.num_edges), 0.6)
    encoding = network.encode_rows(graphs, ~hidden[1])
    latents = encoding.sample(torch.randn_like(encoding.node_mean), torch.randn_like(encoding.edge_mean))
    node, edge = network.decode(graphs, hidden, encoding, latents, torch.tensor([300, 300]))
    wanted = {
        "kl": encoding.kl(),
        "node": (node - graphs.x[hidden[0]]).square().mean(),
        "edge": (edge - graphs.edge_attr[hidden[1]]).square().mean(),
    }
    for name, value in wanted.items():
        torch.testing.assert_close(terms[name], value.detach())
    torch.testing.assert_close(terms["loss"], wanted["kl"] + 0.5 * wanted["node"] + 0.5 * wanted["edge"])


@pytest.mark.parametrize("target", ["x0", "step"])
def test_every_weight_that_is_read_gets_a_gradient(target):
    method = small(target=target)
    terms = method(batch_of(6, 9, 4))
    assert all(bool(value.isfinite()) for value in terms.values())
    terms["loss"].backward()
    without = [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None]
    assert not without
    assert not any(p.requires_grad for p in method.released.unused.parameters())


def test_step_target_is_small_and_zero_at_the_first_time():
    network = small().released
    clean, eps = torch.randn(4, 6), torch.randn(4, 6)
    assert not network.step_target(clean, eps, torch.zeros(4, dtype=torch.long)).any()
    one = network.step_target(clean, eps, torch.full((4,), 500))
    kept = network.alphas[[499, 500]]
    wanted = (kept[0].sqrt() - kept[1].sqrt()) * clean + ((1 - kept[0]).sqrt() - (1 - kept[1]).sqrt()) * eps
    torch.testing.assert_close(one, wanted, atol=1e-6, rtol=0)


def test_embedding_is_the_posterior_mean_and_repeats():
    method, batch = small().eval(), batch_of(6, 9)
    first, second = method.encode(batch), method.encode(batch)
    assert torch.equal(first.node, second.node) and torch.equal(first.graph, second.graph)
    network = method.released
    encoding = network.encode_rows(network.read(batch))
    assert torch.equal(first.node, encoding.node_mean)
    torch.testing.assert_close(first.graph[1], encoding.node_mean[6:].mean(0))
    drawn, _ = encoding.sample(torch.ones_like(encoding.node_mean), torch.ones_like(encoding.edge_mean))
    assert not torch.allclose(drawn, first.node)
    top = small(pooling="max").eval().encode(batch)
    assert torch.equal(top.graph[0], top.node[:6].max(0).values)


def test_small_and_empty_graphs_give_finite_losses():
    single = Data(
        x=torch.randn(1, 6), edge_index=torch.zeros(2, 0, dtype=torch.long), edge_attr=torch.zeros(0, 2)
    )
    for batch in (single, Batch.from_data_list([single, graph(5, 6)])):
        terms = small()(batch)
        assert all(bool(value.isfinite()) for value in terms.values())
        assert small().encode(batch).graph.isfinite().all()


def test_masks_are_of_the_whole_batch():
    graphs, hidden, _, (node, edge) = run(small(), batch_of(6, 9, 4))
    assert int(hidden[0].sum()) == int(0.6 * 19) == len(node)
    assert int(hidden[1].sum()) == int(0.6 * graphs.edge_attr.shape[0]) == len(edge)


def test_times_come_in_pairs():
    assert paired_times(300, 5, 1000).tolist() == [300, 300, 300, 699, 699]
    assert small(fixed_time=10).released.times(3).tolist() == [10, 10, 989]
    drawn = small().released.times(8)
    assert (drawn[:3] + drawn[5:]).tolist() == [999] * 3


# ---- the oddities, and that the default form is free of them


def test_the_result_depends_on_the_order_of_nodes():
    method, g = small().eval(), graph(8, 14)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    place = order.argsort()
    moved = Data(x=g.x[order], edge_index=place[g.edge_index], edge_attr=g.edge_attr)
    gap = (method.encode(moved).node - method.encode(g).node[order]).abs().max()
    assert gap > 1e-4
    default = small_default().eval()
    torch.testing.assert_close(default.encode(moved).node, default.encode(g).node[order], atol=1e-5, rtol=0)


def test_the_rotation_is_what_breaks_the_order(monkeypatch):
    method, g = small().eval(), graph(8, 14)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    moved = Data(x=g.x[order], edge_index=order.argsort()[g.edge_index], edge_attr=g.edge_attr)
    monkeypatch.setattr("histograph.methods.hmgdm_released.rotary_code", lambda values, *_: values)
    torch.testing.assert_close(method.encode(moved).node, method.encode(g).node[order], atol=1e-5, rtol=0)


def test_rotation_starts_again_in_each_graph_and_keeps_lengths():
    values, batch = torch.randn(5, 8), torch.tensor([0, 0, 0, 2, 2])
    rotated = rotary_code(values, batch, 3)
    assert torch.equal(rotated[[0, 3]], values[[0, 3]])
    torch.testing.assert_close(rotated.norm(dim=1), values.norm(dim=1))
    torch.testing.assert_close(rotated[3:], rotary_code(values[3:], torch.zeros(2).long(), 1))


def test_graphs_leak_into_each_other_in_the_released_form_alone():
    method = small().eval().double()
    before, after = (run(method, batch_of(6, 9, 7, change=change)) for change in (None, double))
    mine = before[0].edge_batch[before[1][1]] == 0
    # weak with random weights, yet far above the rounding of double precision; hidden nodes forget the joint block
    assert (before[3][1][mine] - after[3][1][mine]).abs().max() > 1e-9
    # it is the joint attention: the encoder keeps graphs apart
    assert torch.equal(before[2].node_mean[:6], after[2].node_mean[:6])

    default = small_default().eval()
    runs = [outputs(default, batch_of(6, 9, 7, change=change)) for change in (None, double)]
    split = runs[0][0]
    mine = split.node_batch[split.visible :] == 0
    assert torch.equal(runs[0][1][mine], runs[1][1][mine])
    mine = split.edge_batch[split.known :] == 0
    assert torch.equal(runs[0][2][mine], runs[1][2][mine])


def test_hidden_nodes_are_seen_by_the_encoder():
    method, batch = small().eval(), batch_of(8)
    _, hidden, encoding, _ = run(method, batch)
    batch.x = torch.where(hidden[0].unsqueeze(1), batch.x + 1, batch.x)
    changed = run(method, batch)[2]
    assert (changed.node_mean - encoding.node_mean)[~hidden[0]].abs().max() > 1e-5


# ---- arguments


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"representation": "layers"}, "representation"),
        ({"skips": False}, "skips"),
        ({"edge_latents": False}, "edge_latents"),
        ({"paired_edges": True}, "paired_edges"),
        ({"target": "epsilon"}, "target"),
        ({"pooling": "mean_std"}, "pooling"),
        ({"latent_dim": 5}, "latent_dim"),
        ({"clip": 3.0}, "clip"),
        ({"theta": -1.0}, "theta"),
        ({"embed_dim": 0}, "embed_dim"),
        ({"edge_mask_ratio": 1.0}, "edge_mask_ratio"),
        ({"hidden_dim": 10}, "heads"),
    ],
)
def test_what_the_released_network_cannot_do_is_refused(settings, name):
    with pytest.raises(ValueError, match=name):
        small(**settings)


def test_columns_must_pair_up_and_fit():
    with pytest.raises(ValueError, match="node_dim must be even"):
        HMGDM(5, 2, **SIZES)
    with pytest.raises(ValueError, match="edge_dim must be even"):
        HMGDM(6, **SIZES)
    with pytest.raises(ValueError, match=r"edge_attr must have 2 columns.*found \(12, 4\)"):
        small()(graph(5, 6, edge_dim=4))


def test_arguments_of_the_released_network_need_it():
    for settings in ({"embed_dim": 12}, {"theta": 10.0}):
        with pytest.raises(ValueError, match=f"{next(iter(settings))} must be None, or official_compat True"):
            HMGDM(6, 2, hidden_dim=8, **settings)


def test_released_defaults():
    assert small().released.weights == {"kl": 1.0, "node": 0.5, "edge": 0.5}
    assert small(kl_weight=0.1).released.weights["kl"] == 0.1
    assert float(small(beta_end=0.1).released.betas[-1]) == pytest.approx(0.1, rel=3e-3)
    assert float(small_default(beta_end=0.1).diffusion.signal[-1]) < 0.01


# ---- files


def test_saved_and_loaded(tmp_path):
    method, batch = small(theta=50.0, beta_end=0.1), batch_of(6, 9)
    method.before_epoch(0, [graph(6, 8)])
    method.save(tmp_path / "a.safetensors")
    again = load_method(tmp_path / "a.safetensors")
    assert again.config == method.config and again.released.theta == 50.0
    assert torch.equal(again.encode(batch).node, method.encode(batch).node)
    for name, value in method.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_released_sizes_have_the_released_names_and_shapes():
    weights = to_released(HMGDM(3072, 3072, official_compat=True))
    lines = (GOLDEN / "keys_hmgdm.txt").read_text().split("\n")
    wanted = [tuple(line.split("\t")) for line in lines if line]
    assert [(name, str(tuple(value.shape))) for name, value in weights.items()] == wanted
    assert len(weights) == 242 and sum(value.numel() for value in weights.values()) == 14_506_451


def test_released_weights_come_back_bit_by_bit(released):
    # values of its own for every tensor, those that nothing reads included
    generator = torch.Generator().manual_seed(0)
    source = {name: torch.randn(value.shape, generator=generator) for name, value in released.items()}
    back = to_released(load_released(source))
    assert list(back) == list(source)
    for name, value in source.items():
        assert torch.equal(back[name], value), name


def test_our_weights_come_back_bit_by_bit():
    method = small(layers=4, joint_depth=3, timesteps=50)
    again = load_released(to_released(method))
    assert (
        again.config["layers"] == 4 and again.config["joint_depth"] == 3 and again.config["timesteps"] == 50
    )
    assert list(again.state_dict()) == list(method.state_dict())
    for name, value in method.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert not again.training


class EasyDict(dict):
    """As the class of the released configuration: items are attributes, too."""

    def __init__(self, items):
        super().__init__()
        for name, value in items.items():
            value = EasyDict(value) if isinstance(value, dict) else value
            self[name] = value
            self.__dict__[name] = value


CONFIG = {
    "model": {
        "joint_num_heads": 2,
        "coatt_num_heads": 2,
        "theta": 500.0,
        "node_mask_ratio": 0.4,
        "edge_mask_ratio": 0.3,
        "beta_schedule": "sigmoid",
        "beta_start": 1e-7,
        "beta_end": 1e-2,
    },
    "train": {"kl_alpha": 0.5, "node_alpha": 0.25, "edge_alpha": 0.125},
}


@pytest.fixture
def easydict(monkeypatch):
    module = types.ModuleType("easydict")
    module.EasyDict = EasyDict
    monkeypatch.setattr(EasyDict, "__module__", "easydict")
    monkeypatch.setitem(sys.modules, "easydict", module)
    return monkeypatch


@pytest.mark.parametrize("form", ["plain", "attributes"])
def test_pretraining_checkpoint_with_its_configuration(released, tmp_path, easydict, form):
    config = CONFIG if form == "plain" else EasyDict(CONFIG)
    parallel = {f"module.{name}": value for name, value in released.items()}
    extra = {"optimizer": {"state": {}, "param_groups": [{"lr": 1e-4}]}, "scheduler": {}, "epoch": 250}
    torch.save({"config": config, "model": parallel, "avg_loss": 0.5} | extra, tmp_path / "250.pt")
    easydict.delitem(sys.modules, "easydict")
    method = load_released(tmp_path / "250.pt")
    assert {
        name: method.config[name] for name in ("heads", "theta", "node_mask_ratio", "edge_mask_ratio")
    } == {
        "heads": 2,
        "theta": 500.0,
        "node_mask_ratio": 0.4,
        "edge_mask_ratio": 0.3,
    }
    assert method.config["beta_end"] == 1e-2
    assert method.released.weights == {"kl": 0.5, "node": 0.25, "edge": 0.125}
    assert torch.equal(to_released(method)["betas"], released["betas"])
    assert load_released(tmp_path / "250.pt", heads=8, theta=7.0).config["theta"] == 7.0


def test_other_forms_of_checkpoints(released, tmp_path):
    torch.save(released, tmp_path / "bare.pt")
    tuned = {"config": CONFIG["model"], "clsmodel": {"0.weight": torch.zeros(5, 8)}, "Diffmodel": released}
    torch.save(tuned, tmp_path / "tuned.pt")
    bare, fine = load_released(tmp_path / "bare.pt"), load_released(tmp_path / "tuned.pt")
    assert bare.config["heads"] == 4 and fine.config["heads"] == 2
    for name, value in released.items():
        assert torch.equal(to_released(bare)[name], value) and torch.equal(to_released(fine)[name], value)


def test_a_released_method_is_saved_with_its_own_noise_schedule(released, tmp_path):
    source = released | {"betas": released["betas"] * 2, "alphas": (1 - released["betas"] * 2).cumprod(0)}
    load_released(source).save(tmp_path / "a.safetensors")
    assert torch.equal(to_released(load_method(tmp_path / "a.safetensors"))["alphas"], source["alphas"])


def without(weights, name):
    return {key: value for key, value in weights.items() if key != name}


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda w: without(w, "norm_emb_x.bias"), "missing norm_emb_x.bias; unexpected nothing"),
        (lambda w: w | {"extra.weight": torch.zeros(1)}, "missing nothing; unexpected extra.weight"),
        (lambda w: w | {"temb_proj.bias": torch.zeros(9)}, r"temb_proj.bias \(9,\) instead of \(8,\)"),
        (lambda w: without(w, "betas"), "lacks betas"),
        (lambda w: {"model": {"config": "x"}}, "found the keys config"),
        (lambda w: {}, "found the keys nothing"),
        (lambda w: {"weight": torch.zeros(2)}, "lacks x_embedding.0.weight"),
        (
            lambda w: {"model": w, "config": {"model": {"joint_num_heads": 4, "coatt_num_heads": 2}}},
            "4 heads in the joint transformer and 2 in cross attention",
        ),
    ],
)
def test_broken_checkpoints_are_explained(released, edit, words):
    with pytest.raises(ValueError, match=words):
        hmgdm_checkpoint.load_released(edit(released))


class Harmful:
    """Would write a file when unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("harm"),))


def test_files_that_cannot_be_read_are_explained(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="source: no file at"):
        load_released(tmp_path / "missing.pt")
    (tmp_path / "broken.pt").write_bytes(b"not a checkpoint")
    torch.save({"model": Harmful()}, tmp_path / "harmful.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    for name, words in (
        ("broken", "not a file of torch.save"),
        ("harmful", "not a file"),
        ("list", "found list"),
    ):
        with pytest.raises(ValueError, match=words):
            load_released(tmp_path / f"{name}.pt")
    assert not (tmp_path / "harm").exists()


def test_the_default_form_has_no_released_counterpart():
    with pytest.raises(ValueError, match="official_compat=True, found one of the default form"):
        to_released(small_default())
    with pytest.raises(ValueError, match="found Linear"):
        to_released(torch.nn.Linear(1, 1))

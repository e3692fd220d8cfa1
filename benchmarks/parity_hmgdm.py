"""How `parity.py` computes each kind of file of the released H-MGDM code with our released form.

python benchmarks/parity.py hmgdm --golden FOLDER
"""

import ast
import copy
import re

import numpy as np
import torch
from torch import Tensor

from histograph.evaluation import cox_loss
from histograph.methods import HMGDM, load_released, to_released
from histograph.methods.hmgdm_released import ReleasedGraphs, ReleasedHMGDM
from histograph.methods.hmgdm_released_noise import (
    first_of,
    noisy_positions,
    noisy_rows,
    paired_times,
    rotary_code,
    rotary_frequencies,
)
from histograph.nn import (
    AttentionLayout,
    Diffusion,
    DualHypergraph,
    beta_schedule,
    segment_max,
    segment_mean,
    sinusoidal_embedding,
)

Arrays = dict[str, np.ndarray]
Tensors = dict[str, Tensor]

# as released, where a file has no configuration that says otherwise
RATIO, HEADS, STEPS = 0.6, 4, 1000
SAMPLE_SEED = 9


def tensors(arrays: Arrays) -> Tensors:
    """Give the arrays with numbers as tensors."""
    return {name: torch.from_numpy(np.array(a)) for name, a in arrays.items() if a.dtype.kind in "fiub"}


def numbers(found: dict[str, Tensor]) -> Arrays:
    """Give tensors as arrays."""
    return {name: value.detach().numpy() for name, value in found.items()}


def group(arrays: Tensors, folder: str) -> Tensors:
    """Give the arrays of a folder without its name."""
    return {name.removeprefix(folder): value for name, value in arrays.items() if name.startswith(folder)}


def configured(arrays: Arrays, name: str, default: float) -> float:
    """Read a setting from the array `config`, where there is one that has it."""
    config = ast.literal_eval(str(arrays["config"])) if "config" in arrays else {}
    return config.get(name, default)


def network_of(weights: Tensors, heads: int = HEADS) -> ReleasedHMGDM:
    """Build the whole network from all of its weights, or from those of a part, the rest being random."""

    def rows(name: str, default: int, axis: int = 0) -> int:
        return weights[name].shape[axis] if name in weights else default

    def count(pattern: str, default: int) -> int:
        found = [int(match[1]) for name in weights if (match := re.match(pattern, name))]
        return max(found) + 1 if found else default

    hidden = rows("context_encoder.convs.0.bias", 0)
    hidden = hidden or rows("joint_decoder_x.norm.weight", 0) or rows("dec_blks.0.0.norm.weight", 0)
    method = HMGDM(
        rows("x_embedding.0.weight", 2),
        rows("edge_attr_embedding.0.weight", 2),
        hidden_dim=hidden or rows("dec_blks.0.2.convs.0.bias", 4),
        embed_dim=rows("context_encoder.node_emblin.weight", rows("x_embedding.1.weight", 8)),
        layers=count(r"context_encoder\.convs\.(\d+)", 3),
        joint_depth=count(r"joint_decoder_x\.layers\.(\d+)", 1),
        timesteps=rows("betas", STEPS),
        heads=heads,
        official_compat=True,
    )
    return load_released(to_released(method) | weights, heads=heads).released


def graphs_of(a: Tensors, network: ReleasedHMGDM) -> ReleasedGraphs:
    """Read x, edge_index, edge_attr and batch as the network does."""
    edge_batch, count = a["batch"][a["edge_index"][0]], int(a["batch"].max()) + 1
    return ReleasedGraphs(
        rotary_code(a["x"], a["batch"], count, network.theta),
        a["edge_index"],
        rotary_code(a["edge_attr"], edge_batch, count, network.theta),
        a["batch"],
        edge_batch,
        count,
    )


def schedules(arrays: Arrays) -> Arrays:
    """Variances of each schedule, and what the network keeps of them."""
    found = {}
    for steps, start, end in zip(arrays["T"].tolist(), arrays["beta_start"], arrays["beta_end"], strict=True):
        for name in {key.split("_")[0] for key in arrays if f"_T{steps}_" in key}:
            arguments = name, steps, float(start), float(end)
            process = dict(zip(("schedule", "timesteps", "beta_start", "beta_end"), arguments, strict=True))
            network = ReleasedHMGDM(2, 2, hidden_dim=4, embed_dim=2, heads=1, **process)
            found[f"{name}_T{steps}_beta64"] = beta_schedule(*arguments)
            found[f"{name}_T{steps}_beta32"] = network.betas.numpy()
            found[f"{name}_T{steps}_alphabar32"] = network.alphas.numpy()
    return found


def timestep_embedding(arrays: Arrays) -> Arrays:
    """Sines and cosines of each width."""
    t = torch.from_numpy(arrays["t"])
    names = [name for name in arrays if name.startswith("emb_d")]
    return numbers({name: sinusoidal_embedding(t, int(name.removeprefix("emb_d"))) for name in names})


def analytic_ddpm(arrays: Arrays) -> Arrays:
    """Compute closed forms of the process and its steps back; the ends of the schedule are solved from its values."""
    found: dict[str, Tensor] = {}
    for name in [name for name in arrays if re.fullmatch(r"T\d+_beta", name)]:
        head, beta = name.removesuffix("beta"), arrays[name]
        low = 1 / (1 + np.exp(6.0))
        start, end = np.linalg.solve([[1 - low, low], [low, 1 - low]], beta[[0, -1]]).tolist()
        process = Diffusion("sigmoid", len(beta), start, end)
        every = torch.arange(len(beta))
        one, zero = (
            torch.ones(len(beta), 1, dtype=torch.float64),
            torch.zeros(len(beta), 1, dtype=torch.float64),
        )
        found[name] = torch.from_numpy(beta_schedule("sigmoid", len(beta), start, end))
        found[f"{head}abar"] = process.kept(every)
        found[f"{head}post_var"] = process.posterior(zero, zero, every)[1].squeeze(1)
        found[f"{head}post_coef_x0"] = process.posterior(one, zero, every)[0].squeeze(1)
        found[f"{head}post_coef_xt"] = process.posterior(zero, one, every)[0].squeeze(1)
        for key in [key for key in arrays if re.fullmatch(rf"{head}t\d+_x0", key)]:
            case = key.removesuffix("x0")
            x0, eps = torch.from_numpy(arrays[key]), torch.from_numpy(arrays[f"{case}eps"])
            t = torch.full((len(x0),), int(case.split("_t")[1].rstrip("_")))
            found[f"{case}xt"] = noisy = process.noisy(x0, eps, t)
            found[f"{case}ddpm_mean"] = process.posterior(x0, noisy, t)[0]
            found[f"{case}ddim_xtm1"] = back = process.ddim_step(x0, noisy, t)
            # at t = 0 the files step to the clean rows, the released training target to the rows themselves
            found[f"{case}step_target"] = process.target("step", x0, eps, t) if int(t[0]) else back - noisy
    return numbers(found)


def masks_and_times(a: Tensors, network: ReleasedHMGDM, arrays: Arrays) -> Tensors:
    """Masks from permutations; times of graphs and what they keep."""
    num_graphs, time = int(a["batch"].max()) + 1, a["time_step"]
    return {
        "node_target_mask": first_of(a["perm_node"], configured(arrays, "node_mask_ratio", RATIO)),
        "edge_target_mask": first_of(a["perm_edge"], configured(arrays, "edge_mask_ratio", RATIO)),
        "time_step": paired_times(int(a["time_number"]), num_graphs, network.betas.numel()),
        "alphabar_t": network.alphas[time],
        "alphabar_tm1": network.alphas[(time - 1).clamp(min=0)],
    }


def qsample(arrays: Arrays) -> Arrays:
    """Noising of attributes and positions, with the noise of the file."""
    a = tensors(arrays)
    network = network_of({})
    found = masks_and_times(a, network, arrays)
    batch, num_graphs = a["batch"], int(a["batch"].max()) + 1
    edge_batch = batch[a["edge_index"][0]]
    x_eps, e_eps, pos_eps = (a[f"direct_target_{name}"] for name in ("x", "e", "pos"))
    # attributes of hidden rows and positions of visible ones are noised
    found["direct_target_x"] = torch.where(a["node_target_mask"].unsqueeze(1), x_eps, 0.0)
    found["direct_target_e"] = torch.where(a["edge_target_mask"].unsqueeze(1), e_eps, 0.0)
    found["direct_target_pos"] = torch.where(a["node_target_mask"].unsqueeze(1), 0.0, pos_eps)
    time = a["time_step"]
    kept, before = network.alphas[time], network.alphas[(time - 1).clamp(min=0)]
    x_t, e_t = noisy_rows(a["x"], x_eps, kept[batch]), noisy_rows(a["edge_attr"], e_eps, kept[edge_batch])
    pos_t = noisy_positions(a["pos"], pos_eps, kept[batch], batch, num_graphs)
    for mode in ("direct", "step"):
        found |= {f"{mode}_x_t": x_t, f"{mode}_e_t": e_t, f"{mode}_pos_t": pos_t}
    found["step_target_x"] = network.step_target(a["x"], x_eps, time[batch])
    found["step_target_e"] = network.step_target(a["edge_attr"], e_eps, time[edge_batch])
    found["step_target_pos"] = noisy_positions(a["pos"], pos_eps, before[batch], batch, num_graphs) - pos_t
    return numbers(found)


def rotary(arrays: Arrays) -> Arrays:
    """Rotation by storage order."""
    a, theta = tensors(arrays), float(arrays["theta"])
    count = int(a["batch"].max()) + 1
    return numbers(
        {
            "node_freqs": rotary_frequencies(a["x"].shape[1], theta),
            "edge_freqs": rotary_frequencies(a["edge_attr"].shape[1], theta),
            "node_counts": torch.bincount(a["batch"], minlength=count),
            "edge_counts": torch.bincount(a["batch_edge"], minlength=count),
            "x_rot": rotary_code(a["x"], a["batch"], count, theta),
            "edge_attr_rot": rotary_code(a["edge_attr"], a["batch_edge"], count, theta),
        }
    )


def incidence(dual: DualHypergraph, shared: Tensor, loops: bool) -> Tensor:
    """List edges and their hyperedges: both ends where they are shared, then one hyperedge for each edge alone."""
    edge = torch.arange(dual.source.numel())
    ends = torch.stack([edge.repeat_interleave(2), torch.stack([dual.source, dual.target], 1).flatten()])
    if not loops:
        return ends
    first = int(ends[1].max()) + 1
    return torch.cat([ends[:, shared[ends[1]]], torch.stack([edge, first + edge])], dim=1)


def layers(arrays: Arrays) -> Arrays:
    """Embedding, dual hypergraph, and single convolutions."""
    a = tensors(arrays)
    given = group(a, "sd/")
    own = {name: value for name, value in given.items() if "embedding" in name}
    encoder = {f"context_encoder.{name}": value for name, value in given.items() if name not in own}
    network = network_of(own | encoder)
    parts, edge_index = network.encoder, a["edge_index"]
    x, e = network.node_embed(a["x_in"]), network.edge_embed(a["e_in"])
    dual = DualHypergraph.from_edges(edge_index, x.shape[0])
    shared = dual.node_scale.squeeze(1) > 0
    hyper = parts.edge_convs[0](e, dual)
    score = parts.gates[0](hyper.relu(), dual)
    weight = torch.tanh(score).squeeze(1).clamp(0, 1)
    first = parts.node_convs[0](x, edge_index)
    return numbers(
        {
            "x_emb": x,
            "e_emb": e,
            "hyperedge_index": incidence(dual, shared, loops=True),
            "hyperedge_index_noloops": incidence(dual, shared, loops=False),
            "edge_batch": a["batch"][edge_index[0]],
            "hyperconv0_out": hyper,
            "scoreconv0_out": score,
            "edge_weight": weight,
            "gcn0_out": first,
            "gcn1_weighted_out": parts.node_convs[1](first.relu(), edge_index, weight),
        }
    )


def encoder(arrays: Arrays) -> Arrays:
    """Run the encoder with hidden edges and without, and a decoder layer."""
    a = tensors(arrays)
    weights = {f"context_encoder.{name}": value for name, value in group(a, "sd/").items()}
    weights |= {f"dec_blks.0.2.{name}": value for name, value in group(a, "decsd/").items()}
    network = network_of(weights)
    shown = ~a["edge_target_mask"]
    found = {}
    for head, e, index in (
        ("", a["e"][shown], a["edge_index"][:, shown]),
        ("eval_", a["e"], a["edge_index"]),
    ):
        z = network.encoder.encode(a["x"], e, index)
        found |= {f"{head}m_x": z.node_mean, f"{head}logvar_x": z.node_logvar}
        found |= {f"{head}m_e": z.edge_mean, f"{head}logvar_e": z.edge_logvar}
        if not head:
            found |= {f"x_layer{i}": rows for i, rows in enumerate(z.node_layers)}
            found |= {f"e_layer{i}": rows for i, rows in enumerate(z.edge_layers)}
    (x,), (e,) = network.blocks[0].layers(a["dec_x_in"], a["dec_e_in"], a["edge_index"])
    return numbers(found | {"dec_x_out": x, "dec_e_out": e})


def attention(arrays: Arrays) -> Arrays:
    """Run the joint transformer over the batch and inside graphs, and the cross attention."""
    a = tensors(arrays)
    weights = {f"joint_decoder_x.{name}": value for name, value in group(a, "joint/").items()}
    # the transformers of nodes and of edges have one depth
    weights |= {name.replace("_x.", "_e."): value for name, value in weights.items()}
    weights |= {f"dec_blks.0.0.{name}": value for name, value in group(a, "coatt/").items()}
    network = network_of(weights, heads=int(arrays["heads"]))
    batch, hidden, num_graphs = a["batch"], a["node_target_mask"], int(a["batch"].max()) + 1
    rows, context, together = a["x"][hidden], a["x"][~hidden], torch.zeros_like(batch)
    alone = batch[hidden].clone()
    # a graph of its own, without anything to read
    alone[:1] = num_graphs
    reader = network.blocks[0].node_reader
    return numbers(
        {
            "joint_out_nomask": network.node_joint(a["x"], AttentionLayout(together, together, 1)),
            "joint_out_blockmask": network.node_joint(a["x"], AttentionLayout(batch, batch, num_graphs)),
            "coatt_mask_true_is_blocked": batch[hidden].unsqueeze(1) != batch[~hidden],
            "coatt_out": reader(rows, context, AttentionLayout(batch[hidden], batch[~hidden], num_graphs)),
            "coatt_out_row0_all_blocked": reader(
                rows, context, AttentionLayout(alone, batch[~hidden], num_graphs + 1)
            ),
        }
    )


def model(arrays: Arrays) -> Arrays:
    """Run the whole forward, with the noise of the file, and its gradients."""
    a = tensors(arrays)
    method = load_released(group(a, "sd/"), heads=int(configured(arrays, "joint_num_heads", HEADS)))
    network = method.released
    graphs = graphs_of(a, network)
    hidden = a["node_target_mask"], a["edge_target_mask"]
    encoding = network.encode_rows(graphs, ~hidden[1])
    latents = encoding.sample(a["eps_node"], a["eps_edge"])
    node, edge = network.decode(graphs, hidden, encoding, latents, a["time_step"])
    sines = sinusoidal_embedding(a["time_step"], network.hidden_dim)
    losses = [
        (out - rows[mask]).square().mean()
        for out, rows, mask in zip((node, edge), (graphs.x, graphs.edge_attr), hidden, strict=True)
    ]
    (0.5 * losses[0] + 0.5 * losses[1]).backward()
    slopes = copy.deepcopy(method)
    for mine, theirs in zip(slopes.parameters(), method.parameters(), strict=True):
        mine.data = torch.zeros_like(mine) if theirs.grad is None else theirs.grad
    gradients = {f"grad/{name}": value for name, value in to_released(slopes).items()}
    return numbers(
        masks_and_times(a, network, arrays)
        | {"kl": encoding.kl(), "z_x": latents[0], "z_e": latents[1]}
        | {"temb": sines, "temb_proj": network.time(sines)}
        | {"step_pred_node": node, "step_pred_edge": edge}
        | {"direct_loss_node": losses[0], "direct_loss_edge": losses[1]}
        | {"x_rot": graphs.x, "edge_attr_rot": graphs.edge_attr}
        | gradients
    )


def representation(arrays: Arrays) -> Arrays:
    """Encode whole graphs, pool, and draw a noised batch with the seed that the file was made with."""
    a = tensors(arrays)
    network = load_released(group(a, "sd/"), heads=int(configured(arrays, "joint_num_heads", HEADS))).released
    graphs = graphs_of(a, network)
    z_x, z_e = network.encode_rows(graphs).sample(a["eps_node"], a["eps_edge"])
    pooled = graphs.batch, graphs.num_graphs
    time = a["sample_time_step"]
    found = {
        "z_x": z_x,
        "z_e": z_e,
        "mean_pool": segment_mean(z_x, *pooled),
        "max_pool": segment_max(z_x, *pooled),
        "sample_time_step": paired_times(int(time[0]), graphs.num_graphs, network.betas.numel()),
    }
    generator = torch.Generator().manual_seed(SAMPLE_SEED)
    # positions are drawn first and read by nothing
    torch.randn(len(graphs.x), 2, generator=generator)
    for name, rows, batch, permutation in (
        ("x", graphs.x, graphs.batch, a["sample_perm_node"]),
        ("e", graphs.edge_attr, graphs.edge_batch, a["sample_perm_edge"]),
    ):
        hidden = first_of(permutation, RATIO)
        eps = torch.zeros_like(rows)
        eps[hidden] = torch.randn(int(hidden.sum()), rows.shape[1], generator=generator)
        found[f"sample_{name}_t_targets"] = noisy_rows(rows, eps, network.alphas[time[batch]])[hidden]
        found[f"sample_step_target_{name}"] = network.step_target(rows, eps, time[batch])
    return numbers(found)


def cox(arrays: Arrays) -> Arrays:
    """Evaluate the loss of each number of patients."""
    a = tensors(arrays)
    sizes = [name.removeprefix("loss_") for name in arrays if name.startswith("loss_")]
    return numbers({f"loss_{n}": cox_loss(a[f"hazards_{n}"], a[f"time_{n}"], a[f"event_{n}"]) for n in sizes})


GRAPH = ("x", "pos", "edge_index", "edge_attr", "batch")
DRAWN = ("perm_node", "perm_edge", "time_number", "config")
KINDS = {
    "schedules": (("beta_start", "beta_end", "T"), schedules),
    "timestep_embedding": (("t",), timestep_embedding),
    "analytic_ddpm": (("T*_t*_x0", "T*_t*_eps"), analytic_ddpm),
    "qsample": ((*GRAPH, *DRAWN), qsample),
    "rotary": (("x", "edge_attr", "batch", "batch_edge", "theta"), rotary),
    "layers": (("edge_index", "batch", "x_in", "e_in", "sd/*"), layers),
    "encoder": (
        ("x", "e", "edge_index", "batch", "*_target_mask", "dec_x_in", "dec_e_in", "sd/*", "decsd/*"),
        encoder,
    ),
    "attention": (("x", "batch", "node_target_mask", "heads", "joint/*", "coatt/*"), attention),
    "model": ((*GRAPH, *DRAWN, "eps_node", "eps_edge", "sd/*"), model),
    "representation": ((*GRAPH, "config", "eps_node", "eps_edge", "sample_perm_*", "sd/*"), representation),
    "cox_loss": (("hazards_*", "time_*", "event_*"), cox),
}

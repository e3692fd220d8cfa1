"""SLPD in two processes: the step of one process on the whole batch. The number is that of the spec's check."""

import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

import histograph as hg
from histograph.methods import SLPD, load_method
from histograph.training.graphs import collate

from .regions import regions
from .test_slpd import method

# 20 to 22 are of a slide without prototypes: three of the first half have some, one of the second
HALVES = ([0, 13, 30, 20], [35, 21, 22, 20])
CHANGES = {"drop_path": 0.0, "intra_weight": 0.7, "inter_weight": 1.3}


def step(rows, world):
    """Refresh, and make a step with the middle of regions as views, which is not random."""
    data = regions(few=(2,), missing=0.3)
    network = method(**CHANGES)
    network.before_epoch(0, data)
    batch = collate([data[row] for row in rows], SLPD.reads)
    view = network.whole_view(batch)
    terms = network.distil([view, view], [view], network.prototypes(batch.region))
    terms["loss"].backward()
    gradient = {}
    for name, weight in network.student.named_parameters():
        if weight.grad is not None:
            if world > 1:
                dist.all_reduce(weight.grad)
            gradient[name] = weight.grad / world
    network.after_step(1)
    centres = {name: getattr(network, name).center for name in ("loss", "intra", "inter")}
    return {"gradient": gradient, "centres": centres, "tables": network.prototypes.state_dict()}


def _work(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(step(HALVES[rank], 2), f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_processes_make_the_step_of_one(tmp_path):
    """24: centres by true counts, gradients by true pairs, tables alike though each reads half of the regions."""
    multiprocessing.spawn(_work, (str(tmp_path),), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    alone = step(HALVES[0] + HALVES[1], 1)
    for kind in ("centres", "gradient", "tables"):
        for name, value in alone[kind].items():
            assert torch.equal(found[0][kind][name], found[1][kind][name])
            torch.testing.assert_close(found[0][kind][name], value, atol=1e-6, rtol=1e-4)
    assert alone["centres"]["intra"].any()


@pytest.mark.slow
def test_a_whole_run_in_two_processes(tmp_path):
    data = regions(missing=0.2)
    network = method()
    log = hg.pretrain(
        network,
        data,
        epochs=2,
        batch_size=4,
        out=tmp_path,
        devices=2,
        strategy="ddp_spawn",
        accelerator="cpu",
        progress=False,
    )
    assert log["inter"].gt(0).all() and network.intra.center.any()
    again = load_method(tmp_path / "method.safetensors")
    assert torch.equal(again.prototypes.centroid, network.prototypes.centroid)

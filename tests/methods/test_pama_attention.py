"""The attention that is drawn is the attention that the network uses."""

import pytest
import torch
from torch_geometric.data import Batch, Data

from histograph.methods import PAMA, anchor_maps

SMALL = {
    "node_dim": 6,
    "hidden_dim": 16,
    "heads": 2,
    "decoder_dim": 16,
    "decoder_layers": 1,
    "patches_per_anchor": 9.0,
}


def slide(n=50):
    generator = torch.Generator().manual_seed(n)
    places = torch.cartesian_prod(torch.arange(10), torch.arange(9)).float()[:n] * 256.0
    return Data(x=torch.randn(n, 6, generator=generator), pos=places)


@pytest.mark.parametrize("form", [{}, {"nearest": 2}], ids=str)
def test_weights_of_the_last_block_give_the_anchors_of_the_slide_node(form):
    torch.manual_seed(0)
    method, one = PAMA(**SMALL, layers=2, **form).train(), slide()
    maps = anchor_maps(method, one)
    assert method.training and maps.weight.shape == (2, len(maps.anchor_index), 50)
    method.eval()
    torch.testing.assert_close(maps.slide_weight.sum(-1), torch.ones(2))
    assert (maps.weight.sum(-1) < 1).all() and (maps.weight >= 0).all()
    assert torch.equal(maps.anchor_index, method._anchor_rows(one, one.x, one.pos, [50])[0])
    if form:
        near = torch.cdist(one.pos[maps.anchor_index], one.pos)
        farther = near > near.kthvalue(2, dim=0).values + 1
        assert (maps.weight[:, farther] == 0).all() and (maps.weight[:, ~farther] > 0).all()


@torch.no_grad()
def test_moving_a_patch_that_no_anchor_attends_to_changes_little():
    torch.manual_seed(0)
    method, one = PAMA(**SMALL, layers=1, pooling="anchors").eval(), slide()
    weight = anchor_maps(method, one).weight.mean((0, 1))
    before = method.encode(one).graph
    change = []
    for patch in (int(weight.argmax()), int(weight.argmin())):
        x = one.x.clone()
        x[patch] += 3
        rows = method._encode(method._read(Data(x=x, pos=one.pos)), None)[2]
        base = method._encode(method._read(one), None)[2]
        change.append(float((rows - base).norm()))
    assert before.isfinite().all() and change[0] > change[1]


def test_released_form_and_its_padding():
    torch.manual_seed(0)
    method, one = PAMA(**SMALL, layers=2, official_compat=True), slide()
    maps = anchor_maps(method, one, block=0)
    assert maps.weight.shape == (2, len(maps.anchor_index), 50)
    assert (maps.weight.sum(-1) < 1).all() and (maps.slide_weight.sum(-1) < 1).all()
    assert not torch.equal(maps.weight, anchor_maps(method, one).weight)


def test_what_cannot_be_read():
    method = PAMA(**SMALL, layers=2)
    with pytest.raises(ValueError, match=r"block must be in -2 .. 1, the method has 2; found 2"):
        anchor_maps(method, slide(), block=2)
    with pytest.raises(ValueError, match="graph must be one slide, found a batch of 2"):
        anchor_maps(method, Batch.from_data_list([slide(), slide(20)]))

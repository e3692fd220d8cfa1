import pytest
import torch

from histograph.nn import edge_pairs, random_subset


def test_exact_share_of_every_graph_in_any_order():
    torch.manual_seed(0)
    sizes = [0, 1, 2, 5, 33, 100]
    batch = torch.repeat_interleave(torch.arange(6), torch.tensor(sizes))[torch.randperm(141)]
    for ratio in (0.0, 0.29, 0.6, 0.99):
        picked = random_subset(batch, 6, ratio)
        for g, n in enumerate(sizes):
            assert int(picked[batch == g].sum()) == int(ratio * n)
            assert n == 0 or not picked[batch == g].all()


def test_fresh_each_call_same_with_same_seed():
    batch = torch.zeros(100, dtype=torch.long)
    torch.manual_seed(3)
    first, second = random_subset(batch, 1, 0.5), random_subset(batch, 1, 0.5)
    torch.manual_seed(3)
    assert torch.equal(first, random_subset(batch, 1, 0.5))
    assert not torch.equal(first, second)


def test_every_row_is_picked_equally_often():
    torch.manual_seed(0)
    batch = torch.tensor([0] * 5 + [1] * 10)
    share = torch.stack([random_subset(batch, 2, 0.6) for _ in range(2000)]).float().mean(0)
    assert (share - 0.6).abs().max() < 0.05


def test_pairs_join_both_directions_only():
    edge_index = torch.tensor([[0, 0, 1, 2, 2, 3], [1, 2, 0, 0, 3, 2]])
    pair, node = edge_pairs(edge_index, 4)
    assert pair[0] == pair[2] and pair[1] == pair[3] and pair[4] == pair[5]
    assert pair.unique().numel() == node.numel() == 3
    assert (edge_index == node[pair]).any(0).all()
    assert edge_pairs(torch.empty(2, 0, dtype=torch.long), 0)[0].shape == (0,)


def test_ratio_out_of_range():
    with pytest.raises(ValueError, match="ratio"):
        random_subset(torch.zeros(2, dtype=torch.long), 1, 1.0)

"""Attention between tokens and anchors: against the written-out equations, in pieces, listed, and turned."""

import math

import pytest
import torch
from torch.nn import functional as F

from histograph.nn import anchor_attention
from histograph.nn.anchor_attention import (
    AnchorAttention,
    AnchorCodes,
    DenseEdges,
    SparseEdges,
    main_direction,
)

CODES = AnchorCodes(65, 8)


def random_codes(anchors, tokens, seed=0):
    """Codes of one slide: the slide node first, some pairs at one place."""
    generator = torch.Generator().manual_seed(seed)
    code = torch.randint(0, CODES.here, (anchors, tokens), generator=generator)
    code[torch.rand(anchors, tokens, generator=generator) < 0.1] = CODES.here
    code[:, 0] = CODES.slide
    return code


def attention(dim=16, heads=2, seed=0, **flags):
    torch.manual_seed(seed)
    return AnchorAttention(dim, heads, CODES, **flags)


def one_slide(code):
    return DenseEdges([code], [0, len(code)], [0, code.shape[1]])


def written_out(module, tokens, anchors, code):
    """The equations, one head and one pair at a time where it matters."""
    heads, d = module.heads, tokens.shape[1] // module.heads
    q, k, v = module.qkv(tokens).split(tokens.shape[1], dim=1)
    aq, ak, av = module.qkv(anchors).split(tokens.shape[1], dim=1)
    for_tokens, for_anchors = [], []
    for h in range(heads):
        part = slice(h * d, (h + 1) * d)
        score = aq[:, part] @ k[:, part].T / math.sqrt(d)
        bias = torch.empty_like(score)
        for a in range(len(anchors)):
            histogram = torch.zeros(8)
            for t in range(len(tokens)):
                if code[a, t] < CODES.here:
                    histogram[code[a, t] % 8] += score[a, t].abs()
            main = int(histogram.argmax()) if module.reorientation else 0
            for t in range(len(tokens)):
                c = int(code[a, t])
                if c >= CODES.here:
                    bias[a, t] = module.apart[h, c - CODES.here]
                    continue
                bias[a, t] = 0.0
                if module.distance is not None:
                    bias[a, t] += module.distance[h, c // 8]
                if module.direction is not None:
                    bias[a, t] += module.direction[(c % 8 - main) % 8]
        for_anchors.append((score + bias).softmax(1) @ v[:, part])
        back = q[:, part] @ ak[:, part].T / math.sqrt(d)
        for_tokens.append((back + bias.T).softmax(1) @ av[:, part])
    return module.out(torch.cat(for_tokens, 1)), module.out(torch.cat(for_anchors, 1))


@pytest.mark.parametrize(
    "flags", [{}, {"reorientation": False}, {"distance": False}, {"direction": False}], ids=str
)
@pytest.mark.parametrize("form", ["dense", "listed"])
def test_equals_the_equations(flags, form):
    module, code = attention(**flags), random_codes(5, 23)
    tokens, anchors = torch.randn(23, 16), torch.randn(5, 16)
    edges = one_slide(code)
    if form == "listed":
        edges = edges.listed([torch.ones_like(code, dtype=torch.bool)])
    with torch.no_grad():
        found, wanted = module(tokens, anchors, edges), written_out(module, tokens, anchors, code)
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
        slide = module(tokens, anchors, edges, slide_only=True)
    torch.testing.assert_close(slide[0], wanted[0][:1], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(slide[1], wanted[1], rtol=1e-5, atol=1e-5)


def test_pieces_change_nothing(monkeypatch):
    module, code = attention(dim=32, heads=4), random_codes(7, 41)
    tokens, anchors = torch.randn(41, 32), torch.randn(7, 32)
    whole = module(tokens, anchors, one_slide(code))
    for budget in (1, 41, 100, 7 * 41 * 2, 7 * 41 * 3):
        monkeypatch.setitem(anchor_attention._PIECE, "cpu", budget)
        cut = module(tokens, anchors, one_slide(code))
        torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-6)


def test_main_direction_is_that_of_a_one_hot_histogram_and_the_first_of_ties():
    code = random_codes(6, 50)
    strength = torch.randn(3, 6, 50)
    one_hot = F.one_hot(code % 8, 8) * (code < CODES.here).unsqueeze(-1)
    wanted = (strength.abs().unsqueeze(-1) * one_hot).sum(2).argmax(-1)
    assert torch.equal(main_direction(strength, code, CODES), wanted)
    tied = torch.tensor([[5, 2, 8 * 3 + 5, 2, CODES.here]])
    assert main_direction(torch.tensor([[[1.0, 1.0, 1.0, 1.0, 50.0]]]), tied, CODES).item() == 2


def test_bias_does_not_change_when_all_directions_of_an_anchor_shift():
    module, code = attention(), random_codes(4, 30)
    tokens, anchors = torch.randn(30, 16), torch.randn(4, 16)
    shift = torch.tensor([[1], [0], [6], [3]])
    turned = torch.where(code < CODES.here, code // 8 * 8 + (code % 8 + shift) % 8, code)
    for one, other in zip(
        module(tokens, anchors, one_slide(code)), module(tokens, anchors, one_slide(turned)), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    fixed = attention(reorientation=False)
    one, other = (fixed(tokens, anchors, one_slide(c))[0] for c in (code, turned))
    assert (one - other).abs().max() > 1e-2


def test_slides_do_not_see_each_other():
    module = attention()
    codes = [random_codes(3, 9, 1), random_codes(1, 2, 2), random_codes(5, 30, 3)]
    edges = DenseEdges(codes, [0, 3, 4, 9], [0, 9, 11, 41])
    tokens, anchors = torch.randn(41, 16), torch.randn(9, 16)
    together = module(tokens, anchors, edges)
    for i, code in enumerate(codes):
        t, a = slice(*edges.token_ptr[i : i + 2]), slice(*edges.anchor_ptr[i : i + 2])
        alone = module(tokens[t], anchors[a], one_slide(code))
        torch.testing.assert_close((together[0][t], together[1][a]), alone, rtol=1e-5, atol=1e-6)
    marks = [torch.rand(code.shape) < 0.5 for code in codes]
    for mark in marks:
        mark[:, 0] = True
    listed = edges.listed(marks)
    assert isinstance(listed, SparseEdges) and listed.anchor.numel() == sum(int(m.sum()) for m in marks)
    assert (listed.anchor.diff() >= 0).all()


def test_weights_are_shares_and_give_the_rows():
    module, code = attention(), random_codes(4, 20)
    tokens, anchors = torch.randn(20, 16), torch.randn(4, 16)
    taken, given = module.weights(tokens, anchors, code)
    assert taken.shape == (2, 4, 20) and given.shape == (2, 20, 4)
    torch.testing.assert_close(taken.sum(-1), torch.ones(2, 4))
    torch.testing.assert_close(given.sum(-1), torch.ones(2, 20))
    v = module.qkv(tokens)[:, 32:].unflatten(1, (2, 8)).transpose(0, 1)
    rows = module.out((taken @ v).transpose(0, 1).flatten(1))
    torch.testing.assert_close(rows, module(tokens, anchors, one_slide(code))[1], rtol=1e-5, atol=1e-5)


def test_one_anchor_gives_its_values_to_all():
    module = attention()
    code = random_codes(1, 6)
    tokens, anchor = torch.randn(6, 16), torch.randn(1, 16)
    given = module.weights(tokens, anchor, code)[1]
    assert torch.equal(given, torch.ones_like(given))


def test_tables_get_gradients_and_the_main_direction_none():
    module, code = attention().double(), random_codes(4, 20)
    tokens, anchors = torch.randn(20, 16).double(), torch.randn(4, 16).double()

    def total():
        y, z = module(tokens, anchors, one_slide(code))
        return (y.sin().sum() + z.cos().sum()) * 10

    total().backward()
    for table, place in (
        (module.direction, (3,)),
        (module.distance, (1, int(code[0, 5]) // 8)),
        (module.apart, (0, 1)),
    ):
        with torch.no_grad():
            step = 1e-6
            table[place] += step
            up = total()
            table[place] -= 2 * step
            down = total()
            table[place] += step
        slope = (up - down) / (2 * step)
        assert table.grad[place].item() == pytest.approx(slope.item(), rel=1e-4, abs=1e-7)
        assert slope.abs() > 1e-9


@pytest.mark.parametrize("dtype, tolerance", [(torch.bfloat16, 6e-2), (torch.float16, 1e-2)])
def test_half_precision(dtype, tolerance):
    module, code = attention(), random_codes(4, 20)
    tokens, anchors = torch.randn(20, 16), torch.randn(4, 16)
    with torch.no_grad():
        wanted = module(tokens, anchors, one_slide(code))
        found = module.to(dtype)(tokens.to(dtype), anchors.to(dtype), one_slide(code))
    for one, other in zip(found, wanted, strict=True):
        assert one.isfinite().all()
        assert (one.float() - other).norm() / other.norm() < tolerance


def test_heads_must_divide():
    with pytest.raises(ValueError, match="heads must divide the width of rows; found heads 3 and width 16"):
        AnchorAttention(16, 3, CODES)

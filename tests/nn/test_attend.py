"""Attention by torch's kernel, against the formula."""

import pytest
import torch

from histograph.nn.attend import attend


def made(kind=torch.float32):
    torch.manual_seed(0)
    return [torch.randn(2, 3, rows, 4).to(kind).requires_grad_() for rows in (5, 6, 6)]


MASKS = {
    "none": lambda: None,
    "which keys": lambda: torch.tensor([True, True, False, True, False, True])[None, None, None],
    "numbers": lambda: torch.linspace(-2, 2, 2 * 3 * 5 * 6).view(2, 3, 5, 6),
}


def formula(query, key, value, mask):
    score = query @ key.transpose(2, 3) / query.shape[3] ** 0.5
    if mask is not None:
        score = score.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else score + mask
    return score.softmax(3) @ value


@pytest.mark.parametrize("name", MASKS)
def test_it_is_the_formula_forwards_and_backwards(name):
    query, key, value = made(torch.float64)
    mask = MASKS[name]()
    out, wanted = attend(query, key, value, mask), formula(query, key, value, mask)
    torch.testing.assert_close(out, wanted)
    weight = torch.randn_like(out)
    for found, true in zip(
        *(torch.autograd.grad((part * weight).sum(), (query, key, value)) for part in (out, wanted)),
        strict=True,
    ):
        torch.testing.assert_close(found, true)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("mixed", [False, True])
def test_bfloat16_is_float32_but_for_the_rounding_of_the_result(name, mixed):
    """Differentiated or not, under autocast or not; backwards it is exactly float32, rounded at the end."""
    parts = made(torch.bfloat16)
    mask = MASKS[name]()
    exact = [part.detach().float().requires_grad_() for part in parts]
    with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
        out = attend(*parts, mask)
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.bfloat16().float()
    wanted = attend(*exact, mask)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, wanted.bfloat16())
    weight = torch.randn_like(wanted).bfloat16()
    found = torch.autograd.grad((out * weight).sum(), parts)
    true = torch.autograd.grad((wanted * weight.float()).sum(), exact)
    for one, other in zip(found, true, strict=True):
        assert torch.equal(one, other.bfloat16())
    with torch.no_grad():
        torch.testing.assert_close(attend(*parts, mask).float(), wanted.detach(), rtol=0.02, atol=0.02)

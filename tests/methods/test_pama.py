"""PAMA in its corrected form; numbers in names are those of the specification's checklist where one applies."""

import itertools

import pytest
import torch
from scipy.stats import chisquare
from torch_geometric.data import Batch, Data

import histograph as hg
from histograph.methods import PAMA

SMALL = {"node_dim": 6, "hidden_dim": 16, "layers": 2, "heads": 2, "decoder_dim": 16, "decoder_layers": 1}
FORMS = [
    {},
    {"nearest": 3},
    {"pooling": "anchors"},
    {"direction": False},
    {"distance": False},
]


def slide(n, seed=0, side=9000.0):
    generator = torch.Generator().manual_seed(seed)
    return Data(x=torch.randn(n, 6, generator=generator), pos=torch.rand(n, 2, generator=generator) * side)


def square(side, seed=0):
    """A full square of patches, which looks the same from four sides."""
    generator = torch.Generator().manual_seed(seed)
    places = torch.cartesian_prod(torch.arange(side), torch.arange(side)).float() * 128.0
    return Data(x=torch.randn(side**2, 6, generator=generator), pos=places)


def method(seed=0, **changes):
    torch.manual_seed(seed)
    return PAMA(**{**SMALL, "patches_per_anchor": 9.0, **changes}).eval()


def close(one, other, tolerance=1e-5):
    torch.testing.assert_close(one, other, rtol=0, atol=tolerance)


# --- what the vectors of a slide depend on ------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS, ids=str)
@torch.no_grad()
def test_9_19_a_batch_equals_its_slides_alone(form):
    made, slides = method(**form), [slide(n, n) for n in (40, 1, 77, 2)]
    together = made.encode(Batch.from_data_list(slides))
    alone = [made.encode(s) for s in slides]
    close(together.graph, torch.cat([z.graph for z in alone]))
    close(together.node, torch.cat([z.node for z in alone]))
    for layers in (2, 4):
        deep = method(**form, layers=layers)
        batch = Batch.from_data_list(slides)
        close(deep.encode_graphs(batch), deep.encode(batch).graph)


@pytest.mark.parametrize(
    "made_of", [slide(77), square(7), square(12)], ids=["anywhere", "square 7", "square 12"]
)
@pytest.mark.parametrize("form", FORMS, ids=str)
@torch.no_grad()
def test_5_10_turned_and_reordered_slides_have_the_same_vectors(made_of, form):
    made = method(**form)
    wanted = made.encode(made_of)
    generator = torch.Generator().manual_seed(1)
    pos = made_of.pos
    for _ in range(3):
        pos = torch.stack([pos[:, 1], pos[:, 0].max() - pos[:, 0]], dim=1)
        order = torch.randperm(len(pos), generator=generator)
        found = made.encode(Data(x=made_of.x[order], pos=pos[order] + 333.0))
        close(found.graph, wanted.graph)
        close(found.node, wanted.node[order])


@torch.no_grad()
def test_4_without_reorientation_a_turn_matters_and_6_a_mirror_always_does():
    one = slide(77)
    turned = Data(x=one.x, pos=torch.stack([one.pos[:, 1], 9000 - one.pos[:, 0]], dim=1))
    mirrored = Data(x=one.x, pos=torch.stack([9000 - one.pos[:, 0], one.pos[:, 1]], dim=1))
    fixed, made = method(reorientation=False), method()
    assert (fixed.encode(turned).graph - fixed.encode(one).graph).abs().max() > 1e-3
    assert (made.encode(mirrored).graph - made.encode(one).graph).abs().max() > 1e-3


@torch.no_grad()
def test_7_shift_and_scale_do_not_matter():
    made, one = method(), slide(60)
    for pos in (one.pos + 700, one.pos * 2.5):
        close(made.encode(Data(x=one.x, pos=pos)).graph, made.encode(one).graph)


@torch.no_grad()
def test_the_order_of_given_anchors_does_not_matter():
    made, one = method(), slide(60)
    one.anchor_index = torch.tensor([3, 17, 44])
    other = Data(x=one.x, pos=one.pos, anchor_index=torch.tensor([44, 3, 17]))
    close(made.encode(one).graph, made.encode(other).graph)
    batch = Batch.from_data_list([slide(20, 5), slide(60)])
    batch.anchor_index = torch.tensor([4, 23, 37, 64])
    close(made.encode(batch).graph[1:], made.encode(one).graph)


@torch.no_grad()
def test_23_the_sparse_form_with_all_anchors_is_the_dense_one():
    one = slide(120)
    for form in ({}, {"pooling": "anchors"}):
        dense, sparse = method(**form), method(**form, nearest=1000)
        close(dense.encode(one).node, sparse.encode(one).node)
        close(dense.encode(one).graph, sparse.encode(one).graph)
        few = method(**form, nearest=2)
        assert (few.encode(one).graph - dense.encode(one).graph).abs().max() > 1e-3


@torch.no_grad()
def test_what_the_ablations_leave_out():
    one = slide(77)
    spread = torch.rand(77, 2, generator=torch.Generator().manual_seed(4)) * 9000
    other = Data(x=one.x, pos=spread, anchor_index=torch.tensor([0, 5]))
    one.anchor_index = torch.tensor([0, 5])
    blind = method(distance=False, direction=False)
    close(blind.encode(one).graph, blind.encode(other).graph)
    for flags in ({"distance": False}, {"direction": False}):
        half = method(**flags)
        assert (half.encode(one).graph - half.encode(other).graph).abs().max() > 1e-3


@torch.no_grad()
def test_18_half_precision_gives_no_infinity():
    one = slide(77)
    made = method(standardise=False)
    wanted = made.encode(one).graph
    for dtype, tolerance in ((torch.bfloat16, 6e-2), (torch.float16, 1e-2)):
        found = method(standardise=False).to(dtype).encode(one).graph.float()
        assert found.isfinite().all() and (found - wanted).norm() / wanted.norm() < tolerance


# --- training -----------------------------------------------------------------------------------------------------


def masks_of(made, batch, monkeypatch):
    """Run a step and give which patches were visible, and the number of anchors."""
    seen = []
    original = PAMA._encode

    def spy(self, slides, visible, slide_only=False):
        seen.append((visible, [len(code) for code in slides.code]))
        return original(self, slides, visible, slide_only)

    monkeypatch.setattr(PAMA, "_encode", spy)
    made(batch)
    return seen[-1]


def test_13_hidden_patches_are_counted_on_each_slide_and_drawn_afresh(monkeypatch):
    made, sizes = method().train(), [40, 1, 77, 3]
    batch = Batch.from_data_list([slide(n, n) for n in sizes])
    for ratio in (0.75, 0.5):
        made.mask_ratio = ratio
        torch.manual_seed(0)
        first, _ = masks_of(made, batch, monkeypatch)
        second, _ = masks_of(made, batch, monkeypatch)
        torch.manual_seed(0)
        again, _ = masks_of(made, batch, monkeypatch)
        assert torch.equal(first, again) and not torch.equal(first, second)
        for part, n in zip(first.split(sizes), sizes, strict=True):
            assert int((~part).sum()) == n - int(n * (1 - ratio))


def test_11_anchor_dropout_keeps_a_share_of_the_real_anchors_each_equally_often(monkeypatch):
    made = method(anchor_dropout=0.3).train()
    one = slide(50)
    one.anchor_index = torch.arange(10)
    other = slide(9, 1)
    other.anchor_index = torch.tensor([4])
    _, kept = masks_of(made, Batch.from_data_list([one, other]), monkeypatch)
    assert kept == [7, 1]
    count = torch.zeros(10)
    torch.manual_seed(0)
    for _ in range(2000):
        count[made._anchor_rows(one, one.x, one.pos, [50])[0]] += 1
    assert count.sum() == 14_000 and chisquare(count.numpy()).pvalue > 1e-3
    _, kept = masks_of(made.eval(), one, monkeypatch)
    assert kept == [10]


def test_11_no_dropout_is_the_same_to_the_bit():
    one = slide(50)
    losses = []
    for training, share in ((True, 0.0), (False, 0.2)):
        made = method(anchor_dropout=share).train(training)
        torch.manual_seed(7)
        losses.append(made(one)["loss"].item())
    assert losses[0] == losses[1]


def test_14_15_hidden_features_are_targets_and_nothing_else():
    made, one = method(standardise=False), slide(50)
    torch.manual_seed(0)
    visible = torch.rand(50) < 0.3
    restored = made.restore(one, visible)
    changed = one.clone()
    changed.x = torch.where(visible[:, None], one.x, one.x + 5)
    assert torch.equal(made.restore(changed, visible), restored)
    changed.x = torch.where(visible[:, None], one.x + 1, one.x)
    assert not torch.allclose(made.restore(changed, visible), restored)
    one.x.requires_grad_()
    torch.manual_seed(3)
    loss = made(one)["loss"]
    torch.manual_seed(3)
    keep = torch.ones(50, dtype=torch.bool)
    hidden = ~hg.nn.random_subset(torch.zeros(50, dtype=torch.long), 1, 0.25)
    keep[hidden] = False
    wanted = (made.restore(one, keep) - one.x[hidden]).square().mean()
    torch.testing.assert_close(loss, wanted)


def test_16_targets_of_their_own_scale():
    made, one = method(normalise_target=True, standardise=False), slide(50)
    torch.manual_seed(3)
    loss = made(one)["loss"]
    torch.manual_seed(3)
    keep = hg.nn.random_subset(torch.zeros(50, dtype=torch.long), 1, 0.25)
    goal = one.x[~keep]
    goal = (goal - goal.mean(1, keepdim=True)) / (goal.var(1, keepdim=True) + 1e-6).sqrt()
    assert goal.var(1).sub(1).abs().max() < 1e-4
    torch.testing.assert_close(loss, (made.restore(one, keep) - goal).square().mean())


@pytest.mark.parametrize("form", [{}, {"nearest": 3}, {"dropout": 0.2, "drop_path": 0.3}], ids=str)
def test_20_every_weight_learns(form):
    made = method(**form).train()
    torch.manual_seed(0)
    for seed in range(3 if form else 1):
        made(Batch.from_data_list([slide(60, seed), slide(45, seed + 9)]))["loss"].backward()
    for name, weight in made.named_parameters():
        assert weight.grad is not None and weight.grad.abs().sum() > 0, name


def test_dropout_and_drop_path_act_in_training_alone():
    one = Batch.from_data_list([slide(60), slide(50, 1)])
    for form in ({"dropout": 0.3}, {"drop_path": 0.5}):
        made = method(**form, anchor_dropout=0.0)
        with torch.no_grad():
            still = made.encode(one).graph
            close(still, method().encode(one).graph)
            made.train()
            assert any((made.encode(one).graph - still).abs().max() > 1e-3 for _ in range(5))


def test_a_short_training_restores_better_than_the_mean_and_resumes_from_a_file(tmp_path):
    """Features that follow the place: neighbours tell what is hidden."""
    slides = []
    for seed in range(26):
        one = square(9, seed)
        angle = one.pos / 128 / 9 * 6.28
        phase = torch.rand(3, generator=torch.Generator().manual_seed(seed)) * 6.28
        waves = [
            (angle[:, 0] + phase[0]).sin(),
            (angle[:, 1] + phase[1]).sin(),
            (angle.sum(1) + phase[2]).cos(),
        ]
        one.x = torch.stack([*waves, *(-w for w in waves)], dim=1) + 0.05 * one.x
        slides.append(one)
    torch.manual_seed(0)
    sizes = {"hidden_dim": 32, "decoder_dim": 32, "decoder_layers": 2}
    made = PAMA(**{**SMALL, **sizes}, patches_per_anchor=3.0, distance_bins=16)
    hg.pretrain(made, slides[:24], epochs=20, batch_size=4, lr=3e-3, seed=0, progress=False)
    made.save(tmp_path / "pama.safetensors")
    made = hg.methods.load_method(tmp_path / "pama.safetensors")
    visible = torch.rand(81, generator=torch.Generator().manual_seed(0)) < 0.4
    ours, mean = 0.0, 0.0
    with torch.no_grad():
        for one in slides[24:]:
            ours += float((made.restore(one, visible) - one.x[~visible]).square().mean())
            mean += float((one.x[visible].mean(0) - one.x[~visible]).square().mean())
    assert ours < 0.9 * mean
    assert hg.embed(made, slides, progress=False).graph.shape == (26, 32)


# --- edge cases and bad input -------------------------------------------------------------------------------------


@torch.no_grad()
def test_8_tiny_slides_and_copies_of_a_place_have_vectors():
    same = Data(x=torch.randn(5, 6), pos=torch.full((5, 2), 3.0))
    for form, one in itertools.product(FORMS, (slide(1), slide(2), same)):
        z = method(**form).encode(one)
        assert z.graph.isfinite().all() and z.node.shape == (one.num_nodes, 16)
    more = method(num_anchors=50)
    assert more.encode(slide(7)).graph.isfinite().all()
    assert method()(slide(1))["loss"].isfinite()


def wrong(**changes):
    return Data(**{"x": torch.randn(5, 6), "pos": torch.rand(5, 2), **changes})


@pytest.mark.parametrize(
    "data, message",
    [
        (wrong(x=torch.randn(5, 4)), r"x must have shape \(P, node_dim = 6\), found \(5, 4\)"),
        (wrong(pos=torch.rand(4, 2)), r"pos must have shape \(P = 5, 2\).*found \(4, 2\)"),
        (Data(x=torch.randn(5, 6)), r"pos must have shape \(P = 5, 2\).*found NoneType"),
        (wrong(x=torch.full((5, 6), float("nan"))), "x must be finite; found NaN or infinity in patch 0"),
        (wrong(pos=torch.full((5, 2), float("inf"))), "pos must be finite"),
        (
            wrong(anchor_index=torch.tensor([9])),
            "anchor_index must name a patch of every slide; slide 0 has none",
        ),
        (
            Batch.from_data_list([wrong(), wrong(x=torch.zeros(0, 6), pos=torch.zeros(0, 2))]),
            "slide 1 has none",
        ),
    ],
)
def test_batches_that_cannot_be(data, message):
    with pytest.raises(ValueError, match=message):
        method().encode(data)


def test_mixed_widths_and_missing_numbers_stop_a_training():
    with pytest.raises(ValueError, match="same node features"):
        hg.pretrain(method(), [wrong(), wrong(x=torch.randn(5, 4))], epochs=1, progress=False)
    with pytest.raises(ValueError, match="features must be finite: graph 1"):
        hg.pretrain(method(), [wrong(), wrong(x=torch.full((5, 6), float("nan")))], epochs=1, progress=False)


@pytest.mark.parametrize(
    "name, value",
    [
        ("heads", 3),
        ("decoder_heads", 5),
        ("mask_ratio", 1.0),
        ("anchor_dropout", 1.0),
        ("direction_bins", 6),
        ("distance_bins", 0),
        ("nearest", 0),
        ("pooling", "max"),
        ("drop_path", -0.1),
        ("layers", 0),
        ("layers", 1),
        ("mlp_ratio", 0.0),
    ],
)
def test_arguments_that_cannot_be(name, value):
    with pytest.raises(ValueError, match=f"{name} must be .*found {value!r}"):
        PAMA(**{**SMALL, name: value})


def test_restore_says_what_it_wants():
    with pytest.raises(ValueError, match="visible must be 5 booleans"):
        method().restore(wrong(), torch.ones(4, dtype=torch.bool))

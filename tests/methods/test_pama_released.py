"""The released form of PAMA: what its arrays say of the public way in, its oddities, and what it cannot do.

`tests/test_parity.py` compares every array of the released code; here is what those arrays cannot show.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, Data

from histograph.methods import PAMA, ReleasedPAMAClassifier, load_method, load_released
from histograph.methods.pama_released import ReleasedPAMA
from histograph.methods.pama_released_input import ReleasedSlides
from histograph.methods.pama_released_layers import (
    ReleasedAttention,
    ReleasedBlock,
    ReleasedPairs,
    reorient,
)
from histograph.training import embed
from tests.methods.test_pama_released_input import graphs_of

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "pama"
SIZES = {"hidden_dim": 16, "layers": 2, "heads": 2, "decoder_dim": 8, "decoder_layers": 1}
COMPAT = SIZES | {"official_compat": True}


@pytest.fixture(scope="module")
def case():
    with np.load(GOLDEN / "case_b_padded.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture
def trained(case):
    """The network of the released arrays, with their sizes of padding."""
    weights = {name[3:]: value for name, value in case.items() if name.startswith("sd/")}
    method = load_released(weights, anchor_dropout=0.25)
    method.released.reader.max_patches, method.released.reader.max_anchors = 48, 8
    return method


def slides_of(case):
    return ReleasedSlides(case["feat"], case["rd"], case["polar"], case["token_mask"], case["kernel_mask"])


def network(**settings):
    torch.manual_seed(0)
    return ReleasedPAMA(3, **(SIZES | {"max_patches": 20, "max_anchors": 6} | settings))


def random_slides(size=2, patches=20, anchors=6, columns=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    return ReleasedSlides(
        torch.randn(size, patches, columns, generator=g),
        torch.randint(65, (size, anchors, patches), generator=g),
        torch.randint(8, (size, anchors, patches), generator=g),
        torch.ones(size, patches, 1),
        torch.ones(size, anchors, 1),
    )


def slide(count=12, columns=3, seed=0):
    g = torch.Generator().manual_seed(seed)
    cells = torch.randperm(36, generator=g)[:count]
    pos = torch.stack([cells % 6, cells // 6], dim=1).float() * 128
    return Data(x=torch.randn(count, columns, generator=g), pos=pos)


def change(before, after):
    """Give the length of the difference in lengths of the first."""
    return float(((after - before).norm() / before.norm()).detach())


# ---- the public way in, against the released arrays


def test_embedding_of_graphs_is_the_released_slide_embedding(case, trained):
    z = trained.encode(Batch.from_data_list(graphs_of(case)))
    torch.testing.assert_close(z.graph, case["cls/slide_embedding"], atol=1e-5, rtol=0)
    x, anchors = trained.released.represent(slides_of(case))
    torch.testing.assert_close(anchors, case["cls/kernel_tokens"], atol=1e-5, rtol=0)
    # 33 and 44 patches, without the slide token and the padding
    assert torch.equal(z.node, torch.cat([x[0, 1:34], x[1, 1:45]]))


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_loss_of_graphs_is_the_released_loss(case, trained, monkeypatch, mode):
    drawn = iter([case[f"{mode}/noise_mask"], case.get("train/noise_anchor")])
    monkeypatch.setattr(torch, "rand", lambda *_, **__: next(drawn))
    terms = trained.train(mode == "train")(Batch.from_data_list(graphs_of(case)))
    assert list(terms) == ["loss"]
    assert float(terms["loss"].detach()) == pytest.approx(float(case[f"{mode}/loss"]), abs=1e-5)


def test_classifier_gives_the_released_logits(case, trained):
    model = ReleasedPAMAClassifier.from_pretrained(trained, classes=3).eval()
    model.released.reader.max_patches, model.released.reader.max_anchors = 48, 8
    with torch.no_grad():
        model.released.head.weight.copy_(case["cls/sd/head.weight"])
        model.released.head.bias.copy_(case["cls/sd/head.bias"])
    batch = Batch.from_data_list(graphs_of(case))
    logits = model.logits(batch)
    torch.testing.assert_close(logits, case["cls/logits"], atol=1e-5, rtol=0)
    batch.y = torch.tensor([2, 0])
    wanted = -logits.log_softmax(1)[torch.arange(2), batch.y].mean()
    torch.testing.assert_close(model(batch)["loss"], wanted)


# ---- reorientation (checks 2 and 3)


def turned_one_by_one(score, direction):
    """Count each anchor's directions in a loop."""
    out = torch.zeros(score.shape, dtype=torch.long)
    for b, h, k in np.ndindex(*score.shape[:3]):
        amount = [0.0] * 8
        for t in range(score.shape[3]):
            amount[int(direction[b, k, t])] += abs(float(score[b, h, k, t]))
        main = max(range(8), key=lambda o: (amount[o], -o))
        out[b, h, k] = (direction[b, k] - main) % 8
    return out


@pytest.mark.parametrize("ties", [False, True])
def test_reorientation_equals_a_loop(ties):
    g = torch.Generator().manual_seed(0)
    score = torch.randn(2, 3, 4, 15, generator=g)
    score = score.sign() if ties else score
    direction = torch.randint(8, (2, 4, 15), generator=g)
    assert torch.equal(reorient(score, direction), turned_one_by_one(score, direction))


def test_reorientation_undoes_a_turn_of_each_anchor():
    g = torch.Generator().manual_seed(1)
    score, direction = torch.randn(2, 3, 4, 15, generator=g), torch.randint(8, (2, 4, 15), generator=g)
    turn = torch.randint(8, (2, 4, 1), generator=g)
    assert torch.equal(reorient(score, (direction + turn) % 8), reorient(score, direction))


# ---- attention


def test_weights_are_shares_and_forbidden_pairs_get_none():
    slides = random_slides()
    slides = replace(slides, token_mask=slides.token_mask.index_fill(1, torch.tensor([4, 19]), 0))
    slides = replace(slides, anchor_mask=slides.anchor_mask.index_fill(1, torch.tensor([5]), 0))
    rounds = []
    network().represent(slides, rounds=rounds)
    allowed = ReleasedPairs.with_slide(slides.distance, slides.direction, slides.allowed).allowed.unsqueeze(1)
    for one in rounds:
        for weight, permission in ((one.anchor_weight, allowed), (one.token_weight, allowed.mT)):
            torch.testing.assert_close(weight.sum(3), torch.ones_like(weight.sum(3)))
            some = permission.any(3, keepdim=True)
            assert not weight.masked_select(some & ~permission).any()
    # padded patches see all anchors alike but for the bias, padded anchors the slide token alone
    assert (rounds[0].token_weight[:, :, 5] > 0).all()
    assert (rounds[0].anchor_weight[:, :, 5, 0] == 1).all()


def test_one_anchor_takes_all_attention():
    rounds = []
    network().represent(random_slides(anchors=1), rounds=rounds)
    assert all((one.token_weight == 1).all() for one in rounds)


def test_the_residual_goes_on_from_the_normalised_rows():
    torch.manual_seed(0)
    block, x, anchors = ReleasedBlock(8, 2), torch.randn(1, 5, 8), torch.randn(1, 3, 8)
    bins = torch.zeros(1, 3, 5, dtype=torch.long)
    pairs = ReleasedPairs(bins, bins, torch.ones(1, 3, 5, dtype=torch.bool))
    wanted, found = block(x, anchors, pairs), block(7 * x - 2, 5 * anchors + 3, pairs)
    for one, other in zip(wanted, found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=0)


def test_halves_do_not_overflow():
    slides = random_slides()
    slides = replace(slides, token_mask=slides.token_mask.index_fill(1, torch.tensor([4]), 0))
    whole, _ = network().represent(slides)
    with torch.autocast("cpu", torch.bfloat16):
        x, _ = network().represent(slides)
        loss = network().reconstruct(slides, torch.rand(2, 20), torch.rand(2, 6)).loss
    assert x.isfinite().all() and loss.isfinite() and loss.dtype == torch.float32
    # a main direction may change, most do not
    assert float((x - whole).detach().abs().mean()) < 0.05
    attention = ReleasedAttention(8, 2).half()
    pairs = ReleasedPairs.with_slide(
        slides.distance[:, :, :4], slides.direction[:, :, :4], slides.allowed[:, :, :4]
    )
    outputs = attention(torch.randn(2, 5, 8).half(), torch.randn(2, 6, 8).half(), pairs)
    assert all(out.isfinite().all() for out in outputs)


# ---- masks and anchors


def test_masks_are_counted_on_the_padded_length():
    out = network().reconstruct(random_slides(), torch.rand(2, 20))
    assert (out.mask.sum(1) == 15).all() and out.latent.shape[1] == 6
    # the first five of the list are those that are shown
    assert torch.equal(out.places >= 5, out.mask.bool())
    assert torch.equal(out.places.sort(1).values, torch.arange(20).expand(2, -1))
    assert not torch.equal(out.mask[0], out.mask[1])


@pytest.mark.parametrize(
    ("count", "share", "kept"), [(128, 0.2, 102), (64, 0.2, 51), (10, 0.1, 9), (8, 0.0, 8)]
)
def test_anchors_are_counted_on_the_padded_list(count, share, kept):
    slides = random_slides(anchors=count)
    model = network(anchor_dropout=share)
    noise = torch.rand(2, count)
    left, start = model.start_anchors(slides, noise)
    assert left.distance.shape[1] == start.shape[1] == kept
    rows = noise.argsort(1)[:, :kept]
    for b in (0, 1):
        assert torch.equal(left.direction[b], slides.direction[b, rows[b]])
    # the factor keeps the sum, and the first norm takes it away again
    torch.testing.assert_close(start[0, 0] * (1 - share), model.kernel_token[0, 0])


def test_anchors_are_dropped_in_training_alone():
    model = network()
    assert model.train().draw_anchors(random_slides()).shape == (2, 6)
    assert model.eval().draw_anchors(random_slides()) is None
    assert network(anchor_dropout=0.0).train().draw_anchors(random_slides()) is None
    batch = Batch.from_data_list([slide(12), slide(9, seed=1)])
    first, second = model.encode(batch), model.encode(batch)
    assert torch.equal(first.graph, second.graph)
    assert not torch.equal(model.train().encode(batch).graph, first.graph)


def test_scaling_the_first_anchors_does_next_to_nothing():
    model = network(anchor_dropout=0.2)
    x, _ = model.represent(random_slides())
    with torch.no_grad():
        model.kernel_token.mul_(1.25)
    scaled, _ = model.represent(random_slides())
    assert 0 < change(x, scaled) < 0.01


def test_dropout_leaving_no_anchor_is_refused():
    with pytest.raises(ValueError, match=r"anchor_dropout of 0.5 leaves none of 1 anchors"):
        network(anchor_dropout=0.5).start_anchors(random_slides(anchors=1), torch.rand(2, 1))


# ---- the loss


def test_the_loss_is_of_hidden_patches_padding_among_them():
    slides = random_slides()
    slides = replace(slides, token_mask=slides.token_mask.index_fill(1, torch.arange(15, 20), 0))
    out = network().reconstruct(slides, torch.rand(2, 20))
    out.prediction.retain_grad()
    out.loss.backward()
    told = out.prediction.grad[:, 1:].abs().sum(2) > 0
    assert torch.equal(told, out.mask.bool()) and not out.prediction.grad[:, 0].any()
    assert told[:, 15:].any()
    gaps = [
        (out.prediction[b, 1 + t] - slides.feat[b, t]).square().mean() for b, t in out.mask.nonzero().tolist()
    ]
    torch.testing.assert_close(out.loss, torch.stack(gaps).mean())


def test_hidden_features_change_the_target_alone():
    slides, noise = random_slides(), torch.rand(2, 20)
    before = network().reconstruct(slides, noise)
    changed = slides.feat + before.mask.unsqueeze(2)
    after = network().reconstruct(replace(slides, feat=changed), noise)
    assert torch.equal(before.prediction, after.prediction)
    assert not torch.equal(before.loss, after.loss)


def test_normalised_targets():
    model = network(normalise_target=True)
    slides, noise = random_slides(), torch.rand(2, 20)
    target = model.target(slides.feat)
    torch.testing.assert_close(target.mean(2), torch.zeros(2, 20), atol=1e-5, rtol=0)
    torch.testing.assert_close(target.var(2), torch.ones(2, 20), atol=1e-4, rtol=0)
    out = model.reconstruct(slides, noise)
    gap = (out.prediction[:, 1:] - target).square().mean(2)
    torch.testing.assert_close(out.loss, gap[out.mask.bool()].mean())


def test_all_weights_get_gradients_that_fit():
    model = network().double()
    slides, noise, anchors = random_slides(), torch.rand(2, 20), torch.rand(2, 6)
    model.reconstruct(slides, noise, anchors).loss.backward()
    assert not [name for name, weight in model.named_parameters() if weight.grad is None]
    # finite differences of the table of directions, away from ties
    table = model.blocks[1].attn.polar_emb.weight
    ends = []
    for move in (1e-6, -1e-6):
        with torch.no_grad():
            table[3] += move
            ends.append(float(model.reconstruct(slides, noise, anchors).loss))
            table[3] -= move
    assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(float(table.grad[3, 0]), rel=1e-4)
    assert table.grad[3, 0] != 0


# ---- the oddities


def test_padding_changes_the_embedding(case, trained):
    graph = graphs_of(case)[0]
    before = trained.encode(graph).graph
    trained.released.reader.max_patches = 96
    patches = trained.encode(graph).graph
    trained.released.reader.max_patches, trained.released.reader.max_anchors = 48, 16
    anchors = trained.encode(graph).graph
    for after in (patches, anchors):
        assert change(before, after) > 0.01


def test_turning_all_directions_changes_the_embedding(case, trained):
    slides = slides_of(case)
    turned = replace(slides, direction=(slides.direction + 3) % 8)
    before, after = (trained.released.represent(part)[0][:, 0] for part in (slides, turned))
    assert change(before, after) > 0.01


def test_bins_of_the_slide_token_are_cut_means():
    bins = torch.tensor([[[7, 7, 0, 1]]])
    pairs = ReleasedPairs.with_slide(bins, bins, torch.tensor([[[False, True, True, True]]]))
    assert pairs.distance.tolist() == pairs.direction.tolist() == [[[3, 7, 7, 0, 1]]]
    assert pairs.allowed.tolist() == [[[True, False, True, True, True]]]


def test_patches_that_are_cut_off_have_no_vector():
    model = network(max_patches=5).eval()
    z = model.encode(Batch.from_data_list([slide(12), slide(4, seed=1)]))
    assert z.node.isnan().all(1).tolist() == [False] * 5 + [True] * 7 + [False] * 4
    assert z.graph.isfinite().all()


def test_order_of_patches_and_anchors_does_not_matter():
    model, slides = network(), random_slides(size=1)
    x, anchors = model.represent(slides)
    p, k = torch.randperm(20), torch.randperm(6)
    moved = ReleasedSlides(
        slides.feat[:, p],
        slides.distance[:, k][:, :, p],
        slides.direction[:, k][:, :, p],
        slides.token_mask,
        slides.anchor_mask,
    )
    moved_x, moved_anchors = model.represent(moved)
    torch.testing.assert_close(moved_x[:, 1:], x[:, 1:][:, p], atol=1e-5, rtol=0)
    torch.testing.assert_close(moved_x[:, 0], x[:, 0], atol=1e-5, rtol=0)
    torch.testing.assert_close(moved_anchors, anchors[:, k], atol=1e-5, rtol=0)


# ---- as a method


def test_released_sizes_are_the_default():
    with torch.device("meta"):
        method = PAMA(384, official_compat=True)
    assert method.released.reader.max_patches == 2048 and method.released.reader.max_anchors == 128
    assert sum(value.numel() for value in method.parameters()) == 57_814_544


def test_start_is_as_released():
    torch.manual_seed(0)
    model = ReleasedPAMA(32, hidden_dim=64, layers=1, heads=8, decoder_dim=32, decoder_layers=1)
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear):
            assert not module.bias.any()
            limit = (6 / (module.in_features + module.out_features)) ** 0.5
            assert 0.9 * limit < float(module.weight.abs().max()) <= limit
    for token in (model.cls_token, model.kernel_token, model.mask_token):
        assert 0.01 < float(token.std()) < 0.03
    assert 0.8 < float(model.blocks[0].attn.dis_embed.weight.std()) < 1.2


def test_trains_embeds_and_comes_back_from_a_file(tmp_path):
    torch.manual_seed(0)
    method = PAMA(3, **COMPAT, patches_per_anchor=4)
    graphs = [slide(12), slide(9, seed=1)]
    loss = method(Batch.from_data_list(graphs))["loss"]
    loss.backward()
    assert loss.isfinite()
    method.save(tmp_path / "a.safetensors")
    again = load_method(tmp_path / "a.safetensors")
    z, z_again = embed(method, graphs, progress=False), embed(again, graphs, progress=False)
    assert z.graph.shape == (2, 16) and z.node.shape == (21, 16)
    assert torch.equal(z.graph, z_again.graph) and torch.equal(z.node, z_again.node)


def test_classifier_trains_and_comes_back_from_a_file(tmp_path):
    torch.manual_seed(0)
    model = ReleasedPAMAClassifier(3, classes=2, hidden_dim=16, layers=2, heads=2, patches_per_anchor=4)
    assert model.config["dropout"] == model.config["drop_path"] == 0.15
    graphs = [slide(12), slide(9, seed=1)]
    for y, graph in enumerate(graphs):
        graph.y = torch.tensor([y])
    model.train()(Batch.from_data_list(graphs))["loss"].backward()
    assert not [name for name, weight in model.named_parameters() if weight.grad is None]
    model.save(tmp_path / "a.safetensors")
    again = load_method(tmp_path / "a.safetensors")
    batch = Batch.from_data_list(graphs)
    assert torch.equal(model.eval().logits(batch), again.logits(batch))


def test_drop_path_leaves_out_whole_slides_and_keeps_the_mean():
    torch.manual_seed(0)
    block = ReleasedBlock(4, 2, drop_path=0.5).train()
    rows = block._drop_slides(torch.ones(2000, 3, 4))
    assert set(rows.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(rows.amin((1, 2)), rows.amax((1, 2)))
    assert 0.9 < float(rows.mean()) < 1.1
    assert torch.equal(block.eval()._drop_slides(torch.ones(2, 3, 4)), torch.ones(2, 3, 4))


# ---- what it cannot do


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("distance_bins", 32),
        ("direction_bins", 16),
        ("nearest", 3),
        ("standardise", True),
        ("pooling", "anchors"),
        ("reorientation", False),
        ("distance", False),
    ],
)
def test_arguments_of_the_default_form_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be .* with official_compat=True.*found {value!r}"):
        PAMA(3, **(COMPAT | {name: value}))


def test_no_direction_is_refused():
    with pytest.raises(ValueError, match="direction must be True with official_compat=True"):
        PAMA(3, **COMPAT, reorientation=False, direction=False)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("hidden_dim", 15),
        ("heads", 0),
        ("layers", 0),
        ("decoder_dim", 9),
        ("decoder_heads", 3),
        ("decoder_layers", 0),
        ("mask_ratio", 0.0),
        ("mask_ratio", 1.0),
        ("anchor_dropout", 1.0),
        ("dropout", -0.1),
        ("drop_path", 1.0),
        ("mlp_ratio", 0.0),
    ],
)
def test_arguments_out_of_range(name, value):
    with pytest.raises(ValueError, match=name):
        network(**{name: value})


@pytest.mark.parametrize(
    ("y", "words"),
    [
        (None, "int64, the class of each slide of the batch; found NoneType"),
        (torch.tensor([0.0]), "found .* torch.float32"),
        (torch.tensor([0, 1]), r"y must be \(1,\) int64"),
        (torch.tensor([2]), "in 0 .. 1, found 2 .. 2"),
    ],
)
def test_classes_must_fit(y, words):
    model = ReleasedPAMAClassifier(3, classes=2, hidden_dim=8, layers=1, heads=2)
    model.released.reader.max_patches, model.released.reader.max_anchors = 12, 2
    with pytest.raises(ValueError, match=words):
        model(Data(x=slide().x, pos=slide().pos, y=y))


def test_classifier_needs_classes_and_a_released_encoder():
    with pytest.raises(ValueError, match="classes must be at least 1, found 0"):
        ReleasedPAMAClassifier(3, classes=0, hidden_dim=8, heads=2)
    with pytest.raises(ValueError, match="official_compat=True, found PAMA of another form"):
        ReleasedPAMAClassifier.from_pretrained(PAMA(3, **SIZES), classes=2)

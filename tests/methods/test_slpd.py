"""SLPD: views, prototypes as targets, centres, schedules, whole runs. Numbers are those of the spec's checks."""

import math

import pytest
import torch
from torch.nn.functional import normalize
from torch_geometric.data import Batch, Data

import histograph as hg
from histograph.methods import SLPD, load_method
from histograph.methods import prototype_distillation as base
from histograph.nn.prototype_graph import PrototypeTargets
from histograph.training.graphs import collate

from .regions import WIDTH, kinds_of, regions

SMALL = {
    "feature_dim": WIDTH,
    "dim": 16,
    "depth": 2,
    "heads": 2,
    "region_size": 4,
    "global_size": 3,
    "local_size": 2,
    "local_views": 3,
    "out_dim": 24,
    "head_dim": 16,
    "bottleneck_dim": 8,
    "prototypes": 2,
    "min_regions": 4,
    "start_epoch": 0,
}


def method(seed=0, **changes):
    torch.manual_seed(seed)
    return SLPD(**SMALL | changes)


@pytest.fixture
def data():
    return regions(few=(2,), missing=0.3)


def batch_of(data, rows):
    return collate([data[row] for row in rows], SLPD.reads)


def prepared(data, **changes):
    network = method(**changes)
    network.before_epoch(network.config["start_epoch"], data)
    return network


def run(network, data, epochs=3, **settings):
    usual = {"batch_size": 8, "progress": False, "accelerator": "cpu"}
    return hg.pretrain(network, data, epochs=epochs, **usual | settings)


def written_out(network, views, targets, skip):
    """The three losses pair by pair, as the equations say."""
    student, teacher = network.student, network.teacher
    large, small = views
    with torch.no_grad():
        said = [student.head(network.represent(student.backbone, [view])) for view in large + small]
        wanted = [teacher.head(network.represent(teacher.backbone, [view])) for view in large]

    def pair(b, a, centre):
        return -(((b - centre) / 0.04).softmax(1) * (a / 0.1).log_softmax(1)).sum(1)

    own = [
        pair(b, a, network.loss.center).mean()
        for u, b in enumerate(wanted)
        for v, a in enumerate(said)
        if u != v
    ]
    found = {"self": sum(own) / len(own)}
    logits = [teacher.head.last_layer(vector) for vector in targets.vector]
    centre = network.intra.center
    for name, numbers in (("intra", range(1)), ("inter", range(1, len(logits)))):
        rows = []
        for number in numbers:
            known = targets.known[number]
            for v, a in enumerate(said):
                if not skip or v != number - numbers[0]:
                    rows.append(pair(logits[number], a, centre)[known])
        found[name] = torch.cat(rows).mean()
        centre = network.inter.center
        if skip:  # the shared centre has moved in between
            known = targets.known[0]
            centre = 0.9 * network.intra.center + 0.1 * logits[0][known].mean(0, keepdim=True)
    return found


@pytest.mark.parametrize(("compat", "neighbors"), [(False, 1), (False, 2), (True, 1), (True, 2)])
def test_losses_are_those_of_all_pairs(data, compat, neighbors):
    """Of samples with prototypes alone; those of the ignored slide count in L_self (14)."""
    changes = {"official_compat": compat, "standardise": True, "drop_path": 0.0}
    network = prepared(data, neighbors=neighbors, intra_weight=0.7, inter_weight=1.3, **changes)
    for criterion in (network.loss, network.intra, network.inter):
        criterion.center.copy_(0.1 * torch.randn(1, 24))
    batch = batch_of(data, [0, 13, 20, 21, 30, 35])  # 20 and 21 are of the slide with three regions
    targets = network.prototypes(batch.region)
    assert targets.known[0].tolist() == [True, True, False, False, True, True]
    views = network.views(batch)
    found = network.distil(*views, targets)
    wanted = written_out(network, views, targets, compat)
    for name, value in wanted.items():
        assert float(found[name]) == pytest.approx(float(value), rel=1e-5)
    total = wanted["self"] + 0.7 * wanted["intra"] + 1.3 * wanted["inter"]
    assert found["loss"].item() == pytest.approx(float(total), rel=1e-5)


def test_slides_without_a_neighbour_have_no_inter_loss():
    """All slides are one patient's, so that there is the own prototype alone."""
    data = regions(slides=3, patients=["a"] * 3)
    network = prepared(data)
    terms = network(batch_of(data, range(0, 30, 4)))
    assert terms["intra"] > 0 and terms["inter"] == 0
    together = prepared(data, exclude_same_patient=False)
    assert together(batch_of(data, range(0, 30, 4)))["inter"] > 0


def test_slides_of_a_patient_are_no_neighbours_unless_released():
    data = regions(slides=6, patients=["a", "a", "b", "b", "c", "c"])
    for compat in (False, True):
        network = prepared(data, neighbors=5, official_compat=compat)
        for slide, others in enumerate(network.prototypes.neighbor.tolist()):
            wanted = set(range(6)) - ({slide} if compat else {slide - slide % 2, slide - slide % 2 + 1})
            assert {other for other in others if other >= 0} == wanted


def test_only_the_student_learns(data):
    """10: no gradient of teacher, prototypes or centres; they are not given to the optimiser."""
    network = prepared(data)
    network(batch_of(data, range(8)))["loss"].backward()
    assert all(weight.grad is None and not weight.requires_grad for weight in network.teacher.parameters())
    assert all(weight.grad is not None for weight in network.student.parameters() if weight.requires_grad)
    chosen = {id(weight) for group in network.parameter_groups() for weight in group["params"]}
    assert chosen == {id(weight) for weight in network.student.parameters() if weight.requires_grad}
    assert not any(value.requires_grad for value in network.buffers())


def test_the_loss_of_prototypes_is_at_least_their_entropy(data):
    """11: and just that where the student says the same, at equal temperatures and with a centre of 0."""
    network = prepared(data, teacher_temperature=0.1, warmup_teacher_temperature=0.1)
    batch = batch_of(data, [0, 1, 30])
    targets = network.prototypes(batch.region)

    def entropy(vector):
        p = (network.teacher.head.last_layer(vector) / 0.1).softmax(-1)
        return float(-(p * p.log()).sum(-1).mean())

    terms = network.distil(*network.views(batch), targets)
    assert terms["intra"] > entropy(targets.vector[0]) and terms["inter"] > entropy(targets.vector[1])
    # a student whose vectors are the prototypes
    network.student.head.bottleneck = lambda x: targets.vector[0].repeat(len(x) // 3, 1)
    network.student.head.forward = lambda x: network.student.head.last_layer(
        network.student.head.bottleneck(x)
    )
    terms = network.distil(*network.views(batch), targets)
    assert float(terms["intra"]) == pytest.approx(entropy(targets.vector[0]), abs=1e-5)


def test_centres_move_after_the_step_by_what_was_said(data):
    """12: each of its own; of samples with prototypes alone."""
    network = prepared(data, drop_path=0.0)
    batch = batch_of(data, [0, 13, 20, 30])
    targets = network.prototypes(batch.region)
    views = network.views(batch)
    before = [0.1 * torch.randn(1, 24) for _ in range(3)]
    for criterion, value in zip((network.loss, network.intra, network.inter), before, strict=True):
        criterion.center.copy_(value)
    with torch.no_grad():
        teacher = network.teacher
        said = teacher.head(network.represent(teacher.backbone, views[0]))
        spoken = teacher.head.last_layer(targets.vector[:, targets.known[0]])
    network.distil(*views, targets)
    assert torch.equal(network.intra.center, before[1])
    network.after_step(1)
    for criterion, old, rows in zip(
        (network.loss, network.intra, network.inter), before, (said, spoken[0], spoken[1]), strict=True
    ):
        torch.testing.assert_close(criterion.center, 0.9 * old + 0.1 * rows.mean(0, keepdim=True))
    settled = network.intra.center.clone()
    network.after_step(2)
    assert torch.equal(network.intra.center, settled)


def test_released_centre_of_prototypes_moves_twice(data):
    """12."""
    network = prepared(data, official_compat=True)
    assert network.inter is network.intra
    batch = batch_of(data, [0, 13, 30])
    targets = network.prototypes(batch.region)
    with torch.no_grad():
        first, second = network.teacher.head.last_layer(targets.vector).mean(1, keepdim=True)
    network.distil(*network.views(batch), targets)
    network.after_step(1)
    torch.testing.assert_close(network.intra.center, 0.9 * 0.1 * first + 0.1 * second)


def test_what_is_said_of_a_prototype_is_the_last_layers(data):
    """13: its length and the layers before do not matter."""
    network = prepared(data, drop_path=0.0)
    batch = batch_of(data, range(6))
    views = network.views(batch)
    found = network.distil(*views, network.prototypes(batch.region))
    network.prototypes.centroid *= 3.0
    again = network.distil(*views, network.prototypes(batch.region))
    assert float(again["intra"]) == pytest.approx(float(found["intra"]), rel=1e-6)
    with torch.no_grad():
        for weight in [*network.teacher.head.mlp.parameters(), *network.teacher.backbone.parameters()]:
            weight += torch.randn_like(weight)
    again = network.distil(*views, network.prototypes(batch.region))
    assert float(again["intra"]) == pytest.approx(float(found["intra"]), rel=1e-6)
    assert abs(float(again["self"]) - float(found["self"])) > 1e-4


def test_teacher_follows_the_updated_student_and_tables_stay(data):
    """15."""
    network = prepared(data, momentum=0.75)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network(batch_of(data, range(8)))["loss"].backward()
    torch.optim.SGD(network.parameter_groups(), lr=0.1).step()
    network.after_step(1)
    for name, value in network.teacher.named_parameters():
        student = dict(network.student.named_parameters())[name]
        torch.testing.assert_close(value, 0.75 * before[f"teacher.{name}"] + 0.25 * student)
    assert not torch.equal(network.student.backbone.cls_token, before["student.backbone.cls_token"])
    for name, value in network.prototypes.state_dict().items():
        assert torch.equal(value, before[f"prototypes.{name}"])


def test_gradients_are_limited_one_by_one_and_the_last_layer_waits(data):
    """16."""
    network = prepared(data, freeze_epochs=1)
    for epoch in range(2):
        network.before_epoch(epoch, data)
        network.zero_grad()
        (1000 * network(batch_of(data, range(8)))["loss"]).backward()
        assert network.limit_gradients(3.0)
        assert (network.student.head.last_layer.weight_v.grad is None) == (epoch == 0)
        norms = [float(w.grad.norm()) for w in network.student.parameters() if w.grad is not None]
        assert max(norms) <= 3.0 + 1e-4 and sum(norm > 2.9 for norm in norms) > 10


def test_before_the_start_it_is_plain_self_distillation(data, monkeypatch):
    """17: no clustering, the total is L_self; and from the start on every m epochs."""
    calls = []
    monkeypatch.setattr(SLPD, "refresh", lambda self, dataset, warm=False: calls.append((self.epoch, warm)))
    network = method(start_epoch=2, refresh_every=2, warm_start=True)
    for epoch in range(7):
        network.before_epoch(epoch, data)
        if epoch < 2:
            terms = network(batch_of(data, range(6)))
            assert float(terms["loss"].detach()) == float(terms["self"]) and calls == []
            assert terms["intra"] == terms["inter"] == 0
        elif epoch == 2:  # as refresh would leave them
            network.prototypes.assignment = torch.zeros(len(data), dtype=torch.long)
    assert calls == [(2, False), (4, True), (6, True)]
    network.before_epoch(3, data[:20])  # made for other regions
    assert calls[-1] == (3, True)
    network.before_epoch(1, data)  # a new run
    assert network.prototypes.regions == 0


def test_losses_without_weight_are_not_computed(data, monkeypatch):
    network = prepared(data, inter_weight=0.0)
    assert [name for name, _ in network._parts(network.prototypes(torch.arange(3)))] == ["intra"]
    terms = network(batch_of(data, range(6)))
    assert terms["inter"] == 0 < terms["intra"]
    monkeypatch.setattr(
        SLPD, "refresh", lambda self, dataset, warm=False: pytest.fail("clustered for nothing")
    )
    plain = prepared(data, intra_weight=0.0, inter_weight=0.0)
    terms = plain(batch_of(data, range(6)))
    assert float(terms["loss"].detach()) == float(terms["self"])


def test_bottleneck_and_logits_are_bounded(data):
    """19."""
    network = method()
    z = network.prototype_space(batch_of(data, range(12)))
    torch.testing.assert_close(z.norm(dim=1), torch.ones(12))
    assert network.teacher.head.last_layer(z).abs().max() <= 1 + 1e-6


@pytest.mark.parametrize("compat", [False, True])
def test_a_batch_without_prototypes_is_finite(data, compat):
    """20: all of the ignored slide."""
    network = prepared(data, official_compat=compat)
    terms = network(batch_of(data, [20, 21, 22]))
    assert terms["intra"] == terms["inter"] == 0 and float(terms["loss"].detach()) == float(terms["self"])
    terms["loss"].backward()
    assert all(w.grad is None or w.grad.isfinite().all() for w in network.parameters())
    network.after_step(1)
    assert not network.intra.center.any() and not network.inter.center.any()
    assert network.loss.center.any()


def test_published_schedules():
    """21: 122 steps an epoch, 100 epochs, 10 of warm-up."""
    network = method(official_compat=True)
    steps, total, warmup = 122, 12200, 1220

    def at(step):
        factors = network.schedule(step, total, warmup)
        return 1e-3 * factors["lr"], 0.04 * factors["weight_decay"], network.momentum

    assert at(0) == (0.0, 0.04, 0.996)
    assert at(10 * steps)[0] == pytest.approx(1e-3, rel=1e-6)
    assert at(50 * steps) == pytest.approx((5.872e-4, 0.22, 0.998), rel=1e-3)
    assert at(21 * steps)[2] == pytest.approx(0.9964, abs=5e-5)
    assert at(total - 1) == pytest.approx((1e-6, 0.4, 1.0), rel=1e-3)


def test_views_have_their_sizes_and_one_seed_gives_the_same(data):
    network = method()
    batch = batch_of(data, range(4))
    found = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        found.append(network.views(batch))
    large, small = found[0]
    assert [tuple(grid.shape) for grid, _ in large] == [(4, WIDTH, 3, 3)] * 2
    assert [tuple(grid.shape) for grid, _ in small] == [(4, WIDTH, 2, 2)] * 3
    assert all(present.flatten(1).any(1).all() for _, present in large + small)
    same = [
        torch.equal(a[0], b[0]) for a, b in zip([*large, *small], [*found[1][0], *found[1][1]], strict=True)
    ]
    assert all(same) and not torch.equal(found[2][0][0][0], large[0][0])
    whole = network.views(batch_of(regions(missing=0.0), range(4)))
    assert all(present is None for _, present in whole[0] + whole[1])


def test_views_of_one_size_share_a_pass(data):
    network = method().eval()
    views = network.views(batch_of(data, range(4)))
    together = network.represent(network.teacher.backbone, views[0] + views[1])
    alone = [network.teacher.backbone(*view)[:, 0] for view in views[0] + views[1]]
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_vectors_are_of_the_patches_that_are_there(data):
    network = method().eval()
    batch = batch_of(data, range(5))
    found = network.encode(batch)
    assert found.node.shape == (len(batch.x), 16) and found.graph.shape == (5, 16)
    torch.testing.assert_close(network.encode_graphs(batch), found.graph, atol=1e-5, rtol=1e-5)
    one = data[3]
    order = torch.randperm(len(one.x))
    moved = network.encode(Data(x=one.x[order], place=one.place[order]))
    torch.testing.assert_close(moved.graph[0], found.graph[3], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(moved.node, found.node[batch.batch == 3][order], atol=1e-5, rtol=1e-5)
    elsewhere = Data(x=one.x, place=(one.place + 1) % 4)
    assert not torch.allclose(network.encode(elsewhere).graph, moved.graph, atol=1e-4)


def test_whole_runs_find_the_kinds_and_come_back_from_a_file(tmp_path):
    data = regions(missing=0.2)
    network = method(start_epoch=5, momentum=0.9)
    log = run(network, data, epochs=10, out=tmp_path, lr=2e-3)
    assert log["intra"].iloc[4] == 0 < log["intra"].iloc[5] and log["inter"].iloc[9] > 0
    assert (log["self"] >= log["entropy"]).all()
    kinds = torch.from_numpy(kinds_of())
    cluster = network.prototypes.assignment.view(6, 10)
    same = cluster == cluster[:, :1]  # regions 0, 2, ... of a slide are of one kind
    assert torch.equal(same, (kinds == 0).view(6, 10))
    # what matches a prototype elsewhere is of the same kind
    targets = network.prototypes(torch.arange(60))
    other = network.prototypes.neighbor[data.slide, 0]
    matched = network.prototypes.matching[data.slide, 0].gather(1, network.prototypes.assignment[:, None])[
        :, 0
    ]
    of_kind = torch.stack([cluster[:, 0], cluster[:, 1]], 1)  # cluster of each kind in each slide
    assert torch.equal(matched, of_kind[other, kinds]) and targets.known.all()
    again = load_method(tmp_path / "method.safetensors")
    z, other = hg.embed(network, data, progress=False), hg.embed(again, data, progress=False)
    assert z.graph.shape == (60, 16) and torch.equal(z.graph, other.graph)
    pairs = zip(network.state_dict().items(), again.state_dict().items(), strict=True)
    assert all(name == key and torch.equal(a, b) for (name, a), (key, b) in pairs)


def test_a_run_that_stopped_goes_on_bit_for_bit(tmp_path):
    """In an epoch without clustering: tables and centres come from the checkpoint."""
    data, settings = regions(missing=0.2), {"start_epoch": 1, "refresh_every": 3, "warm_start": True}
    whole = method(**settings)
    run(whole, data, epochs=5)
    stopped = method(**settings)

    def stopping(epoch, dataset):
        if epoch == 2:
            raise KeyboardInterrupt
        SLPD.before_epoch(stopped, epoch, dataset)

    stopped.before_epoch = stopping
    with pytest.raises(KeyboardInterrupt):
        run(stopped, data, epochs=5, out=tmp_path)
    again = method(seed=9, **settings)
    run(again, data, epochs=5, out=tmp_path)
    pairs = zip(whole.state_dict().items(), again.state_dict().items(), strict=True)
    assert all(torch.equal(a, b) for (_, a), (_, b) in pairs)


@pytest.mark.parametrize("options", [{"assignment": "sinkhorn"}, {"coherence": 0.1}, {"warm_start": True}])
def test_options_of_the_clusters_run(options):
    size = 4
    grids = [torch.randn(9, WIDTH, size, size).numpy() for _ in range(3)]
    places = torch.cartesian_prod(torch.arange(3), torch.arange(3)).flip(1) * size * 128.0
    data = hg.graphs.region_dataset.RegionDataset.from_grids(grids, pos=[places.numpy()] * 3)
    assert data.region_edges.shape[1] > 0
    log = run(method(**options), data, epochs=2)
    assert log["loss"].notna().all() and (log["inter"] > 0).all()


def test_coherence_needs_edges():
    data = [_numbered(number) for number in range(8)]
    with pytest.raises(ValueError, match=r"coherence = 0\.5 needs region_edges"):
        method(coherence=0.5).before_epoch(0, data)


def _numbered(number, slide=None):
    region = Data(x=torch.randn(16, WIDTH), place=torch.cartesian_prod(torch.arange(4), torch.arange(4)))
    region.region, region.slide = (
        torch.tensor([number]),
        torch.tensor([number // 4 if slide is None else slide]),
    )
    return region


def test_lists_of_numbered_regions_will_do():
    data = [_numbered(number) for number in range(12)]
    network = prepared(data)
    assert network.prototypes.slide.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert network(Batch.from_data_list(data[:3]))["inter"] > 0


def test_regions_without_their_number():
    data = [_numbered(number) for number in range(8)]
    data[3].region = torch.tensor([5])
    with pytest.raises(ValueError, match="region of each graph must be its number in the data set"):
        method().before_epoch(0, data)
    data = [_numbered(number) for number in range(8)]
    network = prepared(data)
    with pytest.raises(ValueError, match="region is missing"):
        network(Data(x=data[0].x, place=data[0].place))
    with pytest.raises(ValueError, match="region must be at least 0 and below 8"):
        network(_numbered(8))
    del data[2].slide
    with pytest.raises(ValueError, match="slide of each graph must be a tensor"):
        network.before_epoch(0, data)


def test_released_form_takes_other_defaults():
    ours, theirs = method(), method(official_compat=True)
    assert (ours.prototypes.match, theirs.prototypes.match) == ("bijective", "nearest")
    assert (ours.turns, theirs.turns) == (8, 2)
    assert (ours.exclude_same_patient, theirs.exclude_same_patient) == (True, False)
    assert ours.scale is not None and theirs.scale is None
    assert theirs.student.backbone.interpolation_offset == 0.1
    assert ours.compared(2, 3).all() and theirs.compared(2, 3).tolist() == [[0, 1, 1], [1, 0, 1]]


def test_published_sizes():
    """On the meta device; the counts are those of the released code."""
    with torch.device("meta"):
        network = SLPD()
    counts = {"backbone": 0, "head": 0}
    for name, value in network.student.state_dict().items():
        counts[name.split(".")[0]] += math.prod(value.shape)
    assert counts["backbone"] == 2_781_504 and sum(counts.values()) == 24_740_416
    assert not network.student.head.last_layer.weight_g.requires_grad


def test_half_precision():
    log = run(method(), regions(missing=0.2), epochs=1, precision="bf16-mixed")
    assert log["loss"].notna().all()


def test_fine_tuning():
    data = regions(slides=4)
    network = method()
    run(network, data, epochs=1)
    kinds = kinds_of(slides=4)
    tuned = hg.finetune(
        network, data, kinds, epochs=2, lr=1e-3, validation=0.0, progress=False, accelerator="cpu"
    )
    assert (tuned.predict(data, progress=False).argmax(1) == kinds).mean() > 0.9


def test_unknown_targets_count_for_nothing(data):
    """Half of the second neighbours are missing: the mean is over those that are there."""
    network = method(neighbors=2, drop_path=0.0)
    batch = batch_of(data, range(4))
    views = network.views(batch)
    vector = normalize(torch.randn(3, 4, 8), dim=2)
    known = torch.ones(3, 4, dtype=torch.bool)
    known[2, :2] = False
    found = network.distil(*views, PrototypeTargets(vector * known.unsqueeze(2), known))
    wanted = written_out(network, views, PrototypeTargets(vector, known), False)
    assert float(found["inter"]) == pytest.approx(float(wanted["inter"]), rel=1e-5)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("feature_dim", 0),
        ("global_size", 5),
        ("local_size", 0),
        ("turns", 3),
        ("prototypes", 0),
        ("min_regions", 0),
        ("neighbors", 0),
        ("refresh_every", 0),
        ("start_epoch", -1),
        ("intra_weight", -0.1),
        ("coherence", -1.0),
        ("match", "hungarian"),
        ("assignment", "soft"),
        ("heads", 3),
        ("momentum", 1.5),
    ],
)
def test_messages(argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be"):
        method(**{argument: value})


def test_features_that_do_not_fit():
    with pytest.raises(ValueError, match=r"x must have shape \(N, feature_dim = 5\), found \(3, 4\)"):
        method()(Data(x=torch.zeros(3, 4), place=torch.zeros(3, 2, dtype=torch.long)))
    with pytest.raises(ValueError, match="place must"):
        method()(Data(x=torch.zeros(3, 5)))


def test_abstract_parts_say_so():
    with pytest.raises(TypeError, match="must define whole_view"):
        base.PrototypeDistillation.whole_view(method(), None)

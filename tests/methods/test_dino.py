"""DINO: crops, teacher, schedules and freezing, and whole runs."""

import math

import pytest
import torch

import histograph as hg
from histograph.methods import DINO, Patches, load_method
from histograph.nn.dino_loss import DINOLoss
from histograph.training import PatchDataset

from .crops import disks
from .graphs import graph

SMALL = {
    "image_size": 16,
    "patch_size": 8,
    "dim": 16,
    "depth": 2,
    "heads": 2,
    "local_size": 8,
    "local_views": 3,
    "out_dim": 24,
    "head_dim": 16,
    "bottleneck_dim": 8,
}


def method(seed=0, **changes):
    torch.manual_seed(seed)
    return DINO(**SMALL | changes)


def patches(count=4, size=20, seed=0):
    return Patches(torch.from_numpy(disks(count, size, seed)))


def trained(tmp_path=None, epochs=3, **changes):
    network = method(**changes)
    log = hg.pretrain(
        network,
        PatchDataset(disks(12, 16)),
        epochs=epochs,
        batch_size=4,
        out=tmp_path,
        progress=False,
        accelerator="cpu",
    )
    return network, log


def test_student_and_teacher_start_equal_and_only_the_student_learns():
    network = method()
    pairs = zip(network.student.state_dict().items(), network.teacher.state_dict().items(), strict=True)
    assert all(name == other and torch.equal(a, b) for (name, a), (other, b) in pairs)
    network(patches())["loss"].backward()
    assert all(weight.grad is None and not weight.requires_grad for weight in network.teacher.parameters())
    assert all(weight.grad is not None for weight in network.student.parameters() if weight.requires_grad)
    chosen = {id(weight) for group in network.parameter_groups() for weight in group["params"]}
    assert chosen == {id(weight) for weight in network.student.parameters() if weight.requires_grad}


def test_views_have_their_sizes_and_one_seed_gives_the_same():
    network = method()
    torch.manual_seed(5)
    large, small = network.views(patches())
    assert [tuple(view.shape) for view in large] == [(4, 3, 16, 16)] * 2
    assert [tuple(view.shape) for view in small] == [(4, 3, 8, 8)] * 3
    torch.manual_seed(5)
    again = network.views(patches())
    assert all(map(torch.equal, large + small, again[0] + again[1]))
    torch.manual_seed(6)
    assert not torch.equal(network.views(patches())[0][0], large[0])


def test_crops_of_one_size_share_a_pass_and_keep_their_order():
    network, calls = method().eval(), []
    backbone = network.student.backbone
    views = [torch.randn(2, 3, size, size) for size in (16, 16, 8, 8, 8, 16)]
    one_by_one = torch.cat([backbone(view)[:, 0] for view in views])
    handle = backbone.patch_embed.register_forward_hook(
        lambda module, given, out: calls.append(tuple(given[0].shape[::2]))
    )
    found = network.represent(backbone, views)
    handle.remove()
    assert calls == [(4, 16), (6, 8), (2, 16)]
    torch.testing.assert_close(found, one_by_one, atol=1e-5, rtol=1e-5)


def test_loss_is_that_of_all_pairs_of_crops():
    network = method(drop_path=0.0)
    large, small = network.views(patches())
    found = network.distil(large, small)
    views, total, pairs = large + small, 0.0, 0
    with torch.no_grad():
        said = [network.student.head(network.student.backbone(view)[:, 0]) / 0.1 for view in views]
        wanted = [network.teacher.head(network.teacher.backbone(view)[:, 0]) / 0.04 for view in large]
    for u, p in enumerate(wanted):
        for v, q in enumerate(said):
            if u != v:
                total, pairs = total - (p.softmax(1) * q.log_softmax(1)).sum(1).mean(), pairs + 1
    assert pairs == 2 * 5 - 2
    assert found["loss"].item() == pytest.approx(float(total / pairs), rel=1e-5)
    assert found["loss"] > found["entropy"]


def test_the_teacher_drops_nothing():
    network = method(drop_path=0.9)
    assert network.train().student.training and not network.teacher.training
    large, _ = network.views(patches())
    student, teacher = network.student.backbone, network.teacher.backbone
    assert not torch.equal(network.represent(student, large), network.represent(student, large))
    assert torch.equal(network.represent(teacher, large), network.represent(teacher, large))
    whole = patches(size=16)
    assert torch.equal(network.encode(whole).graph, network.encode(whole).graph)


def test_teacher_and_centre_follow_after_the_step():
    network = method(momentum=0.75)
    large, small = network.views(patches())
    before = {name: value.clone() for name, value in network.teacher.state_dict().items()}
    said = network.teacher.head(network.represent(network.teacher.backbone, large))
    network.distil(large, small)
    assert not network.loss.center.any()
    with torch.no_grad():
        for weight in network.student.parameters():
            weight += 0.1
    network.after_step(1)
    for name, value in network.teacher.state_dict().items():
        torch.testing.assert_close(value, 0.75 * before[name] + 0.25 * network.student.state_dict()[name])
    torch.testing.assert_close(network.loss.center, 0.1 * said.mean(0, keepdim=True))
    centre = network.loss.center.clone()
    network.after_step(2)  # with no loss in between there is nothing to move to
    assert torch.equal(network.loss.center, centre)


def test_schedules_of_momentum_and_weight_decay():
    network, last = method(momentum=0.9), 40
    assert network.schedule(0, last, 4) == {"weight_decay": 1.0} and network.momentum == 0.9
    halfway = network.schedule(last // 2, last, 4)
    assert halfway["weight_decay"] == pytest.approx(5.5) and network.momentum == pytest.approx(0.95)
    network.schedule(last - 1, last, 4)
    assert 0.999 < network.momentum < 1
    network = method(official_compat=True)
    rates = [network.schedule(step, last, 4)["lr"] for step in range(last)]
    assert rates[:4] == pytest.approx([0, 1 / 3, 2 / 3, 1]) and rates[-1] == pytest.approx(0.002, abs=0.003)


def test_the_teachers_temperature_warms_up():
    network = method(warmup_teacher_temperature=0.04, teacher_temperature=0.07, temperature_epochs=3)
    found = []
    for epoch in range(5):
        network.before_epoch(epoch, [])
        found.append(network.teacher_temperature)
    assert found == pytest.approx([0.04, 0.055, 0.07, 0.07, 0.07])


def test_prototypes_are_frozen_at_first_and_gradients_limited_one_by_one():
    network = method(freeze_epochs=2)
    for epoch in range(3):
        network.before_epoch(epoch, [])
        network.zero_grad()
        (1000 * network(patches())["loss"]).backward()
        assert network.limit_gradients(0.5)
        prototypes = network.student.head.last_layer.weight_v
        assert (prototypes.grad is None) == (epoch < 2)
        norms = [float(w.grad.norm()) for w in network.student.parameters() if w.grad is not None]
        assert max(norms) <= 0.5 + 1e-4 and sum(norm > 0.49 for norm in norms) > 10
    network.zero_grad()
    (1000 * network(patches())["loss"]).backward()
    before = [w.grad.clone() for w in network.student.parameters() if w.grad is not None]
    network.limit_gradients(0.0)
    assert all(map(torch.equal, before, [w.grad for w in network.student.parameters() if w.grad is not None]))


def test_groups_of_the_published_size():
    """On the meta device, nothing of its 44 million weights is made."""
    with torch.device("meta"):
        network = DINO()
    decayed, others = network.parameter_groups()
    assert (len(decayed["params"]), len(others["params"]), others["weight_decay"]) == (55, 102, 0.0)
    shapes = {name: tuple(value.shape) for name, value in network.student.state_dict().items()}
    assert len(shapes) == 158
    counts = {"backbone": 0, "head": 0}
    for name, shape in shapes.items():
        counts[name.split(".")[0]] += math.prod(shape)
    assert counts == {"backbone": 21_665_664, "head": 22_352_128}
    assert all(weight.dim() == 1 for weight in others["params"])


def test_the_trainer_runs_schedule_freezing_and_following():
    network, log = trained(freeze_epochs=3, momentum=0.5)
    start = method(freeze_epochs=3, momentum=0.5)
    assert torch.equal(network.student.head.last_layer.weight_v, start.student.head.last_layer.weight_v)
    assert not torch.equal(network.student.backbone.cls_token, start.student.backbone.cls_token)
    assert not torch.equal(network.teacher.backbone.cls_token, start.teacher.backbone.cls_token)
    assert network.loss.center.any() and network.epoch == 2
    assert (log["loss"] >= log["entropy"]).all()
    assert not network.training
    free, _ = trained(freeze_epochs=1)
    assert not torch.equal(free.student.head.last_layer.weight_v, start.student.head.last_layer.weight_v)


def test_weight_decay_grows_in_the_trainer(monkeypatch):
    seen = []
    step = torch.optim.AdamW.step

    def recorded(self, *arguments, **named):
        seen.append([group["weight_decay"] for group in self.param_groups])
        return step(self, *arguments, **named)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    trained(epochs=4)
    assert [plain for _, plain in seen] == [0.0] * 12
    decayed = [first for first, _ in seen]
    wanted = [0.1 + 0.5 * (0.01 - 0.1) * (1 + math.cos(math.pi * step / 12)) for step in range(12)]
    assert decayed == pytest.approx(wanted)


def test_a_run_that_stopped_goes_on_bit_for_bit(tmp_path):
    whole, _ = trained(epochs=4)
    network = method()
    data = PatchDataset(disks(12, 16))
    settings = {"batch_size": 4, "out": tmp_path, "progress": False, "accelerator": "cpu"}

    class Stop(Exception):
        pass

    def stopping(epoch, dataset, original=DINO.before_epoch):
        if epoch == 2:
            raise Stop
        original(network, epoch, dataset)

    network.before_epoch = stopping
    with pytest.raises(Stop):
        hg.pretrain(network, data, epochs=4, **settings)
    again = method(seed=9)
    hg.pretrain(again, data, epochs=4, **settings)
    pairs = zip(whole.state_dict().items(), again.state_dict().items(), strict=True)
    assert all(torch.equal(a, b) for (_, a), (_, b) in pairs)


def tissues(seed):
    """Pictures of four colours, with noise."""
    colour = torch.tensor([[0.9, 0.5, 0.7], [0.5, 0.35, 0.7], [0.95, 0.9, 0.95], [0.5, 0.1, 0.2]])
    noise = torch.randn(48, 16, 16, 3, generator=torch.Generator().manual_seed(seed))
    picture = colour.repeat(12, 1).view(48, 1, 1, 3) + 0.1 * noise
    return (255 * picture.clamp(0, 1)).to(torch.uint8)


def information(network, images):
    """What the teacher's answer tells about the picture, in nats, and how often two crops get the same answer."""
    torch.manual_seed(0)
    views, _ = network.views(Patches(images))
    with torch.no_grad():
        said = network.teacher.head(network.represent(network.teacher.backbone, views))
        p = ((said - network.loss.center) / 0.04).softmax(1)

    def entropy(share):
        return -torch.special.xlogy(share, share).sum(-1)

    first, second = p.argmax(1).view(2, -1)
    return float(entropy(p.mean(0)) - entropy(p).mean()), float((first == second).double().mean())


def test_it_learns_what_crops_of_a_picture_share():
    network = method(dim=32, out_dim=32, head_dim=64, bottleneck_dim=64, momentum=0.95)
    before, _ = information(network, tissues(1))
    log = hg.pretrain(
        network,
        PatchDataset(tissues(0).numpy()),
        epochs=30,
        batch_size=16,
        lr=2e-3,
        progress=False,
        accelerator="cpu",
    )
    after, agreement = information(network, tissues(1))
    # of log 4 = 1.39 nats that there are; neither collapse would have any
    assert before < 0.3 and after > 0.8 and agreement > 0.75
    assert log["loss"].iloc[-1] < 1.0 < math.log(32)


def test_saved_and_loaded_it_embeds_the_same(tmp_path):
    network, _ = trained(tmp_path, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    other = load_method(tmp_path / "method.safetensors")
    assert torch.equal(network.encode(patches(size=16)).graph, other.encode(patches(size=16)).graph)
    assert other.config == network.config
    assert other.mean.flatten().tolist() == [0.5] * 3  # normalisation travels with the weights


def test_vectors_are_the_teachers_class_tokens():
    network = method().eval()
    image = patches(size=16)
    normalised = (image.image / 255 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor(
        [0.229, 0.224, 0.225]
    )
    wanted = network.teacher.backbone(normalised.permute(0, 3, 1, 2))
    found = network.encode(image)
    assert found.node is None
    torch.testing.assert_close(found.graph, wanted[:, 0])
    torch.testing.assert_close(network.tokens(image), wanted)
    torch.testing.assert_close(network.encode(Patches(image.image / 255)).graph, found.graph)
    assert network.encode(Patches(torch.zeros(2, 24, 40, 3))).graph.shape == (2, 16)
    z = hg.embed(network, PatchDataset(image.image.numpy()), progress=False)
    torch.testing.assert_close(z.graph, found.graph)
    weights = network.teacher.backbone.attention(network.normalise(image))
    torch.testing.assert_close(weights.sum(3), torch.ones(4, 2, 5))


def test_tokens_are_a_set_once_they_carry_their_places():
    backbone = method(image_size=32).eval().teacher.backbone
    tokens = backbone.tokens(torch.randn(2, 3, 32, 32))
    order = torch.cat([torch.zeros(1, dtype=torch.long), 1 + torch.randperm(16)])
    torch.testing.assert_close(
        backbone.run(tokens[:, order])[:, 0], backbone.run(tokens)[:, 0], atol=1e-5, rtol=1e-5
    )


def test_released_form_differs_in_crops_and_positions_only():
    ours, theirs = method(), method(official_compat=True)
    # but for the first weights of the head, which are longer where it is narrow
    spread = [network.student.head.mlp[0].weight.std().item() for network in (ours, theirs)]
    assert spread[0] > 0.2 and spread[1] == pytest.approx(0.02, abs=0.002)
    theirs.load_state_dict(ours.state_dict())
    looks = [(view.look, view.blur, view.solarise) for view in theirs.crops]
    assert looks == [("photo", 1.0, 0.0), ("photo", 0.1, 0.2), *[("photo", 0.5, 0.0)] * 3]
    assert {(view.look, view.strength, view.blur) for view in ours.crops} == {("stain", 0.2, 0.5)}
    assert torch.equal(ours.encode(patches(size=16)).graph, theirs.encode(patches(size=16)).graph)
    assert not torch.equal(ours.encode(patches(size=24)).graph, theirs.encode(patches(size=24)).graph)
    assert theirs(patches())["loss"].isfinite()


def test_without_local_crops():
    network = method(local_views=0)
    assert network.views(patches())[1] == [] and network(patches())["loss"].isfinite()


def test_half_precision():
    network = method()
    log = hg.pretrain(
        network,
        PatchDataset(disks(8, 16)),
        epochs=1,
        batch_size=4,
        precision="bf16-mixed",
        progress=False,
        accelerator="cpu",
    )
    assert math.isfinite(log["loss"].iloc[0]) and isinstance(network.loss, DINOLoss)


@pytest.mark.parametrize("official", [False, True])
def test_crops_are_cut_in_full_precision(official):
    """Under autocast they are the same, and a network of any precision reads them."""
    network, batch = method(official_compat=official), patches(size=24)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        network.to(dtype)
        torch.manual_seed(1)
        expected = [crop for views in network.views(batch) for crop in views]
        with torch.autocast("cpu", torch.bfloat16):
            torch.manual_seed(1)
            found = [crop for views in network.views(batch) for crop in views]
        assert all(torch.equal(a, b) and a.dtype == dtype for a, b in zip(expected, found, strict=True))
        assert network(batch)["loss"].isfinite() and network.encode(batch).graph.dtype == dtype


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("local_size", 12),
        ("local_size", 0),
        ("global_scale", (0.5, 0.2)),
        ("local_scale", (0.0, 0.2)),
        ("stain", 1.0),
        ("blur", -0.1),
        ("mean", (0.5, 0.5)),
        ("std", (0.5, 0.5, 0.0)),
        ("local_views", -1),
        ("teacher_temperature", 0.0),
        ("student_temperature", 0.0),
        ("warmup_teacher_temperature", -1.0),
        ("temperature_epochs", -1),
        ("momentum", 1.1),
        ("center_momentum", -0.1),
        ("weight_decay_growth", math.inf),
        ("freeze_epochs", -1),
        ("out_dim", 0),
        ("heads", 3),
    ],
)
def test_messages(argument, value):
    with pytest.raises(ValueError, match=argument):
        method(**{argument: value})


def test_released_crops_take_no_stain():
    with pytest.raises(ValueError, match=r"stain must stay 0\.2 with official_compat=True"):
        method(official_compat=True, stain=0.1)


def test_batches_that_do_not_fit():
    network = method()
    with pytest.raises(TypeError, match="DINO reads image patches, found Data"):
        network(graph())
    with pytest.raises(ValueError, match=r"image must have shape \(B, H, W, 3\)"):
        network(Patches(torch.zeros(2, 3, 16, 16)))
    with pytest.raises(ValueError, match="uint8, or floating point"):
        network(Patches(torch.zeros(2, 16, 16, 3, dtype=torch.int64)))

"""Tokens under nuclei, beside sums over single pixels that are as plain as can be."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import histograph as hg
from histograph.cli import main
from histograph.entities import Entities
from histograph.entities.masks import Masks
from histograph.features import CellTokens, PatchEncoder, cell_tokens, crops, embed_entities, load_encoder
from histograph.features.token_overlap import square_overlaps
from histograph.features.tokens import TimmVectors, TokenVectors, TransformersVectors
from histograph.methods import DINO, GCMAE
from histograph.nn import VisionTransformer
from histograph.slides import open_slide

from .scenes import ArraySlide, blobs, rectangles

SIDE = 4  # pixels of a token


class Colours(torch.nn.Module):
    """Tokens that hold the mean colour of their squares, behind a class token with that of the window."""

    def forward(self, x):
        squares = torch.nn.functional.avg_pool2d(x, SIDE).flatten(2).transpose(1, 2)
        return torch.cat([x.mean(dim=(2, 3))[:, None], squares], dim=1)


class Places(torch.nn.Module):
    """Tokens that hold where in the window they lie; no class token."""

    def forward(self, x):
        grid = x.shape[2] // SIDE
        rows, columns = np.mgrid[:grid, :grid]
        places = torch.tensor(np.stack([rows, columns], axis=-1).reshape(1, -1, 2), dtype=torch.float32)
        return places.expand(len(x), -1, -1)


def encoder(network, prefix=1, size_px=24, mpp=0.5, **changes):
    module = TokenVectors(network, "cls" if prefix else "mean", prefix)
    settings = {"mean": (0, 0, 0), "std": (1, 1, 1), "size_px": size_px, "mpp": mpp, "name": "net"}
    return PatchEncoder(module, **(settings | changes))


@pytest.fixture(scope="module")
def scene():
    m, image = blobs(size=90)
    return open_slide(image, mpp=0.5), Entities.from_instance_map(m, mpp=0.5), m, image


def by_pixels(m, labels, field):
    """Average a field of one value a pixel over the pixels of each label."""
    return np.stack([field[m == label].mean(axis=0) for label in labels])


def squares_of(image, side=SIDE):
    """Give each pixel the mean colour of its square, on the scale 0 to 1; white outside."""
    height, width = (-(-n // side) * side for n in image.shape[:2])
    padded = np.full((height, width, 3), 255.0)
    padded[: image.shape[0], : image.shape[1]] = image
    means = padded.reshape(height // side, side, width // side, side, 3).mean(axis=(1, 3)) / 255
    return means.repeat(side, 0).repeat(side, 1)[: image.shape[0], : image.shape[1]]


@pytest.mark.parametrize("margin", [None, 0, 1, 2])
def test_mean_colours_of_squares_are_those_of_the_pixels(scene, margin):
    slide, cells, m, image = scene
    table = cell_tokens(slide, cells, encoder(Colours()), margin=margin, progress=False)
    assert table.names == ["net_token_0", "net_token_1", "net_token_2"]
    assert np.array_equal(table.label, cells.label) and table.values.dtype == np.float32
    np.testing.assert_allclose(table.values, by_pixels(m, cells.label, squares_of(image)), atol=2e-7)


@pytest.mark.parametrize("margin", [0, 1, 2])
def test_each_square_comes_from_the_inner_part_of_one_window(scene, margin):
    slide, cells, m, _ = scene
    table = cell_tokens(slide, cells, encoder(Places(), prefix=0), margin=margin, progress=False)
    rows, columns = np.mgrid[:90, :90] // SIDE
    place = np.stack([rows, columns], axis=-1) % (6 - 2 * margin) + margin
    np.testing.assert_allclose(table.values, by_pixels(m, cells.label, place), atol=1e-6)


@pytest.mark.parametrize("margin", [0, 2])
def test_context_is_the_mean_over_the_windows_by_area(scene, margin):
    slide, cells, m, image = scene
    table = cell_tokens(slide, cells, encoder(Colours()), context=True, margin=margin, progress=False)
    assert table.names[3:] == ["net_window_0", "net_window_1", "net_window_2"]
    inner, white = (6 - 2 * margin) * SIDE, np.full((300, 300, 3), 255.0)
    white[100:190, 100:190] = image
    field = np.empty((90, 90, 3))
    for r in range(0, 90, inner):
        for c in range(0, 90, inner):
            start = 100 + np.array([r, c]) - margin * SIDE
            window = white[start[0] : start[0] + 24, start[1] : start[1] + 24]
            field[r : r + inner, c : c + inner] = window.mean(axis=(0, 1)) / 255
    np.testing.assert_allclose(table.values[:, 3:], by_pixels(m, cells.label, field), atol=1e-6)
    alone = cell_tokens(slide, cells, encoder(Colours()), margin=margin, progress=False)
    assert np.array_equal(table.values[:, :3], alone.values)


def test_without_a_class_token_context_is_the_mean_of_the_squares(scene):
    slide, cells, _, _ = scene
    table = cell_tokens(slide, cells, encoder(Places(), prefix=0), context=True, progress=False)
    np.testing.assert_allclose(table.values[:, 2:], 2.5, atol=1e-6)


@pytest.mark.parametrize(
    ("mpp", "side"), [(0.5, 1.1), (0.3, 0.1), (3.0, 1.0), (0.5, 0.5), (0.5, 7.776), (0.1, 0.3)]
)
def test_areas_are_exact_where_borders_cut_pixels(mpp, side):
    m, _ = blobs(size=30, count=12, seed=1)
    cells = Entities.from_instance_map(m, mpp=mpp)
    expected = {}
    for row, column in np.argwhere(m):
        i = int(np.searchsorted(cells.label, m[row, column]))
        low, high = np.array([row, column]) * mpp / side, np.array([row + 1, column + 1]) * mpp / side
        for r in range(int(low[0]), int(high[0]) + 1):
            for c in range(int(low[1]), int(high[1]) + 1):
                shared = np.minimum(high, (r + 1, c + 1)) - np.maximum(low, (r, c))
                if shared.min() > 1e-8:
                    expected[i, r, c] = expected.get((i, r, c), 0) + shared.prod()
    entity, square, area = square_overlaps(cells, side)
    found = dict(zip(zip(entity, *square.T), area, strict=True))
    assert found.keys() == expected.keys() and len(found) == len(area)
    np.testing.assert_allclose([found[key] for key in expected], list(expected.values()), rtol=1e-6)


def test_rectangles_are_measured_from_their_boxes():
    boxes = [[1.0, 0.5, 3.0, 2.5], [-1.0, -1.0, 1.0, 1.0], [5.0, 5.0, 5.0, 5.0]]
    entity, square, area = square_overlaps(rectangles(boxes, 0.5), 2.0)
    found = {(i, *place): value for i, place, value in zip(entity.tolist(), square.tolist(), area.tolist())}
    quarter = {(1, r, c): 0.25 for r in (-1, 0) for c in (-1, 0)}
    cut = {(0, 0, 0): 0.375, (0, 0, 1): 0.375, (0, 1, 0): 0.125, (0, 1, 1): 0.125}
    assert found == {**cut, **quarter, (2, 2, 2): 1.0}  # the last has no area: the square of its centre


def test_order_of_the_cells_orders_the_rows(scene):
    slide, cells, m, _ = scene
    rng = np.random.default_rng(3)
    renamed = np.zeros(m.max() + 1, int)
    renamed[cells.label] = rng.permutation(len(cells)) + 1
    other = Entities.from_instance_map(renamed[m], mpp=0.5)
    net = vit()
    first, second = (cell_tokens(slide, items, net, progress=False) for items in (cells, other))
    assert np.array_equal(second.values[renamed[cells.label] - 1], first.values)
    some = cells.select(np.arange(0, len(cells), 3))
    alone = cell_tokens(slide, some, net, progress=False)  # other windows share its batches
    np.testing.assert_allclose(alone.values, first.values[::3], atol=1e-5)


def vit(**changes):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = VisionTransformer(24, SIDE, dim=12, depth=2, heads=2, registers=2)
    return encoder(network, prefix=3, mean=(0.5, 0.4, 0.6), std=(0.2, 0.3, 0.1), **changes)


def test_neither_batches_nor_workers_change_it(scene):
    slide, cells, _, _ = scene
    net = encoder(Colours())
    known = cell_tokens(slide, cells, net, context=True, progress=False).values
    deep = cell_tokens(slide, cells, vit(), progress=False).values
    for batch_size, workers in ((1, 1), (7, 3), (1000, 2)):
        options = {"batch_size": batch_size, "workers": workers, "progress": False}
        assert np.array_equal(cell_tokens(slide, cells, net, context=True, **options).values, known)
        np.testing.assert_allclose(cell_tokens(slide, cells, vit(), **options).values, deep, atol=1e-5)
    half = cell_tokens(slide, cells, vit(), mixed_precision="bf16", device="cpu", progress=False)
    np.testing.assert_allclose(half.values, deep, atol=0.2)
    assert not np.array_equal(half.values, deep)


def test_tokens_are_those_of_the_network(scene):
    slide, _, _, _ = scene
    m = np.zeros((90, 90), int)
    m[40:44, 20:24], m[41, 25] = 1, 2  # one square, and one pixel of the square beside it
    net = vit()
    table = cell_tokens(slide, Entities.from_instance_map(m, mpp=0.5), net, margin=1, progress=False)
    window = slide.read_region(6.0, 14.0, 12.0, 12.0, mpp=0.5)  # its inner part starts at 16 and 32 pixels
    x = (window / 255 - np.array(net.mean)) / np.array(net.std)
    with torch.no_grad():
        tokens = net.module.network.eval()(torch.tensor(x.transpose(2, 0, 1)[None], dtype=torch.float32))[
            0, 3:
        ]
    field = tokens.reshape(6, 6, 12)
    np.testing.assert_allclose(table.values[0], field[3, 2], atol=1e-5)
    np.testing.assert_allclose(table.values[1], field[3, 3], atol=1e-5)
    assert net.module.training  # put back


def test_the_smallest_nuclei_and_empty_masks_have_the_token_below_them(scene):
    slide, _, _, image = scene
    m = np.zeros((90, 90), int)
    pixels = [(0, 0), (89, 89), (23, 24), (47, 48), (50, 3)]
    for label, (row, column) in enumerate(pixels, start=1):
        m[row, column] = label
    cells = Entities.from_instance_map(m, mpp=0.5)
    expected = np.stack([squares_of(image)[place] for place in pixels])
    table = cell_tokens(slide, cells, encoder(Colours()), progress=False)
    np.testing.assert_allclose(table.values, expected, atol=2e-7)
    masks = cells.masks
    empty = replace(cells, masks=replace(masks, bits=np.zeros_like(masks.bits)))
    assert np.array_equal(cell_tokens(slide, empty, encoder(Colours()), progress=False).values, table.values)


def test_nuclei_across_and_beyond_the_border_of_the_slide(scene):
    slide, _, _, image = scene
    m = np.zeros((20, 20), int)
    m[8:16, 8:16], m[1, 1] = 1, 2  # 12 pixels up and left: one across the corner of the slide, one beyond it
    found = Entities.from_instance_map(m, mpp=0.5)
    masks = replace(found.masks, boxes=found.masks.boxes - 12)
    cells = replace(found, masks=masks, centroid=found.centroid - 6, bbox=found.bbox - 6)
    table = cell_tokens(slide, cells, encoder(Colours()), progress=False)
    inside = squares_of(image)[:4, :4]
    np.testing.assert_allclose(table.values[0], (3 + inside[0, 0]) / 4, atol=2e-7)
    np.testing.assert_allclose(table.values[1], 1.0, atol=2e-7)


def test_cells_may_overlap(scene):
    slide, cells, _, _ = scene
    masks = cells.masks
    twice = Entities(
        "cell", np.arange(1, 2 * len(cells) + 1), np.tile(cells.centroid, (2, 1)), np.tile(cells.bbox, (2, 1)),
        np.tile(cells.area, 2), 0.5, Masks.concatenate([masks, masks]),
    )  # fmt: skip
    values = cell_tokens(slide, twice, encoder(Colours()), progress=False).values
    assert np.array_equal(values[: len(cells)], values[len(cells) :])


def test_only_windows_with_nuclei_are_read():
    slide = ArraySlide(np.zeros((2000, 2000, 3), np.uint8), 0.5)
    m = np.zeros((30, 30), int)
    m[3:6, 3:6] = 1
    far = Entities.from_instance_map(m, mpp=0.5, origin_um=(800.0, 600.0))
    cell_tokens(slide, far, encoder(Colours(), size_px=32), margin=2, progress=False)
    assert [read[2:] for read in slide.reads] == [(16.0, 16.0)] and len(slide.reads) == 1
    x, y = slide.reads[0][:2]
    assert x + 4 <= 801.5 and y + 4 <= 601.5 and (x / 2).is_integer() and (y / 2).is_integer()


def test_no_cell_still_has_columns(scene):
    table = cell_tokens(scene[0], Entities.empty(), encoder(Colours()), context=True, progress=False)
    assert table.values.shape == (0, 6)


class Timm(torch.nn.Module):
    """As timm's transformers look."""

    num_prefix_tokens = 1

    def forward_features(self, x):
        return Colours()(x)


class Hidden(torch.nn.Module):
    """As models of transformers look."""

    def forward(self, pixel_values):
        return SimpleNamespace(last_hidden_state=Colours()(pixel_values))


@pytest.mark.parametrize(
    "module",
    [
        Timm(),
        TimmVectors(Timm(), "cls"),
        TransformersVectors(Hidden(), SIDE),
        TokenVectors(Colours(), "cls+mean"),
    ],
    ids=["timm", "timm with tokens", "transformers", "ours"],
)
def test_networks_of_other_libraries(scene, module):
    slide, cells, m, image = scene
    net = PatchEncoder(module, (0, 0, 0), (1, 1, 1), 24, 0.5, "net")
    table = cell_tokens(slide, cells, net, progress=False)
    np.testing.assert_allclose(table.values, by_pixels(m, cells.label, squares_of(image)), atol=2e-7)


@pytest.mark.parametrize("kind", ["gcmae", "dino"])
def test_methods_give_the_tokens_of_their_networks(scene, kind):
    slide, cells, _, _ = scene
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sizes = {"patch_size": 8, "dim": 24, "depth": 1, "heads": 2}
        if kind == "gcmae":
            method = GCMAE(image_size=16, **sizes, decoder_dim=16, decoder_depth=1, decoder_heads=2)
            network = method.encoder()
        else:
            method = DINO(image_size=16, **sizes)
            network = method.teacher.backbone
    mean, std = method.mean.flatten().tolist(), method.std.flatten().tolist()
    options = {"context": True, "progress": False}
    whole = cell_tokens(slide, cells, load_encoder(method, mpp=0.5), **options).values
    plain = cell_tokens(slide, cells, load_encoder(network, 0.5, mean, std), **options).values
    width = 24 if kind == "gcmae" else 48  # the vector of GCMAE's encode need not be its class token
    np.testing.assert_allclose(whole[:, :width], plain[:, :width], atol=1e-5)


class Pool(torch.nn.Module):
    def forward(self, x):
        return x.mean(dim=(2, 3))


class Maps(Timm):
    def forward_features(self, x):
        return x


class Odd(torch.nn.Module):
    def forward(self, x):
        return Colours()(x)[:, :-1]


class Broken(torch.nn.Module):
    def forward(self, x):
        tokens = Colours()(x)
        return torch.where(x.mean(dim=(1, 2, 3))[:, None, None] < 0.99, tokens * torch.nan, tokens)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (PatchEncoder(Pool(), (0, 0, 0), (1, 1, 1), 24, 0.5, "net"), "Pool gives no token.*use crops"),
        (PatchEncoder(Maps(), (0, 0, 0), (1, 1, 1), 24, 0.5, "net"), "gives no token.*embed_entities"),
        (
            PatchEncoder(TransformersVectors(Hidden(), None), (0, 0, 0), (1, 1, 1), 24, 0.5, "net"),
            "Hidden gives no token",
        ),
        (encoder(Odd()), "35 tokens of a square image"),
        (encoder(Colours(), mpp=None), "pixel size.*load_encoder"),
        (encoder(Broken()), "nan or inf for the window at x -?[0-9.]+, y -?[0-9.]+ µm"),
    ],
    ids=["no tokens", "maps of a CNN", "merged tokens", "no square", "no mpp", "nan"],
)
def test_encoders_that_cannot_are_refused(scene, made, message):
    with pytest.raises(ValueError, match=message):
        cell_tokens(*scene[:2], made, progress=False)
    assert made.device.type == "cpu"


@pytest.mark.parametrize(("margin", "ok"), [(3, False), (-1, False), (1.5, False), (2, True)])
def test_margin_leaves_something_of_a_window(scene, margin, ok):
    if ok:
        assert CellTokens(encoder(Colours()), margin=margin).loaded().margin == margin
        return
    with pytest.raises(ValueError, match=r"margin must be .* less than half of the 6"):
        CellTokens(encoder(Colours()), margin=margin).loaded()
    with pytest.raises(ValueError, match="margin"):
        cell_tokens(*scene[:2], encoder(Colours()), margin=margin, progress=False)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"mixed_precision": "fp8"}])
def test_options_are_checked(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        CellTokens(**options)


def test_boxes_that_are_not_finite_are_refused():
    bad = rectangles([[0.0, 0.0, 1.0, 1.0], [0.0, np.nan, 1.0, 1.0]], 0.5)
    with pytest.raises(ValueError, match=r"bbox must be finite.* label 2"):
        square_overlaps(bad, 2.0)


def test_crops_around_cells_are_centred_and_of_the_size_of_the_encoder(scene):
    slide, cells, _, _ = scene

    class Flat(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1)

    net = PatchEncoder(Flat(), (0, 0, 0), (1, 1, 1), size_px=6, mpp=1.0, name="flat")
    table = embed_entities(slide, cells, net, progress=False)
    expected = crops(slide, cells.centroid, 6.0, 6) / 255  # 6 pixels of 1 µm
    np.testing.assert_allclose(
        table.values, expected.transpose(0, 3, 1, 2).reshape(len(cells), -1), atol=1e-6
    )
    with pytest.raises(ValueError, match="pixel size"):
        embed_entities(
            slide, cells, PatchEncoder(Flat(), (0, 0, 0), (1, 1, 1), 6, None, "flat"), progress=False
        )


def test_in_a_graph_and_its_file(scene, tmp_path):
    slide, cells, _, _ = scene
    how = CellTokens(vit(), context=True, batch_size=5)
    graph = hg.build_graph(slide, {"cell": cells}, features={"cell": how}, mask=None, progress=False)
    table = cell_tokens(slide, cells, vit(), context=True, progress=False)
    row = np.searchsorted(cells.label, graph["cell"].id.numpy())
    np.testing.assert_allclose(graph["cell"].x.numpy(), table.values[row], atol=1e-5)
    assert graph["cell"].feature_names == table.names
    described = graph.provenance["parameters"]["features"]["cell"]
    assert described["under"]["encoder"]["name"] == "net" and described["context"] is True
    hg.save(graph, tmp_path / "a.safetensors")
    loaded = hg.load(tmp_path / "a.safetensors")
    assert torch.equal(loaded["cell"].x, graph["cell"].x)
    assert loaded["cell"].feature_names == table.names
    assert loaded.provenance["parameters"]["features"] == graph.provenance["parameters"]["features"]
    with pytest.raises(ValueError, match="no token"):
        hg.build_graph(
            "missing.svs", ("cell",), features={"cell": CellTokens(pool_with_facts())}, progress=False
        )


def pool_with_facts():
    module = Pool()
    for key, value in {"mean": (0, 0, 0), "std": (1, 1, 1), "size_px": 8, "mpp": 0.5}.items():
        setattr(module, key, value)
    return module


def picture(folder):
    from PIL import Image

    m, _ = blobs(size=90)
    image = np.full((90, 90, 3), (225, 160, 195), np.uint8)
    image[m > 0] = (80, 45, 130)
    Image.fromarray(image).save(folder / "a.png")
    return folder / "a.png"


def test_a_second_run_skips_slides_with_equal_features(tmp_path):
    path = picture(tmp_path)

    def status(how):
        made = hg.build_many(
            [path], tmp_path / "out", mpp=0.5, mask=None, entities=("cell",), features={"cell": how}
        )
        return made.loc[0, "status"]

    assert status(CellTokens(vit())) == "built"
    assert status(CellTokens(vit(), batch_size=3)) == "skipped"  # does not change what is meant
    assert status(CellTokens(vit(), margin=1)) == "built"
    assert status(CellTokens(vit(), margin=1, context=True)) == "built"


def test_from_the_shell(tmp_path, capsys):
    path = picture(tmp_path)

    def run(*words):
        with pytest.raises(SystemExit) as stop:
            main(["build", str(path), "--out", str(tmp_path / "out"), "--mpp", "0.5", *words])
        return stop.value.code or 0

    words = ["--entities", "cell", "--cell-tokens", "histograph-vit", "--batch-size", "3", "--device", "cpu"]
    assert run(*words) == 0
    graph = hg.load(tmp_path / "out" / "a.safetensors")
    assert graph["cell"].feature_names[0] == "histograph-vit_token_0" and graph["cell"].x.shape[1] == 192
    assert graph.provenance["encoders"] == {"cell": "histograph-vit"}
    assert run(*words) == 0 and "skipped" in capsys.readouterr().out
    assert run("--entities", "patch", "--cell-tokens", "histograph-vit") == 2
    assert "no cell" in capsys.readouterr().err
    assert run("--entities", "cell", "--batch-size", "3") == 2

"""Image patches: the same pixels from every source, in order; trained on, embedded, and resumed bit for bit."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from histograph.graphs import layer
from histograph.methods import HMGDM, Embedding, EntityAutoencoder, Method, Patches
from histograph.slides import open_slide
from histograph.training import PatchDataset, embed, pretrain
from histograph.training.graphs import collate
from tests.methods.crops import disks
from tests.methods.graphs import graph

QUIET = {"accelerator": "cpu", "progress": False}


def small(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return EntityAutoencoder(size_px=16, width=8)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture
def slide():
    rng = np.random.default_rng(0)
    return open_slide(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8), mpp=0.5, slide_id="noise")


@pytest.fixture
def files(tmp_path):
    """Three images in two folders, and their pixels in the order of their names."""
    images = disks(3, 12)
    for name, image in zip(("a/2.png", "a/3.PNG", "b/1.tif"), images, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("no image")
    (tmp_path / "a" / "._2.png").write_text("what a Mac keeps beside an image")
    return tmp_path, images


def test_array():
    images = disks(5)
    data = PatchDataset(images)
    assert len(data) == 5 and data.size == (16, 16) and data.names == ["0", "1", "2", "3", "4"]
    assert all(np.array_equal(item.image[0].numpy(), image) for item, image in zip(data, images, strict=True))
    assert np.array_equal(PatchDataset(torch.from_numpy(images)).images(), images)
    assert data[-1].names == ("4",)
    with pytest.raises(IndexError):
        data[5]


def test_memory_mapped_array_is_not_read_before_it_is_asked_for(tmp_path):
    images = disks(5)
    np.save(tmp_path / "a.npy", images)
    data = PatchDataset(np.load(tmp_path / "a.npy", mmap_mode="r"))
    assert isinstance(data._sources[0].images, np.memmap)
    assert np.array_equal(data[3].image[0].numpy(), images[3])


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (slice(1, None, 2), [1, 3]),
        ([4, 0, 0], [4, 0, 0]),
        (np.array([True, False, False, True, False]), [0, 3]),
        ([], []),
    ],
)
def test_subsets(index, rows):
    images = disks(5)
    part = PatchDataset(images)[index]
    assert part.names == [str(row) for row in rows] and np.array_equal(part.images(), images[rows])
    with pytest.raises(IndexError, match="mask of 5"):
        PatchDataset(images)[np.array([True, False])]


def test_folder_and_files(files):
    folder, images = files
    data = PatchDataset(folder)
    assert data.names == ["2", "3", "1"] and np.array_equal(data.images(), images)
    assert np.array_equal(PatchDataset([folder / "b/1.tif", folder / "a/2.png"]).images(), images[[2, 0]])
    assert np.array_equal(PatchDataset(folder / "b/1.tif").images(), images[2:])


def test_grey_and_transparent_files_become_rgb(tmp_path):
    Image.fromarray(np.full((4, 4), 9, np.uint8)).save(tmp_path / "grey.png")
    Image.fromarray(np.full((4, 4, 4), 7, np.uint8)).save(tmp_path / "rgba.png")
    assert PatchDataset(tmp_path).images()[:, 0, 0].tolist() == [[9, 9, 9], [7, 7, 7]]


def test_around_points(slide):
    pos = [[10.0, 10.0], [20.0, 12.5], [0.0, 0.0]]
    data = PatchDataset.from_slide(slide, pos, size_um=4, size_px=8)
    assert data.names == ["noise"] * 3 and data.size == (8, 8)
    for (x, y), item in zip(pos, data, strict=True):
        assert np.array_equal(item.image[0].numpy(), slide.read_region(x - 2, y - 2, 4, 4, mpp=0.5))
    assert len(PatchDataset.from_slide(slide, [], 4, 8)) == 0


def test_nodes_then_edges_once(slide):
    g = graph(9, 12, seed=1, slide_id="noise")
    g.pos = g.pos * 0.3
    data = PatchDataset.from_graph(g, slide, size_um=4, size_px=8)
    assert len(data) == 9 + 12 and len(PatchDataset.from_graph(g, slide, 4, 8, edges=False)) == 9
    once = g.edge_index[:, g.edge_index[0] < g.edge_index[1]]
    centres = torch.cat([g.pos.double(), g.pos.double()[once].mean(0)])
    expected = PatchDataset.from_slide(slide, centres.numpy(), 4, 8).images()
    assert np.array_equal(data.images(), expected)
    g.slide_id = "other"
    with pytest.raises(ValueError, match="graph is of slide 'other', found slide 'noise'"):
        PatchDataset.from_graph(g, slide, 4, 8)


def test_layer_of_a_slide_with_several(slide):
    from histograph.graphs.example import example_graph

    g = example_graph(cells=30, patches=4, slide_id="noise")
    ours = PatchDataset.from_graph(g, slide, 4, 8, node_type="cell")
    alone = PatchDataset.from_graph(layer(g, "cell"), slide, 4, 8)
    assert np.array_equal(ours.images(), alone.images())
    with pytest.raises(ValueError, match="node_type"):
        PatchDataset.from_graph(g, slide, 4, 8)


def test_joined_and_in_memory(slide, files):
    folder, images = files
    points = PatchDataset.from_slide(slide, np.random.default_rng(1).uniform(5, 25, (150, 2)), 6, 12)
    data = PatchDataset.concat([points[::2], PatchDataset(folder), PatchDataset(images)[[2]]])
    assert len(data) == 75 + 3 + 1 and data.names[74:] == ["noise", "2", "3", "1", "2"]
    expected = np.concatenate([points.images()[::2], images, images[2:]])
    assert np.array_equal(data.images(workers=3), expected)
    kept = data.in_memory()
    assert kept.names == data.names and np.array_equal(kept.images(), expected)
    shuffled = np.random.default_rng(0).permutation(79)
    assert np.array_equal(data[shuffled].images(), expected[shuffled])
    assert np.array_equal(torch.cat([item.image for item in data]).numpy(), expected)
    with pytest.raises(ValueError, match="one size"):
        PatchDataset.concat([data, PatchDataset(disks(2))])
    with pytest.raises(ValueError, match="found none"):
        PatchDataset.concat([])


def test_pickle_and_worker_processes(files):
    folder, images = files
    data = PatchDataset(folder)
    assert np.array_equal(pickle.loads(pickle.dumps(data)).images(), images)
    loader = DataLoader(data, 2, num_workers=1, collate_fn=lambda items: collate(items, ("image",)))
    assert np.array_equal(torch.cat([batch.image for batch in loader]).numpy(), images)


def test_wrong_images(tmp_path, files):
    folder, _ = files
    for images in (
        np.zeros((2, 4, 4), np.uint8),
        np.zeros((2, 4, 4, 3)),
        7,
        np.zeros((2, 3, 4, 4), np.uint8),
    ):
        with pytest.raises(ValueError, match=r"uint8 array of shape \(N, H, W, 3\), found"):
            PatchDataset(images)
    with pytest.raises(ValueError, match="stack arrays first"):
        PatchDataset([np.zeros((4, 4, 3), np.uint8)])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        PatchDataset(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="1 files are missing"):
        PatchDataset([folder / "a/2.png", folder / "no.png"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="holds no image file"):
        PatchDataset(tmp_path / "empty")
    Image.fromarray(np.zeros((5, 7, 3), np.uint8)).save(folder / "b" / "odd.png")
    with pytest.raises(ValueError, match=r"odd.png: expected 12 x 12 pixels .* found 5 x 7"):
        PatchDataset(folder).images()
    (folder / "b" / "odd.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match="cannot be read as an image"):
        PatchDataset(folder).images()


def test_wrong_points(slide):
    for arguments, message in (
        (([[1, 2, 3]], 4, 8), "pos_um"),
        (([[1, np.nan]], 4, 8), "finite"),
        (([[1, 2]], 0, 8), "size_um"),
        (([[1, 2]], 4, 0), "size_px"),
    ):
        with pytest.raises(ValueError, match=message):
            PatchDataset.from_slide(slide, *arguments)


class Interrupting(PatchDataset):
    """Patches that are interrupted when they have been read a given number of times."""

    def __init__(self, images, after):
        super().__init__(images)
        self.after = after

    def __getitem__(self, index):
        self.after -= 1
        if self.after == 0:
            raise KeyboardInterrupt
        return super().__getitem__(index)


def test_interrupted_run_ends_with_the_same_weights(tmp_path):
    images = disks(10)
    settings = {"epochs": 4, "batch_size": 4} | QUIET
    straight = small()
    whole = pretrain(straight, PatchDataset(images), out=tmp_path / "a", **settings)
    with pytest.raises(KeyboardInterrupt):  # one look to check the data, ten a epoch: in the third epoch
        pretrain(small(), Interrupting(images, after=1 + 20 + 3), out=tmp_path / "b", **settings)
    second = small(seed=9)
    resumed = pretrain(second, PatchDataset(images), out=tmp_path / "b", **settings)
    assert same(straight, second) and resumed["loss"].tolist() == whole["loss"].tolist()
    assert resumed["epoch"].tolist() == list(range(4)) and not same(straight, small())


def test_embeddings_in_order_whatever_the_batch(files):
    folder, _ = files
    method = EntityAutoencoder(size_px=12, downsample=4, width=8)
    data = PatchDataset(folder)
    z, again = (embed(method, data, batch_size=size, progress=False) for size in (1, 32))
    torch.testing.assert_close(z.graph, again.graph)
    assert z.graph.shape == (3, method.latent_dim) and z.node is None and z.ptr.tolist() == [0, 0, 0, 0]
    assert z.slide_ids == ["2", "3", "1"] and len(z.node_id) == 0
    with torch.no_grad():
        torch.testing.assert_close(z.graph[1], method.encode(data[1]).graph[0])


def test_vectors_of_tokens_go_to_their_patch():
    class Tokens(Method):
        reads = ("image",)

        def __init__(self):
            super().__init__({})
            self.weight = torch.nn.Parameter(torch.ones(()))

        def encode(self, batch):
            rows = batch.image.float().mean((2, 3))  # a token a pixel row
            return Embedding(node=rows.reshape(-1, 1), graph=rows.mean(1, keepdim=True))

    images = disks(5, 4)
    z = embed(Tokens(), PatchDataset(images), batch_size=2, progress=False)
    assert z.ptr.tolist() == [0, 4, 8, 12, 16, 20] and z.node_id.tolist() == [0, 1, 2, 3] * 5
    for row in range(5):
        tokens = z.node[z.ptr[row] : z.ptr[row + 1], 0].numpy()
        np.testing.assert_allclose(tokens, images[row].mean((1, 2)), rtol=1e-6)


def test_wrong_data_for_the_method():
    with pytest.raises(TypeError, match="reads image patches"):
        pretrain(small(), [graph(5, 4)], epochs=1, **QUIET)
    with pytest.raises(TypeError, match="PatchDataset"):
        embed(small(), disks(3), progress=False)
    with pytest.raises(ValueError, match="at least one"):
        pretrain(small(), PatchDataset(disks(3))[:0], epochs=1, **QUIET)
    with pytest.raises(ValueError, match="size_px"):
        pretrain(small(), PatchDataset(disks(3, 8)), epochs=1, **QUIET)
    one, two = (Patches(torch.zeros(1, size, size, 3, dtype=torch.uint8)) for size in (4, 8))
    with pytest.raises(
        ValueError, match=r"expected an image of shape \(1, 4, 4, 3\), found \(1, 8, 8, 3\) at 1"
    ):
        collate([one, two], ("image",))
    with pytest.raises(TypeError, match="found Patches at 1"):
        collate([graph(3, 2), one], ("x",))
    with pytest.raises(TypeError, match=r"reads x, .* of graphs, found image patches"):
        embed(HMGDM(6, 2, hidden_dim=8), PatchDataset(disks(3)), progress=False)


def test_mixed_precision():
    images = np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8)
    log = pretrain(small(), PatchDataset(images), epochs=1, precision="bf16-mixed", **QUIET)
    assert np.isfinite(log["loss"]).all()


def test_linked_folders_are_searched_and_hidden_ones_are_not(tmp_path):
    pixel = Image.fromarray(np.zeros((2, 2, 3), np.uint8))
    for name in ("all/a.png", "all/.ipynb_checkpoints/a-checkpoint.png", "far/ü 1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pixel.save(tmp_path / name)
    (tmp_path / "all" / "link").symlink_to(tmp_path / "far", target_is_directory=True)
    (tmp_path / "all" / "loop").symlink_to(tmp_path / "all", target_is_directory=True)
    assert PatchDataset(tmp_path / "all").names == ["a", "ü 1"]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_become_eight_as_those_of_a_slide(tmp_path, suffix):
    grey = np.array([[0, 257 * 9], [257 * 128, 65535]], np.uint16)
    Image.fromarray(grey).save(tmp_path / f"grey.{suffix}")
    assert PatchDataset(tmp_path).images()[0].tolist() == [[[0] * 3, [9] * 3], [[128] * 3, [255] * 3]]


def test_what_would_be_cut_off_is_refused(tmp_path):
    Image.fromarray(np.full((2, 2), 0.5, np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r"float\.tif holds grey values of 32 bits"):
        PatchDataset(tmp_path)
    planes = [Image.fromarray(np.full((2, 2, 3), k, np.uint8)) for k in (1, 2, 3)]
    planes[0].save(tmp_path / "float.tif", save_all=True, append_images=planes[1:])
    with pytest.raises(ValueError, match="is a stack of 3 images"):
        PatchDataset(tmp_path)
    planes[0].save(tmp_path / "float.tif", save_all=True, append_images=[planes[1].resize((1, 1))])
    assert PatchDataset(tmp_path).images()[0, 0, 0].tolist() == [1, 1, 1]  # a pyramid


def test_rows_are_whole_numbers():
    data = PatchDataset(np.zeros((4, 2, 2, 3), np.uint8))
    for index in ([0.7], ["1"]):
        with pytest.raises(IndexError, match="index: expected"):
            data[index]
    assert len(data[[]]) == 0

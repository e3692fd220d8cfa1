import numpy as np
import pytest
import torch
from scipy import ndimage
from skimage.graph import RAG
from skimage.measure import regionprops_table

from histograph.graphs.contact import contact_edges, contact_pairs


def random_map(seed: int, height: int = 26, width: int = 31) -> np.ndarray:
    rng = np.random.default_rng(seed)
    instance_map = rng.integers(1, 30, (height, width)) * (
        rng.random((height, width)) < rng.choice([0.03, 0.2, 0.7])
    )
    return instance_map * rng.integers(1, 500)  # labels with holes between them


def disks(size: int = 200, step: int = 20) -> np.ndarray:
    row, column = np.mgrid[:size, :size]
    label = (row // step) * (size // step) + column // step + 1
    return np.where(
        (row % step - step // 2) ** 2 + (column % step - step // 2) ** 2 <= (step // 2) ** 2, label, 0
    )


def footprint(gap: float) -> np.ndarray:
    """All offsets between pixels whose squares are at most a gap apart."""
    reach = int(gap) + 1
    row, column = np.abs(np.mgrid[-reach : reach + 1, -reach : reach + 1])
    return np.hypot(np.maximum(row - 1, 0), np.maximum(column - 1, 0)) <= gap + 1e-9


def by_dilation(instance_map: np.ndarray, shape: np.ndarray) -> list[tuple[int, int]]:
    labels = np.unique(instance_map[instance_map > 0])
    pairs = []
    for label in labels:
        grown = ndimage.binary_dilation(instance_map == label, shape)
        pairs += [(int(label), int(other)) for other in np.unique(instance_map[grown]) if other > label]
    return pairs


@pytest.mark.parametrize("gap", [0.0, 0.5, 1.0, 1.5, 2.0, 3.3, 5.0])
@pytest.mark.parametrize("seed", range(6))
def test_pairs_equal_one_dilation_per_region(gap, seed):
    instance_map = random_map(seed)
    pairs, _ = contact_pairs(instance_map, gap)
    assert [tuple(pair) for pair in pairs.tolist()] == by_dilation(instance_map, footprint(gap))


@pytest.mark.parametrize("seed", range(6))
def test_four_neighbours_equal_a_dilation_by_a_cross(seed):
    instance_map = random_map(seed)
    pairs, sides = contact_pairs(instance_map, connectivity=4)
    cross = ndimage.generate_binary_structure(2, 1)
    assert [tuple(pair) for pair in pairs.tolist()] == by_dilation(instance_map, cross)
    assert (sides > 0).all()


@pytest.mark.parametrize("connectivity", [4, 8])
def test_pairs_equal_skimage(connectivity):
    instance_map = np.random.default_rng(0).integers(1, 40, (30, 40))
    graph = RAG(instance_map, connectivity=connectivity // 4)
    expected = sorted(tuple(sorted(map(int, edge))) for edge in graph.edges)
    pairs, _ = contact_pairs(instance_map, connectivity=connectivity)
    assert [tuple(pair) for pair in pairs.tolist()] == expected


@pytest.mark.parametrize("seed", range(4))
def test_sides_are_counted_one_by_one(seed):
    instance_map = random_map(seed)
    count: dict[tuple[int, int], int] = {}
    for first, second in [(instance_map[1:], instance_map[:-1]), (instance_map[:, 1:], instance_map[:, :-1])]:
        for a, b in zip(first.ravel().tolist(), second.ravel().tolist()):
            if a and b and a != b:
                count[min(a, b), max(a, b)] = count.get((min(a, b), max(a, b)), 0) + 1
    for gap in (0.0, 2.0):
        pairs, sides = contact_pairs(instance_map, gap)
        assert {tuple(p): s for p, s in zip(pairs.tolist(), sides.tolist()) if s} == count


def test_background_is_not_a_node():
    # field bug E.1: elsewhere the background becomes the last node, with edges (0,2), (1,2), (2,2) here
    instance_map = np.zeros((9, 9), int)
    instance_map[1, 1], instance_map[4, 4], instance_map[7, 7] = 1, 2, 3
    edge_index, edge_attr = contact_edges(instance_map, mpp=0.5)
    assert edge_index.shape == (2, 0) and edge_attr.shape == (0, 1)


def test_labels_need_not_be_contiguous():
    # field bug E.2: elsewhere regions are counted 1, 2, …, so that labels with gaps are silently wrong
    dense = disks(80)
    sparse = np.where(dense > 0, dense * 1_000_003 + 2**33, 0)
    for mine, same in zip(contact_edges(dense, 0.5, 2.0), contact_edges(sparse, 0.5, 2.0)):
        assert torch.equal(mine, same)


def test_attributes_are_those_of_centroids():
    instance_map = np.random.default_rng(1).integers(1, 60, (12, 12)).repeat(4, 0).repeat(4, 1)
    names = ("dx", "contact_um", "dy")
    edge_index, edge_attr = contact_edges(instance_map, 0.25, attributes=names)
    table = regionprops_table(instance_map, properties=("label", "centroid"))
    centroid = 0.25 * np.stack([table["centroid-1"], table["centroid-0"]], axis=1)
    d = centroid[edge_index[1]] - centroid[edge_index[0]]
    expected = np.column_stack([np.hypot(*d.T), d[:, 0], d[:, 1]])
    np.testing.assert_allclose(edge_attr[:, [0, 1, 3]], expected, rtol=1e-5, atol=1e-5)
    pairs, sides = contact_pairs(instance_map)
    shared = {tuple(pair): 0.25 * side for pair, side in zip(pairs.tolist(), sides.tolist())}
    labels = table["label"][edge_index.numpy()]
    assert [shared[min(a, b), max(a, b)] for a, b in labels.T.tolist()] == edge_attr[:, 2].tolist()


def test_a_gap_or_a_corner_shares_no_border():
    instance_map = np.array([[1, 0, 0, 2], [0, 3, 0, 0]])
    edge_index, edge_attr = contact_edges(instance_map, mpp=1.0, gap_um=2.0, attributes=("contact_um",))
    assert edge_index.T.tolist() == [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]
    assert not edge_attr[:, 1].any()
    assert contact_edges(instance_map, mpp=1.0)[0].T.tolist() == [[0, 2], [2, 0]]
    assert contact_edges(instance_map, mpp=1.0, connectivity=4)[0].shape == (2, 0)


@pytest.mark.parametrize(("gap_um", "joined"), [(0.59, False), (0.6, True)])
def test_the_gap_is_in_micrometres_and_includes_its_bound(gap_um, joined):
    # field bug E.3: elsewhere the option that joins farther neighbours changes nothing
    instance_map = np.array([[1, 0, 0, 0, 2]])  # three pixels of 0.2 between; 0.6 / 0.2 rounds below 3
    assert (contact_edges(instance_map, mpp=0.2, gap_um=gap_um)[0].shape[1] > 0) == joined


def test_finer_pixels_give_the_same_graph():
    # field bug E.7: elsewhere distances are in whatever pixels the points were
    coarse = disks(120)
    fine = coarse.repeat(2, 0).repeat(2, 1)
    names = ("dx", "dy", "contact_um")
    for gap in (0.0, 3.0):
        coarse_index, coarse_attr = contact_edges(coarse, 1.0, gap, names)
        fine_index, fine_attr = contact_edges(fine, 0.5, gap, names)
        assert torch.equal(coarse_index, fine_index)
        torch.testing.assert_close(coarse_attr, fine_attr)


@pytest.mark.parametrize("gap", [0.0, 2.5])
def test_turning_the_map_keeps_the_pairs(gap):
    instance_map = random_map(3)
    pairs, sides = contact_pairs(instance_map, gap)
    for turned in (instance_map.T, instance_map[::-1], instance_map[:, ::-1]):
        turned_pairs, turned_sides = contact_pairs(turned, gap)
        assert np.array_equal(turned_pairs, pairs) and np.array_equal(turned_sides, sides)


@pytest.mark.parametrize("gap", [0.0, 2.0])
def test_overlapping_blocks_see_every_pair(gap):
    instance_map = random_map(5, 60, 20)
    overlap = int(np.ceil(gap)) + 1
    blocks = [contact_pairs(instance_map[max(r - overlap, 0) : r + 15], gap)[0] for r in range(0, 60, 15)]
    assert np.array_equal(np.unique(np.concatenate(blocks), axis=0), contact_pairs(instance_map, gap)[0])


def test_more_pairs_than_the_table_begins_with():
    instance_map = np.arange(1, 10_001).reshape(100, 100)
    pairs, sides = contact_pairs(instance_map)
    assert len(pairs) == 2 * 100 * 99 + 2 * 99 * 99
    assert sides.sum() == 2 * 100 * 99


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.uint16, np.int32, np.uint32, np.int64, np.uint64])
def test_integer_types_agree(dtype):
    instance_map = disks(60)
    expected = contact_edges(instance_map, 0.5, 2.0)
    for other in (instance_map.astype(dtype), np.asfortranarray(instance_map.astype(dtype))):
        assert all(torch.equal(a, b) for a, b in zip(contact_edges(other, 0.5, 2.0), expected))


def test_tensors_are_taken_and_nothing_is_changed():
    instance_map = disks(60)
    tensor = torch.from_numpy(instance_map.copy())
    assert torch.equal(contact_edges(tensor, 0.5)[0], contact_edges(instance_map, 0.5)[0])
    assert np.array_equal(tensor, instance_map)


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0), (4, 4)])
def test_empty_maps(shape):
    edge_index, edge_attr = contact_edges(np.zeros(shape, int), 1.0, 3.0, ("contact_um",))
    assert edge_index.shape == (2, 0) and edge_index.dtype == torch.int64
    assert edge_attr.shape == (0, 2) and edge_attr.dtype == torch.float32
    assert contact_pairs(np.zeros(shape, int))[0].shape == (0, 2)


def test_one_region():
    assert contact_edges(np.full((5, 5), 7), 1.0, 3.0)[0].shape == (2, 0)


@pytest.mark.parametrize(
    ("instance_map", "arguments", "error", "message"),
    [
        (
            np.zeros((2, 2, 2), int),
            {},
            ValueError,
            r"instance_map must have shape \(H, W\), found shape \(2, 2, 2\)",
        ),
        (np.zeros((2, 2)), {}, TypeError, "instance_map must hold integers, found float64"),
        (np.zeros((2, 2), bool), {}, TypeError, "found bool; label it first"),
        (np.array([[0, -3]]), {}, ValueError, "negative labels, found -3"),
        (np.zeros((2, 2), int), {"mpp": 0.0}, ValueError, "mpp must be positive"),
        (np.zeros((2, 2), int), {"gap_um": -1.0}, ValueError, "gap_um must be finite and not negative"),
        (np.zeros((2, 2), int), {"gap_um": np.nan}, ValueError, "gap_um"),
        (np.zeros((2, 2), int), {"connectivity": 6}, ValueError, "connectivity must be 4 or 8, found 6"),
        (np.zeros((2, 2), int), {"connectivity": 4, "gap_um": 1.0}, ValueError, "one or the other"),
        (np.zeros((2, 2), int), {"attributes": ("weight",)}, ValueError, "valid names are .*contact_um"),
    ],
)
def test_errors_name_what_is_wrong(instance_map, arguments, error, message):
    with pytest.raises(error, match=message):
        contact_edges(instance_map, **{"mpp": 1.0, **arguments})

"""HoVer-Net and CellViT: contours of border pixels, x then y, and what is wrong with a file."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy import ndimage

from histograph.entities import from_instance_map, patches
from histograph.formats import read_cellvit, read_hovernet, write_cellvit, write_hovernet
from histograph.formats.contours import pixel_chain
from histograph.graphs import GraphDataset, build_graph, load, save
from histograph.slides import open_slide

from .scenes import assert_same, cells

BOTH = pytest.mark.parametrize(
    "read, write", [(read_hovernet, write_hovernet), (read_cellvit, write_cellvit)]
)


def solid(mpp=0.25):
    """Discs in one part without holes, with types and probabilities."""
    source = cells(n=25, mpp=mpp, typed=False, holes=False)
    whole = [ndimage.label(source.masks[i])[1] == 1 for i in range(len(source))]
    filled = [
        ndimage.binary_fill_holes(source.masks[i]).sum() == source.masks[i].sum() for i in range(len(source))
    ]
    source = source.select(np.array(whole) & np.array(filled))
    rng = np.random.default_rng(1)
    source.columns["type"] = np.array(["tumour", "stroma", ""])[rng.integers(0, 3, len(source))]
    source.columns["type_prob"] = rng.random(len(source))
    assert len(source) > 15
    return source


@BOTH
@pytest.mark.parametrize("mpp", [0.25, 0.2465])
def test_round_trip(tmp_path, read, write, mpp):
    # field bug E.11: elsewhere a record mixes the two orders of axes; here bbox is rows first, as its readers expect
    source = solid(mpp)
    path = write(source, tmp_path / "a.json")
    assert_same(source, read(path))
    types = {3: "stroma", 7: "tumour"}
    value = json.loads(write(source, tmp_path / "b.json", types=types).read_text())
    items = list(value["nuc"].values()) if "nuc" in value else value["cells"]
    assert [i["type"] for i in items] == [
        {"stroma": 3, "tumour": 7, "": None}[t] for t in source.columns["type"].tolist()
    ]
    for row, item in enumerate(items):
        (top, left), (bottom, right) = item["bbox"]
        contour = np.array(item["contour"])
        assert (contour.min(axis=0) == [left, top]).all() and (
            contour.max(axis=0) == [right - 1, bottom - 1]
        ).all()
        np.testing.assert_allclose(item["centroid"], source.centroid[row] / mpp - 0.5)


@settings(max_examples=100, deadline=None)
@given(arrays(bool, st.tuples(st.integers(1, 8), st.integers(1, 8))))
def test_chain_is_the_border_and_fills_to_the_mask(tmp_path_factory, mask):
    parts, count = ndimage.label(mask)
    if count == 0:
        return
    part = ndimage.binary_fill_holes(parts == 1)
    # holes that only a corner opens are filled too, as the outline does
    entities = from_instance_map(part.astype(int), 1.0)
    ring = entities.polygon(0).astype(int)
    chain = pixel_chain(ring)
    step = np.abs(np.diff(np.concatenate([chain, chain[:1]]), axis=0))
    assert ((step[:, 0] == step[:, 1]) | (step == 0).any(axis=1)).all()
    assert part[chain[:, 1], chain[:, 0]].all()
    folder = tmp_path_factory.mktemp("h")
    again = read_hovernet(write_hovernet(entities, folder / "a.json"))
    again = again.instance_map((0, 0, *part.shape[::-1])) > 0
    assert (again >= part).all() and (again == part).all() == (ndimage.binary_fill_holes(again) == part).all()


def test_files_of_the_programs(tmp_path):
    contour = [[12, 5], [12, 8], [15, 8], [15, 5]]
    nucleus = {
        "bbox": [[5, 12], [9, 16]],
        "centroid": [13.5, 6.5],
        "contour": contour,
        "type_prob": 0.9,
        "type": 2,
    }
    path = tmp_path / "hover.json"
    path.write_text(
        json.dumps({"mag": 40, "nuc": {"7": nucleus, "3": {**nucleus, "type": None, "type_prob": None}}})
    )
    read = read_hovernet(path, mpp=0.5)
    assert (
        read.label.tolist() == [3, 7]
        and read.area.tolist() == [4, 4]
        and read.bbox[0].tolist() == [6, 2.5, 8, 4.5]
    )
    assert read.columns["type"].tolist() == ["", "2"] and read.columns["type_prob"].tolist()[1] == 0.9
    named = read_hovernet(path, mpp=0.5, types=["none", "tumour", "stroma"], offset_px=(10, 0))
    assert named.columns["type"].tolist() == ["", "stroma"] and named.bbox[0].tolist() == [11, 2.5, 13, 4.5]
    cell = {**nucleus, "patch_coordinates": [1, 0], "cell_status": 8, "offset_global": [0, 0]}
    value = {
        "wsi_metadata": {"base_mpp": 0.5},
        "type_map": {"1": "Neoplastic", "2": "Inflammatory"},
        "cells": [cell, cell],
    }
    (tmp_path / "cells.json").write_text(json.dumps(value))
    read = read_cellvit(tmp_path / "cells.json")
    assert read.label.tolist() == [1, 2] and read.columns["type"].tolist() == ["Inflammatory"] * 2
    assert read_cellvit(tmp_path / "cells.json", mpp=0.25).mpp == 0.25
    for empty, reader in [({"mag": None, "nuc": {}}, read_hovernet), ({"cells": []}, read_cellvit)]:
        path.write_text(json.dumps(empty))
        assert len(reader(path, 0.5)) == 0


CONTOUR = [[12, 5], [12, 8], [15, 8], [15, 5]]


@BOTH
@pytest.mark.parametrize(
    "bad, message",
    [
        ({"centroid": [6.5, 13.5], "contour": CONTOUR}, "axes swapped"),
        ({"centroid": [27, 13], "contour": CONTOUR}, "lies outside its contour.*same pixels"),
        ({"centroid": [13.5, 6.5]}, "has no contour"),
        ({"centroid": [13.5, 6.5], "contour": [[1, 2], [3]]}, "one is broken"),
        ({"contour": [[1, 2], [3, "x"]]}, "two finite numbers"),
        ({"contour": CONTOUR, "type": "x"}, "whole number"),
        ({"contour": CONTOUR, "type": 9}, "type 9 has no name"),
        ({"contour": CONTOUR, "type_prob": "much"}, "type_prob"),
        (4, "expected an object"),
    ],
)
def test_broken_nuclei_are_named(tmp_path, read, write, bad, message):
    good = {"contour": CONTOUR, "centroid": [13.5, 6.5]}
    value = {"nuc": {"1": good, "2": bad}} if read is read_hovernet else {"cells": [good, bad]}
    (tmp_path / "bad.json").write_text(json.dumps(value))
    with pytest.raises(ValueError, match=rf"bad\.json, (nucleus|cell) 2.*{message}"):
        read(tmp_path / "bad.json", 0.5, types={1: "tumour"})


def test_broken_files(tmp_path):
    path = tmp_path / "bad.json"
    good = json.dumps({"contour": CONTOUR})
    for text, message in {
        f'{{"nuc": {{"1": {good}, "1": {good}}}}}': "nucleus 2: its id 1 is that of nucleus 1 too",
        f'{{"nuc": {{"a": {good}}}}}': "positive whole number, found 'a'",
        f'{{"nuc": {{"0": {good}}}}}': "positive whole number, found '0'",
        f'{{"nuc": {{"1": {good}': "cut off",
        "{}": "no 'nuc'",
        "[]": "expected '{'",
    }.items():
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"bad\.json.*{message}"):
            read_hovernet(path, 0.5)
    path.write_text('{"cell": []}')
    with pytest.raises(ValueError, match="no 'cells'"):
        read_cellvit(path, 0.5)
    path.write_text(f'{{"cells": [{good}]}}')
    with pytest.raises(ValueError, match="mpp"):
        read_cellvit(path)


@BOTH
def test_types_reach_a_graph_and_its_file(tmp_path, read, write):
    source = solid()
    found = read(write(source, tmp_path / "a.json"))
    slide = open_slide(np.full((200, 200, 3), 90, np.uint8), mpp=0.25)
    graph = build_graph(slide, {"cell": found}, features={"cell": ("shape",)}, mask=None, progress=False)
    cell = load(save(graph, tmp_path / "g.safetensors"))["cell"]
    assert cell.label_names == ["stroma", "tumour"] and cell.label.dtype == torch.int64
    types = dict(zip(source.label.tolist(), source.columns["type"].tolist()))
    names = ["", *cell.label_names]
    assert [names[k + 1] for k in cell.label.tolist()] == [types[i] for i in cell.id.tolist()]
    assert -1 in cell.label.tolist()  # unknown types stay unknown
    window = GraphDataset(tmp_path, node_type="cell", window_um=30.0)
    for piece in (window[k] for k in range(len(window))):
        assert [names[k + 1] for k in piece.label.tolist()] == [types[i] for i in piece.id.tolist()]
    plain = build_graph(
        slide, {"cell": replace(found, columns={})}, features={"cell": ("shape",)}, mask=None, progress=False
    )
    assert "label" not in plain["cell"] and "label_names" not in plain["cell"]


@BOTH
def test_what_cannot_be_written(tmp_path, read, write):
    slide = open_slide(np.full((60, 60, 3), 90, np.uint8), mpp=0.5)
    with pytest.raises(ValueError, match="expected masks"):
        write(patches(slide, 10.0, mask=None), tmp_path / "a.json")
    with pytest.raises(ValueError, match="no number for 'tumour'"):
        write(solid(), tmp_path / "a.json", types={1: "stroma"})
    infinite = solid()
    infinite.columns["type_prob"][2] = np.inf
    with pytest.raises(ValueError, match="JSON has no infinite numbers, found one at label"):
        write(infinite, tmp_path / "a.json")
    with pytest.raises(ValueError, match="every name once"):
        write(solid(), tmp_path / "a.json", types=["stroma", "stroma"])
    assert not list(tmp_path.iterdir())


def test_names_before_numbers_in_the_first_cellvit(tmp_path):
    """Its ``type_map`` is the table of the training data, name to number."""
    cell = {"bbox": [[5, 12], [9, 16]], "centroid": [13.5, 6.5], "contour": CONTOUR, "type": 2}
    value = {
        "wsi_metadata": {"base_mpp": 0.5, "magnification": 20},
        "processed_patches": ["0_0"],
        "type_map": {"Background": 0, "Neoplastic": 1, "Inflammatory": 2},
        "cells": [cell],
    }
    path = tmp_path / "cells.json"
    path.write_text(json.dumps(value))
    assert read_cellvit(path).columns["type"].tolist() == ["Inflammatory"]
    value["type_map"]["Dead"] = 2
    path.write_text(json.dumps(value))
    with pytest.raises(ValueError, match=r"cells\.json: types: two names have one number"):
        read_cellvit(path)
    del cell["contour"]  # cell_detection.json
    del value["type_map"]["Dead"]
    path.write_text(json.dumps(value))
    with pytest.raises(
        ValueError, match=r"cell 1 .*has no contour, as in CellViT's cell_detection\.json; give"
    ):
        read_cellvit(path)

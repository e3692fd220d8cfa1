"""Files of tensors: the same content gives the same bytes, and text of all kinds comes back."""

import torch
from safetensors import safe_open

from histograph.methods import GraphDINO
from histograph.methods.files import read_tensors, write_tensors

TEXT = {
    "note": "ä µm",
    "quoted": 'a "b"\n\\',
    "empty": "",
    "z": "1",
    "a": "2",
    "class": "DINO",
    "config": "{}",
}


def test_the_same_content_gives_the_same_bytes(tmp_path):
    tensors = {"x": torch.ones(3), "y": torch.zeros(2, dtype=torch.float64), "none": torch.zeros(0)}
    found = set()
    for number in range(8):
        write_tensors(tmp_path / f"{number}", tensors, "demo", 1, TEXT)
        found.add((tmp_path / f"{number}").read_bytes())
    assert len(found) == 1


def test_files_of_a_method_are_byte_equal(tmp_path):
    torch.manual_seed(0)
    method = GraphDINO(node_dim=4, dim=8, out_dim=16, head_dim=8, bottleneck_dim=4)
    for number in range(8):
        method.save(tmp_path / f"{number}")
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_text_and_tensors_come_back(tmp_path):
    tensors = {"flag": torch.tensor(True), "half": torch.ones(3, dtype=torch.bfloat16), "n": torch.arange(5)}
    write_tensors(tmp_path / "a", tensors, "demo", 1, TEXT)
    text, back = read_tensors(tmp_path / "a", "demo", 1)
    assert text == {"format": "demo", "version": "1"} | TEXT
    assert set(back) == set(tensors) and all(torch.equal(back[name], tensors[name]) for name in tensors)
    with safe_open(tmp_path / "a", framework="np") as file:  # the library reads it as its own
        assert file.metadata()["note"] == TEXT["note"]


def test_a_file_without_tensors(tmp_path):
    write_tensors(tmp_path / "a", {}, "demo", 1, {})
    assert read_tensors(tmp_path / "a", "demo", 1) == ({"format": "demo", "version": "1"}, {})

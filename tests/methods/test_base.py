import json

import pytest
import torch
from safetensors.torch import save_file

from histograph.methods import HMGDM, Method, load_method
from tests.methods.graphs import graph


@pytest.fixture
def method():
    torch.manual_seed(0)
    method = HMGDM(6, 2, hidden_dim=16, heads=2, target="step", latent_dim=5)
    method.before_epoch(0, [graph()])
    return method


def test_round_trip(method, tmp_path):
    path = tmp_path / "m.safetensors"
    method.save(path)
    again = load_method(path)
    assert again.config == method.config and not again.training
    assert torch.equal(again.encode(graph()).node, method.encode(graph()).node)
    assert bool(again.node_scale.fitted)
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]


def test_truncated_foreign_newer_unknown(method, tmp_path):
    path = tmp_path / "m.safetensors"
    method.save(path)
    content = path.read_bytes()
    for length in (0, 5, len(content) - 10):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match="truncated"):
            load_method(path)
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(ValueError, match="another kind"):
        load_method(path)
    meta = {
        "format": "histograph.method",
        "version": "1",
        "class": "HMGDM",
        "config": json.dumps({"node_dim": 6}),
    }
    save_file({"a": torch.zeros(1)}, path, meta | {"version": "2"})
    with pytest.raises(ValueError, match="update histograph"):
        load_method(path)
    save_file({"a": torch.zeros(1)}, path, meta | {"class": "Other"})
    with pytest.raises(ValueError, match=r"'Other'.*HMGDM"):
        load_method(path)
    save_file({"a": torch.zeros(1)}, path, meta)
    with pytest.raises(ValueError, match="does not fit"):
        load_method(path)
    with pytest.raises(FileNotFoundError, match="no file"):
        load_method(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="folder"):
        method.save(tmp_path / "none" / "m.safetensors")


def test_every_parameter_is_in_one_group_and_biases_do_not_decay(method):
    groups = method.parameter_groups()
    grouped = [id(p) for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in method.parameters())
    assert all(p.dim() == 1 for p in groups[1]["params"]) and groups[1]["weight_decay"] == 0.0


def test_two_methods_of_one_name_are_refused():
    with pytest.raises(ValueError, match="HMGDM exists in"):
        type("HMGDM", (Method,), {"__module__": "elsewhere"})


def test_a_method_must_define_its_steps():
    class Idle(Method):
        pass

    with pytest.raises(TypeError, match="Idle must define forward"):
        Idle({})(graph())
    with pytest.raises(TypeError, match="Idle must define encode"):
        Idle({}).encode(graph())

"""Pieces of a JSON text are what `json.loads` gives, and every cut or fault is named with its place."""

import gzip
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histograph.formats import json_stream
from histograph.formats.json_stream import JsonReader, open_json


class Drops:
    """A file that gives a few bytes at a time, so that every value is cut somewhere."""

    def __init__(self, data, size):
        self._handle, self._size = io.BytesIO(data), size

    def read(self, _):
        return self._handle.read(self._size)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(
    st.dictionaries(st.text(), values, max_size=4),
    st.lists(values, max_size=5),
    st.integers(1, 7),
    st.booleans(),
)
def test_pieces_are_the_whole(head, items, size, ascii_only):
    text = json.dumps({**head, "cells": items}, ensure_ascii=ascii_only, indent=1)
    reader = JsonReader(Drops(text.encode(), size), "x")
    found = {}
    for key in reader.members():
        found[key] = [reader.value() for _ in reader.elements()] if key == "cells" else reader.value()
    reader.end()
    assert found == json.loads(text)


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_every_cut_is_an_error_with_a_place(size):
    text = '{"a": [1.5e3, {"b": "x\\u00e9y"}, true, null],\n "c": []}'
    for length in range(1, len(text)):
        reader = JsonReader(Drops(text[:length].encode(), size), "cut.json")
        with pytest.raises(ValueError, match=r"cut\.json, line \d, character \d+: .*cut off"):
            for _ in reader.members():
                for _ in reader.elements():
                    reader.value()


@pytest.mark.parametrize(
    "text, place",
    [
        ("[1,\n 2,\n x]", "line 3, character 2"),
        ("[1 2]", "line 1, character 4"),
        ("[1,]", "line 1, character 4"),
        ("[1] 2", "line 1, character 5"),
        ("{}", "line 1, character 1"),
        ('[{"a" 1}]' + " " * 40, "line 1, character 7"),
    ],
)
def test_faults_have_a_place(text, place):
    reader = JsonReader(Drops(text.encode(), 2), "bad.json")
    with pytest.raises(ValueError, match=place):
        for _ in reader.elements():
            reader.value()
        reader.end()


def test_a_fault_in_the_middle_does_not_read_the_rest():
    source = io.BytesIO(b'[{"a" 1},' + b" " * (1 << 23) + b"3]")
    reader = JsonReader(source, "bad.json")
    with pytest.raises(ValueError, match="not JSON"):
        for _ in reader.elements():
            reader.value()
    assert source.tell() <= 2 * json_stream.CHUNK_BYTES


def test_deep_nesting_is_refused():
    with pytest.raises(ValueError, match="nested too deeply"):
        JsonReader(io.BytesIO(b"[" * 1_000_00), "deep.json").value()


def test_files(tmp_path):
    text = b'\xef\xbb\xbf{"a": 1}'
    (tmp_path / "plain.json").write_bytes(text)
    (tmp_path / "packed").write_bytes(gzip.compress(text))
    for name in ("plain.json", "packed"):
        with open_json(tmp_path / name) as reader:
            assert reader.value() == {"a": 1}
    (tmp_path / "empty").touch()
    (tmp_path / "blank").write_text(" \n")
    (tmp_path / "latin").write_bytes(b'["\xe9"]')
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"[" + b"1," * 100000)[:60])
    cases = {
        "empty": "is empty",
        "blank": "is empty",
        "latin": "not UTF-8",
        "cut.gz": "compressed file is cut off",
    }
    for name, message in cases.items():
        with pytest.raises(ValueError, match=f"{name}.*{message}"), open_json(tmp_path / name) as reader:
            for _ in reader.elements():
                reader.value()
    with pytest.raises(FileNotFoundError, match="nowhere"), open_json(tmp_path / "nowhere"):
        pass
    with pytest.raises(ValueError, match="folder"), open_json(tmp_path):
        pass

"""Tensors and JSON on disk: they return as they were, and damaged or foreign files are refused."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lafite_shifted.errors import InputError
from lafite_shifted.io.files import (
    check_format,
    load_tensors,
    read_json,
    read_json_lines,
    save_tensors,
    write_json,
    write_json_lines,
)


def test_tensors_and_metadata_return(tmp_path: Path):
    tensors = {"a": torch.arange(6.0).view(2, 3).T, "b": torch.tensor([1, 2])}
    save_tensors(tmp_path / "t.safetensors", tensors, {"kind": "x", "list": [1, {"y": None}]})
    loaded, metadata = load_tensors(tmp_path / "t.safetensors")
    assert metadata == {"kind": "x", "list": [1, {"y": None}]}
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_tensors_return_from_a_name_that_is_not_utf8(tmp_path: Path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.safetensors"))
    save_tensors(path, {"a": torch.arange(3)}, {"kind": "x"})
    tensors, metadata = load_tensors(path)
    assert tensors["a"].tolist() == [0, 1, 2]
    assert metadata == {"kind": "x"}


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 0.999])
def test_truncated_tensors_are_refused(tmp_path: Path, share: float):
    path = tmp_path / "t.safetensors"
    save_tensors(path, {"a": torch.zeros(1000)}, {"kind": "x"})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=r"t\.safetensors is truncated.*again"):
        load_tensors(path)


def test_missing_and_foreign_tensors_are_refused(tmp_path: Path):
    with pytest.raises(InputError, match="does not exist"):
        load_tensors(tmp_path / "none.safetensors")
    safetensors.torch.save_file(
        {"a": torch.zeros(1)}, tmp_path / "foreign.safetensors", {"format": "pt"}
    )
    with pytest.raises(InputError, match="not a safetensors file of ours"):
        load_tensors(tmp_path / "foreign.safetensors")


def test_format_mismatch_says_what_to_do(tmp_path: Path):
    check_format({"kind": "stats", "format": 1}, kind="stats", version=1, path=tmp_path)
    with pytest.raises(InputError, match="holds 'embeddings', not 'stats'"):
        check_format({"kind": "embeddings", "format": 1}, kind="stats", version=1, path=tmp_path)
    with pytest.raises(InputError, match=r"format 2, this version reads 1.*Make it again"):
        check_format({"kind": "stats", "format": 2}, kind="stats", version=1, path=tmp_path)
    with pytest.raises(InputError, match="something else"):
        check_format({}, kind="stats", version=1, path=tmp_path)


@settings(deadline=None, max_examples=40)
@example([{"text": "a\u2028b\x85c\rd"}])
@given(st.lists(st.dictionaries(st.text(), st.text() | st.none() | st.integers())))
def test_json_lines_return(rows: list[dict]):
    """Whatever captions hold: line separators of Unicode do not end a line."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        write_json_lines(path, rows)
        assert read_json_lines(path) == rows
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n\r\n"))
        assert read_json_lines(path) == rows


def test_json_errors_name_file_and_line(tmp_path: Path):
    write_json(tmp_path / "good.json", {"ü": [1, None]})
    assert read_json(tmp_path / "good.json") == {"ü": [1, None]}
    (tmp_path / "bad.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"bad\.json is not valid JSON"):
        read_json(tmp_path / "bad.json")
    with pytest.raises(InputError, match=r"none\.json does not exist"):
        read_json(tmp_path / "none.json")
    (tmp_path / "rows.jsonl").write_text('{"a": 1}\n\n{"a": \n', encoding="utf-8")
    with pytest.raises(InputError, match=r"rows\.jsonl, line 3, is not valid JSON"):
        read_json_lines(tmp_path / "rows.jsonl")
    (tmp_path / "latin.jsonl").write_bytes('"café"\n'.encode("latin-1"))
    with pytest.raises(InputError, match="not UTF-8"):
        read_json_lines(tmp_path / "latin.jsonl")


@pytest.mark.slow
def test_a_million_mutated_bytes_of_a_tensor_file(tmp_path: Path):
    """Either tensors or one message, whatever bytes of the header become."""
    path = tmp_path / "x.safetensors"
    save_tensors(path, {"a": torch.ones(3), "b": torch.zeros(2, 2)}, {"kind": "x", "format": 1})
    original = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    messages, mutated = [], 0
    while mutated < 1_000_000:
        count = int(rng.integers(1, 100))
        content = original.copy()
        content[rng.integers(len(content), size=count)] = rng.integers(256, size=count)
        mutated += count
        path.write_bytes(content.tobytes())
        try:
            load_tensors(path)
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 1000
    assert all(str(path) in message for message in messages)

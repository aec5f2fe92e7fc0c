"""Pickles that are read, and those that are refused: nothing that they name is ever run."""

import io
import os
import pickle
import struct
import subprocess
import warnings
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest
import torch

from lafite_shifted.errors import InputError
from lafite_shifted.legacy.pickle_reader import read_pickle
from tests import snapshots
from tests.snapshots import PLAIN

FLAG = "LAFITE_SHIFTED_PICKLE_WAS_RUN"


class Calls:
    """Unpickled by Python, it calls a function."""

    def __init__(self, function: Any, *arguments: Any):
        self.found = function, arguments

    def __reduce__(self) -> Any:
        return self.found


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def named(module: str, name: str) -> bytes:
    """A stream that begins with a name."""
    return b"\x80\x04" + text(module) + text(name) + b"\x93"


STORAGE = pickle.dumps(torch.arange(6.0))
DTYPES = (
    *(torch.float64, torch.bfloat16, torch.complex64, torch.bool),
    *(torch.uint8, torch.int8, torch.int16, torch.int32),
)
DEEP = b")" + b"\x85" * 300_000  # a tuple in a tuple in a tuple: hashed, it ends the process
LAUGHS = b"K\x01\x85" + b"2\x86" * 60  # DUP, TUPLE2: as text it has 2^60 numbers


def call(module: str, name: str, *arguments: bytes) -> bytes:
    """A stream that calls a name."""
    return named(module, name) + b"(" + b"".join(arguments) + b"tR."


def persistent(class_name: bytes) -> bytes:
    """A stream that makes an object of a class of this name."""
    meta = b"}(" + text("type") + text("class") + text("state") + b"}"
    meta += text("class_name") + class_name + b"u"
    return call("torch_utils.persistence", "_reconstruct_persistent_obj", meta)


def stored(content: bytes) -> bytes:
    """A stream that makes a storage of what torch.save shall have written."""
    length = struct.pack("<I", len(content))
    return call("torch.storage", "_load_from_bytes", b"B" + length + content)


def quantised() -> bytes:
    """A stream that makes a tensor of quantised numbers."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # TypedStorage is deprecated
        storage = torch.TypedStorage(4, dtype=torch.quint8)
        torch.save(storage, file, _use_new_zipfile_serialization=False)
    made = stored(file.getvalue())[2:-1]  # without PROTO and STOP
    return call("torch._utils", "_rebuild_tensor_v2", made, b"K\x00K\x02\x85K\x01\x85\x89N")


MALICIOUS: dict[str, bytes] = {
    "os.system": pickle.dumps(Calls(os.system, f"export {FLAG}=1")),
    "os.putenv": pickle.dumps(Calls(os.putenv, FLAG, "1")),
    "subprocess.Popen": pickle.dumps(Calls(subprocess.Popen, ["true"])),
    "eval": pickle.dumps(Calls(eval, f"__import__('os').environ.update({FLAG}='1')")),
    "exec": pickle.dumps(Calls(exec, f"import os; os.environ['{FLAG}'] = '1'")),
    "compile": pickle.dumps(Calls(compile, "1", "x", "eval")),
    "getattr": pickle.dumps(Calls(getattr, 1, "real")),
    "__import__": pickle.dumps(Calls(__import__, "os")),
    "open": pickle.dumps(Calls(open, "/etc/passwd")),
    "protocol 0": pickle.dumps(Calls(os.putenv, FLAG, "1"), protocol=0),
    "protocol 1": pickle.dumps(Calls(os.putenv, FLAG, "1"), protocol=1),
    "protocol 2": pickle.dumps(Calls(os.putenv, FLAG, "1"), protocol=2),
    "within a list": pickle.dumps([1, [Calls(os.putenv, FLAG, "1")]]),
    "as a key": pickle.dumps({1: Calls(os.putenv, FLAG, "1")}),
    "another pickle": pickle.dumps(Calls(pickle.loads, b"N.")),
    "torch.load": pickle.dumps(Calls(torch.load, "x.pt")),
    "torch.hub": pickle.dumps(Calls(torch.hub.load, "a/b", "c")),
    "numpy array": pickle.dumps(np.zeros(3)),
    "numpy objects": named("numpy", "dtype") + b"(" + text("O8") + b"\x89\x88tR.",
    "our own modules": named("lafite_shifted.io.files", "write_bytes") + b".",
    "name with a dot": named("torch.nn.modules.container", "os.system") + text("x") + b"\x85R.",
    "a module's class with arguments": named("torch.nn.modules.linear", "Linear") + b"K\x01\x85R.",
    "a dtype called": named("torch", "float32") + b")R.",
    "codecs with another codec": named("_codecs", "encode") + text("a") + text("zip") + b"\x86R.",
    "INST": b"\x80\x02(S'true'\nios\nsystem\n.",
    "OBJ": b"\x80\x02(cos\nsystem\nS'true'\no.",
    "persistent id": b"\x80\x02Psomething\n.",
    "binary persistent id": b"\x80\x02Nq\x00Q.",
    "extension": b"\x80\x02\x82\x01.",
    "buffers out of band": b"\x80\x05\x97.",
    "a bytearray": pickle.dumps(bytearray(b"abc"), protocol=5),
    "NEWOBJ_EX": named("torch.nn.modules.linear", "Linear") + b")}\x92.",
    "state for a list": b"\x80\x04]}" + text("a") + b"K\x01sb.",
    "state for a name": named("collections", "OrderedDict") + b"}" + text("a") + b"K\x01sb.",
    "persistent object without a class": named(
        "torch_utils.persistence", "_reconstruct_persistent_obj"
    )
    + b"}"
    + text("type")
    + text("module")
    + b"s\x85R.",
    "a key of many levels": b"\x80\x04})" + b"\x85" * 100_000 + b"K\x01s.",
    "a set of many levels": b"\x80\x04\x8f()" + b"\x85" * 100_000 + b"\x90.",
    "tensor beyond its storage": STORAGE.replace(b"K\x06\x85", b"K\x07\x85"),
    "tensor of 10^12 numbers in one": STORAGE.replace(
        b"K\x06\x85", b"\x8a\x06" + (10**12).to_bytes(6, "little") + b"\x85"
    ).replace(b"K\x01\x85", b"K\x00\x85"),
    "tensor with negative steps": STORAGE.replace(b"K\x01\x85", b"J\xff\xff\xff\xff\x85"),
    "a storage that is a pickle": named("torch.storage", "_load_from_bytes")
    + b"C\x60"
    + pickle.dumps(Calls(os.putenv, FLAG, "1")).ljust(96, b".")
    + b"\x85R.",
}
DAMAGED: dict[str, bytes] = {
    "nothing": b"",
    "text": b"<!DOCTYPE html>\n<html></html>",
    "a PNG": b"\x89PNG\r\n\x1a\n" + bytes(100),
    "cut short": snapshots.snapshot(snapshots.random_state(PLAIN))[:-100],
    "cut in a tensor": STORAGE[: len(STORAGE) // 2],
    "only a stop": b"\x80\x02.",
    "a mark as the result": b"\x80\x02(.",
    "pop of nothing": b"\x80\x020.",
    "no mark": b"\x80\x04t.",
    "a memo that is not there": b"\x80\x02h\x07.",
    "a key without a value": b"\x80\x04}(K\x01u.",
    "a list as a key": b"\x80\x04}]K\x01s.",
    "items for a number": b"\x80\x04K\x01K\x02K\x03s.",
    "a string of 2^62 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"abc.",
    "bytes of 2^62 bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"abc.",
    "a memo place of 2^31": b"\x80\x04Nr\xff\xff\xff\x7fj\xff\xff\xff\x7e.",
    "an integer of 2^31 bytes": b"\x80\x04\x8b\xff\xff\xff\x7f1.",
    "bad UTF-8": b"\x80\x04\x8c\x02\xff\xff.",
    "protocol 77": b"\x80\x4dN.",
    "a storage of nothing": named("torch.storage", "_load_from_bytes") + b"C\x00\x85R.",
    "a dtype of many levels": call("numpy", "dtype", DEEP),
    "a dtype without end": call("numpy", "dtype", LAUGHS),
    "a device without end": call("torch", "device", LAUGHS),
    "a class's name without end": persistent(LAUGHS),
    "a class's name of many levels": persistent(DEEP),
    "a codec without end": call("_codecs", "encode", text("a"), LAUGHS),
    "a persistent number": call("torch_utils.persistence", "_reconstruct_persistent_obj", b"K\x01"),
    "a persistent list": call("torch_utils.persistence", "_reconstruct_persistent_obj", b"]"),
    "a number as bytes": call("_codecs", "encode", b"K\x01"),
    "pairs of a number": call("collections", "OrderedDict", b"K\x01"),
    "a tensor without a storage": call(
        "torch._utils", "_rebuild_tensor_v2", b"K\x01K\x00K\x01\x85K\x01\x85\x89N"
    ),
    "a tensor of 70 dimensions": STORAGE.replace(b"K\x06\x85", b"(" + b"K\x01" * 70 + b"t").replace(
        b"K\x01\x85", b"(" + b"K\x01" * 70 + b"t"
    ),
    "quantised numbers": quantised(),
    "a storage with a key of many levels": stored(b"\x80\x02}" + DEEP + b"K\x01s."),
    "a storage of many operations": stored(b"\x80\x02" + DEEP + b"."),
    "a storage that is cut short": STORAGE.replace(b"\x06\0\0\0\0\0\0\0", b"\x07\0\0\0\0\0\0\0"),
    "too many arguments": named("torch.storage", "_load_from_bytes") + b"NN\x86R.",
}


@pytest.mark.parametrize("content", MALICIOUS.values(), ids=MALICIOUS.keys())
def test_malicious(content: bytes):
    with pytest.raises(InputError) as error:
        read_pickle(content)
    assert "\n" not in str(error.value)
    assert FLAG not in os.environ


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damaged(content: bytes):
    with pytest.raises(InputError) as error:
        read_pickle(content)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 300


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        ("torch", "Size", b"(" + 100_000 * b"K\x01" + b"l"),
        ("_codecs", "encode", b"X" + struct.pack("<I", 2**20) + bytes(2**20)),
    ],
)
def test_a_small_file_does_not_become_a_large_one(module: str, name: str, value: bytes):
    """Each call copies what it is given, and all are kept."""
    once = b"h\x01h\x00" + (b"\x85R" if name == "Size" else text("latin1") + b"\x86R")
    content = b"\x80\x04" + value + b"\x94" + text(module) + text(name) + b"\x93\x94"
    assert read_pickle(content + once + b".") is not None
    with pytest.raises(InputError, match="builds more than it holds"):
        read_pickle(content + 2000 * once + b".")


def test_containers_without_end_are_refused_soon():
    with pytest.raises(InputError, match="more than 1000000 operations"):
        read_pickle(b"\x80\x04" + 1_100_000 * b"]" + b".")


@pytest.mark.parametrize("name", ["nothing", "text", "a PNG"])
def test_what_is_no_pickle(name: str):
    with pytest.raises(InputError, match="it is no pickle"):
        read_pickle(DAMAGED[name])
    with pytest.raises(InputError, match="it is no pickle"):
        read_pickle(MALICIOUS["protocol 0"])


def test_python_would_have_run_them():
    """The test's own power: these streams are no invalid ones."""
    assert pickle.loads(MALICIOUS["getattr"]) == 1
    assert pickle.loads(MALICIOUS["compile"]) is not None


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numbers_containers_and_tensors(protocol: int):
    values = {
        "a": [1, -(2**70), 1.5, True, None, "text", b"\x00\xff", (), (1,), (1, 2, 3, 4)],
        "b": OrderedDict(x={1, 2}, y={"z": []}),
        "c": [np.float32(0.25), np.int64(-3), np.float64(1e300), np.bool_(True)],
    }
    assert read_pickle(pickle.dumps(values, protocol=protocol)) == values
    tensors = [
        torch.arange(12.0).view(3, 4).T,
        torch.nn.Parameter(torch.ones(2, dtype=torch.float16)),
        torch.tensor(7),
        torch.zeros(0, 3),
        *(torch.arange(3).to(dtype) for dtype in DTYPES),
    ]
    for found, expected in zip(
        read_pickle(pickle.dumps(tensors, protocol=protocol)), tensors, strict=True
    ):
        assert found.dtype == expected.dtype
        assert torch.equal(found, expected)


def test_shared_values_stay_one():
    shared = [1]
    found = read_pickle(pickle.dumps([shared, shared]))
    assert found[0] is found[1]


@pytest.mark.slow
def test_a_million_mutated_bytes():
    """Either a value or one message, whatever bytes of a snapshot become."""
    original = snapshots.snapshot(snapshots.random_state(PLAIN, resolution=8, channel_max=4))
    rng = np.random.default_rng(0)
    messages, mutated = [], 0
    while mutated < 1_000_000:
        count = int(rng.integers(1, 200))
        content = np.frombuffer(original, np.uint8).copy()
        content[rng.integers(len(content), size=count)] = rng.integers(256, size=count)
        mutated += count
        try:
            read_pickle(content.tobytes())
        except InputError as error:
            messages.append(str(error))
    assert len(messages) > 1000
    assert not any("\n" in message for message in messages)
    assert isinstance(read_pickle(original), dict)

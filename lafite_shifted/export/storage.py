"""Weights of an ONNX graph in float16 or int8, computed with in float32: what is stored is cast,
and scaled, by nodes that a runtime folds when it loads the file.

int8: blocks of 32 neighbours with a scale each, symmetric (arXiv:2110.02861, section 2.1, takes
larger ones). Shape letters: B blocks.
"""

from typing import Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Storage = Literal["float32", "float16", "int8"]
BLOCK = 32  # weights that share a scale
LEAST = 4096  # weights of a tensor; smaller ones stay as they are: they are few
OPSET = 18  # of ONNX: the operators that the graphs are made of


def store(model: onnx.ModelProto, storage: Storage) -> onnx.ModelProto:
    """A copy with its large float32 tensors stored so; those that float16 or blocks do not fit stay
    float16 or float32.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    if storage == "float32":
        return made
    kept, nodes = [], []
    for tensor in made.graph.initializer:
        values = _large_values(tensor)
        if values is None:
            kept.append(tensor)
        elif storage == "int8" and values.size % BLOCK == 0:
            _add_blocks(tensor.name, values, kept, nodes)
        else:
            name = f"{tensor.name}.float16"
            kept.append(numpy_helper.from_array(values.astype(np.float16), name))
            nodes.append(helper.make_node("Cast", [name], [tensor.name], to=TensorProto.FLOAT))
    nodes += list(made.graph.node)
    del made.graph.initializer[:], made.graph.node[:]
    made.graph.initializer.extend(kept)
    made.graph.node.extend(nodes)
    return made


def _large_values(tensor: TensorProto) -> np.ndarray | None:
    if tensor.data_type != TensorProto.FLOAT or np.prod(tensor.dims) < LEAST:
        return None
    values = numpy_helper.to_array(tensor)
    fits = values.ndim >= 2 and np.abs(values).max() <= np.finfo(np.float16).max
    return values if fits else None


def _add_blocks(name: str, values: np.ndarray, kept: list, nodes: list) -> None:
    blocks = values.reshape(-1, BLOCK)  # [B, 32]
    scale = (np.abs(blocks).max(axis=1, keepdims=True) / 127).astype(np.float32)
    levels = np.rint(blocks / np.where(scale == 0, 1, scale)).astype(np.int8)
    shape = np.array(values.shape, dtype=np.int64)
    parts = {"int8": levels, "scale": scale, "shape": shape}
    kept += [numpy_helper.from_array(part, f"{name}.{kind}") for kind, part in parts.items()]
    nodes += [
        helper.make_node("Cast", [f"{name}.int8"], [f"{name}.levels"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}.levels", f"{name}.scale"], [f"{name}.blocks"]),
        helper.make_node("Reshape", [f"{name}.blocks", f"{name}.shape"], [name]),
    ]

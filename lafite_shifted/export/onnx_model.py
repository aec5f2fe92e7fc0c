"""A part of a model as an ONNX graph.

torch.onnx with dynamo: the older exporter knows no RMS norm, and PyTorch is about to drop it.
"""

import logging
import warnings

import onnx
import torch

from lafite_shifted.errors import InputError
from lafite_shifted.export.parts import Part
from lafite_shifted.export.storage import OPSET

LARGEST = 2**31 - 2**20  # bytes of an ONNX file: protobuf's limit


def to_onnx(name: str, part: Part) -> onnx.ModelProto:
    """In float32, for every batch size."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch's own deprecations
            made = torch.onnx.export(
                part.program(),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(part.inputs),
                output_names=list(part.outputs),
                verbose=False,
            )
    finally:
        log.setLevel(level)
    assert made is not None
    model = made.model_proto
    for node in model.graph.node:  # where in our files each came from: half of a small graph
        del node.metadata_props[:]
        node.doc_string = ""
    del model.graph.value_info[:]
    model.producer_name, model.graph.name = "lafite_shifted", name
    return model


def content_of(name: str, model: onnx.ModelProto) -> bytes:
    """The file; InputError where it would be too large for one."""
    if model.ByteSize() > LARGEST:
        raise InputError(
            f"The {name} part has {model.ByteSize() / 2**30:.1f} GiB, an ONNX file holds 2. Give "
            "--dtype float16 or int8."
        )
    return model.SerializeToString(deterministic=True)

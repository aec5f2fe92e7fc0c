"""An export folder: the files of the parts, the tokenizer and a manifest that says how they go
together.

    manifest.json   parts with their files, shapes and hashes; sampler; keys of the random numbers
    tokenizer.json  as the package `tokenizers` reads it
    text, prior, generator  .onnx or .pt2
    generate.py     beside ONNX: a program that needs no PyTorch
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lafite_shifted import __version__
from lafite_shifted.errors import InputError
from lafite_shifted.export.parts import Part
from lafite_shifted.export.tokenizer import byte_pair_tokenizer, tokenizer_json
from lafite_shifted.io.files import atomic_directory, sha256_of, write_bytes, write_json
from lafite_shifted.pipeline import TextToImage
from torch_utils.seeds import Key, seed_of

FORMAT = 1
SEEDS = (
    "Image i of a sentence has seed + i. A row of noise, or z, is the first numbers of Philox "
    "4x32-10 with the 64 bits of philox_key as key, and the counter (block, seed): words 0 and 1 "
    "are the block's number, words 2 and 3 the seed; every two words (a, b) give r cos(v) and "
    "r sin(v), r = sqrt(-2 log((a + 1/2) / 2^32)), v = pi b / 2^31, b signed."
)


def check_free(out: Path) -> None:
    """InputError where `out` exists."""
    if out.exists():
        raise InputError(f"{out} exists already. Choose another --out, or delete it first.")


def philox_stream(key: Key) -> dict[str, Any]:
    """What the manifest says of a stream of random numbers; 64 bits are no JavaScript number."""
    return {"key": list(key), "philox_key": str(seed_of(*key))}


def describe(model: TextToImage, parts: Mapping[str, Part], *, kind: str) -> dict[str, Any]:
    """A manifest without files."""
    network, clip = model.generator.network, model.clip
    described: dict[str, Any] = {}
    for name, part in parts.items():
        record = dict(part.record)
        if "noise" in record:
            record["noise"] = [philox_stream(key) for key in record["noise"]]
        if name == "generator":
            record["z"] = philox_stream(("z",))
        inputs = [
            {"name": key, "dtype": str(value.dtype).removeprefix("torch."),
             "shape": ["batch", *value.shape[1:]]}
            for key, value in part.inputs.items()
        ]  # fmt: skip
        described[name] = {"inputs": inputs, "outputs": list(part.outputs), **record}
    return {
        "kind": kind,
        "format": FORMAT,
        "program": f"lafite_shifted {__version__}",
        "model": model.hash,
        "encoder": clip.id.to_json(),
        "resolution": network.config.resolution,
        "context_length": clip.context_length,
        "seeds": SEEDS,
        "parts": described,
    }


def tokenizer_file(model: TextToImage) -> bytes:
    """tokenizer.json; InputError for a CLIP with another kind of tokenizer, or a prior that takes
    another text encoder.
    """
    if model.text_encoder is not None:
        raise InputError(
            f"The prior takes token states of {model.text_encoder.id.model}, which is not "
            "exported. Export a model whose prior takes those of its CLIP."
        )
    tokenizer = byte_pair_tokenizer(model.clip)
    found = tokenizer_json(tokenizer, context_length=model.clip.context_length)
    return json.dumps(found, ensure_ascii=False, separators=(",", ":")).encode()


def write_folder(
    out: Path,
    manifest: dict[str, Any],
    files: Mapping[str, Callable[[Path], None] | bytes],
    extra: Mapping[str, bytes],
) -> None:
    """Write all, whole or not at all; `files` are those of the parts, or what writes them. Their
    sizes and hashes join the manifest.
    """
    with atomic_directory(out) as folder:
        for name, content in files.items():
            if isinstance(content, bytes):
                write_bytes(folder / name, content)
            else:
                content(folder / name)
        for name, content in extra.items():
            write_bytes(folder / name, content)
        for part in manifest["parts"].values():
            content = (folder / part["file"]).read_bytes()
            part |= {"bytes": len(content), "sha256": sha256_of(content)}
        write_json(folder / "manifest.json", manifest)

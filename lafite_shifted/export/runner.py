"""Makes images from sentences with an exported model, without PyTorch and without lafite_shifted:
numpy, onnxruntime and tokenizers do. `export onnx` puts this file beside the model.

    python generate.py "a red heart" --seed 0 --num-images 4 --out images

The same seed gives the image that `lafite-shifted generate` makes.

Shape letters: N images, L tokens, D embedding, K noises, Z latent, R resolution.
"""

import argparse
import hashlib
import html
import json
import os
import re
import struct
import sys
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn
from unicodedata import normalize

import numpy as np
import onnxruntime
from onnxruntime.capi import onnxruntime_pybind11_state as failures  # type: ignore[attr-defined]
from tokenizers import Tokenizer

Array = np.ndarray
DAMAGED = (  # of JSON and tokenizers, and onnxruntime's own, which have no type in common
    *(ValueError, LookupError, TypeError, AttributeError, RuntimeError),
    *(failures.Fail, failures.InvalidArgument),
    *(failures.InvalidGraph, failures.InvalidProtobuf),
    *(failures.NotImplemented, failures.RuntimeException),
)


class Problem(Exception):
    """What cannot be done, in one line."""


def philox(indices: Sequence[int], count: int, *, key: int) -> Array:
    """Standard normal [N, count] float32: row i depends on `key` and `indices[i]` alone. Philox
    4x32-10 (Salmon et al., SC 2011), then pairs of Box and Muller.
    """
    low, shift = np.uint64(0xFFFFFFFF), np.uint64(32)
    blocks = np.arange(-(-count // 4), dtype=np.uint64)[None]
    rows = np.array([index % 2**64 for index in indices], dtype=np.uint64)[:, None]
    shape = np.broadcast_shapes(blocks.shape, rows.shape)
    c = [np.broadcast_to(x, shape) for x in (blocks, blocks >> shift, rows & low, rows >> shift)]
    keys = [key & 0xFFFFFFFF, key >> 32]
    for _ in range(10):
        a, b = c[0] * np.uint64(0xD2511F53), c[2] * np.uint64(0xCD9E8D57)
        k = [np.uint64(part) for part in keys]
        c = [(b >> shift) ^ c[1] ^ k[0], b & low, (a >> shift) ^ c[3] ^ k[1], a & low]
        keys = [(keys[0] + 0x9E3779B9) & 0xFFFFFFFF, (keys[1] + 0xBB67AE85) & 0xFFFFFFFF]
    x = np.stack(c, axis=2).astype(np.uint32)  # [N, count / 4, 4]
    uniform = (x[:, :, 0::2].astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)
    radius = np.sqrt(-2 * np.log(uniform))
    angle = x[:, :, 1::2].view(np.int32).astype(np.float32) * np.float32(np.pi * 2.0**-31)
    pairs = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=3)
    return pairs.reshape(len(rows), -1)[:, :count]


def loaded(name: str, read: Callable[[str], bytes], make: Callable[[bytes], Any]) -> Any:
    """What `make` makes of the file `name`; Problem if that is missing or damaged."""
    try:
        return make(read(name))
    except OSError as error:
        reason = f"{name} cannot be read: {error.strerror}"
        raise Problem(f"{reason}. Copy the folder again, or export it again.") from error
    except DAMAGED as error:
        raise Problem(f"{name} is damaged. Copy the folder again, or export it again.") from error


def _manifest(content: bytes) -> dict[str, Any]:
    manifest = json.loads(content)
    files = {name: part["file"] for name, part in manifest["parts"].items()}
    if not {"text", "generator"} <= files.keys():
        raise ValueError("a part is missing")
    return manifest


class Model:
    """An exported model. `read` gives the bytes of its files by name; Problem if one is missing or
    damaged.
    """

    def __init__(self, read: Callable[[str], bytes], *, threads: int = 0):
        self.manifest: dict[str, Any] = loaded("manifest.json", read, _manifest)
        self.tokenizer = loaded("tokenizer.json", read, Tokenizer.from_buffer)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads  # 0: as many as there are cores
        options.log_severity_level = 3
        providers = onnxruntime.get_available_providers()
        session = partial(onnxruntime.InferenceSession, sess_options=options, providers=providers)
        self.sessions = {
            name: loaded(part["file"], read, session)
            for name, part in self.manifest["parts"].items()
        }

    def encode(self, text: str) -> list[Array]:
        """Embedding [1, D], states [1, L, F] and length [1] of a sentence."""
        text = re.sub("[\ud800-\udfff\0]", "\ufffd", text)  # no characters
        text = re.sub("[\uff01-\uffef]+", lambda wide: normalize("NFKC", wide[0]), text)
        cleaned = html.unescape(html.unescape(text))
        ids = np.array([self.tokenizer.encode(cleaned).ids], dtype=np.int64)
        return [np.asarray(value) for value in self.sessions["text"].run(None, {"ids": ids})]

    def embed(
        self, text: str, seeds: Sequence[int], *, guidance: float = 1.0, negative: str | None = None
    ) -> Array:
        """Image embeddings [N, D] of the seeds; without a prior the text embedding."""
        own = self.encode(text)
        if "prior" not in self.sessions:
            return own[0].repeat(len(seeds), axis=0)
        away = [x * 0 for x in own] if negative is None else self.encode(negative)
        part = self.manifest["parts"]["prior"]
        keys = [int(noise["philox_key"]) for noise in part["noise"]]
        noise = np.stack([philox(seeds, own[0].shape[1], key=key) for key in keys], axis=1)
        given = [x.repeat(len(seeds), axis=0) for x in (*own, *away)]
        given += [noise, np.full(len(seeds), guidance, dtype=np.float32)]
        return self._run("prior", given)

    def render(self, embedding: Array, seeds: Sequence[int], *, truncation: float = 1.0) -> Array:
        """Images [N, 3, R, R], about [-1, 1], of image embeddings [N, D]."""
        part = self.manifest["parts"]["generator"]
        key, dim = int(part["z"]["philox_key"]), part["inputs"][1]["shape"][1]
        z = philox(seeds, dim, key=key)
        return self._run("generator", [embedding, z, np.full(len(z), truncation, dtype=np.float32)])

    def images(self, text: str, seeds: Sequence[int], *, truncation: float = 1.0, **how) -> Array:
        """[N, R, R, 3] uint8; `how` as in `embed`."""
        images = self.render(self.embed(text, seeds, **how), seeds, truncation=truncation)
        levels = np.clip(np.rint(images * np.float32(127.5) + np.float32(127.5)), 0, 255)
        return levels.astype(np.uint8).transpose(0, 2, 3, 1)

    def _run(self, name: str, given: list[Array]) -> Array:
        names = [row["name"] for row in self.manifest["parts"][name]["inputs"]]
        return np.asarray(self.sessions[name].run(None, dict(zip(names, given, strict=True)))[0])


def png(image: Array, metadata: dict[str, str]) -> bytes:
    """A PNG of [H, W, 3] uint8 that says how it was made, as those of `lafite-shifted` do."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    height, width, _ = image.shape
    rows = b"".join(b"\0" + row.tobytes() for row in image)
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [chunk(b"IHDR", header), chunk(b"tEXt", b"Software\0lafite-shifted")]
    for key, value in metadata.items():
        content = f"{key}\0\0\0\0\0{value}".encode(errors="replace")
        parts.append(chunk(b"iTXt", content))
    parts += [chunk(b"IDAT", zlib.compress(rows, 9)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def slug(text: str) -> str:
    """A file name for a sentence: its first words, and a digest unless they say it all. The same
    that `lafite-shifted generate` gives.
    """
    plain = re.sub(r"[^\w]+", "-", text.lower()).strip("-")[:40].strip("-")
    if plain.replace("-", " ") == text:
        return plain
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
    return f"{plain or 'text'}-{digest[:12]}"


def write(path: Path, content: bytes) -> None:
    """Write a file that is either whole or absent."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def finite(text: str) -> float:
    """A number that is neither infinite nor none at all."""
    with suppress(ValueError):
        if abs(number := float(text)) < 1e30:  # of float32
            return number
    raise argparse.ArgumentTypeError(f"{text} is no finite number")


class Parser(argparse.ArgumentParser):
    """One whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """What argparse calls for a flag that it does not know, and the like."""
        raise Problem(f"{message}. See --help.")


def arguments() -> argparse.Namespace:
    """The command line's, checked."""
    parser = Parser(description="Images from sentences, without PyTorch.")
    text = "a sentence, such as 'a red heart'"
    parser.add_argument("texts", nargs="+", metavar="TEXT", help=text)
    parser.add_argument("--seed", type=int, default=0, help="image i uses seed + i (default: 0)")
    parser.add_argument("--num-images", type=int, default=1, help="of each sentence (default: 1)")
    strength = "strength of the sentence (default: 1, which is none; 2 with --negative)"
    parser.add_argument("--guidance", type=finite, help=strength)
    parser.add_argument("--negative", help="what images must not show (default: nothing)")
    truncation = "below 1: more usual images, less variety (default: 1)"
    parser.add_argument("--truncation", type=finite, default=1.0, help=truncation)
    out = "folder of the PNGs, which is made (default: images)"
    parser.add_argument("--out", type=Path, default=Path("images"), help=out)
    given = parser.parse_args()
    if given.num_images < 1:
        raise Problem(f"--num-images is {given.num_images}. Give at least 1.")
    if not all(text.strip() for text in given.texts):
        raise Problem("a sentence is empty. Give one such as 'a red heart'.")
    return given


def run() -> str:
    """What the command line asks for; gives what it has done in words."""
    given = arguments()
    folder = Path(__file__).parent
    model = Model(lambda name: (folder / name).read_bytes())
    if given.negative is not None and "prior" not in model.sessions:
        raise Problem("--negative acts through the prior, and this model has none. Leave it out.")
    usual = 1.0 if given.negative is None else 2.0
    guidance = usual if given.guidance is None else given.guidance
    if given.negative is not None and guidance == 1:
        raise Problem(
            "--negative acts through --guidance, and 1 is none. Give one above, such as 2."
        )
    seeds = range(given.seed, given.seed + given.num_images)
    how = {"guidance": guidance, "negative": given.negative, "truncation": given.truncation}
    record = {"model": str(model.manifest["model"]), "settings": json.dumps(how)}
    texts = list(dict.fromkeys(given.texts))
    try:
        given.out.mkdir(parents=True, exist_ok=True)
        for text in texts:
            images = model.images(text, seeds, **how)
            for seed, image in zip(seeds, images, strict=True):
                content = png(image, {"prompt": text, "seed": str(seed)} | record)
                write(given.out / f"{slug(text)}-{seed:04d}.png", content)
    except OSError as error:
        raise Problem(f"--out {given.out} cannot be written: {error.strerror or error}.") from error
    count = len(texts) * len(seeds)
    return f"{count} {'image' if count == 1 else 'images'} in {given.out}"


def main() -> None:
    """The command line. What cannot be done is one line, and the exit code 2."""
    try:
        said = run()
    except Problem as problem:
        sys.stderr.write(f"generate.py: {problem}\n")
        sys.exit(2)
    sys.stdout.write(f"{said}\n")


if __name__ == "__main__":
    main()

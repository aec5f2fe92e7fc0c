"""Made-up embeddings in a narrow cone, as large CLIPs make them, with texts that belong to them: a
case that can be sampled without end, on which priors are compared.

K names have means m_k around one direction mu; an embedding is z = normalise(m_k + S_k^{1/2} n),
the eigenvalues of both covariances falling as 1 / i. A text lies in another cone, around another
direction, and deviates from it as its m_k does, up to noise. Shape letters: K names, N pairs, D
embedding, F width of a token.
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lafite_shifted.encoders.encoder_id import EncoderBlock, EncoderId
from lafite_shifted.io.files import save_tensors, write_json_lines
from torch_utils import seeds
from training.data.embeddings.embedding_set import FORMAT

DIM = 128
TOKEN_WIDTH = 64
NUM_TOKENS = 4
NORM_OF_MEAN = 0.7
BETWEEN = 0.6  # share of the variance that lies between names, the rest within
TEXT_NOISE = 0.3  # of a text's deviation, against its size
PAIRS_PER_NAME = 8
ROWS_PER_SHARD = 8192


def write_cone(folder: Path, *, num_names: int, seed: int = 0) -> None:
    """Write embeddings of `num_names` names, PAIRS_PER_NAME images each, as `embed` would.

    The cone is the same for every seed; names and embeddings are others.
    """
    basis = torch.linalg.qr(_normal("basis", DIM, DIM)).Q
    spectrum = 1 / torch.arange(1, DIM + 1, dtype=torch.float64)
    spectrum *= (1 - NORM_OF_MEAN**2) / spectrum.sum()
    root = basis * spectrum.sqrt()  # [D, D]: x = root u has the spectrum
    mean = F.normalize(_normal("mean", DIM), dim=0) * NORM_OF_MEAN
    latent = _normal("names", num_names, DIM, seed=seed)  # u_k
    widths = 0.5 + _uniform("widths", num_names, seed=seed)  # S_k = widths_k S
    k = torch.arange(num_names).repeat(PAIRS_PER_NAME)
    noise = _normal("images", len(k), DIM, seed=seed) * widths[k, None].sqrt()
    deviation = (math.sqrt(BETWEEN) * latent[k] + math.sqrt(1 - BETWEEN) * noise) @ root.T
    image = F.normalize(mean + deviation, dim=1)
    text, tokens = _texts(latent, basis, seed=seed)
    names = [_name(number) for number in range(num_names)]
    _write(folder, image, text[k], tokens[k], [names[number] for number in k.tolist()])


def _texts(latent: Tensor, basis: Tensor, *, seed: int) -> tuple[Tensor, Tensor]:
    """Unit text embeddings [K, D] and token states [K, NUM_TOKENS, F]."""
    num_names = len(latent)
    falling = torch.arange(1, DIM + 1, dtype=torch.float64).rsqrt()
    known = latent + TEXT_NOISE * _normal("text noise", num_names, DIM, seed=seed)
    direction = F.normalize(_normal("text mean", DIM), dim=0)
    deviation = F.normalize((known * falling) @ basis.T, dim=1)
    text = F.normalize(direction + deviation, dim=1)
    mixing = _normal("tokens", NUM_TOKENS, DIM, TOKEN_WIDTH) / math.sqrt(DIM)
    return text, torch.einsum("kd,tdf->ktf", known, mixing)


def _write(folder: Path, image: Tensor, text: Tensor, tokens: Tensor, names: list[str]) -> None:
    encoder = EncoderId((EncoderBlock("narrow cone", "made up", "none", DIM),))
    metadata = {"kind": "embeddings", "format": FORMAT, "encoder": encoder.to_json()}
    rows = []
    for number, start in enumerate(range(0, len(names), ROWS_PER_SHARD)):
        part = slice(start, min(start + ROWS_PER_SHARD, len(names)))
        count = part.stop - start
        shard = f"shard-{number:05d}.safetensors"
        tensors = {
            "image": image[part].half(),
            "text": text[part].half(),
            "caption_image": torch.arange(count),
            "text_tokens": tokens[part].flatten(0, 1).half(),
            "text_offsets": torch.arange(count + 1) * NUM_TOKENS,
        }
        save_tensors(folder / shard, tensors, metadata | {"context_length": NUM_TOKENS})
        for row, name in enumerate(names[part]):
            record = {"file_name": f"{start + row:07d}", "size": 0, "mtime_ns": 0, "shard": shard}
            record |= {"sha256": f"{start + row:07d}", "captions": [name], "split_key": name}
            rows.append(record | {"row": row})
    write_json_lines(folder / "index.jsonl", rows)


def _name(number: int) -> str:
    """A word of letters, another for every number."""
    letters = []
    for _ in range(5):
        number, letter = divmod(number, 26)
        letters.append(chr(ord("a") + letter))
    return "".join(letters)


def _normal(what: str, *shape: int, seed: int = 0) -> Tensor:
    generator: np.random.Generator = seeds.numpy_generator("cone", what, seed)
    return torch.from_numpy(generator.normal(size=shape))


def _uniform(what: str, *shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(seeds.numpy_generator("cone", what, seed).uniform(size=shape))

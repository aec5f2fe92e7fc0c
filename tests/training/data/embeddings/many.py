"""Embeddings of very many images, of which little is on disk: all shards are one file, by many
names. `python -m tests.training.data.embeddings.many FOLDER COUNT` writes them and says what
trainings on them hold.
"""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from lafite_shifted.encoders.encoder_id import EncoderBlock, EncoderId
from lafite_shifted.io.files import save_tensors
from training.data.embeddings.embedding_set import FORMAT, EmbeddingSet

DIM, WIDTH, TOKENS = 512, 64, 8
SHARD = 4096  # images


def write_many(folder: Path, *, num_images: int) -> None:
    """An index of its own for each image, with a caption."""
    encoder = EncoderId((EncoderBlock("many", "made up", "none", DIM),))
    metadata = {"kind": "embeddings", "format": FORMAT, "encoder": encoder.to_json()}
    tensors = {
        "image": torch.randn(SHARD, DIM).half(),
        "text": torch.randn(SHARD, DIM).half(),
        "caption_image": torch.arange(SHARD),
        "text_tokens": torch.randn(SHARD * TOKENS, WIDTH).half(),
        "text_offsets": torch.arange(SHARD + 1) * TOKENS,
    }
    first = folder / "shard-00000.safetensors"
    save_tensors(first, tensors, metadata | {"context_length": TOKENS})
    with (folder / "index.jsonl").open("w", encoding="utf-8") as file:
        for start in range(0, num_images, SHARD):
            shard = f"shard-{start // SHARD:05d}.safetensors"
            if start:
                os.link(first, folder / shard)
            for row in range(min(SHARD, num_images - start)):
                name = f"{start + row:09d}"
                record = {"file_name": f"{shard[:11]}.tar/{name}.jpg", "size": 0, "mtime_ns": 0}
                record |= {"sha256": f"{name:>064}", "captions": [f"a photograph of {name}"]}
                record |= {"shard": shard, "row": row, "split_key": name}
                file.write(json.dumps(record) + "\n")


def _train_gan(folder: Path) -> None:
    """What a training takes of them: statistics, and the conditions of some batches."""
    from lafite_shifted.gaussian.stats import EmbeddingStats
    from tests.training.gan.trainers import SMALL
    from training.data.files.image_files import UnreadableImageError
    from training.gan.batch import BatchSampler
    from training.gan.data import load_gan_data

    class Nothing:
        where = "nowhere"

        def read(self, name: str) -> bytes:
            raise UnreadableImageError(name)

    data = load_gan_data(
        Nothing(),  # type: ignore[arg-type]
        EmbeddingSet(folder),
        resolution=16,
        hold_out=True,
        cache_gib=0.0,
    )
    stats = EmbeddingStats.of(data.embeddings, data.encoder_id)
    config = dataclasses.replace(SMALL, caption_share=0.5, mismatch_weight=1.0)
    sampler = BatchSampler(config, data, stats, num_noise=16, device=torch.device("cpu"))
    for step in range(50):
        positions = range(step * config.batch, (step + 1) * config.batch)
        found = sampler._conditions_of(sampler._rows(positions), positions)
        assert found["h"].shape == (config.batch, DIM)
    assert data.images.names[5].endswith(".jpg")


def _train_prior(folder: Path) -> None:
    from tests.commands import TINY_PRIOR
    from training.prior.presets import PRIOR_PRESETS
    from training.prior.run import open_prior_run, prior_config

    flags = itertools.pairwise(TINY_PRIOR)
    sets = [value for name, value in flags if name == "--set"]
    config = prior_config(PRIOR_PRESETS["tiny"], batch=64, assignments=sets)
    cpu = torch.device("cpu")
    trainer, _ = open_prior_run(config, EmbeddingSet(folder), folder / "run", device=cpu)
    for step in range(10):
        trainer.step(step * 64)


def measure(folder: Path, what: str) -> float:
    """Bytes that a training on them holds at most, beyond what the same of a hundred takes."""
    train = {"gan": _train_gan, "prior": _train_prior}[what]
    small = folder / "few"
    if not small.exists():
        small.mkdir()
        write_many(small, num_images=100)
    train(small)
    before = _peak()
    train(folder)
    return _peak() - before


def _peak() -> float:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return float(line.split()[1]) * 1024


if __name__ == "__main__":
    target = Path(sys.argv[1])
    if not (target / "index.jsonl").exists():
        target.mkdir(parents=True, exist_ok=True)
        write_many(target, num_images=int(sys.argv[2]))
    if len(sys.argv) > 3:
        held = measure(target, sys.argv[3])
        print(f"{sys.argv[3]}: {held / 2**20:.0f} MiB more, {_peak() / 2**20:.0f} MiB in all")
    else:
        for which in ("gan", "prior"):
            subprocess.run([sys.executable, "-m", __spec__.name, *sys.argv[1:], which], check=True)

"""A snapshot of an older program as a model folder."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from lafite_shifted.encoders.encoder_id import EncoderId
from lafite_shifted.errors import InputError
from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.io.files import atomic_directory, write_bytes
from lafite_shifted.legacy.convert import Imported, convert
from lafite_shifted.legacy.snapshot import read_snapshot
from lafite_shifted.model_folder import save_generator


def import_snapshot(
    file: Path, out: Path, *, encoder_id: Callable[[], EncoderId], label: int | None = None
) -> Imported:
    """Write `file` as a model folder conditioned on the CLIP `encoder_id`, which is asked for once
    the file is read. InputError says what does not fit.
    """
    if out.exists():
        raise InputError(f"{out} exists already. Choose another --out, or delete it first.")
    with _naming(file):
        snapshot = read_snapshot(file)
    clip = encoder_id()
    with _naming(file):
        found = convert(snapshot, condition_dim=clip.dim, label=label)
    training = {"imported_from": found.source, "file": file.name}
    with atomic_directory(out) as folder:
        save_generator(folder / "generator", found.network, _unit_stats(clip), training=training)
        write_bytes(folder / "README.md", _model_card(found, file, clip).encode())
    return found


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(f"{file} cannot be imported: {error}") from error


def _unit_stats(encoder_id: EncoderId) -> EmbeddingStats:
    """Statistics of mean 0 and covariance I, which leave a condition as it is: those programs did
    not standardise it.
    """
    stats = EmbeddingStats(encoder_id, dim=encoder_id.dim)
    stats.count = 2
    stats.m2 = torch.eye(encoder_id.dim, dtype=torch.float64)
    return stats


def _model_card(found: Imported, file: Path, encoder_id: EncoderId) -> str:
    size = found.network.config.resolution
    effect = (
        f"Conditioned on embeddings of the CLIP `{encoder_id.model}`."
        if found.uses_condition
        else "It was not trained with text: sentences have no effect until it is trained on, with "
        "`lafite-shifted train-gan IMAGES --init THIS_FOLDER`."
    )
    return (
        f"# A generator of {found.source}, imported\n\n{size} x {size} pixels, from `{file.name}`. "
        f"{effect}\n\nThe licence of the snapshot holds for this folder too.\n"
    )

"""From a source of images to embeddings on disk: what is there already stays, what is new or has
changed is decoded by threads, embedded in batches and written in shards.
"""

import posixpath
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.encoder_id import (
    EncoderId,
    TextEncoderId,
    check_same_encoder,
    check_same_text_encoder,
)
from lafite_shifted.encoders.text_encoder import TextEncoder
from lafite_shifted.errors import InputError
from lafite_shifted.io.files import load_tensors, sha256_of, write_json_lines
from training.data.augmented_copies import COPY_OF
from training.data.decoding.crop import DEFAULT_SQUARES, SquareConfig
from training.data.decoding.decode import levels_of
from training.data.decoding.read_image import (
    DEFAULT_READ_OPTIONS,
    OpenImage,
    ReadOptions,
    read_image,
)
from training.data.embeddings.embedding_set import load_shard, read_index, text_encoder_of
from training.data.embeddings.report_file import LeftOut, check_own_report, write_report
from training.data.embeddings.shard_writer import EmbeddingWriter, PreparedImage, ShardWriter
from training.data.files.image_files import UnreadableImageError
from training.data.images import ImageSource, check_share_of_bad
from training.data.split import SplitItem, is_held_out, split_key, split_keys

AHEAD = 16  # images in flight beyond a batch: the next is decoded while one is embedded
PREPARING_BYTES = 11  # a pixel: 8-bit levels, and one channel as floats before and after


@dataclass(frozen=True)
class EmbedReport:
    """What `embed_folder` found and did."""

    num_embedded: int
    num_reused: int
    left_out: LeftOut
    conversions: Counter[str]  # of the images embedded now
    num_held_out: int

    @staticmethod
    def nothing() -> "EmbedReport":
        """Of a process that has embedded nothing."""
        return EmbedReport(0, 0, LeftOut(), Counter(), 0)

    @property
    def bad(self) -> Sequence[tuple[str, str]]:
        """(file name, reason) of what cannot be read."""
        return self.left_out.bad


class _Result(NamedTuple):
    name: str
    item: PreparedImage | None
    reason: str = ""  # why there is none
    conversions: tuple[str, ...] = ()


def embed_folder(
    source: ImageSource,
    out: Path,
    clip: ClipEncoder,
    *,
    text_encoder: TextEncoder | None = None,
    squares: SquareConfig = DEFAULT_SQUARES,
    keep_unreadable: bool = False,
    batch: int = 64,
    options: ReadOptions = DEFAULT_READ_OPTIONS,
    also: Callable[[str, Image.Image], None] | None = None,
) -> EmbedReport:
    """Embed every image of `source` (and its captions) that `out` does not hold already.

    Whole shards and the index are written as it goes: a stopped run loses at most one shard, a
    killed one an eighth.
    Of `squares` the background counts: the crop is the CLIP's own. Every unreadable image is
    listed in report.jsonl; `keep_unreadable` keeps the embedding of one that was readable before.
    `also` gets each image that is decoded for this, in a thread.
    Raises InputError (embeddings in `out` of another encoder, or on another background; another
    program's files) and TooManyBadImagesError (share above `options.max_bad`, after the report is
    written).
    """
    check_own_report(out / "report.jsonl")
    known = _reusable_rows(out, source, clip, text_encoder, squares.background)
    fresh = [name for name in source.names if name not in known]
    bad = source.unusable()
    lost = _rows_by_name(out) if keep_unreadable else {}
    gone = lost.keys() - set(source.names)
    bad += [(name, "the file does not exist") for name in sorted(gone - {name for name, _ in bad})]
    num_unusable, total = len(bad), len(source) + len(bad)
    conversions: Counter[str] = Counter()
    writer = EmbeddingWriter(
        out,
        partial(ShardWriter, clip, text_encoder, squares.background),
        [*known.values(), *(lost[name] for name in sorted(gone))],
        batch=batch,
    )
    try:
        decoded = _decoded(source, fresh, clip, options, squares, also, ahead=batch + AHEAD)
        for done, result in enumerate(decoded, 1):
            if result.item is None:
                bad.append((result.name, result.reason))
                writer.rows += [lost[result.name]] if result.name in lost else []
            else:
                writer.add(result.item)
                conversions.update(result.conversions)
            options.progress(done, len(fresh))
    except BaseException:
        writer.save_index()
        raise
    rows = with_split_keys(writer.finish())
    write_json_lines(out / "index.jsonl", rows)
    num_embedded = len(fresh) - (len(bad) - num_unusable)
    left_out = LeftOut(bad, source.caption_problems, source.not_used)
    write_report(out / "report.jsonl", left_out)
    _remove_unused_shards(out, {row["shard"] for row in rows})
    check_share_of_bad(bad, total, max_share=options.max_bad)
    held_out = sum(is_held_out(row["split_key"]) for row in rows)
    return EmbedReport(num_embedded, len(known), left_out, conversions, held_out)


def with_split_keys(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a whole index, each with the key that decides its side of the split."""
    items = [
        SplitItem(row["file_name"], next(iter(row["captions"]), ""), row["sha256"], _original(row))
        for row in rows
    ]
    return [row | {"split_key": key} for row, key in zip(rows, split_keys(items), strict=True)]


def _original(row: Mapping[str, Any]) -> str:
    """The file that the image of a row is an augmented copy of, "" for others."""
    beside = row.get(COPY_OF, "")
    return beside and posixpath.join(posixpath.dirname(row["file_name"]), beside)


def _rows_by_name(out: Path) -> dict[str, dict[str, Any]]:
    return {row["file_name"]: row for row in read_index(out)}


def _remove_unused_shards(out: Path, used: set[str]) -> None:
    """Shards that hold only images which are gone, or which were embedded again."""
    for path in out.glob("shard-*.safetensors"):
        if path.name not in used and _is_own_shard(path):
            path.unlink()


def _is_own_shard(path: Path) -> bool:
    try:
        return load_tensors(path, only=())[1].get("kind") == "embeddings"
    except InputError:  # damaged, or another program's
        return False


def _reusable_rows(
    out: Path,
    source: ImageSource,
    clip: ClipEncoder,
    text_encoder: TextEncoder | None,
    background: str,
) -> dict[str, dict[str, Any]]:
    """Index rows whose image and captions have not changed since."""
    rows = list(_rows_by_name(out).values())
    reader = text_encoder.id if text_encoder else None
    for shard in sorted({row["shard"] for row in rows}):
        _check_made_alike(out, load_shard(out / shard)[1], clip.id, reader, background)
    names = set(source.names)
    if rows and names.isdisjoint(row["file_name"] for row in rows):
        raise InputError(
            f"{out} holds embeddings of another folder (such as {rows[0]['file_name']!r}), none of "
            f"whose images are in {source.where}. Choose another --out, or delete it first."
        )
    kept = {}
    for row in rows:
        name = row["file_name"]
        if name not in names or row["captions"] != source.captions.get(name, []):
            continue
        time = _time_if_unchanged(source, name, row)
        if time is not None:
            kept[name] = row | {"mtime_ns": time}
    return kept


def _check_made_alike(
    out: Path,
    metadata: dict[str, Any],
    encoder_id: EncoderId,
    reader: TextEncoderId | None,
    background: str,
) -> None:
    remedy = "Choose another --out, or delete that folder."
    found = EncoderId.from_json(metadata["encoder"])
    check_same_encoder(found, encoder_id, what=f"{out}", remedy=remedy)
    check_same_text_encoder(text_encoder_of(metadata), reader, what=f"{out}", remedy=remedy)
    if (before := metadata.get("background", DEFAULT_SQUARES.background)) != background:
        raise InputError(
            f"{out} holds embeddings of images on {before}, not on {background}. {remedy}"
        )


def _time_if_unchanged(source: ImageSource, name: str, row: dict[str, Any]) -> int | None:
    """The time of change of a file that is what it was when `row` was written."""
    try:
        size, time = source.stamp(name)
        same = size == row["size"] and (
            time == row["mtime_ns"] or sha256_of(source.read(name)) == row["sha256"]
        )
    except UnreadableImageError:  # whoever decodes it says so
        return None
    return time if same else None


def _decoded(
    source: ImageSource,
    names: list[str],
    clip: ClipEncoder,
    options: ReadOptions,
    squares: SquareConfig,
    also: Callable[[str, Image.Image], None] | None,
    *,
    ahead: int,
) -> Iterator[_Result]:
    """Each name with its decoded image, or the reason why there is none; threads decode `ahead` of
    them.
    """

    def read(name: str) -> _Result:
        def prepare(opened: OpenImage) -> _Result:
            image = opened.decoded.image
            opened.ticket.reserve(image.width * image.height * PREPARING_BYTES)
            row = _row(source, name, opened.content)
            if also is not None:
                also(name, image)
            levels = torch.from_numpy(levels_of(image))  # [3, H, W]
            with torch.no_grad():
                resized = clip.resize(levels[None])[0]
            return _Result(name, PreparedImage(row, resized), "", opened.decoded.conversions)

        try:
            return read_image(source, name, prepare, options=options, background=squares.colour)
        except UnreadableImageError as error:
            return _Result(name, None, str(error))

    with ThreadPoolExecutor(max_workers=4) as pool:
        waiting = deque(pool.submit(read, name) for name in names[:ahead])
        try:
            for position in range(len(names)):
                result = waiting.popleft().result()
                if position + ahead < len(names):
                    waiting.append(pool.submit(read, names[position + ahead]))
                yield result
        finally:  # who stops does not wait for what has not begun
            for future in waiting:
                future.cancel()


def _row(source: ImageSource, name: str, content: bytes) -> dict[str, Any]:
    """Of the index, but for shard and row."""
    captions = source.captions.get(name, [])
    (size, time), digest = source.stamp(name), sha256_of(content)
    copy_of = source.metadata.get(name, {}).get(COPY_OF)
    return {
        "file_name": name,
        "size": size,
        "mtime_ns": time,
        "sha256": digest,
        "captions": captions,
        "split_key": split_key(
            name, caption=captions[0] if captions else "", content_sha256=digest
        ),
    } | ({COPY_OF: copy_of} if isinstance(copy_of, str) else {})

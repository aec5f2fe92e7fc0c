"""CLIP embeddings of a folder on disk: float16 shards and an index, made once, reused by every
verb.

    shard-00000.safetensors   image [n, D]; with captions also text [m, D], caption_image [m],
                              text_tokens [sum of lengths, F], text_offsets [m + 1]
    index.jsonl               {"file_name", "size", "mtime_ns", "sha256", "shard", "row",
                              "captions", "split_key"}
    report.jsonl              {"file_name", "reason"} for every image that cannot be read

Shards carry the format number of the whole, the encoder's id, that of the text encoder whose token
states they hold (none: the CLIP's own text tower), and the background of transparent images.

Shape letters: n images, m captions, D embedding, L tokens, F width of the text tower.
"""

import io
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.encoder_id import (
    EncoderId,
    TextEncoderId,
    check_same_encoder,
    check_same_text_encoder,
)
from lafite_shifted.encoders.text_encoder import TextEncoder, read_texts
from lafite_shifted.encoders.text_features import TextFeatures
from lafite_shifted.errors import DEFAULT_MAX_BAD, InputError
from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.io.files import (
    check_format,
    load_tensors,
    read_json_lines,
    save_tensors,
    sha256_of,
    write_json_lines,
)
from torch_utils import seeds
from training.data.decoding import DEFAULT_MAX_MEGAPIXELS, DEFAULT_SQUARES, SquareConfig, decode
from training.data.images import ImageSource, bad_image_rows, check_share_of_bad
from training.data.sources import UnreadableImageError
from training.data.split import is_held_out, split_key

FORMAT = 1
SHARD_SIZE = 2048  # images


@dataclass(frozen=True)
class EmbedReport:
    """What `embed_folder` found and did."""

    num_embedded: int
    num_reused: int
    bad: list[tuple[str, str]]  # (file name, reason)
    conversions: Counter[str]  # of the images embedded now

    @staticmethod
    def nothing() -> "EmbedReport":
        """Of a process that has embedded nothing."""
        return EmbedReport(0, 0, [], Counter())


@dataclass(frozen=True)
class _Item:
    row: dict
    prepared: Tensor  # [3, S, S], preprocessed for the CLIP: small, whatever the image's size


class EmbeddingSet:
    """Embeddings of a folder in memory, rows in the order of the index; unit float32."""

    def __init__(self, folder: Path):
        self.folder = folder
        index_path = folder / "index.jsonl"
        if not index_path.is_file():
            raise InputError(
                f"{folder} holds no embeddings. Make them with `lafite-shifted embed IMAGES "
                f"--out {folder}`."
            )
        self.rows = read_json_lines(index_path)
        shards = {
            name: load_shard(folder / name) for name in sorted({row["shard"] for row in self.rows})
        }
        if not shards:
            raise InputError(f"{folder} lists no images. Embed a folder that holds some.")
        ids = {
            name: EncoderId.from_json(metadata["encoder"]) for name, (_, metadata) in shards.items()
        }
        self.encoder_id = next(iter(ids.values()))
        readers = {name: text_encoder_of(metadata) for name, (_, metadata) in shards.items()}
        self.text_encoder = next(iter(readers.values()))
        for name, encoder_id in ids.items():
            what, remedy = str(folder / name), f"Delete {folder} and embed again."
            check_same_encoder(encoder_id, self.encoder_id, what=what, remedy=remedy)
            check_same_text_encoder(readers[name], self.text_encoder, what=what, remedy=remedy)
        images = [shards[row["shard"]][0]["image"][row["row"]] for row in self.rows]
        self.image = self.encoder_id.normalise(torch.stack(images).float())
        self._gather_captions({name: tensors for name, (tensors, _) in shards.items()})
        recorded = [int(metadata.get("context_length", 0)) for _, metadata in shards.values()]
        # tokens that the text tower reads, however short the captions are
        self.context_length = max(*recorded, *map(len, self._states), 1)

    def _gather_captions(self, shards: dict[str, dict[str, Tensor]]) -> None:
        captions_of: dict[tuple[str, int], list[int]] = {}
        for name, tensors in shards.items():
            for caption, image in enumerate(tensors.get("caption_image", torch.empty(0)).tolist()):
                captions_of.setdefault((name, int(image)), []).append(caption)
        text, image_index, states, self.captions = [], [], [], list[str]()
        for index, row in enumerate(self.rows):
            tensors = shards[row["shard"]]
            for number, caption in enumerate(captions_of.get((row["shard"], row["row"]), [])):
                start, end = tensors["text_offsets"][caption : caption + 2].tolist()
                text.append(tensors["text"][caption])
                states.append(tensors["text_tokens"][start:end])
                image_index.append(index)
                self.captions.append(row["captions"][number])
        self.caption_image = torch.tensor(image_index, dtype=torch.long)  # [m]
        found = torch.stack(text).float() if text else torch.empty(0, self.image.shape[1])
        self.text = self.encoder_id.normalise(found)
        self._states = states

    @property
    def names(self) -> list[str]:
        return [row["file_name"] for row in self.rows]

    @property
    def fingerprint(self) -> str:
        """Changes when an image, its name or a caption does."""
        parts = [(row["file_name"], row["sha256"], *row["captions"]) for row in self.rows]
        return f"{seeds.seed_of(repr(parts)):016x}"

    @property
    def token_width(self) -> int:
        """Width of the text tower; 0 without captions."""
        return self._states[0].shape[1] if self._states else 0

    @property
    def held_out(self) -> Tensor:
        """[n] bool: the side of the split."""
        return torch.tensor([is_held_out(row["split_key"]) for row in self.rows])

    def stats(self, rows: Tensor | None = None) -> EmbeddingStats:
        """Statistics of all images, or of those that `rows` (indices or a mask) picks."""
        return EmbeddingStats.of(self.image if rows is None else self.image[rows], self.encoder_id)

    def text_features(self, captions: Tensor, *, length: int | None = None) -> TextFeatures:
        """Text features of the captions with these indices, tokens padded to `length` or the
        longest.
        """
        states = [self._states[i] for i in captions.tolist()]
        lengths = torch.tensor([len(state) for state in states])
        tokens = pad_sequence(states, batch_first=True).float()
        if length:
            tokens = F.pad(tokens, (0, 0, 0, length - tokens.shape[1]))
        return TextFeatures(self.text[captions], tokens, lengths)


def text_encoder_of(metadata: dict) -> TextEncoderId | None:
    """Whose token states a shard holds; None: those of the CLIP's own text tower."""
    record = metadata.get("text_encoder")
    return TextEncoderId(**record) if record else None


def load_shard(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Tensors and metadata of one shard; InputError if damaged or of another format."""
    remedy = f"Delete {path.parent} and embed the images again."
    tensors, metadata = load_tensors(path, remedy=remedy)
    check_format(metadata, kind="embeddings", version=FORMAT, path=path)
    return tensors, metadata


def embed_folder(
    source: ImageSource,
    out: Path,
    clip: ClipEncoder,
    *,
    text_encoder: TextEncoder | None = None,
    squares: SquareConfig = DEFAULT_SQUARES,
    keep_unreadable: bool = False,
    batch: int = 64,
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS,
    max_bad: float = DEFAULT_MAX_BAD,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> EmbedReport:
    """Embed every image of `source` (and its captions) that `out` does not hold already.

    Whole shards and the index are written as it goes, so a stopped run loses at most one shard.
    Of `squares` the background counts: the crop is the CLIP's own. Every unreadable image is
    listed in report.jsonl; `keep_unreadable` keeps the embedding of one that was readable before.
    Raises InputError (embeddings in `out` of another encoder, or on another background) and
    TooManyBadImagesError (share above `max_bad`, after the report is written).
    """
    reader = text_encoder.id if text_encoder else None
    known = _reusable_rows(out, source, clip.id, reader, squares.background)
    fresh = [name for name in source.names if name not in known]
    bad = source.unusable()
    lost = _rows_of(out) if keep_unreadable else {}
    gone = lost.keys() - set(source.names)
    bad += [(name, "the file does not exist") for name in sorted(gone - {name for name, _ in bad})]
    total = len(source) + len(bad)
    conversions: Counter[str] = Counter()
    rows = [*known.values(), *(lost[name] for name in sorted(gone))]
    number = 1 + max(
        (int(path.stem.split("-")[1]) for path in out.glob("shard-*.safetensors")), default=-1
    )
    shard, waiting = _Shard(clip, text_encoder, squares.background), list[_Item]()
    num_embedded = 0
    for done, (name, item, converted) in enumerate(
        _decoded(source, fresh, clip, max_megapixels, squares), start=1
    ):
        if isinstance(item, str):
            bad.append((name, item))
            rows += [lost[name]] if name in lost else []
        else:
            waiting.append(item)
            num_embedded += 1
            conversions.update(converted)
        last = done == len(fresh)
        if len(waiting) == batch or (last and waiting):
            shard.add(waiting)
            waiting = []
        if len(shard.rows) >= SHARD_SIZE or (last and shard.rows):
            rows += shard.write(out, number)
            write_json_lines(out / "index.jsonl", sorted(rows, key=lambda row: row["file_name"]))
            shard, number = _Shard(clip, text_encoder, squares.background), number + 1
        progress(done, len(fresh))
    write_json_lines(out / "index.jsonl", sorted(rows, key=lambda row: row["file_name"]))
    write_json_lines(out / "report.jsonl", bad_image_rows(bad))
    _remove_unused_shards(out, {row["shard"] for row in rows})
    check_share_of_bad(bad, total, max_share=max_bad)
    return EmbedReport(num_embedded, len(known), bad, conversions)


def _rows_of(out: Path) -> dict[str, dict]:
    """Index rows by file name."""
    index = out / "index.jsonl"
    found = read_json_lines(index) if index.is_file() else []
    return {row["file_name"]: row for row in found}


def _remove_unused_shards(out: Path, used: set[str]) -> None:
    """Shards that hold only images which are gone, or which were embedded again."""
    for path in out.glob("shard-*.safetensors"):
        if path.name not in used:
            path.unlink()


def _reusable_rows(
    out: Path,
    source: ImageSource,
    encoder_id: EncoderId,
    text_encoder: TextEncoderId | None,
    background: str,
) -> dict[str, dict]:
    """Index rows whose image and captions have not changed since."""
    rows = list(_rows_of(out).values())
    for shard in sorted({row["shard"] for row in rows}):
        metadata, remedy = (
            load_shard(out / shard)[1],
            "Choose another --out, or delete that folder.",
        )
        found = EncoderId.from_json(metadata["encoder"])
        check_same_encoder(found, encoder_id, what=f"{out}", remedy=remedy)
        reader = text_encoder_of(metadata)
        check_same_text_encoder(reader, text_encoder, what=f"{out}", remedy=remedy)
        if (before := metadata.get("background", DEFAULT_SQUARES.background)) != background:
            raise InputError(
                f"{out} holds embeddings of images on {before}, not on {background}. {remedy}"
            )
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
        if not _is_unchanged(source, name, row):
            continue
        kept[name] = row | {"mtime_ns": source.stamp(name)[1]}
    return kept


def _is_unchanged(source: ImageSource, name: str, row: dict) -> bool:
    try:
        size, time = source.stamp(name)
        if size != row["size"]:
            return False
        return time == row["mtime_ns"] or sha256_of(source.read(name)) == row["sha256"]
    except (UnreadableImageError, FileNotFoundError):
        return False


def _decoded(
    source: ImageSource,
    names: list[str],
    clip: ClipEncoder,
    max_megapixels: float,
    squares: SquareConfig,
) -> Iterator[tuple[str, _Item | str, tuple[str, ...]]]:
    """Each name with its decoded image, or the reason why there is none; decoding runs ahead in
    threads.
    """

    def read(name: str) -> tuple[str, _Item | str, tuple[str, ...]]:
        try:
            content = source.read(name)
            decoded = decode(
                io.BytesIO(content), max_megapixels=max_megapixels, background=squares.colour
            )
        except UnreadableImageError as error:
            return name, str(error), ()
        captions = source.captions.get(name, [])
        (size, time), digest = source.stamp(name), sha256_of(content)
        key = split_key(name, caption=captions[0] if captions else "", content_sha256=digest)
        row = {
            "file_name": name,
            "size": size,
            "mtime_ns": time,
            "sha256": digest,
            "captions": captions,
            "split_key": key,
        }
        pixels = torch.from_numpy(np.asarray(decoded.image).copy()).permute(2, 0, 1)
        with torch.no_grad():
            return name, _Item(row, clip.preprocess(pixels[None])[0]), decoded.conversions

    with ThreadPoolExecutor(max_workers=4) as pool:
        ahead = 16  # images in flight: enough to hide decoding, few enough for 100-megapixel ones
        waiting = [pool.submit(read, name) for name in names[:ahead]]
        for position in range(len(names)):
            result = waiting.pop(0).result()
            if position + ahead < len(names):
                waiting.append(pool.submit(read, names[position + ahead]))
            yield result


class _Shard:
    """Embeddings that wait to be written as one file."""

    def __init__(self, clip: ClipEncoder, text_encoder: TextEncoder | None, background: str):
        self.clip, self.text_encoder, self.background = clip, text_encoder, background
        self.rows: list[dict] = []
        self.image: list[Tensor] = []
        self.text: list[Tensor] = []
        self.states: list[Tensor] = []  # of each caption, [L, F] float16
        self.caption_image: list[int] = []

    @torch.no_grad()
    def add(self, items: list[_Item]) -> None:
        """Embed a batch of images and their captions."""
        captions = [
            (len(self.rows) + i, text)
            for i, item in enumerate(items)
            for text in item.row["captions"]
        ]
        self.rows += [item.row for item in items]
        self.image.append(
            self.clip.embed_prepared(torch.stack([item.prepared for item in items])).cpu().half()
        )
        for start in range(0, len(captions), 256):
            part = captions[start : start + 256]
            features = read_texts([text for _, text in part], self.clip, self.text_encoder)
            self.text.append(features.embedding.cpu().half())
            lengths = features.lengths.tolist()
            self.states += [
                state[:n].cpu().half() for state, n in zip(features.tokens, lengths, strict=True)
            ]
            self.caption_image += [image for image, _ in part]

    def write(self, out: Path, number: int) -> list[dict]:
        """Write the shard; the index rows of its images."""
        tensors = {"image": torch.cat(self.image)}
        if self.caption_image:
            tensors |= {
                "text": torch.cat(self.text),
                "caption_image": torch.tensor(self.caption_image),
                "text_tokens": torch.cat(self.states),
                "text_offsets": torch.tensor(
                    [0, *np.cumsum([len(state) for state in self.states]).tolist()]
                ),
            }
        name = f"shard-{number:05d}.safetensors"
        save_tensors(
            out / name,
            tensors,
            {
                "kind": "embeddings",
                "format": FORMAT,
                "encoder": self.clip.id.to_json(),
                "context_length": (self.text_encoder or self.clip).context_length,
                "text_encoder": self.text_encoder and asdict(self.text_encoder.id),
                "background": self.background,
            },
        )
        return [item | {"shard": name, "row": row} for row, item in enumerate(self.rows)]

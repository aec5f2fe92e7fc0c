"""Tar shards that lie elsewhere, as webdataset names and opens them: fetched one after another,
embedded, and dropped.

A shard is fetched whole before it is read, so that it passes the same checks as one on disk. Each
has a folder of its own below `parts`, which says when it is done; index.jsonl and report.jsonl join
them. The processes of torchrun share the shards.
"""

import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.text_encoder import TextEncoder
from lafite_shifted.errors import InputError
from lafite_shifted.io.files import read_json, write_json, write_json_lines
from torch_utils import distributed
from training.config import differences
from training.data.decoding.crop import DEFAULT_SQUARES, SquareConfig
from training.data.decoding.read_image import DEFAULT_READ_OPTIONS, ReadOptions, silent
from training.data.embeddings.embed import EmbedReport, embed_folder, with_split_keys
from training.data.embeddings.embedding_set import check_own_index, read_index
from training.data.embeddings.index import Index
from training.data.embeddings.report_file import (
    LeftOut,
    check_own_report,
    read_report,
    write_report,
)
from training.data.images import ImageSource, check_share_of_bad

MAX_BYTES = 64 * 2**30  # of one shard
CHUNK = 2**20
PREFIX = "lafite-shifted-shard-"  # of folders for fetched shards


def is_remote(where: str) -> bool:
    """Whether this names a place by URL, not by path."""
    return "://" in where or where.startswith("pipe:")


def shard_urls(pattern: str) -> list[str]:
    """Every URL of a pattern such as http://host/shard-{000..009}.tar.

    InputError where one is not a tar by http or https (webdataset would run what a `pipe:` says),
    where two shards have one name, or where webdataset is not installed.
    """
    expand, _ = _webdataset()
    try:
        urls = list(expand(pattern))
    except (AssertionError, ValueError) as error:
        raise InputError(f"{pattern} is no pattern of URLs ({error}). Mend it.") from error
    for url in urls:
        if urlsplit(url).scheme not in ("http", "https") or not shard_name(url).endswith(".tar"):
            raise InputError(
                f"{url}: only .tar shards are read, by http or https. Give their URLs, such as "
                "https://host/shard-{000..009}.tar."
            )
    twice = [name for name, count in Counter(map(shard_name, urls)).items() if count > 1]
    if twice:
        raise InputError(f"{pattern} names {twice[0]} more than once. Name every shard once.")
    return urls


def embed_urls(
    urls: Sequence[str],
    out: Path,
    clip: ClipEncoder,
    *,
    text_encoder: TextEncoder | None = None,
    squares: SquareConfig = DEFAULT_SQUARES,
    batch: int = 64,
    options: ReadOptions = DEFAULT_READ_OPTIONS,
) -> EmbedReport:
    """Embed the images of all shards that `out` does not hold already, as `embed_folder` does;
    progress counts this process's shards.

    InputError where a shard cannot be had, or is no tar to be read; what was done stays.
    """
    made_by = {
        "encoder": clip.id.to_json(),
        "text_encoder": text_encoder and asdict(text_encoder.id),
        "background": squares.background,
    }
    check_own_report(out / "report.jsonl")
    check_own_index(out)
    for number, url in enumerate(urls):
        _check_same(_part(out, number), {"url": url, **made_by})
    numbers = range(distributed.rank(), len(urls), distributed.world_size())
    open_numbers = [n for n in numbers if not (_part(out, n) / "done.json").is_file()]
    num_embedded, conversions = 0, Counter[str]()
    for done, (number, fetched) in enumerate(_fetched_ahead(urls, open_numbers), start=1):
        part = _part(out, number)
        with fetched as folder:
            source = ImageSource(Path(folder) / shard_name(urls[number]))
            report = embed_folder(
                source,
                part,
                clip,
                text_encoder=text_encoder,
                squares=squares,
                batch=batch,
                # the share of all shards counts, and their progress
                options=replace(options, max_bad=1.0, progress=silent),
            )
        write_json(part / "done.json", {"url": urls[number], **made_by})
        num_embedded += report.num_embedded
        conversions += report.conversions
        options.progress(done, len(open_numbers))
    wait_for_all(out, len(urls))
    distributed.barrier()
    left_out = _all_left_out(out, urls)
    if distributed.is_main_process():
        _join(out, urls)
        write_report(out / "report.jsonl", left_out)
    distributed.barrier()
    index = Index(out)
    check_share_of_bad(left_out.bad, len(index) + len(left_out.bad), max_share=options.max_bad)
    held_out = int(index.held_out.sum())
    return EmbedReport(num_embedded, len(index) - num_embedded, left_out, conversions, held_out)


def wait_for_all(
    out: Path,
    count: int,
    *,
    quiet_s: float = distributed.TIME_LIMIT_S,
    longest_pause_s: float = 10.0,
) -> None:
    """Until all parts are done, by whichever process: a slow one may take as long as it goes on.

    InputError where nothing has been written for `quiet_s` seconds. Of one process there is nobody
    to wait for.
    """
    if distributed.world_size() == 1:
        return
    seen, since, pause_s = set[Path](), time.monotonic(), 0.1
    while not all((_part(out, number) / "done.json").is_file() for number in range(count)):
        found = {*out.glob("parts/*/*")}  # shards of embeddings count too
        if found != seen:
            seen, since = found, time.monotonic()
        if time.monotonic() - since > quiet_s:
            raise InputError(
                f"{out / 'parts'} has not grown for {quiet_s:g} s: another process hangs, or "
                "writes to another disk. Look at the other processes, and run the same command "
                "again: what was done stays."
            )
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, longest_pause_s)


def _webdataset() -> tuple[Callable[[str], Sequence[str]], Callable[[str], Any]]:
    try:
        from webdataset.gopen import gopen  # pyright: ignore[reportMissingImports]
        from webdataset.shardlists import expand_urls  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            "Shards at a URL are read by webdataset, which is not installed. Run `pip install "
            '"lafite_shifted[webdataset]"`.'
        ) from error
    return expand_urls, gopen


def shard_name(url: str) -> str:
    """The file name of a shard at a URL."""
    return PurePosixPath(unquote(urlsplit(url).path)).name


def _part(out: Path, number: int) -> Path:
    return out / "parts" / f"{number:05d}"


def _check_same(part: Path, record: Mapping[str, Any]) -> None:
    """InputError where what is in a part already was made otherwise."""
    done = part / "done.json"
    changed = differences(read_json(done), dict(record)) if done.is_file() else []
    if changed:
        raise InputError(
            f"{part} was made otherwise: {'; '.join(changed)}. Choose another --out, or delete it."
        )


def _fetched_ahead(
    urls: Sequence[str], numbers: Sequence[int]
) -> Iterator[tuple[int, "tempfile.TemporaryDirectory[str]"]]:
    """Each shard in a folder of its own, while the next one is being fetched."""
    with ThreadPoolExecutor(1) as pool:
        waiting = [pool.submit(_fetched, urls[number]) for number in numbers[:1]]
        for place, number in enumerate(numbers):
            fetched = waiting.pop().result()
            waiting += [pool.submit(_fetched, urls[n]) for n in numbers[place + 1 : place + 2]]
            yield number, fetched


def _fetched(url: str) -> "tempfile.TemporaryDirectory[str]":
    folder = tempfile.TemporaryDirectory(prefix=PREFIX)
    try:
        fetch_shard(url, Path(folder.name))
    except BaseException:
        folder.cleanup()
        raise
    return folder


def fetch_shard(url: str, folder: Path) -> Path:
    """The shard under its own name in `folder`; InputError where it cannot be had."""
    _, gopen = _webdataset()
    path = folder / shard_name(url)
    try:
        with gopen(url) as stream, path.open("wb") as file:
            while chunk := stream.read(CHUNK):
                if file.write(chunk) and file.tell() > MAX_BYTES:
                    raise OSError(f"larger than {MAX_BYTES / 2**30:g} GiB")
    except OSError as error:  # curl is missing, or ended with an error
        code = re.search(r"exit (\d+)", str(error))
        reason = f"exit code {code[1]} of curl" if code else str(error)
        raise InputError(
            f"{url} cannot be fetched ({reason}). Check the URL and the network and run the same "
            "command again: what was done stays."
        ) from error
    return path


def _join(out: Path, urls: Sequence[str]) -> None:
    """Write the index of all parts, unless it is there: rows of 10 million are many in memory."""
    index, record = out / "index.jsonl", out / "parts" / "joined.json"
    newest = max((_part(out, n) / "done.json").stat().st_mtime_ns for n in range(len(urls)))
    if index.is_file() and record.is_file() and record.stat().st_mtime_ns > newest:
        was = read_json(record)
        if was == {"urls": [*urls], "index_mtime_ns": index.stat().st_mtime_ns}:
            return
    write_json_lines(index, _joined(out, urls))
    write_json(record, {"urls": [*urls], "index_mtime_ns": index.stat().st_mtime_ns})


def _all_left_out(out: Path, urls: Sequence[str]) -> LeftOut:
    """By all parts, under their shards' names."""
    found = LeftOut()
    for number, url in enumerate(urls):
        report = read_report(_part(out, number) / "report.jsonl")
        found = found.joined(report.below(shard_name(url)))
    return found


def _joined(out: Path, urls: Sequence[str]) -> list[dict]:
    """Rows of all parts, under their shards' names."""
    rows = list[dict]()
    for number, url in enumerate(urls):
        part = _part(out, number)
        for row in read_index(part):
            shard = part.relative_to(out) / row["shard"]
            name = f"{shard_name(url)}/{row['file_name']}"
            rows.append(row | {"file_name": name, "shard": shard.as_posix()})
    return with_split_keys(rows)

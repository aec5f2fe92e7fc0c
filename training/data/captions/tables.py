"""Tables of captions as Hugging Face's image folders have them: metadata.jsonl, .csv (or .tsv) and
.parquet, each beside the images that it names, in the folder or in one of each split.
"""

import csv
import io
import json
import posixpath
from collections.abc import Iterator
from typing import Any, NamedTuple

from training.data.captions.text_encoding import UndecodableTextError, decode_text

SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")  # in the order in which they are read
NAME_KEYS = ("file_name", "image", "path", "filename", "file", "image_path", "image_file_name")
CAPTION_KEYS = ("text", "caption", "captions", "prompt", "description")


class Row(NamedTuple):
    """One row of a table: its fields, or the reason why it cannot be used."""

    place: str  # "metadata.jsonl, line 3"
    fields: dict[str, Any] | None
    reason: str = ""


def is_table(name: str) -> bool:
    """Whether a file name is that of a table of captions."""
    stem, suffix = posixpath.splitext(posixpath.basename(name).lower())
    return stem == "metadata" and suffix in SUFFIXES


def read_table(name: str, content: bytes) -> Iterator[Row]:
    """The rows of the table `name`; what cannot be read is a row with a reason."""
    suffix = posixpath.splitext(name.lower())[1]
    if suffix == ".parquet":
        yield from _parquet_rows(name, content)
        return
    try:
        text = decode_text(content)
    except UndecodableTextError as error:
        yield Row(name, None, str(error))
        return
    yield from _json_rows(name, text) if suffix == ".jsonl" else _csv_rows(name, text)


def image_name(fields: dict[str, Any]) -> str | None:
    """Which image a row names, as it is written there."""
    fields = _folded(fields)
    for key in NAME_KEYS:
        value = fields.get(key)
        if isinstance(value, dict):  # as Hugging Face stores images: {"path", "bytes"}
            value = value.get("path")
        if isinstance(value, str) and value.strip():
            return value.strip()
    return None


def caption_of(fields: dict[str, Any]) -> Any:
    """The first field that holds captions; None where there is none."""
    folded = _folded(fields)
    found = (folded.get(key) for key in CAPTION_KEYS)
    return next((value for value in found if value not in (None, "", [])), None)


def _folded(fields: dict[str, Any]) -> dict[str, Any]:
    """`Text` and `File_Name` mean what they mean in lower case."""
    return {key.strip().casefold(): value for key, value in fields.items()}


def _json_rows(name: str, text: str) -> Iterator[Row]:
    for number, line in enumerate(text.split("\n"), start=1):  # splitlines() cuts at U+2028 too
        if not line.strip():
            continue
        place = f"{name}, line {number}"
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            yield Row(place, None, f"not valid JSON ({error.msg})")
        except (ValueError, RecursionError) as error:  # numbers and nesting without end
            yield Row(place, None, f"not read ({error})")
        else:
            yield Row(place, fields) if isinstance(fields, dict) else Row(place, None, "no object")


def _csv_rows(name: str, text: str) -> Iterator[Row]:
    head = text.partition("\n")[0]
    delimiter = max(",;\t", key=head.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for fields in reader:
            yield Row(
                f"{name}, line {reader.line_num}", {k.strip(): v for k, v in fields.items() if k}
            )
    except csv.Error as error:
        yield Row(
            f"{name}, line {reader.line_num}",
            None,
            f"not valid CSV ({error}); nor is the rest read",
        )


def _parquet_rows(name: str, content: bytes) -> Iterator[Row]:
    try:
        import pyarrow  # pyright: ignore[reportMissingImports]
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]
    except ImportError:
        reason = "needs pyarrow: pip install 'lafite-shifted[parquet]', or save it as metadata.csv"
        yield Row(name, None, reason)
        return
    try:
        table = parquet.ParquetFile(io.BytesIO(content))
        known = (*NAME_KEYS, *CAPTION_KEYS)
        wanted = [key for key in table.schema_arrow.names if key.strip().casefold() in known]
        number = 0
        for batch in table.iter_batches(columns=wanted):
            for fields in batch.to_pylist():
                number += 1
                yield Row(f"{name}, row {number}", fields)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        yield Row(name, None, f"damaged, or no parquet ({error})")

"""Whatever the bytes are, readers of names, texts, tables and chunks give an answer, in time."""

import string
import struct
import time
import zlib
from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from training.data.captions.tables import read_table
from training.data.captions.text_encoding import UndecodableTextError, decode_text
from training.data.decoding.png_chunks import MAX_TEXT, SIGNATURE, without_what_pixels_do_not_need
from training.data.files.image_files import image_format, other_image_format
from training.data.files.listing import _MASK_STEM
from training.data.split import SplitItem, is_held_out, split_keys

FEW = settings(max_examples=200, deadline=None)


@FEW
@given(st.binary(max_size=200))
def test_text_is_decoded_or_refused(content: bytes):
    text = ""
    with suppress(UndecodableTextError):
        text = decode_text(content)
    assert "\0" not in text


@FEW
@given(st.text(st.characters(exclude_characters="\0\ufeff"), max_size=80))
def test_text_in_utf_8_comes_back(text: str):
    content = text.encode("utf-8", "replace")
    assert decode_text(content) == content.decode()


@FEW
@given(
    st.sampled_from([".jsonl", ".csv", ".tsv"]), st.text(string.printable + "é\u2028", max_size=200)
)
def test_tables_have_rows_or_reasons(suffix: str, text: str):
    for place, fields, reason in read_table(f"metadata{suffix}", text.encode()):
        assert place.startswith("metadata")
        assert isinstance(fields, dict) or reason


@FEW
@given(st.binary(max_size=300))
def test_chunks_of_any_bytes_are_followed(tail: bytes):
    for content in (tail, SIGNATURE + tail):
        assert len(without_what_pixels_do_not_need(content)) <= len(content)
        image_format(content)
        other_image_format(content)


def test_nothing_takes_long_for_its_size():
    """Bombs: text that unpacks to gigabytes, names that a pattern would try in all ways."""
    packed = b"a\0\0" + zlib.compress(bytes(2**20))
    checksum = zlib.crc32(packed, zlib.crc32(b"zTXt"))
    bomb = struct.pack(">I", len(packed)) + b"zTXt" + packed + struct.pack(">I", checksum)
    start = time.monotonic()
    rest = without_what_pixels_do_not_need(SIGNATURE + bomb * 20_000)
    assert len(rest) < len(bomb) * 2 * MAX_TEXT / 2**20
    other_image_format(b"<!---->" * 146)
    _MASK_STEM.fullmatch("mask_" * 50 + "x")
    assert time.monotonic() - start < 5


@FEW
@given(st.lists(st.tuples(st.text(max_size=12), st.text(max_size=6), st.sampled_from("abc"))))
def test_copies_share_a_side_in_any_set(rows: list[tuple[str, str, str]]):
    items = [SplitItem(f"{name}.png", caption, content) for name, caption, content in rows]
    sides = dict[str, set[bool]]()
    for item, key in zip(items, split_keys(items), strict=True):
        sides.setdefault(item.content_sha256, set()).add(is_held_out(key))
    assert all(len(found) == 1 for found in sides.values())

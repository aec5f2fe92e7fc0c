"""What of a PNG its pixels do not need: an oversized text or profile, or a damaged chunk that is
ancillary by the format's own rule (PNG specification, 5.4), makes no image a broken one.
"""

import struct
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

SIGNATURE = b"\x89PNG\r\n\x1a\n"
MAX_CHUNK = 2**20  # bytes of an ancillary chunk, unpacked; Pillow refuses larger ones
MAX_TEXT = 2**24  # of all text, likewise
MAX_CHUNKS = 2**17  # that are looked at
_PACKED = (b"zTXt", b"iTXt", b"iCCP")


class Chunk(NamedTuple):
    """Where one lies in the file."""

    kind: bytes
    start: int  # of its length field
    end: int  # behind its checksum


def without_what_pixels_do_not_need(content: bytes) -> bytes:
    """`content` without its oversized and damaged ancillary chunks; the same object where there is
    none, or where it is no PNG whose chunks can be followed.
    """
    if not content.startswith(SIGNATURE):
        return content
    dropped, text = list[Chunk](), 0
    view = memoryview(content)
    for chunk in islice(chunks(content), MAX_CHUNKS):
        if not chunk.kind[0] & 0x20 or chunk.kind == b"fdAT":  # critical, or pixels of a frame
            continue
        body = view[chunk.start + 8 : chunk.end - 4]
        # what a file has too much of is not even unpacked
        size = _unpacked_size(chunk.kind, body) if text <= MAX_TEXT else MAX_CHUNK + 1
        text += size if chunk.kind in (b"tEXt", *_PACKED) else 0
        (checksum,) = struct.unpack(">I", view[chunk.end - 4 : chunk.end])
        if (
            size > MAX_CHUNK
            or text > MAX_TEXT
            or zlib.crc32(body, zlib.crc32(chunk.kind)) != checksum
        ):
            dropped.append(chunk)
    return _without(content, dropped) if dropped else content


def chunks(content: bytes) -> Iterator[Chunk]:
    """Of a PNG, as far as they can be followed, the last one included."""
    start = len(SIGNATURE)
    while start + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, start)
        end = start + 12 + length
        if end > len(content) or not kind.isalpha():
            return
        yield Chunk(kind, start, end)
        if kind == b"IEND":
            return
        start = end


def _unpacked_size(kind: bytes, body: memoryview) -> int:
    """Bytes of the chunk when unpacked; above MAX_CHUNK: more than that, or damaged."""
    if len(body) > MAX_CHUNK or kind not in _PACKED:
        return len(body)
    head, _, rest = bytes(body).partition(b"\0")
    if kind == b"iTXt":
        flag, rest = rest[:1], rest[2:].split(b"\0", 2)[-1]
        if flag != b"\1":
            return len(body)
    else:
        rest = rest[1:]  # the method
    unpacker = zlib.decompressobj()
    try:
        unpacked = len(unpacker.decompress(rest, MAX_CHUNK))
    except zlib.error:
        return MAX_CHUNK + 1
    return len(head) + unpacked if not unpacker.unconsumed_tail else MAX_CHUNK + 1


def _without(content: bytes, dropped: list[Chunk]) -> bytes:
    parts, start = [], 0
    for chunk in dropped:
        parts.append(content[start : chunk.start])
        start = chunk.end
    return b"".join([*parts, content[start:]])

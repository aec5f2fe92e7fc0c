"""The same PNG, JPEG or GIF with little but what its pixels need, for a file that Pillow refuses
because of something else: a density, a frame of an animation or a comment that is damaged.
"""

from collections.abc import Iterator

from training.data.decoding.png_chunks import SIGNATURE, Chunk, chunks

START_OF_SCAN, EXIF, PROFILE, ADOBE, COMMENT = 0xDA, 0xE1, 0xE2, 0xEE, 0xFE


def bare(content: bytes) -> bytes:
    """`content` without what its pixels do not need; colour profile, transparency and the EXIF that
    turns it stay, if they can be read.
    """
    if content.startswith(SIGNATURE):
        return SIGNATURE + b"".join(_png_parts(content))
    if content.startswith(b"\xff\xd8"):
        return b"\xff\xd8" + b"".join(_jpeg_parts(content))
    if content.startswith(b"GIF8"):
        return b"".join(_gif_parts(content))
    return content


def _png_parts(content: bytes) -> Iterator[bytes]:
    colour_type, num_colours = content[25:26], 0
    for chunk in chunks(content):
        body = content[chunk.start + 8 : chunk.end - 4]
        if chunk.kind == b"PLTE":
            num_colours = len(body) // 3
        if not chunk.kind[0] & 0x20 or _is_needed(chunk, body, colour_type, num_colours):
            yield content[chunk.start : chunk.end]


def _is_needed(chunk: Chunk, body: bytes, colour_type: bytes, num_colours: int) -> bool:
    if chunk.kind == b"tRNS":
        lengths = {b"\0": [2], b"\2": [6], b"\3": range(1, num_colours + 1)}
        return len(body) in lengths.get(colour_type, ())
    if chunk.kind == b"iCCP":
        name, _, rest = body.partition(b"\0")
        return len(name) > 0 and rest.startswith(b"\0") and len(rest) > 1
    return chunk.kind == b"eXIf"


def _jpeg_parts(content: bytes) -> Iterator[bytes]:
    """Segments up to the first scan, and all the rest."""
    start = 2
    while start + 4 <= len(content) and content[start] == 0xFF:
        marker, length = content[start + 1], int.from_bytes(content[start + 2 : start + 4], "big")
        if marker in (START_OF_SCAN, 0xFF):
            break
        body, end = content[start + 4 : start + 2 + length], start + 2 + length
        if not (0xE0 <= marker <= 0xEF or marker == COMMENT) or _says_how_to_read(marker, body):
            yield content[start:end]
        start = end
    yield content[start:]


def _says_how_to_read(marker: int, body: bytes) -> bool:
    return (
        (marker == EXIF and body.startswith(b"Exif\0\0"))
        or (marker == PROFILE and body.startswith(b"ICC_PROFILE\0") and len(body) > 14)
        or (marker == ADOBE and body.startswith(b"Adobe") and len(body) >= 12)
    )


def _gif_parts(content: bytes) -> Iterator[bytes]:
    """Up to the first frame without extensions, but for the one that says what is transparent."""
    start = 13 + (3 * 2 ** ((content[10] & 7) + 1) if content[10:11] >= b"\x80" else 0)
    yield content[:start]
    while content[start : start + 1] == b"\x21":
        end = start + 2
        while length := int.from_bytes(content[end : end + 1], "big"):
            end += 1 + length
        if content[start + 1 : start + 3] == b"\xf9\x04":
            yield content[start : end + 1]
        start = end + 1
    yield content[start:]

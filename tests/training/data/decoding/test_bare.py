"""Whatever an ancillary chunk, segment or extension holds, the pixels are read."""

import io
import struct
import warnings
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from training.data.decoding.bare import bare
from training.data.decoding.decode import decode

MANY = settings(max_examples=300, deadline=None)
CHUNKS = [
    *("tRNS", "gAMA", "cHRM", "sRGB", "pHYs", "tEXt", "zTXt", "iTXt"),
    *("iCCP", "eXIf", "acTL", "fcTL", "bKGD", "sBIT", "tIME", "sPLT"),
]
BODIES = st.binary(max_size=40)


def stored(kind: str, mode: str = "RGB", **parameters) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (8, 8), "red" if mode == "RGB" else 1).save(file, format=kind, **parameters)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def segment(marker: int, body: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def size_of(content: bytes) -> tuple[int, int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of EXIF that it cannot read
        return decode(io.BytesIO(content)).image.size


@MANY
@given(st.sampled_from(CHUNKS), st.sampled_from(["RGB", "L", "P", "RGBA"]), BODIES)
def test_a_chunk_of_any_bytes_breaks_no_png(kind: str, mode: str, body: bytes):
    content = stored("PNG", mode)
    place = content.index(b"IDAT") - 4
    assert size_of(content[:place] + chunk(kind.encode(), body) + content[place:]) == (8, 8)


@MANY
@given(
    st.sampled_from([0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE]),
    st.sampled_from([b"JFIF\0", b"Exif\0\0MM\0*", b"ICC_PROFILE\0", b"Photoshop 3.0\0", b"Adobe"]),
    BODIES,
)
def test_a_segment_of_any_bytes_breaks_no_jpeg(marker: int, name: bytes, body: bytes):
    content = stored("JPEG")
    assert size_of(content[:2] + segment(marker, name + body) + content[2:]) == (8, 8)


@MANY
@given(
    st.sampled_from([0xF9, 0xFE, 0xFF, 0x01, 0x55]), st.lists(st.binary(min_size=1, max_size=20))
)
def test_an_extension_of_any_bytes_breaks_no_gif(label: int, blocks: list[bytes]):
    content = stored("GIF")
    place = content.index(b"\x2c", 13 + 3 * 2 ** ((content[10] & 7) + 1))
    extension = b"\x21" + bytes([label]) + b"".join(bytes([len(b)]) + b for b in blocks) + b"\0"
    assert size_of(content[:place] + extension + content[place:]) == (8, 8)


def test_what_says_how_to_read_pixels_stays():
    """Beside a damaged density: transparency, and the turn of EXIF."""
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    file = io.BytesIO()
    Image.new("RGB", (8, 4), "red").save(file, format="JPEG", exif=exif)
    content = file.getvalue()
    damaged = content[:2] + segment(0xE0, b"JFIF") + content[2:]
    assert size_of(damaged) == size_of(content) == (4, 8)
    clear = stored("PNG", transparency=(255, 0, 0))
    damaged = clear[:33] + chunk(b"gAMA", b"") + clear[33:]
    assert decode(io.BytesIO(damaged)).image.getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF"])
@given(tail=st.binary(max_size=60))
def test_bytes_of_any_kind_are_followed(kind: str, tail: bytes):
    assert len(bare(stored(kind)[:40] + tail)) <= 40 + len(tail)

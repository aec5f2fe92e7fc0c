"""Transparency in every mode shows the background; colour profiles become sRGB; what of a PNG its
pixels do not need breaks no image.
"""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from training.data.decoding.decode import decode
from training.data.decoding.png_chunks import without_what_pixels_do_not_need
from training.data.files.image_files import UnreadableImageError

WHITE, RED = (255, 255, 255), (255, 0, 0)


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(content, zlib.crc32(kind))
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)


def png(depth: int, colour: int, row: bytes, *extra: bytes, side: int = 4) -> bytes:
    """Written from the specification: Pillow cannot write all of these."""
    head = struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)
    pixels = chunk(b"IDAT", zlib.compress((b"\0" + row) * side))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + b"".join(extra) + pixels + chunk(b"IEND", b"")
    )


def clear(*levels: int) -> bytes:
    return chunk(b"tRNS", struct.pack(f">{len(levels)}H", *levels))


PALETTE = chunk(b"PLTE", bytes([0, 0, 0, 255, 0, 0]))
TRANSPARENT = {  # the first pixel is clear, the last one is not
    "grey 1": (png(1, 0, b"\x10", clear(0)), WHITE),
    "grey 1, white clear": (png(1, 0, b"\xe0", clear(1)), (0, 0, 0)),
    "grey 2": (png(2, 0, b"\x03", clear(0)), WHITE),
    "grey 2, level 1": (png(2, 0, b"\x57", clear(1)), WHITE),
    "grey 4": (png(4, 0, b"\x55\x5f", clear(5)), WHITE),
    "grey 8": (png(8, 0, bytes([7, 7, 7, 200]), clear(7)), (200, 200, 200)),
    "grey 16": (png(16, 0, struct.pack(">4H", 0, 0, 0, 65535), clear(0)), WHITE),
    "grey 16, deep": (png(16, 0, struct.pack(">4H", *[999] * 3, 0), clear(999)), (0, 0, 0)),
    "rgb 8": (png(8, 2, bytes([1, 2, 3] * 3 + [255, 0, 0]), clear(1, 2, 3)), RED),
    "rgb 16": (png(16, 2, struct.pack(">12H", *[0] * 9, 65535, 0, 0), clear(0, 0, 0)), RED),
    "palette": (png(8, 3, bytes([0, 0, 0, 1]), PALETTE, chunk(b"tRNS", b"\0")), RED),
    "palette 1": (png(1, 3, b"\x10", PALETTE, chunk(b"tRNS", b"\0\xff")), RED),
    "grey and alpha 8": (png(8, 4, bytes([0, 0] * 3 + [200, 255])), (200, 200, 200)),
    "grey and alpha 16": (png(16, 4, struct.pack(">8H", *[0] * 6, 65535, 65535)), WHITE),
    "rgba 16": (png(16, 6, struct.pack(">16H", *[0] * 12, 65535, 0, 0, 65535)), RED),
}


@pytest.mark.parametrize("name", TRANSPARENT)
def test_transparency_of_every_mode_shows_the_background(name: str):
    content, opaque = TRANSPARENT[name]
    decoded = decode(io.BytesIO(content), background=(0, 0, 99))
    assert "transparent" in decoded.conversions
    assert decoded.image.getpixel((0, 0)) == (0, 0, 99)
    assert decoded.image.getpixel((3, 3)) == opaque


def test_strips_are_as_the_whole(monkeypatch: pytest.MonkeyPatch):
    levels = np.random.default_rng(0).integers(0, 256, (37, 23, 4), np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, format="PNG")
    whole = np.asarray(decode(io.BytesIO(file.getvalue())).image)
    monkeypatch.setattr("training.data.decoding.colour.STRIP_PIXELS", 100)
    assert np.array_equal(whole, np.asarray(decode(io.BytesIO(file.getvalue())).image))


# --- colour profiles


def srgb() -> bytes:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def exchanged() -> bytes:
    """sRGB with red and green exchanged, so that the effect is plain."""
    profile = bytearray(srgb())
    swap = {b"rXYZ": b"gXYZ", b"gXYZ": b"rXYZ"}
    for place in range(132, 132 + 12 * int.from_bytes(profile[128:132], "big"), 12):
        tag = bytes(profile[place : place + 4])
        profile[place : place + 4] = swap.get(tag, tag)
    return bytes(profile)


@pytest.mark.parametrize(
    ("kind", "mode"),
    [
        *(("PNG", mode) for mode in ("RGB", "RGBA", "P", "L")),
        *(("JPEG", mode) for mode in ("RGB", "L")),
        *(("WEBP", mode) for mode in ("RGB", "RGBA")),
    ],
)
def test_profiles_are_converted_to_srgb(mode: str, kind: str):
    image = Image.new("RGB", (16, 16), (0, 200, 0)).convert(mode)
    red, green, blue = image.convert("RGB").getpixel((8, 8))  # type: ignore[misc]
    file = io.BytesIO()
    image.save(file, format=kind, icc_profile=exchanged(), quality=95)
    decoded = decode(io.BytesIO(file.getvalue()))
    found = decoded.image.getpixel((8, 8))
    assert np.abs(np.subtract(found, (green, red, blue))).max() <= 8
    assert "colour profile" in decoded.conversions


def test_a_profile_of_srgb_changes_nothing():
    levels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(levels).save(file, format="PNG", icc_profile=srgb())
    decoded = decode(io.BytesIO(file.getvalue()))
    assert decoded.conversions == ()
    assert np.array_equal(np.asarray(decoded.image), levels)


@pytest.mark.parametrize("profile", [b"junk", b"", bytes(200), exchanged()[:300]])
def test_a_damaged_profile_is_ignored(profile: bytes):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), (0, 200, 0)).save(file, format="JPEG", icc_profile=profile, quality=95)
    assert decode(io.BytesIO(file.getvalue())).image.getpixel((0, 0))[1] > 190


# --- chunks of a PNG


def with_chunk(extra: bytes) -> bytes:
    return png(8, 2, bytes([255, 0, 0] * 4), extra)


TEXT = zlib.compress(bytes(3 * 2**20))
DAMAGED = chunk(b"tEXt", b"Comment\0hello")[:-4] + bytes(4)
NEEDLESS = {
    "zTXt": chunk(b"zTXt", b"workflow\0\0" + TEXT),
    "iTXt": chunk(b"iTXt", b"workflow\0\1\0\0\0" + TEXT),
    "long tEXt": chunk(b"tEXt", b"workflow\0" + b"a" * (2**20 + 9)),
    "much tEXt": chunk(b"tEXt", b"workflow\0" + b"a" * 2**20) * 70,
    "iCCP": chunk(b"iCCP", b"big\0\0" + TEXT),
    "iCCP, no zlib": chunk(b"iCCP", b"big\0\0" + b"junk"),
    "checksum": DAMAGED,
    "checksum of a profile": chunk(b"iCCP", b"x\0\0" + zlib.compress(srgb()))[:-4] + bytes(4),
    "unknown": chunk(b"prVt", bytes(2**21)),
    "EXIF": chunk(b"eXIf", b"junk"),
    "pHYs": chunk(b"pHYs", b"\0")[:-4] + bytes(4),
}


@pytest.mark.parametrize("name", NEEDLESS)
def test_what_pixels_do_not_need_breaks_no_png(name: str):
    assert decode(io.BytesIO(with_chunk(NEEDLESS[name]))).image.getpixel((0, 0)) == RED


def test_a_damaged_critical_chunk_does():
    content = with_chunk(b"")
    place = content.index(b"IDAT") + 8
    damaged = content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]
    with pytest.raises(UnreadableImageError):
        decode(io.BytesIO(damaged))


def test_a_png_without_needless_chunks_is_not_copied():
    content = with_chunk(chunk(b"tEXt", b"Comment\0hello"))
    assert without_what_pixels_do_not_need(content) is content
    assert without_what_pixels_do_not_need(b"GIF89a") == b"GIF89a"


def test_a_photograph_of_two_cameras_is_its_first_image():
    """MPO, as telephones write: a JPEG that holds several."""
    file = io.BytesIO()
    first, second = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")
    first.save(file, format="MPO", save_all=True, append_images=[second])
    decoded = decode(io.BytesIO(file.getvalue()))
    assert decoded.conversions == ("animated",)
    assert decoded.image.getpixel((8, 8))[0] > 240

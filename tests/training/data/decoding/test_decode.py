"""Images: every legal one becomes upright 8-bit RGB and is counted, every other one is named."""

import io
import random
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from training.data.decoding.decode import decode
from training.data.files.image_files import UnreadableImageError

RAMP = np.linspace(0, 255, 24).round().astype(np.uint8)


def gradient(height: int = 16, width: int = 24) -> np.ndarray:
    """[H, W, 3] uint8: red rises to the right, green downwards, blue is constant."""
    red = np.linspace(0, 255, width).round()[None, :].repeat(height, axis=0)
    green = np.linspace(0, 255, height).round()[:, None].repeat(width, axis=1)
    return np.stack([red, green, np.full_like(red, 40)], axis=2).astype(np.uint8)


def write_png16(path: Path, samples: np.ndarray) -> None:
    """A 16-bit PNG, grey [H, W] or RGB [H, W, 3], written from the specification: Pillow cannot."""
    height, width = samples.shape[:2]
    color_type = 2 if samples.ndim == 3 else 0
    rows = samples.astype(">u2").reshape(height, -1)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 16, color_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def pixels(path: Path, **options) -> np.ndarray:
    decoded = decode(path, **options).image
    assert decoded.mode == "RGB"
    return np.asarray(decoded).astype(int)


# --- legal images


def test_plain_rgb_is_not_converted(tmp_path: Path):
    Image.fromarray(gradient()).save(tmp_path / "a.png")
    decoded = decode(tmp_path / "a.png")
    assert decoded.conversions == ()
    assert np.array_equal(np.asarray(decoded.image), gradient())


def test_16_bit_grey(tmp_path: Path):
    samples = np.linspace(0, 65535, 16 * 24).round().reshape(16, 24)
    write_png16(tmp_path / "a.png", samples)
    assert decode(tmp_path / "a.png").conversions == ("16-bit",)
    expected = (samples / 257)[..., None].repeat(3, axis=2)
    assert np.abs(pixels(tmp_path / "a.png") - expected).max() <= 1


def test_dark_16_bit_grey_stays_dark(tmp_path: Path):
    """All samples below 256 of 65,535 are black, not an 8-bit image."""
    write_png16(tmp_path / "a.png", np.full((16, 24), 255))
    assert pixels(tmp_path / "a.png").max() <= 1


def test_16_bit_rgb(tmp_path: Path):
    samples = gradient().astype(int) * 257
    write_png16(tmp_path / "a.png", samples)
    assert decode(tmp_path / "a.png").conversions == ("16-bit",)
    assert np.abs(pixels(tmp_path / "a.png") - gradient()).max() <= 1


def test_cmyk_jpeg(tmp_path: Path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=95)
    assert decode(tmp_path / "a.jpg").conversions == ("CMYK",)
    assert np.abs(pixels(tmp_path / "a.jpg") - np.array([255, 0, 0])).max() <= 6


def test_palette(tmp_path: Path):
    blocks = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [9, 9, 9]]], dtype=np.uint8)
    Image.fromarray(blocks).quantize(8).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png").conversions == ("palette",)
    assert np.array_equal(pixels(tmp_path / "a.png"), blocks)


def test_grey(tmp_path: Path):
    Image.fromarray(RAMP[None].repeat(8, axis=0)).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png").conversions == ("grey",)
    assert np.array_equal(pixels(tmp_path / "a.png")[0, :, 2], RAMP)


def test_black_and_white(tmp_path: Path):
    Image.fromarray(np.eye(8) > 0).save(tmp_path / "a.png")
    assert decode(tmp_path / "a.png").conversions == ("grey",)
    assert np.array_equal(pixels(tmp_path / "a.png")[..., 0], 255 * np.eye(8))


@pytest.mark.parametrize("suffix", ["gif", "png", "webp"])
def test_animation_shows_its_first_frame(tmp_path: Path, suffix: str):
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "lime", "blue")]
    path = tmp_path / f"a.{suffix}"
    options = {"lossless": True} if suffix == "webp" else {}
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=100, **options)
    assert "animated" in decode(path).conversions
    assert np.array_equal(pixels(path)[8, 8], [255, 0, 0])


@pytest.mark.parametrize("suffix", ["png", "webp"])
def test_transparency_shows_the_background(tmp_path: Path, suffix: str):
    levels = np.zeros((16, 16, 4), dtype=np.uint8)
    levels[..., 0] = 200
    levels[4:, :, 3] = 255
    levels[:2, :, 3] = 128
    path = tmp_path / f"a.{suffix}"
    options = {"lossless": True, "exact": True} if suffix == "webp" else {}
    Image.fromarray(levels).save(path, **options)
    assert decode(path).conversions == ("transparent",)
    found = pixels(path)
    assert np.array_equal(found[3, 8], [255, 255, 255])
    assert np.array_equal(found[8, 8], [200, 0, 0])
    assert np.abs(found[0, 8] - [227, 127, 127]).max() <= 1
    assert np.array_equal(pixels(path, background=(0, 0, 99))[3, 8], [0, 0, 99])


def test_transparent_palette(tmp_path: Path):
    image = Image.new("P", (8, 8), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.paste(1, (0, 0, 4, 8))
    image.save(tmp_path / "a.png", transparency=1)
    assert set(decode(tmp_path / "a.png").conversions) == {"palette", "transparent"}
    found = pixels(tmp_path / "a.png")
    assert np.array_equal(found[0, 0], [255, 255, 255])
    assert np.array_equal(found[0, 7], [255, 0, 0])


def test_grey_with_alpha(tmp_path: Path):
    Image.new("LA", (8, 8), (50, 0)).save(tmp_path / "a.png")
    assert set(decode(tmp_path / "a.png").conversions) == {"grey", "transparent"}
    assert pixels(tmp_path / "a.png").min() == 255


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
def test_exif_rotation_is_applied(tmp_path: Path, suffix: str):
    image = Image.new("RGB", (32, 16), "white")
    image.paste((255, 0, 0), (0, 0, 16, 16))  # red on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    image.save(tmp_path / f"a.{suffix}", exif=exif)
    found = pixels(tmp_path / f"a.{suffix}")
    assert found.shape == (32, 16, 3)
    assert np.abs(found[4, 8] - [255, 0, 0]).max() <= 8  # red at the top
    assert np.abs(found[28, 8] - 255).max() <= 8


@pytest.mark.parametrize("suffix", ["jpg", "jpeg", "png", "webp", "bmp", "gif"])
def test_every_suffix_of_the_list_decodes(tmp_path: Path, suffix: str):
    Image.fromarray(gradient()).save(tmp_path / f"a.{suffix}")
    assert np.abs(pixels(tmp_path / f"a.{suffix}") - gradient()).mean() < 12


def test_suffix_does_not_decide_the_format(tmp_path: Path):
    Image.fromarray(gradient()).save(tmp_path / "a.png", format="WEBP", lossless=True)
    assert np.array_equal(pixels(tmp_path / "a.png"), gradient())


@pytest.mark.parametrize("mode", ["RGB", "P", "CMYK"])
def test_shrinking_bounds_the_longer_side(tmp_path: Path, mode: str):
    suffix = "jpg" if mode == "CMYK" else "png"
    image = Image.fromarray(gradient(200, 300)).convert(mode)
    image.save(tmp_path / f"a.{suffix}")
    decoded = decode(tmp_path / f"a.{suffix}", shrink_to=60)
    assert decoded.image.size == (60, 40)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data:UserWarning")
def test_unreadable_exif_does_not_spoil_a_readable_image(tmp_path: Path):
    """Pillow's own exif_transpose raises struct.error here: it writes the block anew."""
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x9286] = b"comment"
    content = exif.tobytes().replace(b"\x86\x92\x07\x00", b"\x86\x92\x0c\x00")
    for number, block in enumerate((exif.tobytes(), content, exif.tobytes()[:20], b"Exif\0\0junk")):
        Image.new("RGB", (6, 4)).save(tmp_path / f"{number}.jpg", exif=block)
        assert decode(tmp_path / f"{number}.jpg").image.size in ((6, 4), (4, 6))
    assert decode(tmp_path / "0.jpg").image.size == (4, 6)


# --- illegal ones


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not an image in a supported format"),
        (b"hello", "not an image in a supported format"),
        (b"\x89PNG\r\n\x1a\n", "broken|not an image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not an image in a supported format"),
    ],
)
def test_files_that_are_no_images_have_a_reason(tmp_path: Path, content: bytes, reason: str):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(UnreadableImageError, match=reason):
        decode(tmp_path / "a.png")


def test_missing_file_has_a_reason(tmp_path: Path):
    with pytest.raises(UnreadableImageError, match="does not exist"):
        decode(tmp_path / "a.png")


def test_formats_off_the_list_are_not_decoded(tmp_path: Path):
    Image.fromarray(gradient()).save(tmp_path / "a.png", format="TIFF")
    with pytest.raises(UnreadableImageError, match=r"supported format \(JPEG, PNG, WEBP"):
        decode(tmp_path / "a.png")


def encoded(suffix: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (40, 40, 3)).astype(np.uint8)
    buffer, first = io.BytesIO(), Image.fromarray(noise)
    if suffix == "animated gif":
        more = [Image.fromarray(np.roll(noise, step, axis=0)) for step in (1, 2)]
        first.resize((12, 12)).save(
            buffer, format="GIF", save_all=True, append_images=[x.resize((12, 12)) for x in more]
        )
        return buffer.getvalue()
    first.save(buffer, format={"jpg": "JPEG"}.get(suffix, suffix.upper()))
    return buffer.getvalue()


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "gif"])
def test_truncated_images_have_a_reason(tmp_path: Path, suffix: str):
    content, path = encoded(suffix), tmp_path / f"a.{suffix}"
    for share in (0.1, 0.5, 0.8):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(UnreadableImageError):
            decode(path)


@pytest.mark.filterwarnings("ignore")  # Pillow warns of what it could mend
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "bmp", "gif", "animated gif"])
def test_damaged_bytes_never_raise_anything_else(tmp_path: Path, suffix: str):
    content, path, chance = encoded(suffix), tmp_path / f"a.{suffix}", random.Random(0)
    outcomes = set()
    for _ in range(600 if "animated" in suffix else 150):
        damaged = bytearray(content)
        for _ in range(chance.randint(1, 6)):
            damaged[chance.randrange(min(len(damaged), 400))] = chance.randrange(256)
        path.write_bytes(damaged)
        try:
            outcomes.add(decode(path, max_megapixels=1).image.mode)
        except UnreadableImageError:
            outcomes.add("unreadable")
    assert outcomes == {"RGB", "unreadable"}


def test_limit_of_megapixels_is_checked_before_decoding(tmp_path: Path):
    Image.new("1", (10_001, 10_000)).save(tmp_path / "huge.png")
    content = (tmp_path / "huge.png").read_bytes()
    (tmp_path / "huge.png").write_bytes(content[:60])  # the pixels are not even there
    reason = r"10001 x 10000 is 100 megapixels, the limit is 100 \(--max-megapixels\)"
    with pytest.raises(UnreadableImageError, match=reason):
        decode(tmp_path / "huge.png")
    Image.new("1", (1000, 900)).save(tmp_path / "small.png")
    assert decode(tmp_path / "small.png", max_megapixels=0.9).image.size == (1000, 900)
    with pytest.raises(UnreadableImageError, match=r"the limit is 0\.8"):
        decode(tmp_path / "small.png", max_megapixels=0.8)

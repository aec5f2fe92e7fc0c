"""Copies of an image that are other images: mirrored, moved a little, of other hues.

A generator that is conditioned on each image's own embedding learns as many conditions as there are
images. Of a few thousand it learns those by heart; a copy has an embedding of its own, and is one
condition more.
"""

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

from training.data.decoding.crop import RESAMPLING, SquareConfig, to_square

COPY_OF = "copy_of"  # in metadata, and in an index: the file beside it that it is a copy of
MIRRORED, RECOLOURED, SATURATED, MOVED = 0.5, 0.6, 0.3, 0.7  # shares of copies
SATURATION = 0.3, 1.6  # from, to
TURN = 8.0  # spread in degrees
SIZE, STRETCH = 0.12, 0.06  # spreads of the logarithm
SMALLER = 0.05  # mean of the logarithm, so that little is cut off
SHIFT = 0.03  # spread in sides
# RGB to luma and two axes of colour (NTSC), about the first of which hues turn
_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])


def augmented_square(
    image: Image.Image, resolution: int, squares: SquareConfig, random: np.random.Generator
) -> Image.Image:
    """A copy of an RGB image as a square of `resolution` pixels."""
    square = Image.fromarray(to_square(image, 2 * resolution, squares))
    if random.random() < MIRRORED:
        square = ImageOps.mirror(square)
    if random.random() < RECOLOURED:
        square = _turned_hues(square, random.uniform(-np.pi, np.pi), squares.colour)
    if random.random() < SATURATED:
        square = ImageEnhance.Color(square).enhance(random.uniform(*SATURATION))
    if random.random() < MOVED:
        square = _moved(square, squares.colour, random)
    return square.resize((resolution, resolution), RESAMPLING[squares.resize])


def _turned_hues(
    square: Image.Image, angle: float, background: tuple[int, int, int]
) -> Image.Image:
    """All hues turned alike; what has the background's colour keeps it."""
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    rgb = np.asarray(square, np.float64)
    turned = rgb @ (np.linalg.inv(_TO_YIQ) @ turn @ _TO_YIQ).T
    is_background = (rgb == background).all(axis=2, keepdims=True)
    levels = np.where(is_background, rgb, turned).clip(0, 255).round()
    return Image.fromarray(levels.astype(np.uint8))


def _moved(
    square: Image.Image, background: tuple[int, int, int], random: np.random.Generator
) -> Image.Image:
    """Turned, scaled and shifted, with background where nothing was."""
    side, angle = square.width, np.deg2rad(random.normal(0, TURN))
    # what a pixel of the result comes from: larger is a smaller image
    across = np.exp(random.normal(SMALLER, SIZE))
    down = across * np.exp(random.normal(0, STRETCH))
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.array([[cos * across, -sin * across], [sin * down, cos * down]])
    centre = np.full(2, side / 2)
    offset = centre - matrix @ (centre + random.normal(0, SHIFT, 2) * side)
    rows = np.column_stack([matrix, offset]).flatten()
    return square.transform(
        square.size,
        Image.Transform.AFFINE,
        tuple(rows),
        Image.Resampling.BICUBIC,
        fillcolor=background,
    )

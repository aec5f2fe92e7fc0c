"""Grids of images. Shape letters: N images, R resolution."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor


def image_grid(
    images: Sequence[Image.Image], *, columns: int, scale: int = 1, gap: int = 2
) -> Image.Image:
    """Images of one size in rows of `columns`, enlarged `scale` times, on white."""
    width, height = images[0].width * scale, images[0].height * scale
    rows = -(-len(images) // columns)
    canvas = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for index, image in enumerate(images):
        place = (index % columns * (width + gap), index // columns * (height + gap))
        canvas.paste(image.resize((width, height), Image.Resampling.NEAREST), place)
    return canvas


def conditions_grid(conditions: Tensor, samples: Sequence[Tensor]) -> Image.Image:
    """One row of conditioning images [N, R, R, 3] uint8, and a row of samples for each tensor of
    `samples`.
    """
    rows = [Image.fromarray(np.asarray(p)) for batch in (conditions, *samples) for p in batch]
    return image_grid(rows, columns=len(conditions), scale=max(1, 64 // conditions.shape[1]))


def labelled_rows(
    rows: Sequence[tuple[str, Sequence[Image.Image]]], *, scale: int = 1
) -> Image.Image:
    """A grid with a line of text above each row of images."""
    strips = [
        (label, image_grid(list(images), columns=len(images), scale=scale))
        for label, images in rows
    ]
    text_height = 18
    width = max(strip.width for _, strip in strips)
    canvas = Image.new(
        "RGB", (width + 8, sum(strip.height + text_height + 4 for _, strip in strips) + 4), "white"
    )
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=13)
    y = 2
    for label, strip in strips:
        draw.text((4, y), label, fill="black", font=font)
        canvas.paste(strip, (4, y + text_height))
        y += strip.height + text_height + 4
    return canvas

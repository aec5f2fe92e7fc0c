"""Grids of pictures. Shape letters: N pictures, R resolution."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor


def picture_grid(
    pictures: Sequence[Image.Image], *, columns: int, scale: int = 1, gap: int = 2
) -> Image.Image:
    """Pictures of one size in rows of `columns`, enlarged `scale` times, on white."""
    width, height = pictures[0].width * scale, pictures[0].height * scale
    rows = -(-len(pictures) // columns)
    canvas = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for index, picture in enumerate(pictures):
        place = (index % columns * (width + gap), index // columns * (height + gap))
        canvas.paste(picture.resize((width, height), Image.Resampling.NEAREST), place)
    return canvas


def conditions_grid(conditions: Tensor, samples: Sequence[Tensor]) -> Image.Image:
    """One row of conditioning pictures [N, R, R, 3] uint8, and a row of samples for each tensor of
    `samples`.
    """
    rows = [Image.fromarray(np.asarray(p)) for batch in (conditions, *samples) for p in batch]
    return picture_grid(rows, columns=len(conditions), scale=max(1, 64 // conditions.shape[1]))


def labelled_rows(
    rows: Sequence[tuple[str, Sequence[Image.Image]]], *, scale: int = 1
) -> Image.Image:
    """A grid with a line of text above each row of pictures."""
    strips = [
        (label, picture_grid(list(pictures), columns=len(pictures), scale=scale))
        for label, pictures in rows
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

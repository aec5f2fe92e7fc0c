"""Grids of images. Shape letters: N images, R resolution."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image
from torch import Tensor

from lafite_shifted.io.png import as_grid
from training.metrics.labels import label_of

MAX_SIDE = 2**14  # pixels of a grid
MAX_PIXELS = 2**25
SMALLEST = 32  # pixels: images are not made smaller to fit, there are fewer of them
GAP = 2
MARGIN = 4
LABEL_WIDTH = 320  # pixels that a label may take, however narrow the images are


@dataclass(frozen=True)
class LabelledGrid:
    """A grid, and what it could not show: the whole of labels by their numbers, rows left out."""

    image: Image.Image
    legend: list[str]


def image_grid(images: Sequence[Image.Image], *, columns: int, scale: int = 1) -> Image.Image:
    """Images of one size in rows of `columns`, enlarged `scale` times, on white; smaller, and at
    last fewer, where the grid would be larger than MAX_SIDE and MAX_PIXELS allow.
    """
    width, height = _cell(images[0].size, scale, columns=columns, count=len(images))
    columns = min(columns, max(1, MAX_SIDE // (width + GAP)))
    most = min(MAX_SIDE, MAX_PIXELS // (columns * (width + GAP))) // (height + GAP)
    shown = images[: columns * max(1, most)]
    rows = -(-len(shown) // columns)
    canvas = Image.new("RGB", (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP), "white")
    for index, image in enumerate(shown):
        place = (index % columns * (width + GAP), index // columns * (height + GAP))
        smaller = width < image.width
        method = Image.Resampling.LANCZOS if smaller else Image.Resampling.NEAREST
        canvas.paste(image.resize((width, height), method), place)
    return as_grid(canvas)


def _cell(size: tuple[int, int], scale: int, *, columns: int, count: int) -> tuple[int, int]:
    """Width and height of each of `count` images, with which they fit if that can be had."""
    rows = -(-count // columns)
    width, height = size[0] * scale, size[1] * scale
    shrink = min(
        1.0,
        (MAX_SIDE / columns - GAP) / width,
        (MAX_SIDE / rows - GAP) / height,
        math.sqrt(MAX_PIXELS / (columns * rows * (width + GAP) * (height + GAP))),
    )
    least = min(1.0, SMALLEST / min(width, height))
    shrink = max(shrink, least)
    return max(1, int(width * shrink)), max(1, int(height * shrink))


def conditions_grid(conditions: Tensor, samples: Sequence[Tensor]) -> Image.Image:
    """One row of conditioning images [N, R, R, 3] uint8, and a row of samples for each tensor of
    `samples`.
    """
    rows = [Image.fromarray(np.asarray(p)) for batch in (conditions, *samples) for p in batch]
    return image_grid(rows, columns=len(conditions), scale=max(1, 64 // conditions.shape[1]))


def labelled_grid(
    rows: Sequence[tuple[str, Sequence[Image.Image]]],
    *,
    scale: int = 1,
    most_columns: int = MAX_SIDE,
) -> LabelledGrid:
    """A grid with a label above each row of images; one of more than `most_columns` is wrapped."""
    longest, first = max(len(images) for _, images in rows), rows[0][1][0]
    columns = min(longest, most_columns)
    lines = -(-longest // columns)
    cell = _cell(first.size, scale, columns=columns, count=columns * lines * len(rows))
    columns = min(columns, max(1, (MAX_SIDE - 2 * MARGIN) // (cell[0] + GAP)))
    width = max(columns * (cell[0] + GAP) - GAP, LABEL_WIDTH)
    most = min(MAX_SIDE, MAX_PIXELS // (width + 2 * MARGIN))  # pixels downwards
    labels, legend, height = [], list[str](), MARGIN
    for number, (text, images) in enumerate(rows, start=1):
        label = label_of(text, width=width)
        if not label.complete:
            label = label_of(f"{number}: {text}", width=width)
            legend.append(f"{number}: {text}")
        lines = -(-len(images) // columns)
        room = (most - height - label.height - MARGIN) // (cell[1] + GAP)
        if labels and lines > room:
            legend.append(f"{number} to {len(rows)}: not shown, the grid has its largest size")
            break
        if lines > room:  # one row that is too much by itself
            lines = max(1, room)
            shown, images = len(images), images[: columns * lines]
            legend.append(f"{number}: the first {len(images)} of {shown}, in the largest size")
        below = height + label.height + lines * (cell[1] + GAP) + MARGIN
        labels.append((label, height, images))
        height = below
    canvas = Image.new("RGB", (width + 2 * MARGIN, height), "white")
    for label, y, images in labels:
        label.draw(canvas, (MARGIN, y - MARGIN // 2))
        strip = _strip(images, cell, columns)
        canvas.paste(strip, (MARGIN, y + label.height))
    return LabelledGrid(as_grid(canvas), legend)


def contact_sheet(
    cells: Sequence[tuple[str, Image.Image]], *, columns: int, least: int
) -> Image.Image:
    """Images in rows of `columns`, at least `least` pixels wide, each with its name below."""
    first = cells[0][1]
    scale = max(1, -(-least // first.width))
    width, height = first.width * scale, first.height * scale
    labels = [label_of(name, width=width) for name, _ in cells]
    below = max(label.height for label in labels) + MARGIN
    rows = -(-len(cells) // columns)
    size = (columns * (width + GAP) + MARGIN, rows * (height + below) + MARGIN)
    canvas = Image.new("RGB", size, "white")
    for number, (label, (_, image)) in enumerate(zip(labels, cells, strict=True)):
        x = MARGIN + number % columns * (width + GAP)
        y = MARGIN + number // columns * (height + below)
        canvas.paste(image.resize((width, height), Image.Resampling.NEAREST), (x, y))
        label.draw(canvas, (x, y + height))
    return as_grid(canvas)


def with_column_titles(grid: Image.Image, titles: Sequence[str], *, cell: int) -> Image.Image:
    """A labelled grid whose images are `cell` pixels wide, with a title above each column."""
    labels = [label_of(title, width=cell) for title in titles]
    height = max(label.height for label in labels) + MARGIN
    canvas = Image.new("RGB", (grid.width, grid.height + height), "white")
    canvas.paste(grid, (0, height))
    for column, label in enumerate(labels):
        label.draw(canvas, (MARGIN + column * (cell + GAP), MARGIN))
    return as_grid(canvas)


def _strip(images: Sequence[Image.Image], cell: tuple[int, int], columns: int) -> Image.Image:
    smaller = cell[0] < images[0].width
    method = Image.Resampling.LANCZOS if smaller else Image.Resampling.NEAREST
    shown = [image.resize(cell, method) for image in images]
    return image_grid(shown, columns=min(columns, len(shown)))

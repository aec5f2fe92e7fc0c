"""DiffAugment (arXiv:2006.10738) with this project's draws, pixel by pixel on one picture."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def diff_augment(picture: Array, draws: Array, *, strength: float) -> Array:
    """[3, H, W]; draws: brightness, saturation, contrast, down, right, place of the cutout."""
    u = (2 * draws - 1) * strength
    x = picture + u[0] / 2
    for i, j in np.ndindex(*x.shape[1:]):
        grey = x[:, i, j].mean()
        x[:, i, j] = grey + (x[:, i, j] - grey) * (1 + u[1])
    x = x.mean() + (x - x.mean()) * (1 + u[2] / 2)
    height, width = x.shape[1:]
    down, right = round(u[3] * height / 8), round(u[4] * width / 8)
    moved = np.empty_like(x)
    for i, j in np.ndindex(height, width):
        source_i = min(max(i - down, 0), height - 1)
        source_j = min(max(j - right, 0), width - 1)
        is_cut = (
            abs(i - draws[5] * height) < strength * height / 4
            and abs(j - draws[6] * width) < strength * width / 4
        )
        moved[:, i, j] = 0 if is_cut else x[:, source_i, source_j]
    return moved

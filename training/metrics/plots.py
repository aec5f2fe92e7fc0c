"""Plots, by matplotlib. Shape letters: n rows, D embedding."""

import io
from pathlib import Path

import torch
from torch import Tensor

from lafite_shifted.gaussian.cone import cone
from lafite_shifted.gaussian.gaussian import Gaussian
from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.io.files import write_bytes
from lafite_shifted.io.png import GRID, SOFTWARE, check_own_png


def save_figure(path: Path, figure) -> None:
    """Write a matplotlib figure as PNG, atomically; InputError where another program's file would
    be lost.
    """
    check_own_png(path)
    content, marks = io.BytesIO(), {"Software": SOFTWARE, "Comment": GRID}
    figure.savefig(content, format="png", dpi=120, bbox_inches="tight", metadata=marks)
    write_bytes(path, content.getvalue())


def spectrum_and_cone(stats: EmbeddingStats, sample: Tensor):
    """The spectrum of the covariance beside that of noise in all directions, and the cosines
    between embeddings of `sample` [n, D] beside those of such noise.
    """
    from matplotlib.figure import Figure

    shape = cone(stats)
    figure = Figure(figsize=(10, 3.6))
    left, right = figure.subplots(1, 2)
    measured = torch.linalg.eigvalsh(stats.covariance).flip(0).clamp(min=1e-12)
    used = Gaussian.from_stats(stats).eigenvalues.sort(descending=True).values
    rank = torch.arange(1, stats.dim + 1)
    left.loglog(rank, measured, label="measured")
    left.loglog(rank, used, "--", label="as used: shrunk and floored")
    left.axhline(1 / stats.dim, color="grey", linewidth=1, label="unit vectors in all directions")
    left.set(xlabel="direction", ylabel="variance")
    left.set_title(f"spectrum: effective rank {shape.effective_rank:.0f} of {stats.dim}")
    left.legend(fontsize=8)
    upper = torch.triu_indices(len(sample), len(sample), offset=1)
    cosines = (sample @ sample.T)[upper[0], upper[1]]
    right.hist(cosines.numpy(), bins=80, range=(-1, 1), density=True, label="embeddings")
    grid = torch.linspace(-1, 1, 401, dtype=torch.float64)
    log_density = (stats.dim - 3) / 2 * (1 - grid.square()).clamp(min=1e-12).log()
    log_density -= torch.logsumexp(log_density, 0) + torch.tensor(2 / 400.0).log()
    right.plot(grid, log_density.exp(), color="grey", linewidth=1, label="all directions")
    right.set(xlabel="cosine between two embeddings", ylabel="density")
    right.set_title(f"cone: norm of the mean {shape.norm_of_mean:.2f}")
    right.legend(fontsize=8)
    return figure

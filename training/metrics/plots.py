"""Plots, by matplotlib. Shape letters: n rows, D embedding."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lafite_shifted.gaussian.stats import EmbeddingStats, Gaussian, cone
from lafite_shifted.io.files import write_bytes

if TYPE_CHECKING:
    from training.prior.evaluate import Row


def save_figure(path: Path, figure) -> None:
    """Write a matplotlib figure as PNG, atomically."""
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120, bbox_inches="tight")
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


def steps_figure(rows: "Sequence[Row]", *, floor: "Row | None"):
    """Steps against the Frechet distance, the cosine and the energy score, a curve for each prior:
    its colour is the process's, its dashes the sampler's, and the cosine schedule is paler; `floor`
    is another real image of the same name.
    """
    from matplotlib.figure import Figure

    dashes = {"dpm++": "--", "ddim": ":"}

    def process(name: str) -> str:
        for sampler in dashes:
            name = name.removesuffix(f", {sampler}")
        return name.replace(", cosine", ", linear")

    figure = Figure(figsize=(14, 3.8))
    axes = figure.subplots(1, 3)
    names = list(dict.fromkeys(row.name for row in rows))
    kinds = list(dict.fromkeys(process(name) for name in names))
    titles = {
        "fd_clip": "Frechet distance (less is better)",
        "clip_i_sim": "cosine to the true embedding (more)",
        "energy": "energy score (less)",
    }
    for axis, (key, title) in zip(axes, titles.items(), strict=True):
        for name in names:
            curve = [row for row in rows if row.name == name]
            axis.errorbar(
                [row.steps for row in curve],
                [getattr(row.metrics, key) for row in curve],
                yerr=[row.spread.get(key, 0.0) for row in curve],
                marker="o",
                markersize=3,
                color=f"C{kinds.index(process(name)) % 10}",
                linestyle=dashes.get(name.rpartition(", ")[2], "-"),
                alpha=0.45 if ", cosine" in name else 1.0,
                label=name,
            )
        if floor is not None and getattr(floor.metrics, key) is not None:
            value = getattr(floor.metrics, key)
            axis.axhline(value, color="grey", linewidth=1, label="another real image")
        axis.set_xscale("log", base=2)
        axis.set(xlabel="steps (evaluations of the network)", title=title)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, fontsize=7, loc="center left", bbox_to_anchor=(0.91, 0.5))
    return figure


CURVES = {
    "fd_clip": "Frechet distance (less is better)",
    "clip_i_sim": "cosine of CLIP(G(h)) to h (more)",
    "retrieval_10": "recall@10 (more)",
    "nearest_training_clip_i_sim": "cosine to the nearest training image",
}


def curves_figure(logs: Mapping[str, Sequence[Mapping[str, float]]]):
    """What generators' runs measured while they trained, against thousands of images: `logs` are
    the rows of log.jsonl by the name of the run. Grey: the real images themselves at the size of
    the first run (solid), the nearest to each (dashed), and unrelated ones (dotted).
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 3.6))
    axes = figure.subplots(1, len(CURVES))
    for axis, (key, title) in zip(axes, CURVES.items(), strict=True):
        for name, rows in logs.items():
            found = [
                (row["samples"] / 1000, row[f"{where}_{key}"])
                for where, row in _measured(rows)
                if f"{where}_{key}" in row
            ]
            axis.plot(
                [kimg for kimg, _ in found],
                [y for _, y in found],
                marker="o",
                markersize=3,
                label=name,
            )
        _, last = _measured(next(iter(logs.values())))[-1]
        for kind, style in (("same", "-"), ("nearest", "--"), ("unrelated", ":")):
            if f"real_{kind}_{key}" in last:
                axis.axhline(last[f"real_{kind}_{key}"], color="grey", linestyle=style, linewidth=1)
        axis.set(xlabel="kimg", title=title)
    axes[-1].legend(fontsize=8)
    return figure


def _measured(rows: Sequence[Mapping[str, float]]) -> list[tuple[str, Mapping[str, float]]]:
    """The rows of evaluations, with what was asked: held-out or training images."""
    wheres = ("held_out", "training")
    return [(where, row) for row in rows for where in wheres if f"{where}_fd_clip" in row]

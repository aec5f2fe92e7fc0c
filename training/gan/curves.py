"""What runs of `train-gan` measured while they trained, as a plot by matplotlib."""

from collections.abc import Mapping, Sequence

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
    """The rows of evaluations, with the evaluation set: held-out or training images."""
    wheres = ("held_out", "training")
    return [(where, row) for row in rows for where in wheres if f"{where}_fd_clip" in row]

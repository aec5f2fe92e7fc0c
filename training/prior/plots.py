"""The plot of a report on priors, by matplotlib."""

from collections.abc import Sequence

from training.prior.evaluate import Row


def steps_figure(rows: Sequence[Row], *, floor: Row | None):
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

"""`stats`: mean and covariance of embeddings, and the cone they fill."""

import json
from dataclasses import asdict
from pathlib import Path

import click

from lafite_shifted.cli import options


@click.command("stats")
@click.argument("embeddings", type=options.FolderPath)
@click.option(
    "--out", type=options.FolderPath, help="Also write the statistics to this .safetensors file."
)
@options.json_option
def command(embeddings: Path, out: Path | None, as_json: bool) -> None:
    """Describe the cone that EMBEDDINGS (a folder made by `embed`) fill: norm of the mean, mean
    pairwise cosine, effective rank.
    """
    from lafite_shifted.stats import cone
    from training.embeddings import EmbeddingSet

    data = EmbeddingSet(embeddings)
    stats = data.stats()
    shape = cone(stats)
    if out:
        stats.save(out)
    if as_json:
        click.echo(
            json.dumps(asdict(shape) | {"dim": stats.dim, "encoder": data.encoder_id.to_json()})
        )
        return
    click.echo(
        f"embeddings            {shape.count} of {stats.dim} dimensions, by {data.encoder_id.model}"
    )
    click.echo(
        f"norm of the mean      {shape.norm_of_mean:.3f}   (0: all directions, 1: all the same)"
    )
    click.echo(f"mean pairwise cosine  {shape.mean_cosine:.3f}")
    click.echo(f"effective rank        {shape.effective_rank:.1f} of {stats.dim}")

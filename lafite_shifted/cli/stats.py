"""`stats`: mean and covariance of embeddings, clusters of them, and the cone they fill."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.argument_types import FolderPath

if TYPE_CHECKING:
    from lafite_shifted.encoders.encoder_id import EncoderId
    from lafite_shifted.gaussian.cluster_stats import ClusterCovarianceType, ClusterStats
    from lafite_shifted.gaussian.stats import EmbeddingStats

PLOTTED = 1500  # embeddings whose cosines the figure shows


@click.command("stats")
@click.argument("sources", type=FolderPath, nargs=-1, required=True)
@click.option("--out", type=FolderPath, help="Also write the statistics to this .safetensors file.")
@click.option("--merge", is_flag=True, help="SOURCES are such files: add them up into --out.")
@options.positive_int("--clusters", default=None, help="Statistics of so many k-means clusters.")
@click.option(
    "--covariance-type",
    type=click.Choice(["diagonal", "low-rank", "full"]),
    default="diagonal",
    help="Covariance of a cluster.",
)
@click.option(
    "--centroids",
    type=FolderPath,
    help="Clusters around the centroids of this file, as --clusters and --out wrote it: then "
    "the two can be merged.",
)
@click.option("--plot", type=FolderPath, help="Write a figure of spectrum and cone to this PNG.")
@options.seed_option
@options.json_option
def command(
    sources: tuple[Path, ...],
    out: Path | None,
    merge: bool,
    clusters: int | None,
    covariance_type: "ClusterCovarianceType",
    centroids: Path | None,
    plot: Path | None,
    seed: int,
    as_json: bool,
) -> None:
    """Describe the cone that the embeddings in SOURCES (a folder made by `embed`) fill: norm of the
    mean, mean pairwise cosine, effective rank.

    Shards are read one by one: memory does not grow with their number. Under torchrun the processes
    share them. With --merge, SOURCES are files written by --out.
    """
    from lafite_shifted.errors import InputError
    from torch_utils import distributed

    if merge:
        if out is None or clusters or centroids or plot:
            raise InputError(
                "--merge needs --out FILE, and goes without --clusters, --centroids and --plot."
            )
        result = _merged(sources)
        result.save(out)
        _show(result, as_json)
        return
    if len(sources) != 1:
        raise InputError(
            f"{len(sources)} folders are given. Describe one at a time with --out, then join the "
            "files with --merge."
        )
    if clusters and centroids:
        raise InputError("--centroids says how many clusters there are. Leave out --clusters.")
    from lafite_shifted.gaussian.cluster_stats import cluster, cluster_around
    from training.data.embeddings.stream import EmbeddingStream, stream_sample, stream_stats

    stream = EmbeddingStream(sources[0])
    with distributed.group():
        if centroids:
            result = cluster_around(stream, _empty_around(centroids, stream.encoder_id))
        elif clusters:
            result = cluster(
                stream,
                clusters,
                dim=stream.dim,
                covariance_type=covariance_type,
                encoder_id=stream.encoder_id,
                seed=seed,
            )
        else:
            result = stream_stats(stream)
        if plot:
            overall = stream_stats(stream) if clusters or centroids else result
            sample = stream_sample(stream, PLOTTED, seed=seed)
    if distributed.rank() != 0:
        return
    if out:
        result.save(out)
    if plot:
        from training.metrics.plots import save_figure, spectrum_and_cone

        save_figure(plot, spectrum_and_cone(overall, sample))  # type: ignore[arg-type]
    _show(result, as_json)


def _empty_around(path: Path, encoder_id: "EncoderId") -> "ClusterStats":
    from lafite_shifted.encoders.encoder_id import check_same_encoder
    from lafite_shifted.gaussian.cluster_stats import ClusterStats

    stats = ClusterStats.load(path)
    if stats.encoder_id:
        remedy = "Find centroids of embeddings by the same CLIP."
        check_same_encoder(stats.encoder_id, encoder_id, what=f"The file {path}", remedy=remedy)
    return stats.emptied()


def _merged(paths: tuple[Path, ...]) -> "EmbeddingStats | ClusterStats":
    from lafite_shifted.gaussian.cluster_stats import ClusterStats
    from lafite_shifted.gaussian.stats import EmbeddingStats, merged
    from lafite_shifted.io.files import load_tensors

    kinds = {load_tensors(path, only=())[1].get("kind") for path in paths}
    if kinds == {"clusters"}:
        return merged([ClusterStats.load(path) for path in paths])
    return merged([EmbeddingStats.load(path) for path in paths])


def _show(stats: "EmbeddingStats | ClusterStats", as_json: bool) -> None:
    from lafite_shifted.gaussian.cluster_stats import ClusterStats

    if isinstance(stats, ClusterStats):
        _show_clusters(stats, as_json)
    else:
        _show_cone(stats, as_json)


def _show_cone(stats: "EmbeddingStats", as_json: bool) -> None:
    from lafite_shifted.gaussian.cone import cone
    from lafite_shifted.gaussian.gaussian import ledoit_wolf

    shape, encoder = cone(stats), stats.encoder_id
    shrinkages = [ledoit_wolf(block) for block in stats.blocks()]
    if as_json:
        shrinkage = shrinkages[0] if len(shrinkages) == 1 else shrinkages
        record = {"dim": stats.dim, "shrinkage": shrinkage}
        record["encoder"] = encoder.to_json() if encoder else None
        click.echo(json.dumps(asdict(shape) | record))
        return
    by = f", by {encoder.model}" if encoder else ""
    click.echo(f"embeddings            {shape.count} of {stats.dim} dimensions{by}")
    click.echo(
        f"norm of the mean      {shape.norm_of_mean:.3f}   (0: all directions, 1: all the same)"
    )
    click.echo(f"mean pairwise cosine  {shape.mean_cosine:.3f}")
    click.echo(f"effective rank        {shape.effective_rank:.1f} of {stats.dim}")
    shown = ", ".join(f"{shrinkage:.4f}" for shrinkage in shrinkages)
    click.echo(f"shrinkage             {shown}  (0: many embeddings, 1: too few)")


def _show_clusters(stats: "ClusterStats", as_json: bool) -> None:
    counts = stats.counts.tolist()
    if as_json:
        record = {
            "clusters": len(counts),
            "dim": stats.dim,
            "kind": stats.covariance_type,
            "counts": counts,
        }
        click.echo(json.dumps(record))
        return
    used = [count for count in counts if count]
    click.echo(f"embeddings  {sum(counts)} of {stats.dim} dimensions")
    click.echo(
        f"clusters    {len(used)} of {len(counts)} in use, {min(used)} to {max(used)} embeddings, "
        f"{stats.covariance_type} covariances"
    )

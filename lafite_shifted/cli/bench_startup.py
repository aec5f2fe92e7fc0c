"""`bench startup`: how long a first image takes, in a process that starts cold."""

import click

from lafite_shifted.cli import options


@click.command("startup")
@click.option("--model", default="starter", help="As in `generate`.")
@options.positive_int("--rounds", default=5, help="Paired rounds; the median counts.")
@options.json_option
def command(model: str, rounds: int, as_json: bool) -> None:
    """`generate` in a new process, to one PNG, beside `import torch, open_clip` in another."""
    import json
    from dataclasses import asdict

    import torch

    from training.bench.ops import machine
    from training.bench.startup import bench_startup

    found = bench_startup(model, rounds=rounds)
    here = machine(torch.device("cpu"))
    if as_json:
        click.echo(json.dumps({"machine": here, "results": asdict(found)}, indent=2))
        return
    click.echo(here)
    for name, seconds in found.seconds.items():
        click.echo(f"{name:26}{seconds:7.2f} s{found.cpu_seconds[name]:9.2f} s of CPU time")
    click.echo(
        f"generate takes {found.ratio:.2f} times the imports, {found.cpu_ratio:.2f} in CPU time"
    )

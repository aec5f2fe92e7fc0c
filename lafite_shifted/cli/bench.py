"""`bench`: how fast the operators are here."""

import click

from lafite_shifted.cli import options


@click.group("bench", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Benchmarks, as ratios taken in one run."""


@command.command("ops")
@options.device_option
@options.positive_int("--rounds", default=7, help="Paired rounds; the median counts.")
@click.option("--no-compile", is_flag=True, help="Leave out torch.compile of the reference.")
@options.json_option
def ops(device: str, rounds: int, no_compile: bool, as_json: bool) -> None:
    """Each operator: time, bytes of one read and one write, ratio to plain PyTorch and to
    torch.compile of it.
    """
    import json
    from dataclasses import asdict

    from lafite_shifted.device import resolve_device
    from training.bench import bench_ops, machine

    chosen = resolve_device(device)
    options.choose_ops("compiled", chosen)
    results = []
    if not as_json:
        click.echo(machine(chosen))
        click.echo(
            f"{'operator':20}{'shape':>20}{'dtype':>10}{'ms':>9}{'MB':>8}{'GB/s':>8}"
            f"{'x reference':>13}{'x torch.compile':>17}"
        )
    for row in bench_ops(device=chosen, rounds=rounds, compile_reference=not no_compile):
        results.append(asdict(row))
        if not as_json:
            compiled = row.over_compiled_reference
            click.echo(
                f"{row.op:20}{'x'.join(map(str, row.shape)):>20}{row.dtype:>10}"
                f"{row.milliseconds:9.3f}{row.megabytes:8.1f}{row.gigabytes_per_second:8.1f}"
                f"{row.over_reference:13.2f}"
                + (f"{compiled:17.2f}" if compiled is not None else f"{'-':>17}")
            )
    if as_json:
        click.echo(json.dumps({"machine": machine(chosen), "results": results}, indent=2))

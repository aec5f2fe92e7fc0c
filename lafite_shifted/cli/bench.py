"""`bench`: how fast operators, generators, priors, training, a cold start and the reading of images
are here, and what exports weigh.
"""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lafite_shifted.cli import bench_embed, bench_export, bench_startup, bench_train, options
from lafite_shifted.cli.argument_types import BatchList, FolderPath, ModelFolder
from lafite_shifted.cli.messages import choose_ops

if TYPE_CHECKING:
    from torch_utils.device import DtypeName


@click.group("bench", context_settings={"help_option_names": ["-h", "--help"]})
def command() -> None:
    """Benchmarks, as ratios taken in one run."""


command.add_command(bench_embed.command)
command.add_command(bench_export.command)
command.add_command(bench_startup.command)
command.add_command(bench_train.command)


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
    from training.bench.ops import bench_ops, machine

    chosen = resolve_device(device)
    choose_ops("compiled", chosen)
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


@command.command("generate")
@click.option("--preset", default="256", help="tiny, small, 256, 512 or 1024.")
@click.option(
    "--model", type=ModelFolder, help="A run or model folder, or starter, not an untrained preset."
)
@click.option(
    "--batches", default="1,4", type=BatchList(), help="Images a forward pass, such as 1,4,16."
)
@options.device_option
@options.dtype_option
@options.positive_int("--rounds", default=7, help="Paired rounds; the median counts.")
@options.json_option
def generate(
    preset: str,
    model: Path | None,
    batches: tuple[int, ...],
    device: str,
    dtype: "DtypeName",
    rounds: int,
    as_json: bool,
) -> None:
    """A generator's forward pass at each batch, loaded as `generate` loads it: the time outside
    convolutions, by the compiled operators and by the reference.
    """
    import json
    from dataclasses import asdict

    from lafite_shifted.device import resolve_device
    from lafite_shifted.model_folder import find_part, load_generator
    from torch_utils.threads import probe_threads
    from training.bench.generation import bench_generation, untrained
    from training.bench.ops import machine
    from training.config import choose
    from training.gan.presets import GAN_PRESETS

    chosen = resolve_device(device)
    choose_ops("compiled", chosen)
    probe_threads(chosen)  # as `generate` does
    if model is None:
        config = choose(GAN_PRESETS, preset).generator
        network = untrained(config, device=chosen, dtype=dtype)
    else:
        network = load_generator(find_part(model, "generator"), device=chosen, dtype=dtype).network
    results = [
        bench_generation(network, batch=batch, device=chosen, rounds=rounds) for batch in batches
    ]
    if as_json:
        rows = [asdict(row) for row in results]
        click.echo(json.dumps({"machine": machine(chosen), "results": rows}, indent=2))
        return
    click.echo(f"{machine(chosen)}; {results[0].dtype}")
    click.echo(f"{'batch':>5}{'operators':>12}{'ms':>9}{'ms outside':>12}{'share':>8}")
    for row in results:
        for name in ("reference", "compiled"):
            share = 1.0 if name == "reference" else row.outside_share_of_reference
            click.echo(
                f"{row.batch:5}{name:>12}{row.milliseconds[name]:9.1f}"
                f"{row.outside[name]:12.1f}{share:8.2f}"
            )
    told = ", ".join(f"{size:.2f} {how}" for how, size in results[0].megabytes.items())
    click.echo(f"MB read and written between convolutions for an image: {told}")


@command.command("prior")
@click.option("--preset", default="base", help="tiny, base, or corgi (the paper's size).")
@click.option(
    "--model", type=ModelFolder, help="A run or model folder, or starter, not an untrained preset."
)
@click.option("--clip", default="starter", help="As in `embed`: its text tower is timed too.")
@options.device_option
@options.dtype_option
@options.positive_int("--rounds", default=15, help="The median counts.")
@options.json_option
def prior(
    preset: str,
    model: Path | None,
    clip: str,
    device: str,
    dtype: "DtypeName",
    rounds: int,
    as_json: bool,
) -> None:
    """One sentence through the text tower and a prior, loaded as `generate` loads it, batch 1."""
    import json
    from dataclasses import asdict

    from lafite_shifted.device import resolve_device
    from lafite_shifted.encoders.ensemble import load_clip
    from lafite_shifted.model_folder import find_part, load_prior
    from training.bench.ops import machine
    from training.bench.prior import bench_prior, untrained
    from training.config import choose
    from training.prior.presets import PRIOR_PRESETS

    chosen = resolve_device(device)
    encoder = load_clip(clip, device=chosen)
    if model is None:
        config = choose(PRIOR_PRESETS, preset).prior
        network = untrained(config, encoder, device=chosen, dtype=dtype)
    else:
        network = load_prior(find_part(model, "prior"), device=chosen, dtype=dtype).prior
    found = bench_prior(network, encoder, device=chosen, rounds=rounds)
    if as_json:
        click.echo(json.dumps({"machine": machine(chosen), "results": asdict(found)}, indent=2))
        return
    click.echo(f"{machine(chosen)}; {found.dtype}")
    click.echo(
        f"{model or preset}, {found.parameters / 1e6:.1f} M parameters, text tower of {clip}"
    )
    click.echo(f"text tower         {found.tower_milliseconds:8.1f} ms")
    for steps, milliseconds in found.sampling_milliseconds.items():
        total = milliseconds + found.tower_milliseconds
        name = f"{steps} step{'s' * (steps > 1)}"
        click.echo(f"{name:18} {milliseconds:8.1f} ms, with the tower {total:.1f} ms")
    ratio = found.encode_each_step_over_encode_once
    click.echo(f"8 steps that read the text in each of them would take {ratio:.2f} times as long")


@command.command("data")
@click.argument("images", type=FolderPath)
@options.clip_option
@options.positive_int("--resolution", default=256, help="Of the squares that training takes.")
@options.positive_int("--count", default=320, help="Images at most.")
@options.json_option
def data(images: Path, clip: str, resolution: int, count: int, as_json: bool) -> None:
    """From files to embeddings and to squares, on one core: milliseconds an image by stage."""
    import json
    from dataclasses import asdict

    import torch

    from lafite_shifted.encoders.ensemble import load_clip
    from training.bench.data import STAGES, bench_data
    from training.bench.ops import machine
    from training.data.images import ImageSource

    device = torch.device("cpu")
    encoder = load_clip(clip, device=device)
    source = ImageSource(images)
    found = bench_data(source, encoder, resolution=resolution, images=count)
    if as_json:
        click.echo(json.dumps({"machine": machine(device), "results": asdict(found)}, indent=2))
        return
    click.echo(machine(device))
    click.echo(
        f"{found.images} images of {found.kilobytes:.0f} kB and {found.megapixels:.2f} "
        f"megapixels; {clip}: {found.clip_gmac:.2f} GMAC an image"
    )
    for stage, milliseconds in found.milliseconds.items():
        click.echo(f"{stage:10}{milliseconds:9.2f} ms")
    for what, stages in STAGES.items():
        rate = found.images_a_second(what)
        click.echo(f"{what:10}{rate:9.0f} images a second and core ({' + '.join(stages)})")

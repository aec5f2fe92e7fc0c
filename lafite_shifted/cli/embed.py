"""`embed`: CLIP embeddings of a folder of images."""

from functools import partial
from pathlib import Path

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.argument_types import PathOrUrl
from lafite_shifted.cli.messages import choose_ops, note_starter, plain_warnings, report_embedding
from lafite_shifted.cli.progress import progress_bar


@click.command("embed")
@click.argument("images", type=PathOrUrl())
@options.out_option("shards, index.jsonl and report.jsonl")
@options.clip_option
@options.text_encoder_option
@options.device_option
@options.ops_option
@options.batch_option(default=64, help="Images a forward pass.")
@click.option("--background", default="white", help="Shown through transparency: name or #rrggbb.")
@options.max_bad_option
@options.max_megapixels_option
def command(
    images: str,
    out: Path,
    clip: str,
    text_encoder: str | None,
    device: str,
    ops: str,
    batch: int,
    background: str,
    max_bad: float,
    max_megapixels: float,
) -> None:
    """Embed IMAGES (and captions, where metadata.jsonl or .txt files hold them) with a CLIP.

    IMAGES is a folder, a zip, tar shards, or the URL of shards, such as
    https://host/shard-{000..009}.tar: these need the extra webdataset, and the processes of
    torchrun share them.
    What is done already is skipped; every unreadable image is listed in report.jsonl.
    """
    from lafite_shifted.device import resolve_device
    from lafite_shifted.encoders.ensemble import load_clip
    from lafite_shifted.encoders.text_encoder import TextEncoder
    from lafite_shifted.errors import InputError
    from torch_utils import distributed
    from torch_utils.threads import probe_threads
    from training.config import parse
    from training.data.decoding.crop import SquareConfig
    from training.data.decoding.read_image import ReadOptions
    from training.data.embeddings.embed import embed_folder
    from training.data.images import ImageSource
    from training.data.remote_shards import embed_urls, is_remote, shard_urls

    chosen = resolve_device(device)
    choose_ops(ops, chosen, used=False)
    probe_threads(chosen)
    squares = parse(SquareConfig, {"background": background})
    urls = shard_urls(images) if is_remote(images) else []
    if not urls and distributed.world_size() > 1:
        raise InputError("Several processes share shards at a URL only. Run `embed` in one.")
    source = None if urls else ImageSource(Path(images))
    encoder = load_clip(clip, device=chosen)
    tower = TextEncoder.load(text_encoder, device=chosen) if text_encoder else None
    note_starter(clip)
    unit = "shard" if urls else "img"
    embed = partial(embed_urls, urls) if source is None else partial(embed_folder, source)
    with (
        distributed.group(),
        plain_warnings(),
        progress_bar("embedding", unit) as progress,
    ):
        report = embed(
            out,
            encoder,
            text_encoder=tower,
            squares=squares,
            batch=batch,
            options=ReadOptions(max_bad, max_megapixels, progress),
        )
    if distributed.is_main_process():
        report_embedding(report, out)

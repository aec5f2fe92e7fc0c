"""`export torch`: torch.export programs."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.export_options import exported

if TYPE_CHECKING:
    from lafite_shifted.pipeline import TextToImage
    from lafite_shifted.prior.samplers import SamplerConfig


@click.command("torch")
@options.out_option("the programs, tokenizer.json and manifest.json")
@exported
def command(model: "TextToImage", sampling: "SamplerConfig", out: Path) -> None:
    """Write MODEL, a model folder or `starter`, as torch.export programs (.pt2) in float32, which
    PyTorch runs and compiles without our code.
    """
    from lafite_shifted.export.folder import check_free
    from lafite_shifted.export.torch_folder import export_torch

    check_free(out)
    found = export_torch(model, out, sampling=sampling)
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    click.echo(
        f"{', '.join(found)} in {out}, {size:.1f} MB. In Python: "
        "torch.export.load(FILE).module()(*inputs); manifest.json names the inputs."
    )

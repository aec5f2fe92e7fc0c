"""`export onnx`: ONNX graphs, their tokenizer and a program that runs them."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.export_options import exported_as_onnx

if TYPE_CHECKING:
    from lafite_shifted.export.storage import Storage
    from lafite_shifted.pipeline import TextToImage
    from lafite_shifted.prior.samplers import SamplerConfig


@click.command("onnx")
@options.out_option("the graphs, tokenizer.json, manifest.json and generate.py")
@click.option(
    "--dtype",
    "storage",
    default="float32",
    type=click.Choice(["float32", "float16", "int8"]),
    help="Weights are stored so; computed is in float32. int8 only where images stay within 35 dB.",
)
@exported_as_onnx
def command(model: "TextToImage", sampling: "SamplerConfig", out: Path, storage: "Storage") -> None:
    """Write MODEL, a model folder or `starter`, as ONNX graphs: text tower, prior and generator,
    for every batch size. `python DIR/generate.py "a red heart"` makes images of them with
    onnxruntime, numpy and tokenizers alone. Needs the extra `export`.
    """
    from lafite_shifted.export.folder import check_free
    from lafite_shifted.export.onnx_folder import LEAST_PSNR, export_onnx

    check_free(out)
    made = export_onnx(model, storage=storage, sampling=sampling)
    for name, psnr in made.refused.items():
        stays = made.manifest["parts"][name]["stored"]
        click.echo(
            f"{name} stays {stays}: with int8 an image falls to {psnr:.1f} dB, or all parts "
            f"together below {LEAST_PSNR:g}.",
            err=True,
        )
    made.write(out)
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    click.echo(f"{', '.join(made.files)} in {out}, {size:.1f} MB; {made.tried.words} to PyTorch.")
    click.echo(f'Try: python {out}/generate.py "a red heart" --out images')

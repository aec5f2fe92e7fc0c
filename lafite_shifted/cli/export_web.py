"""`export web`: a static site that runs a model in the visitor's browser."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.export_options import exported_as_onnx
from lafite_shifted.io.shell import expanded

if TYPE_CHECKING:
    from lafite_shifted.export.storage import Storage
    from lafite_shifted.pipeline import TextToImage
    from lafite_shifted.prior.samplers import SamplerConfig


@click.command("web")
@options.out_option("the site")
@click.option(
    "--dtype",
    "storage",
    default="float16",
    type=click.Choice(["float32", "float16", "int8"]),
    help="As `export onnx` stores weights: what a visitor fetches.",
)
@click.option(
    "--runtime",
    default="npm",
    metavar="npm|cdn|FILE",
    help="onnxruntime-web: fetched by npm and put beside the page, fetched by visitors from "
    "jsdelivr.net, or the tarball of `npm pack`.",
)
@exported_as_onnx
def command(
    model: "TextToImage",
    sampling: "SamplerConfig",
    out: Path,
    storage: "Storage",
    runtime: str,
) -> None:
    """Write MODEL, a model folder or `starter`, as a static site: any web server shows it, and the
    browser makes the images, by WebGPU where there is one, else by WebAssembly; after the first
    visit without the network too. Needs the extra `export`.
    """
    from lafite_shifted.export.folder import check_free
    from lafite_shifted.export.onnx_folder import export_onnx
    from lafite_shifted.export.site_folder import runtime_files, write_site

    check_free(out)
    files = None if runtime == "cdn" else runtime_files(expanded(runtime))
    made = export_onnx(model, storage=storage, sampling=sampling)
    size = write_site(out, made, files)
    click.echo(
        f"site in {out}: {size['page'] / 1e6:.1f} MB, and {size['runtime'] / 1e6:.1f} MB of "
        f"onnxruntime-web; {made.tried.words} to PyTorch. Try: python -m http.server -d {out}"
    )

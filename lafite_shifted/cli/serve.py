"""`serve`: a page and JSON endpoints."""

import socket
from contextlib import suppress
from dataclasses import replace

import click

from lafite_shifted.cli import options
from lafite_shifted.cli.argument_types import Number, PathOrUrl
from lafite_shifted.cli.messages import plain_warnings
from lafite_shifted.errors import InputError


@click.command("serve")
@click.argument("served", required=False, metavar="[MODEL]", type=PathOrUrl())
@click.option("--host", default="127.0.0.1", help="0.0.0.0 lets other machines in.")
@click.option(
    "--allow-host",
    "allowed_hosts",
    multiple=True,
    metavar="NAME",
    help="Another name under which it is reached, as behind a proxy; may be repeated.  [default: "
    "localhost alone on 127.0.0.1, any with another --host]",
)
@click.option("--port", default=8000, type=click.IntRange(0, 65535))
@options.batch_option(default=16, help="Images a forward pass, of all requests together.")
@click.option(
    "--window-ms", default=4.0, type=Number(0), help="That a request waits for others to join."
)
@options.positive_int("--queue", default=64, help="Requests that may wait; more get a 429.")
@options.positive_int("--max-images", default=16, help="Of one request.")
@click.option(
    "--max-gradient-steps",
    default=400,
    type=click.IntRange(min=0),
    help="Of one request to project or guide; meanwhile others wait. 0 for none.",
)
@options.positive_int("--max-upload-kib", default=8192, help="Of one image.")
@options.model_options
def command(
    served: str | None,
    host: str,
    allowed_hosts: tuple[str, ...],
    port: int,
    batch: int,
    window_ms: float,
    queue: int,
    max_images: int,
    max_gradient_steps: int,
    max_upload_kib: int,
    model: options.ModelFlags,
) -> None:
    """Serve MODEL, by default the one that ships: a page for a browser at http://HOST:PORT, and
    JSON endpoints under /v1, described at /api and /openapi.json. Needs the extra `serve`.
    """
    try:
        import uvicorn

        from lafite_shifted.serving.app import create_app
    except ImportError as error:
        raise InputError(
            f"The page needs packages that are not installed ({error}). Install them: pip install "
            "'lafite-shifted[serve]'."
        ) from error
    from lafite_shifted.serving.hosts import Hosts
    from lafite_shifted.serving.limits import Limits

    limits = Limits(
        images=max_images, upload_bytes=max_upload_kib * 1024, queue=queue, batch=batch,
        window_ms=window_ms, gradient_steps=max_gradient_steps,
    )  # fmt: skip
    model = replace(model, model=served or model.model)
    with plain_warnings(), _listening(host, port) as listening:
        bound, port, *_ = listening.getsockname()
        hosts = Hosts.of(host, bound, allowed_hosts)
        app = create_app(model.load(), _decode(limits.upload_megapixels), limits, hosts)
        config = uvicorn.Config(
            app, log_level="warning", timeout_graceful_shutdown=10, timeout_keep_alive=30
        )
        place = f"[{host}]" if ":" in host else host
        click.echo(f"serving {model.model} at http://{place}:{port} (Ctrl-C stops)", err=True)
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])


def _listening(host: str, port: int) -> socket.socket:
    """Bound before the model is loaded, which takes a while; InputError where it cannot be."""
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            found.bind(address)
        except OSError:
            found.close()
            raise
    except OSError as error:
        raise InputError(
            f"{host}:{port} cannot be listened on: {error.strerror}. Choose another --port, or "
            "--host."
        ) from error
    return found


def _decode(megapixels: float):
    from io import BytesIO

    from training.data.decoding.decode import PIXELS_FLAG, decode
    from training.data.files.image_files import UnreadableImageError

    def read(content: bytes):
        try:
            return decode(BytesIO(content), max_megapixels=megapixels).image
        except UnreadableImageError as error:
            reason = str(error).removesuffix(PIXELS_FLAG)
            raise InputError(f"The image cannot be used: {reason}. Give another one.") from error

    return read

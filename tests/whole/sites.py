"""The static site of `export web` on a web server of this machine, its images beside Python's."""

import base64
import functools
import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image

from lafite_shifted.export.onnx_folder import image_psnr

LEAST_PSNR = 35.0
SECONDS = 120.0  # that a page may take to load on a busy machine


@contextmanager
def served(site: Path) -> Iterator[str]:
    """What `python -m http.server` does."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    handler = functools.partial(Handler, directory=str(site))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/"
    finally:
        server.shutdown()
        server.server_close()


def image_of(source: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))


def psnr(source: str, expected: Image.Image) -> float:
    made, wanted = (np.asarray(x.convert("RGB")) / 127.5 - 1 for x in (image_of(source), expected))
    return image_psnr(made, wanted)

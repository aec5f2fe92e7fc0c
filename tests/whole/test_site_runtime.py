"""What runs the static site: WebGPU, and onnxruntime-web from a CDN, whose files browsers check.

The adapter is chromium's own in software, the CDN a server of this machine under its name.
"""

import functools
import json
import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from lafite_shifted.export.onnx_folder import OnnxExport, Tried
from lafite_shifted.export.site_folder import CDN, RUNTIME, write_site
from lafite_shifted.pipeline import TextToImage
from tests.whole.browsers import SOFTWARE_WEBGPU, Page, needs_chromium, open_browser, wait
from tests.whole.sites import LEAST_PSNR, SECONDS, psnr, served

pytestmark = [pytest.mark.slow, needs_chromium]


def check_images(page: Page, model_name: str) -> None:
    """Those of Python."""
    page.drag("#panel-generate [name=prompt]", "a red heart")
    made = page.submit("generate", 4)
    expected = TextToImage.from_pretrained(model_name, device="cpu", dtype="float32")
    pairs = zip(made, expected("a red heart", num_images=4), strict=True)
    found = [psnr(*pair) for pair in pairs]
    print(f"{min(found):.1f} dB at least")  # for docs/export.md
    assert min(found) > LEAST_PSNR, found


def test_webgpu_makes_the_images_of_python(site: Path, model_name: str, tmp_path: Path):
    browser = open_browser(tmp_path, *SOFTWARE_WEBGPU)
    try:
        with served(site) as url:
            page = Page(browser, url, seconds=SECONDS)
            assert "in this browser by webgpu" in page.one("#about").text
            check_images(page, model_name)
    finally:
        browser.quit()


@contextmanager
def fake_cdn(files: Path, folder: Path) -> Iterator[tuple[int, set[str]]]:
    """The port of a server of `files` under the paths of the CDN, and the paths requested for."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    words = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=cdn", "-days", "2"]
    command = ["openssl", *words, "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    requested: set[str] = set()

    class Handler(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            requested.add(self.path)
            base = urlsplit(CDN).path
            self.path = self.path.removeprefix(base) if self.path.startswith(base) else "none"
            super().do_GET()

        def end_headers(self) -> None:
            self.send_header("Access-Control-Allow-Origin", "*")
            super().end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    handler = functools.partial(Handler, directory=str(files))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1], requested
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def cdn_site(site: Path, tmp_path: Path) -> Path:
    """The same site, whose visitors fetch onnxruntime-web from the CDN."""
    model = site / "model"
    manifest = json.loads((model / "manifest.json").read_text(encoding="utf-8"))
    files = {path.name: path.read_bytes() for path in model.glob("*.onnx")}
    tokenizer = (model / "tokenizer.json").read_bytes()
    made = OnnxExport(manifest, files, tokenizer, Tried(100.0, 0.0), {})
    write_site(tmp_path / "site", made, None)
    return tmp_path / "site"


def page_text(browser) -> str:
    return browser.find_element("css selector", "body").text


@pytest.mark.parametrize("is_tampered_with", [False, True])
def test_the_cdn_gives_the_pinned_files_or_none(
    site: Path, cdn_site: Path, model_name: str, tmp_path: Path, is_tampered_with: bool
):
    files = Path(shutil.copytree(site / "runtime", tmp_path / "files"))
    if is_tampered_with:
        with (files / "ort-wasm-simd-threaded.mjs").open("ab") as file:
            file.write(b"\n")
    with fake_cdn(files, tmp_path) as (port, requested), served(cdn_site) as url:
        rules = f"--host-resolver-rules=MAP cdn.jsdelivr.net 127.0.0.1:{port}"
        browser = open_browser(tmp_path, "--disable-gpu", rules, "--ignore-certificate-errors")
        try:
            if is_tampered_with:
                browser.get(url)
                wait(lambda: "is not the file" in page_text(browser), SECONDS)
                return
            check_images(Page(browser, url, seconds=SECONDS), model_name)
        finally:
            browser.quit()
    wasm = {name for name in RUNTIME if "webgpu" not in name and "asyncify" not in name}
    assert requested == {urlsplit(CDN).path + name for name in wasm}

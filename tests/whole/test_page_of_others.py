"""Pages of other servers in a real browser, whose names lead to this machine, and a server that
they try to reach.
"""

import functools
import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.commands import assert_refused, run_command
from tests.whole.browsers import Page, needs_chromium, open_browser, wait
from tests.whole.conftest import Address
from tests.whole.fresh_processes import wait_until_healthy

pytest.importorskip("fastapi")


@contextmanager
def other_page(folder: Path) -> Iterator[int]:
    """The port of a web server with an empty page."""
    (folder / "index.html").write_text("<title>other</title>", encoding="utf-8")
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(folder))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        server.server_close()


def counted(address: Address, what: str) -> int:
    """A number that the server counts; 0 before the first."""
    with urllib.request.urlopen(f"{address.url}/metrics") as answer:
        rows = answer.read().decode().splitlines()
    return next((int(row.split()[-1]) for row in rows if row.startswith(f"{what} ")), 0)


@pytest.mark.slow
@needs_chromium
def test_a_name_that_leads_here_reaches_nothing(address: Address, tmp_path: Path):
    names = "--host-resolver-rules=MAP evil.test 127.0.0.1"
    browser = open_browser(tmp_path, "--disable-gpu", names)
    try:
        browser.get(address.url.replace("127.0.0.1", "evil.test"))
        assert "does not answer as 'evil.test'" in browser.page_source
        browser.get(address.url.replace("127.0.0.1", "localhost"))
        assert browser.title == "lafite-shifted"
        with other_page(tmp_path) as port:
            browser.get(f"http://evil.test:{port}/")
            assert browser.title == "other"
            refused = 'lafite_requests_total{path="other",status="403"}'
            before, images = counted(address, refused), counted(address, "lafite_images_total")
            body = json.dumps({"prompt": "a", "num_images": 1})
            script = "fetch(arguments[0], {method: 'POST', mode: 'no-cors', body: arguments[1]})"
            browser.execute_script(script, f"{address.url}/v1/generate", body)
            wait(lambda: counted(address, refused) == before + 1)
            assert counted(address, "lafite_images_total") == images
        page = Page(browser, address.url)  # and its own page may
        assert len(page.submit("generate", 4)) == 4
    finally:
        browser.quit()


def status(port: int, host: str, path: str = "/healthz") -> int:
    """Of a request to this machine with that Host header."""
    connection = HTTPConnection("127.0.0.1", port)
    try:
        connection.request("GET", path, headers={"Host": host})
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "refused", "answered"),
    [
        ((), ["evil.test", "10.0.0.7:1"], ["localhost", "127.0.0.1:1", "[::1]:1"]),
        (("--allow-host", "a.test", "--allow-host", "b.test"), ["evil.test"], ["a.test", "b.test"]),
        (("--host", "0.0.0.0"), [], ["evil.test", "10.0.0.7:1", "localhost"]),
        (
            ("--host", "0.0.0.0", "--allow-host", "a.test"),
            ["evil.test"],
            ["a.test:80", "10.0.0.7:1", "localhost"],
        ),
    ],
)
def test_the_names_of_a_server(
    flags: tuple[str, ...], refused: list[str], answered: list[str], model_folder: Path
):
    program = "from lafite_shifted.cli.main import main; main()"
    command = [sys.executable, "-c", program, "serve", model_folder, "--port", "0", *flags]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        url = next(line for line in server.stderr if line.startswith("serving")).split()[3]
        port = int(url.rpartition(":")[2])
        try:
            wait_until_healthy(f"http://127.0.0.1:{port}")
            for host in refused:
                assert (status(port, host), status(port, host, "/metrics")) == (400, 400)
            for host in answered:
                assert (status(port, host), status(port, host, "/metrics")) == (200, 200)
        finally:
            server.kill()


def test_what_is_no_name_is_told_before_the_model_is_loaded():
    outcome = run_command("serve", "nowhere", "--port", "0", "--allow-host", "http://a.test")
    assert_refused(outcome, "--allow-host http://a.test: this is no host", "such as images.example")

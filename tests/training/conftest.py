"""Shards at a URL."""

import threading
from collections.abc import Iterator
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.shard_server import Handler, Server, write_shard


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    record = Server(tmp_path / "served", "")
    record.folder.mkdir()
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, server_record=record))
    record.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield record
    http.shutdown()
    thread.join()
    http.server_close()


@pytest.fixture
def shards(server: Server, shipped_images: Path) -> Server:
    """Three of four images each."""
    images = sorted(shipped_images.glob("*.png"))
    for number in range(3):
        write_shard(server.folder / f"s-{number:03d}.tar", images[4 * number : 4 * number + 4])
    return server

"""A server of the page, as a process of its own, and a static site."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.commands import succeed
from tests.whole.fresh_processes import wait_until_healthy


@dataclass(frozen=True)
class Address:
    """Where it answers, and its process."""

    url: str
    pid: int

    @property
    def resident_mib(self) -> float:
        """Its memory."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="utf-8")
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


@pytest.fixture(scope="session")
def address(model_name: str) -> Iterator[Address]:
    """Of a server of the tiny model, or of LAFITE_SHIFTED_PAGE_MODEL."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = "from lafite_shifted.cli.main import main; main()"
    command = [sys.executable, "-c", program, "serve", model_name, "--port", str(port)]
    command += ["--max-gradient-steps", "40"]  # tests ask for fewer, invented requests for any
    server = subprocess.Popen(command)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until_healthy(url)
        yield Address(url, server.pid)
    finally:
        server.terminate()
        assert server.wait(timeout=20) is not None


@pytest.fixture(scope="session")
def model_name(request: pytest.FixtureRequest) -> str:
    """The tiny model, or LAFITE_SHIFTED_PAGE_MODEL."""
    given = os.environ.get("LAFITE_SHIFTED_PAGE_MODEL")
    return given or str(request.getfixturevalue("model_folder"))


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, model_name: str) -> Path:
    """Made with onnxruntime-web of npm, or of the tarball LAFITE_SHIFTED_WEB_RUNTIME; or the one at
    LAFITE_SHIFTED_SITE, of the same model.
    """
    if ready := os.environ.get("LAFITE_SHIFTED_SITE"):
        return Path(ready)
    folder = tmp_path_factory.mktemp("site") / "site"
    runtime = os.environ.get("LAFITE_SHIFTED_WEB_RUNTIME", "npm")
    said = succeed("export", "web", model_name, "--out", folder, "--runtime", runtime)
    assert "MB of onnxruntime-web" in said.out
    files = [path for path in folder.rglob("*") if path.is_file() and "runtime" not in path.parts]
    own = sum(path.stat().st_size for path in files)
    assert own < 40e6
    return folder

"""`serve` as a process: how it begins, and how it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from tests.commands import assert_refused, run_command
from tests.whole.fresh_processes import wait_until_healthy

pytest.importorskip("fastapi")


def test_a_port_in_use_is_told_before_the_model_is_loaded():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        outcome = run_command("serve", "nowhere", "--port", str(port))
    assert_refused(outcome, f"127.0.0.1:{port} cannot be listened on", "Choose another --port")


def test_a_host_that_is_none_is_told():
    assert_refused(run_command("serve", "--host", "256.0.0.1"), "256.0.0.1:8000 cannot be")


def post(url: str, body: dict) -> tuple[int, dict]:
    data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers)) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


@pytest.fixture
def serving(model_folder: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    """The process of a small model, and its address; requests may take very long."""
    program = "from lafite_shifted.cli.main import main; main()"
    command = [sys.executable, "-c", program, "serve", model_folder, "--port", "0"]
    command += ["--max-gradient-steps", "1000000"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        url = next(line for line in server.stderr if line.startswith("serving")).split()[3]
        try:
            wait_until_healthy(url)
            yield server, url
        finally:
            server.kill()


@pytest.mark.slow
def test_sigterm_answers_what_is_short_and_cuts_off_what_is_long(
    serving: tuple[subprocess.Popen, str],
):
    server, url = serving
    with ThreadPoolExecutor() as pool:
        body = {"prompt": "a", "num_images": 1, "candidates": 1, "steps": 20}
        short = pool.submit(post, f"{url}/v1/guide", body)
        time.sleep(0.2)
        long = pool.submit(post, f"{url}/v1/guide", {"prompt": "a", "steps": 200_000})
        time.sleep(0.2)
        os.kill(server.pid, signal.SIGTERM)
        begun = time.monotonic()
        server.wait(timeout=60)
        assert time.monotonic() - begun < 30
        status, answer = short.result()
        assert status == 200, answer
        status, answer = long.result()
        assert (status, answer["detail"]) == (503, "The server stops. Ask again when it is back.")
    assert "Traceback" not in server.stderr.read()


@pytest.mark.slow
def test_the_work_of_a_client_that_goes_away_ends(serving: tuple[subprocess.Popen, str]):
    server, url = serving
    host, port = url.removeprefix("http://").split(":")
    body = json.dumps({"prompt": "a", "num_images": 1, "candidates": 1, "steps": 200_000})
    for _ in range(2):  # one in work, one behind it
        with socket.create_connection((host, int(port))) as client:
            client.sendall(
                f"POST /v1/guide HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            time.sleep(1)
    status, answer = post(f"{url}/v1/generate", {"prompt": "a", "num_images": 1})
    assert status == 200, answer
    with urllib.request.urlopen(f"{url}/metrics") as counted:
        text = counted.read().decode()
    assert 'path="/v1/guide",status="499"} 2' in text, text
    server.terminate()
    assert "Traceback" not in server.stderr.read()


@pytest.mark.slow
def test_control_c_twice_ends_it_quietly(serving: tuple[subprocess.Popen, str]):
    server, url = serving
    with ThreadPoolExecutor() as pool:
        long = pool.submit(post, f"{url}/v1/guide", {"prompt": "a", "steps": 200_000})
        time.sleep(1.0)
        for _ in range(2):
            os.kill(server.pid, signal.SIGINT)
            time.sleep(0.5)
        assert server.wait(timeout=60) == 0
        assert server.stderr is not None
        assert "Traceback" not in (told := server.stderr.read()), told
        with suppress(OSError):  # cut off, or told so
            assert long.result()[0] == 503

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
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.commands import assert_refused, run_command

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


@pytest.mark.slow
def test_sigterm_answers_what_is_short_and_cuts_off_what_is_long(model_folder: Path):
    program = "from lafite_shifted.cli.main import main; main()"
    command = [sys.executable, "-c", program, "serve", model_folder, "--port", "0"]
    command += ["--max-gradient-steps", "1000000"]
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    url = next(line for line in server.stderr if line.startswith("serving")).split()[3]
    for _ in range(100):
        try:
            urllib.request.urlopen(f"{url}/healthz").close()
            break
        except OSError:
            time.sleep(0.1)
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
    with server.stderr as said:
        assert "Traceback" not in said.read()

"""Builds by processes that start together, wait for each other, or do not end."""

import fcntl
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ops_cuda import build, targets


@pytest.mark.usefixtures("cache")
def test_processes_that_start_together_build_once(small: targets.Target, cache: Path):
    """As the ranks of torchrun do on a fresh machine."""
    script = (
        "import sys, pathlib; from ops_cuda import build, targets\n"
        f"t = targets.Target('small', ('one.cpp',), {small.compiler!r}, ('-fPIC',), ('-shared',), "
        f"pathlib.Path({str(small.source_folder)!r}))\n"
        "print(build.build(t))\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    paths = {process.communicate()[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert paths == {f"{small.folder / build.LIBRARY}\n"}
    assert not [p for p in cache.iterdir() if p.name.startswith(".small")]


@pytest.mark.usefixtures("cache")
def test_a_lock_that_is_held_for_too_long_is_passed_by(
    small: targets.Target, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(build, "LOCK_SECONDS", 0.3)
    cache.mkdir(parents=True)
    with (cache / f"{small.folder.name}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        started = time.monotonic()
        assert build.build(small).is_file()
        assert time.monotonic() - started >= 0.3


@pytest.mark.usefixtures("cache")
def test_a_waiting_process_continues_when_the_owner_dies(small: targets.Target, cache: Path):
    cache.mkdir(parents=True)
    lock = cache / f"{small.folder.name}.lock"
    script = (
        "import fcntl, time; f = open(__import__('sys').argv[1], 'w')\n"
        "fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script, str(lock)], stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "held\n"
    threading.Timer(0.3, owner.kill).start()
    started = time.monotonic()
    assert build.build(small).is_file()
    assert time.monotonic() - started < build.LOCK_SECONDS / 10
    owner.wait()
    owner.stdout.close()


@pytest.mark.usefixtures("cache")
def test_processes_that_meet_a_damaged_library_build_it_once(small: targets.Target, cache: Path):
    """As the ranks of torchrun do: none removes what another has just built."""
    path = build.build(small)
    path.write_bytes(path.read_bytes()[:100])  # cut off: loading it might end the process
    script = (
        "import pathlib, ctypes; from ops_cuda import build, targets\n"
        "built = []\n"
        "before = build._build\n"
        "build._build = lambda target: (built.append(1), before(target))\n"
        f"t = targets.Target('small', ('one.cpp',), {small.compiler!r}, ('-fPIC',), ('-shared',), "
        f"pathlib.Path({str(small.source_folder)!r}))\n"
        "ctypes.CDLL(str(build.build(t)))\n"
        "print(len(built))\n"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    counts = [int(process.communicate()[0]) for process in running]
    assert [process.returncode for process in running] == [0] * 4
    assert sum(counts) == 1
    assert build.is_whole(path)


@pytest.mark.usefixtures("cache")
def test_a_build_that_takes_too_long_leaves_no_process(
    small: targets.Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    compiler = tmp_path / "slow"
    compiler.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nsleep 300\n", encoding="utf-8")
    compiler.chmod(0o755)
    monkeypatch.setattr(targets, "_version", lambda _: "slow 1")
    monkeypatch.setattr(build, "BUILD_SECONDS", 2.0)
    with pytest.raises(build.BuildError, match="its log is"):
        build.build(replace(small, compiler=str(compiler)))
    process = int((tmp_path / "pid").read_text(encoding="utf-8"))
    deadline = time.monotonic() + 30
    while Path(f"/proc/{process}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{process}").exists()
    log = replace(small, compiler=str(compiler)).log.read_text(encoding="utf-8")
    assert str(compiler) in log  # the command that did not end
    assert "stopped after 2 s" in log

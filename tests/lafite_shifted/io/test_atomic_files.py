"""Files and folders are whole or absent, whatever fails while they are written."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lafite_shifted.io import files
from lafite_shifted.io.files import (
    atomic_directory,
    atomic_file,
    write_bytes,
)
from tests.commands import half_written


def full_disk(*_: object, **__: object) -> None:
    """What a call to the operating system does on a full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class FailingFsync:
    """`os.fsync` that fails at its n-th call."""

    def __init__(self, fails_at: int):
        self.calls, self.fails_at, self.real = 0, fails_at, os.fsync

    def __call__(self, descriptor: int) -> None:
        self.calls += 1
        if self.calls == self.fails_at:
            full_disk()
        self.real(descriptor)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_file_appears_whole_with_its_folders(tmp_path: Path):
    write_bytes(tmp_path / "a" / "b" / "file", b"content")
    assert contents(tmp_path) == {"a/b/file": b"content"}


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_full_disk_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, failing, full_disk)
    if failing == "replace":
        monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(path, b"new")
    assert contents(tmp_path) == {"file": b"old"}


def write_half(path: Path, error: BaseException) -> None:
    with atomic_file(path) as file:
        file.write(b"half")
        raise error


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_failure_inside_the_block_keeps_the_old_file(tmp_path: Path, error: BaseException):
    (tmp_path / "old").write_bytes(b"old")
    for name in ("old", "new"):
        with pytest.raises(type(error)):
            write_half(tmp_path / name, error)
    assert contents(tmp_path) == {"old": b"old"}


def test_failing_write_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The kernel's own error: the temporary file is a device that is always full."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    real = Path.open
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, mode: real(Path("/dev/full"), mode))
        with pytest.raises(OSError, match="No space left"):
            write_bytes(path, b"new")
    assert contents(tmp_path) == {"file": b"old"}


@pytest.mark.parametrize("fails_at", [1, 2])
def test_file_is_old_or_new_whichever_fsync_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", FailingFsync(fails_at))
    with pytest.raises(OSError, match="No space left"):
        write_bytes(path, b"new")
    assert contents(tmp_path) in ({"file": b"old"}, {"file": b"new"})


def fill(folder: Path, content: bytes) -> None:
    with atomic_directory(folder) as target:
        write_bytes(target / "one", content)
        (target / "nested").mkdir()
        write_bytes(target / "nested" / "two", content)


def test_folder_is_replaced_whole(tmp_path: Path):
    fill(tmp_path / "out", b"old")
    with atomic_directory(tmp_path / "out") as target:
        write_bytes(target / "three", b"new")
        assert (tmp_path / "out" / "one").read_bytes() == b"old"
    assert contents(tmp_path) == {"out/three": b"new"}


@pytest.mark.parametrize("fails_at", range(1, 7))
def test_folder_is_old_or_new_whichever_fsync_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
):
    fill(tmp_path / "out", b"old")
    fsync = FailingFsync(fails_at)
    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left"):
        fill(tmp_path / "out", b"new")
    assert fsync.calls >= fails_at
    assert len({*contents(tmp_path).values()}) == 1
    assert set(contents(tmp_path)) == {"out/one", "out/nested/two"}
    assert half_written(tmp_path) == []


def test_folder_that_cannot_be_renamed_keeps_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    fill(tmp_path / "out", b"old")
    monkeypatch.setattr(files, "_exchange", lambda *_: False)
    real = Path.replace

    def replace(source: Path, target: Path) -> Path:
        if source.suffix == ".tmp" and target.name == "out":
            full_disk()
        return real(source, target)

    monkeypatch.setattr(Path, "replace", replace)
    with pytest.raises(OSError, match="No space left"), atomic_directory(tmp_path / "out") as t:
        (t / "one").write_bytes(b"new")
    assert contents(tmp_path) == {"out/nested/two": b"old", "out/one": b"old"}
    assert half_written(tmp_path) == []


KILLED_AT_EVERY_CALL = """
import json, os, signal, sys
from pathlib import Path
from lafite_shifted.io import files

root, exchange = Path(sys.argv[1]), sys.argv[2] == "exchange"

def fill(content):
    with files.atomic_directory(root / "out") as target:
        for name in ("one", "two"):
            files.write_bytes(target / name, content)

def killed(real, at):
    def call(*arguments, **options):
        killed.calls += 1
        if killed.calls == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*arguments, **options)
    return call

def state():
    return sorted({path.read_bytes().decode() for path in (root / "out").glob("*")})

fill(b"old")
found = []
for at in range(1, 100):
    child = os.fork()
    if child == 0:
        killed.calls = 0
        for owner, name in ((os, "fsync"), (Path, "replace"), (os, "unlink"), (os, "rmdir")):
            setattr(owner, name, killed(getattr(owner, name), at))
        files._exchange = killed(files._exchange, at) if exchange else lambda *_: False
        fill(b"new")
        os._exit(0)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    before = state()
    files.remove_leftovers(root)
    found.append([before, state(), [path.name for path in root.iterdir()]])
    if ended == 0:
        break
    fill(b"old")
print(json.dumps(found))
"""


@pytest.mark.parametrize("way", ["exchange", "renames"])
def test_folder_is_old_or_new_wherever_its_process_is_killed(tmp_path: Path, way: str):
    """At each call that changes the disk; with two renames there is one where nothing is left but
    what has been taken away, and it comes back.
    """
    command = [sys.executable, "-c", KILLED_AT_EVERY_CALL, str(tmp_path), way]
    found = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert all(names == ["out"] for _, _, names in found)
    after = [now for _, now, _ in found]
    assert after == sorted(after, reverse=True)
    assert after[0] == ["old"]
    assert after[-1] == ["new"]
    gone = [now for before, now, _ in found if before == []]
    assert gone == ([] if way == "exchange" else [["old"]])

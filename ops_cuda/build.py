"""Builds the native operators with ninja into a keyed cache; nothing here needs torch.

A build of a `Target` is made in a folder of its own, and renamed into the cache whole: a reader
never loads half a library. A lock only saves double work: the kernel drops
it when its owner dies, and whoever has waited for `LOCK_SECONDS` builds without it.
"""

import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ops_cuda.targets import CacheMissingError, CompilerMissingError, Target, cache_folder

LIBRARY = "lafite_ops.so"
DIGEST = "lafite_ops.sha256"  # of the library, beside it
LOCK_SECONDS = 300.0
BUILD_SECONDS = 600.0


class BuildError(Exception):
    """The compiler is there but the build failed; the message names the log."""


ERRORS = (CompilerMissingError, CacheMissingError, BuildError)


def build(target: Target) -> Path:
    """The path of the library of `target`, from the cache or built now; BuildError names the log.
    CompilerMissingError where the compiler cannot be run.
    """
    folder = target.folder
    library = folder / LIBRARY
    if is_whole(library):
        return library
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _lock(folder.parent / f"{folder.name}.lock"):
        if not is_whole(library):  # another process may have built it meanwhile
            shutil.rmtree(folder, ignore_errors=True)  # damaged: whoever has loaded it keeps it
            _build(target)
    return library


def is_whole(library: Path) -> bool:
    """Whether the library is there as it was built. One that was cut off may end the process that
    loads it.
    """
    try:
        return (library.parent / DIGEST).read_text(encoding="utf-8") == _digest(library)
    except (FileNotFoundError, NotADirectoryError):
        return False


def _digest(library: Path) -> str:
    return hashlib.sha256(library.read_bytes()).hexdigest()


def _build(target: Target) -> None:
    work = Path(tempfile.mkdtemp(prefix=f".{target.folder.name}-", dir=target.folder.parent))
    try:
        (work / "build.ninja").write_text(_ninja_file(target), encoding="utf-8")
        started = time.perf_counter()
        log = _run_ninja(work)
        log += f"\n{time.perf_counter() - started:.1f} s\n"
        (work / "build.log").write_text(log, encoding="utf-8")
        if not (work / LIBRARY).is_file():
            failed = target.folder.parent / f"{target.folder.name}.failed.log"
            (work / "build.log").replace(failed)
            raise BuildError(f"the build of the native operators failed; its log is {failed}")
        (target.folder.parent / f"{target.folder.name}.failed.log").unlink(missing_ok=True)
        for file in work.glob("*.o"):
            file.unlink()
        (work / DIGEST).write_text(_digest(work / LIBRARY), encoding="utf-8")
        try:
            work.rename(target.folder)
        except OSError:  # built by another process too, on a machine without locks
            if not is_whole(target.folder / LIBRARY):
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _run_ninja(work: Path) -> str:
    """Everything that ninja and the compiler said."""
    import ninja

    command = [str(Path(ninja.BIN_DIR) / "ninja"), "-v"]
    log = work / "ninja.log"
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(command, cwd=work, stdout=file, stderr=subprocess.STDOUT)
        try:
            process.wait(timeout=BUILD_SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()  # ninja ends the compilers then
            process.wait()
            rules = (work / "build.ninja").read_text(encoding="utf-8")
            file.write(f"\nstopped after {BUILD_SECONDS:.0f} s, of:\n{rules}")
    said = log.read_text(encoding="utf-8", errors="replace")
    log.unlink()
    return said


def _ninja_file(target: Target) -> str:
    def quote(words: tuple[str, ...]) -> str:
        return " ".join(word.replace("$", "$$").replace(" ", "\\ ") for word in words)

    def escape(path: Path | str) -> str:
        return str(path).replace("$", "$$").replace(" ", "$ ").replace(":", "$:")

    objects = [f"{Path(source).stem}_{Path(source).suffix[1:]}.o" for source in target.sources]
    lines = [
        f"compiler = {target.compiler}",
        f"flags = -I{quote((str(target.source_folder),))} {quote(target.compile_flags)}",
        "rule compile",
        "  command = $compiler $flags -c $in -o $out",
        "rule link",
        f"  command = $compiler $in -o $out {quote(target.link_flags)}",
    ]
    lines += [
        f"build {name}: compile {escape(target.source_folder / source)}"
        for name, source in zip(objects, target.sources, strict=True)
    ]
    return "\n".join([*lines, f"build {LIBRARY}: link {' '.join(objects)}", ""])


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold `path` against other processes; after LOCK_SECONDS, or where the file system has no
    locks, go on without: the result is renamed whole in any case.
    """
    with path.open("a+", encoding="utf-8") as file:
        deadline = time.monotonic() + LOCK_SECONDS
        while time.monotonic() < deadline:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(0.1)
            except OSError:
                break
        else:
            yield
            return
        file.truncate(0)
        file.write(f"process {os.getpid()} on {platform.node()}\n")
        file.flush()
        yield


def builds() -> list[Path]:
    """The libraries in the cache; CacheMissingError where there is no place for one."""
    return sorted(cache_folder().glob(f"*/{LIBRARY}"))


def clean() -> int:
    """Remove the cache; returns the number of libraries that it held."""
    count = len(builds())
    shutil.rmtree(cache_folder(), ignore_errors=True)
    return count

"""Builds the native operators with ninja into a keyed cache; nothing here needs torch.

A build is keyed by its sources, compiler, flags and the machine's instruction set, made in a folder
of its own, and renamed into the cache whole: a reader never sees half a library, and a home folder
shared between machines holds one library for each. A lock only saves double work: the kernel drops
it when its owner dies, and whoever has waited for `LOCK_SECONDS` builds without it.
"""

import fcntl
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent
LIBRARY = "lafite_ops.so"
DIGEST = "lafite_ops.sha256"  # of the library, beside it
LOCK_SECONDS = 300.0
BUILD_SECONDS = 600.0
KERNELS = ("bias_act", "synthesis_epilogue", "to_rgb", "upfirdn2d")
HEADERS = (
    *("lafite_ops.h", "numeric.cuh", "cpu.h", "cuda.cuh"),
    *("synthesis_epilogue.h", "to_rgb.h", "upfirdn2d.h"),
)


class CompilerMissingError(Exception):
    """There is no compiler for this target; the message says what to install."""


class CacheMissingError(Exception):
    """There is no place for built libraries; the message says how to name one."""


class BuildError(Exception):
    """The compiler is there but the build failed; the message names the log."""


ERRORS = (CompilerMissingError, CacheMissingError, BuildError)


@dataclass(frozen=True)
class Target:
    """One library: what is compiled, with what."""

    name: str  # cpu, cuda-sm_90
    sources: tuple[str, ...]
    compiler: str
    compile_flags: tuple[str, ...]
    link_flags: tuple[str, ...]
    source_folder: Path = SOURCES

    @property
    def key(self) -> str:
        """16 hexadecimal digits over everything that the library depends on."""
        digest = hashlib.sha256()
        for name in (*HEADERS, *self.sources):
            digest.update(f"{name}\0".encode() + (self.source_folder / name).read_bytes())
        version = _version(self.compiler)
        parts = (self.compiler, version, *self.compile_flags, *self.link_flags, instruction_set())
        digest.update("\0".join(parts).encode())
        return digest.hexdigest()[:16]

    @property
    def folder(self) -> Path:
        return cache_folder() / f"{self.name}-{self.key}"

    @property
    def log(self) -> Path:
        """What the compiler said, whether the build succeeded or not."""
        failed = self.folder.parent / f"{self.folder.name}.failed.log"
        return failed if failed.is_file() else self.folder / "build.log"


def _version(compiler: str) -> str:
    command = [*([compiler] if shutil.which(compiler) else shlex.split(compiler)), "--version"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompilerMissingError(f"{compiler} cannot be run: {error}") from error
    return done.stdout


def cache_folder() -> Path:
    """$LAFITE_SHIFTED_CACHE, or lafite_shifted in the user's cache folder; CacheMissingError where
    there is none.
    """
    own = os.environ.get("LAFITE_SHIFTED_CACHE")
    if own:
        return Path(own) / "ops"
    base = os.environ.get("XDG_CACHE_HOME")
    if not base:
        try:
            base = Path.home() / ".cache"
        except RuntimeError as error:  # a user without an entry in /etc/passwd
            raise CacheMissingError(
                "there is no home folder for the cache: set LAFITE_SHIFTED_CACHE or HOME to a "
                "folder that can be written to"
            ) from error
    return Path(base) / "lafite_shifted" / "ops"


def instruction_set() -> str:
    """The machine and the extensions that `-march=native` may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.system()} {platform.machine()} {platform.processor()} {flags}"


def host_compiler() -> str:
    """$CXX, which may be a command with options, or the first C++ compiler on the PATH;
    CompilerMissingError if there is none.
    """
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    for name in names:
        found = shutil.which(name)
        if found:
            return found
        words = shlex.split(name)
        if len(words) > 1 and shutil.which(words[0]):
            return name
    raise CompilerMissingError(
        f"no C++ compiler ({', '.join(names)}) on the PATH: apt-get install g++"
    )


def nvcc() -> str:
    """$CUDA_HOME/bin/nvcc, or the one on the PATH; CompilerMissingError if there is none."""
    home = os.environ.get("CUDA_HOME")
    found = shutil.which("nvcc", path=f"{home}/bin") if home else None
    found = found or shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if found is None:
        raise CompilerMissingError("no nvcc on the PATH: install the CUDA toolkit")
    return found


def cpu_target() -> Target:
    """Vector units of this machine, OpenMP where the compiler has it."""
    compiler = host_compiler()
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    openmp = ("-fopenmp",) if platform.system() == "Linux" else ()
    flags = ("-std=c++17", "-O3", native, "-ffp-contract=fast", "-fno-math-errno", "-fPIC")
    return Target(
        name="cpu",
        sources=(*(f"{name}.cpp" for name in KERNELS), "synthesis_tail.cpp", "library.cpp"),
        compiler=compiler,
        compile_flags=(*flags, *openmp),
        # OpenMP's functions are left open: they are found in the library that torch has loaded, so
        # that both share one pool of threads
        link_flags=("-shared", *(("-undefined", "dynamic_lookup") if not openmp else ())),
    )


def cuda_target(capability: tuple[int, int]) -> Target:
    """Machine code for one GPU generation, and its PTX for those to come."""
    number = f"{capability[0]}{capability[1]}"
    code = f"arch=compute_{number},code=[sm_{number},compute_{number}]"
    return Target(
        name=f"cuda-sm_{number}",
        sources=(*(f"{name}.cu" for name in KERNELS), "library.cu"),
        compiler=nvcc(),
        compile_flags=("-std=c++17", "-O3", "-gencode", code, "-Xcompiler", "-fPIC"),
        # a runtime of its own: torch may bring that of another major version than nvcc's
        link_flags=("-shared", "-cudart", "static"),
    )


def build(target: Target) -> Path:
    """The library of `target`, from the cache or built now; BuildError names the log."""
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
    """The libraries in the cache."""
    return sorted(cache_folder().glob(f"*/{LIBRARY}"))


def clean() -> int:
    """Remove the cache; the number of libraries that it held."""
    count = len(builds())
    shutil.rmtree(cache_folder(), ignore_errors=True)
    return count

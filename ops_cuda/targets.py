"""What a build of the native operators is made of: sources, compiler, flags and the key over them.

A build is keyed by its sources, compiler, flags and the machine's instruction set, so that a home
folder shared between machines holds one library for each. Nothing here needs torch.
"""

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

SOURCES = Path(__file__).parent
KERNELS = (
    *("bias_act", "philox", "synthesis_epilogue"),
    *("synthesis_tail", "to_rgb", "upfirdn2d"),
)
HEADERS = (
    *("lafite_ops.h", "numeric.cuh", "cpu.h", "cuda.cuh", "upfirdn2d.cuh"),
    *("philox.h", "synthesis_epilogue.h", "to_rgb.h", "upfirdn2d.h"),
)


class CompilerMissingError(Exception):
    """There is no compiler for this target; the message says what to install."""


class CacheMissingError(Exception):
    """There is no place for built libraries; the message says how to name one."""


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
        """Where the cache holds its library and log, built or not."""
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
    """The CPU library: vector units of this machine, OpenMP on Linux. CompilerMissingError without
    a C++ compiler.
    """
    compiler = host_compiler()
    native = "-mcpu=native" if platform.machine() in ("arm64", "aarch64") else "-march=native"
    openmp = ("-fopenmp",) if platform.system() == "Linux" else ()
    flags = ("-std=c++17", "-O3", native, "-ffp-contract=fast", "-fno-math-errno", "-fPIC")
    return Target(
        name="cpu",
        sources=(*(f"{name}.cpp" for name in KERNELS), "library.cpp"),
        compiler=compiler,
        compile_flags=(*flags, *openmp),
        # OpenMP's functions are left open: they are found in the library that torch has loaded, so
        # that both share one pool of threads
        link_flags=("-shared", *(("-undefined", "dynamic_lookup") if not openmp else ())),
    )


def cuda_target(capability: tuple[int, int]) -> Target:
    """The GPU library: machine code for one compute `capability` (major, minor), and its PTX for
    those to come. CompilerMissingError without nvcc.
    """
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

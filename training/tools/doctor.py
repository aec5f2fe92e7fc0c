"""What a machine offers to a training, and what to do where something lacks: the findings of
`doctor`.
"""

import importlib
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

from lafite_shifted.errors import InputError
from lafite_shifted.io.starter import starter_clip, starter_model


@dataclass(frozen=True)
class Finding:
    """One line: `broken` means that nothing can run, `missing` that something optional is not
    there.
    """

    name: str
    state: Literal["ok", "missing", "broken"]
    detail: str
    advice: str = ""


def examine() -> list[Finding]:
    """Every finding, in the order in which they matter."""
    return [
        _python(),
        _torch(),
        _cuda(),
        _gpu(),
        _bfloat16(),
        _package("open_clip_torch", "pip install open_clip_torch"),
        _package("torchvision", "pip install torchvision, in the version that fits torch"),
        _starter_clip(),
        _starter_model(),
        _tool(
            "compiler",
            ["c++", "g++", "clang++"],
            "only native operators need it: apt-get install g++",
        ),
        _tool("nvcc", ["nvcc"], "only native CUDA operators need it: install the CUDA toolkit"),
        _operators(),
        _shared_memory(),
        _disk(),
        _shadowing(),
    ]


def _python() -> Finding:
    found = f"{platform.python_version()} in {sys.executable}"
    return Finding("Python", "ok", found)


def _torch() -> Finding:
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding("torch", "broken", f"cannot be imported: {error}", "pip install torch")
    found = f"{torch.__version__}, {torch.get_num_threads()} threads"
    return Finding("torch", *_checked("torch", found))


def _cuda() -> Finding:
    try:
        import torch
    except (ImportError, OSError):
        return Finding("CUDA", "missing", "unknown without torch")
    if torch.version.cuda:
        return Finding("CUDA", "ok", f"torch is built for CUDA {torch.version.cuda}")
    advice = "for a GPU install a CUDA build of torch: https://pytorch.org/get-started/locally"
    return Finding("CUDA", "missing", "torch is a CPU build", advice)


def _gpu() -> Finding:
    try:
        import torch
    except (ImportError, OSError):
        return Finding("GPU", "missing", "unknown without torch")
    if torch.cuda.is_available():
        names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        return Finding("GPU", "ok", names)
    advice = "everything runs on the CPU; for a GPU check the driver with nvidia-smi"
    return Finding("GPU", "missing", "none that torch can use", advice)


def _bfloat16() -> Finding:
    try:
        import torch

        from torch_utils.device import has_fast_bfloat16
    except (ImportError, OSError):
        return Finding("bfloat16", "missing", "unknown without torch")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    fast = has_fast_bfloat16(device)
    return Finding(
        "bfloat16",
        "ok",
        "fast here: trainings use it" if fast else "not faster here: trainings use float32",
    )


def _package(name: str, advice: str) -> Finding:
    module = {"open_clip_torch": "open_clip"}.get(name, name)
    try:
        importlib.import_module(module)
    except (
        ImportError,
        OSError,
        RuntimeError,
    ) as error:  # RuntimeError: torchvision beside another torch
        return Finding(module, "broken", f"cannot be imported: {error}", advice)
    return Finding(module, *_checked(name, metadata.version(name)))


def _checked(package: str, found: str) -> tuple[Literal["ok", "broken"], str, str]:
    """State, detail and advice: the installed version against the range that lafite-shifted
    declares.
    """
    wanted = {
        r.name: r.specifier for r in map(Requirement, metadata.requires("lafite-shifted") or [])
    }
    version = metadata.version(package)
    if wanted[package].contains(version, prereleases=True):
        return "ok", found, ""
    wanted_version = f"{package}{wanted[package]}"
    return "broken", f"{found}, but {wanted_version} is needed", f'pip install "{wanted_version}"'


def _starter_clip() -> Finding:
    weights = starter_clip() / "open_clip_model.safetensors"
    if not weights.is_file():
        return Finding(
            "starter CLIP",
            "missing",
            f"not in {weights.parent}",
            "install lafite-shifted again, or use --clip",
        )
    return Finding("starter CLIP", "ok", f"{weights.stat().st_size / 1e6:.1f} MB")


def _starter_model() -> Finding:
    try:
        folder = starter_model()
    except InputError as error:
        return Finding("starter model", "missing", "not shipped here", str(error))
    size = sum(file.stat().st_size for file in folder.glob("*/weights.safetensors"))
    return Finding("starter model", "ok", f"{size / 1e6:.1f} MB beside its CLIP")


def _tool(name: str, commands: list[str], advice: str) -> Finding:
    for command in commands:
        path = shutil.which(command)
        if path:
            shown = subprocess.run(
                [path, "--version"], capture_output=True, text=True, check=False
            ).stdout
            lines = (
                [line for line in shown.splitlines() if "release" in line]
                or shown.splitlines()
                or ["?"]
            )
            return Finding(name, "ok", f"{path}: {lines[0].strip()}")
    return Finding(name, "missing", f"none of {', '.join(commands)} on the PATH", advice)


def _operators() -> Finding:
    try:
        import torch

        from torch_utils.ops import native

        device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
        found = native.status(device)
    except (ImportError, OSError):
        return Finding("operators", "missing", "unknown without torch")
    if found.startswith("compiled"):
        return Finding("operators", "ok", found)
    return Finding("operators", "missing", found, "everything works without, only slower")


def _shared_memory() -> Finding:
    path = Path("/dev/shm")
    if not path.is_dir():
        return Finding(
            "shared memory", "missing", "no /dev/shm", "images are loaded in the training process"
        )
    free = shutil.disk_usage(path).free
    if free < 2**30:
        advice = "in a container start it with --shm-size=8g"
        return Finding(
            "shared memory", "missing", f"{free / 2**20:.0f} MiB free in /dev/shm", advice
        )
    return Finding("shared memory", "ok", f"{free / 2**30:.1f} GiB free in /dev/shm")


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    if free < 2 * 2**30:
        return Finding(
            "disk",
            "missing",
            f"{free / 2**30:.1f} GiB free here",
            "a run takes a few GiB: free some space",
        )
    return Finding("disk", "ok", f"{free / 2**30:.0f} GiB free in {Path.cwd()}")


def _shadowing() -> Finding:
    """`training` and `torch_utils` are common names: commands take this project's own, but a script
    that imports both projects gets one of them.
    """
    ours = Path(__file__).resolve().parents[2]
    for name in ("training", "torch_utils", "ops_cuda"):
        for entry in sys.path:
            folder = Path(entry or os.curdir).resolve()
            if folder == ours:
                break
            # as an import does, which passes over folders that it may not read
            spec = PathFinder.find_spec(name, [str(folder)])
            if spec and spec.origin:
                return Finding(
                    "import path",
                    "missing",
                    f"{spec.origin} has the name of a package of lafite-shifted",
                    "commands take their own; in Python import lafite_shifted first, or rename it",
                )
    return Finding("import path", "ok", f"no folder hides {ours}")

"""What the operators do where nothing can be built, and whose compiler builds them."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ops_cuda import build, targets
from torch_utils.ops import bias_act, native


@pytest.fixture
def fresh_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "_choice", native._Choice())


@pytest.mark.usefixtures("fresh_choice", "cache")
def test_without_a_compiler_the_reference_runs(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.delenv("CXX", raising=False)
    cpu = torch.device("cpu")
    assert native.status(cpu).startswith("reference (no C++ compiler")
    assert not native.is_compiled(torch.zeros(1))
    assert bias_act(torch.ones(1, 1), activation="leaky_relu").shape == (1, 1)
    native.choose("compiled")
    with pytest.raises(native.OperatorsMissingError, match="apt-get install g"):
        native.status(cpu)


@pytest.mark.usefixtures("fresh_choice", "cache")
def test_with_a_broken_compiler_the_log_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    broken = tmp_path / "broken-c++"
    broken.write_text("#!/bin/sh\necho 'internal compiler error' >&2\nexit 1\n", encoding="utf-8")
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    found = native.status(torch.device("cpu"))
    assert found.startswith("reference (the build of the native operators failed; its log is ")
    log = Path(found.rpartition(" ")[2].rstrip(")"))
    assert "internal compiler error" in log.read_text(encoding="utf-8")


@pytest.mark.usefixtures("fresh_choice")
def test_the_choice_decides(monkeypatch: pytest.MonkeyPatch):
    x = torch.zeros(1)
    assert native.is_compiled(x)
    assert native.status(x.device).startswith("compiled (")
    native.choose("reference")
    assert native.status(x.device) == "reference (as asked for)"
    assert not native.is_compiled(x)
    assert not native.is_compiled(torch.zeros(1, device="meta"))


def test_one_pool_of_threads_serves_torch_and_the_operators():
    """A second OpenMP library would keep a second set of threads spinning."""
    script = (
        "import torch; from torch_utils.ops import native; native.status(torch.device('cpu')); "
        "print(open('/proc/self/maps').read())"
    )
    if not Path("/proc/self/maps").is_file():
        pytest.skip("no /proc on this system")
    # a process of its own: other packages, such as sentencepiece, bring theirs
    told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    mapped = {line.split()[-1] for line in told.stdout.splitlines() if "gomp" in line}
    assert mapped
    assert len({os.path.realpath(path) for path in mapped}) <= 1


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.usefixtures("cache")
def test_a_cuda_library_needs_no_runtime_beside_it():
    """torch may bring that of another major version than nvcc's."""
    target = replace(targets.cuda_target((9, 0)), sources=("library.cu",))
    needed = subprocess.run(
        ["ldd", str(build.build(target))], capture_output=True, text=True, check=True
    ).stdout
    assert "libc.so" in needed
    assert "cudart" not in needed


@pytest.mark.usefixtures("cache")
def test_a_compiler_may_come_with_options(small: targets.Target, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", f"{targets.host_compiler()} -O1")
    target = replace(small, compiler=targets.host_compiler())
    assert target.compiler.endswith(" -O1")
    assert "-O1" in (build.build(target).parent / "build.log").read_text(encoding="utf-8")


def test_a_compiler_that_cannot_be_run_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    compiler = tmp_path / "c++"
    compiler.write_bytes(b"garbage")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    with pytest.raises(targets.CompilerMissingError, match="cannot be run"):
        _ = targets.cpu_target().key

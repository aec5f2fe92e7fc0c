"""The builder: cache, key, lock, logs, and machines without a compiler."""

import fcntl
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ops_cuda import build, targets
from ops_cuda.library import ABI, Library
from torch_utils.ops import bias_act, native


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LAFITE_SHIFTED_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ops"


@pytest.fixture
def small(tmp_path: Path) -> targets.Target:
    """A library of one file that compiles at once."""
    (tmp_path / "source").mkdir()
    for name in targets.HEADERS:
        (tmp_path / "source" / name).write_text("", encoding="utf-8")
    source = tmp_path / "source" / "one.cpp"
    source.write_text('extern "C" int ls_abi() { return 1; }\n', encoding="utf-8")
    compiler = targets.host_compiler()
    flags = ("-fPIC",)
    return targets.Target("small", ("one.cpp",), compiler, flags, ("-shared",), source.parent)


@pytest.mark.usefixtures("cache")
def test_a_library_is_built_once(small: targets.Target):
    path = build.build(small)
    before = path.stat().st_mtime_ns
    assert build.build(small) == path
    assert path.stat().st_mtime_ns == before
    assert build.builds() == [path]
    assert "one.cpp" in small.log.read_text(encoding="utf-8")
    assert not [p for p in path.parent.parent.iterdir() if p.name.startswith(".")]
    assert build.clean() == 1
    assert build.builds() == []


def test_the_key_holds_sources_flags_compiler_and_machine(
    small: targets.Target, monkeypatch: pytest.MonkeyPatch
):
    keys = {small.key, replace(small, compile_flags=("-fPIC", "-O3")).key}
    keys.add(replace(small, link_flags=("-shared", "-s")).key)
    source = small.source_folder / "one.cpp"
    source.write_text(source.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    keys.add(small.key)
    monkeypatch.setattr(targets, "instruction_set", lambda: "another machine")
    keys.add(small.key)
    assert len(keys) == 5


@pytest.mark.usefixtures("cache")
def test_a_failed_build_names_its_log_and_leaves_nothing_else(small: targets.Target, cache: Path):
    source = small.source_folder / "one.cpp"
    source.write_text("this is no C++;\n", encoding="utf-8")
    with pytest.raises(build.BuildError, match="its log is ") as caught:
        build.build(small)
    log = Path(str(caught.value).rpartition("its log is ")[2])
    assert "error" in log.read_text(encoding="utf-8")
    assert small.log == log
    assert build.builds() == []
    assert sorted(p.suffix for p in cache.iterdir()) == [".lock", ".log"]


def test_paths_with_spaces_and_dollars_are_built(
    small: targets.Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("LAFITE_SHIFTED_CACHE", str(tmp_path / "a b $c"))
    folder = (tmp_path / "source").rename(tmp_path / "so urce $x")
    assert build.build(replace(small, source_folder=folder)).is_file()


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


def test_a_library_of_another_interface_is_refused(tmp_path: Path, small: targets.Target):
    source = small.source_folder / "one.cpp"
    source.write_text('extern "C" int ls_abi() { return 99; }\n', encoding="utf-8")
    with pytest.raises(RuntimeError, match=f"has interface 99, not {ABI}"):
        Library(build.build(small))


# --- what the operators do where nothing can be built


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


@pytest.mark.usefixtures("cache")
def test_a_damaged_library_is_built_again(small: targets.Target, monkeypatch: pytest.MonkeyPatch):
    path = build.build(small)
    path.write_bytes(b"")
    monkeypatch.setattr("ops_cuda.library.ABI", 1)
    source = small.source_folder / "one.cpp"
    source.write_text(
        'extern "C" int ls_abi() { return 1; }\n'
        'extern "C" const char* ls_error_string(int) { return ""; }\n',
        encoding="utf-8",
    )
    build.build(small).write_bytes(b"")
    assert Library.of(small).path.stat().st_size > 0


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
def test_a_whole_library_that_cannot_be_loaded_stays(
    small: targets.Target, monkeypatch: pytest.MonkeyPatch
):
    """Something it needs is not there: building it again would not help, and take minutes."""
    path = build.build(small)
    inode = path.stat().st_ino

    def refuse(_path: Path):
        raise OSError("libcudart.so.12: cannot open shared object file: No such file or directory")

    monkeypatch.setattr("ops_cuda.library._open", refuse)
    with pytest.raises(OSError, match="libcudart"):
        Library.of(small)
    assert path.stat().st_ino == inode


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

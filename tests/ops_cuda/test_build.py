"""The builder: cache, key, logs, and libraries that are damaged or of another interface."""

from dataclasses import replace
from pathlib import Path

import pytest

from ops_cuda import build, targets
from ops_cuda.library import ABI, Library


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


def test_a_library_of_another_interface_is_refused(tmp_path: Path, small: targets.Target):
    source = small.source_folder / "one.cpp"
    source.write_text('extern "C" int ls_abi() { return 99; }\n', encoding="utf-8")
    with pytest.raises(RuntimeError, match=f"has interface 99, not {ABI}"):
        Library(build.build(small))


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

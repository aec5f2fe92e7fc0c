"""A cache of builds of a test's own, and a library that compiles at once."""

from pathlib import Path

import pytest

from ops_cuda import targets


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

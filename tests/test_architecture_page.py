"""docs/architecture.md names files and functions of today's code, and its walks are short."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
PACKAGES = ("lafite_shifted/", "training/", "torch_utils/", "ops_cuda/", "tests/", "docs/")


def walk(title: str) -> list[tuple[str, list[str]]]:
    """(file, functions) of each room of the walk below this heading."""
    section = PAGE.split(f"## {title}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| \d+ \| `([^`]+)` \| (.+?) \|", section, re.M)
    return [(file, re.findall(r"`([\w.]+)`", names)) for file, names in rows]


def functions(path: Path) -> set[str]:
    """Dotted names of the functions and methods in a file."""
    found = set[str]()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{m.name}" for m in node.body if isinstance(m, ast.FunctionDef)}
    return found


@pytest.mark.parametrize(
    "title", ["One image, from its file to a gradient", "One sentence, to a PNG"]
)
def test_a_walk_has_nine_rooms_at_most_and_none_twice(title: str):
    rooms = walk(title)
    assert 5 < len(rooms) <= 9
    assert len({file for file, _ in rooms}) == len(rooms)
    for file, names in rooms:
        assert names
        assert set(names) <= functions(ROOT / file), file


def test_every_file_that_the_page_names_is_there():
    named = {name for name in re.findall(r"`([\w./-]+)`", PAGE) if name.startswith(PACKAGES)}
    assert len(named) > 40
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []

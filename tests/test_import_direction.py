"""Imports run downwards only, nothing is pickled, no exception is swallowed, a GPU
is read in one place: read from the ASTs."""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOORS = ("ops_cuda", "torch_utils", "lafite_shifted", "training", "lafite_shifted.cli")  # upwards
PICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def module_paths() -> dict[str, Path]:
    """Dotted name -> file, of every module in the packages."""
    paths = {}
    for package in (floor for floor in FLOORS if "." not in floor):
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return paths


MODULES = module_paths()
SOURCES = [pytest.param(path, id=name) for name, path in MODULES.items()]


def floor_of(module: str) -> int | None:
    """The highest floor whose package holds `module`; None outside the house."""
    inside = (
        number
        for number, floor in enumerate(FLOORS)
        if module == floor or module.startswith(f"{floor}.")
    )
    return max(inside, default=None)


def imported_names(tree: ast.AST, *, module: str, is_package: bool) -> Iterator[str]:
    """Everything that an import statement anywhere in the tree reaches: modules, then their
    members.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                parts = module.split(".")
                parents = parts[: len(parts) - node.level + is_package]
                origin = ".".join([*parents, *filter(None, [node.module])])
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def upward_imports(source: str, *, module: str, is_package: bool = False) -> list[str]:
    own = floor_of(module)
    assert own is not None
    names = imported_names(ast.parse(source), module=module, is_package=is_package)
    return [name for name in names if (floor_of(name) or 0) > own]


def pickle_uses(source: str) -> list[str]:
    """Imports of pickling modules, and torch.load in any spelling, unless it loads weights only.

    Catching the error of somebody else's unpickling is no use.
    """
    tree = ast.parse(source)
    names = list(imported_names(tree, module="", is_package=False))
    calls = (node for node in ast.walk(tree) if isinstance(node, ast.Call))
    harmless = {id(call.func) for call in calls if loads_weights_only(call)}
    names += [
        ast.unparse(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and id(node) not in harmless
    ]
    found = [
        name
        for name in names
        if name.split(".")[0] in PICKLERS or name in ("torch.load", "torch.serialization.load")
    ]
    return [] if found == ["pickle", "pickle.UnpicklingError"] else found


def loads_weights_only(call: ast.Call) -> bool:
    """Whether it calls torch.load, to unpickle tensors and nothing else."""
    if ast.unparse(call.func) != "torch.load":
        return False
    given = {word.arg: ast.unparse(word.value) for word in call.keywords}
    return given.get("weights_only") == "True"


def broad_handlers(source: str) -> list[int]:
    """Lines of `except:`, `except Exception`, and of `except BaseException` without a re-raise."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.ExceptHandler):
            continue
        caught = ast.walk(node.type) if node.type else iter(())
        names = {kind.id for kind in caught if isinstance(kind, ast.Name)}
        last = node.body[-1]
        cleans_up = isinstance(last, ast.Raise) and last.exc is None
        if (
            node.type is None
            or "Exception" in names
            or ("BaseException" in names and not cleans_up)
        ):
            lines.append(node.lineno)
    return lines


def host_reads(source: str) -> list[int]:
    """Lines that call `cpu` or `item` of something."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("cpu", "item")
        and not node.args
    ]


def test_every_floor_is_there():
    assert {floor_of(name) for name in MODULES} == set(range(len(FLOORS)))


@pytest.mark.parametrize("name", MODULES)
def test_imports_run_downwards(name: str):
    path = MODULES[name]
    source = path.read_text(encoding="utf-8")
    assert upward_imports(source, module=name, is_package=path.name == "__init__.py") == []


@pytest.mark.parametrize("path", SOURCES)
def test_nothing_is_pickled(path: Path):
    assert pickle_uses(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", SOURCES)
def test_no_handler_catches_everything(path: Path):
    assert broad_handlers(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("torch_utils.seeds", "import lafite_shifted.gaussian.stats"),
        ("lafite_shifted.gaussian.stats", "def f():\n    from training import losses"),
        ("lafite_shifted.gaussian.stats", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n"
         "    from training.gan.losses import info_nce"),
        ("training.run_setup", "from lafite_shifted import cli"),
        ("training.run_setup", "import lafite_shifted.cli.options as options"),
        ("lafite_shifted.pipeline", "from .cli import options"),
        ("lafite_shifted.pipeline", "from . import cli"),
        ("ops_cuda.build", "import torch_utils"),
    ],
)  # fmt: skip
def test_upward_imports_are_found(module: str, source: str):
    assert upward_imports(source, module=module)


def test_what_a_gpu_has_computed_is_read_in_one_place():
    """Which has the list of reasons. What numpy calls `item` is no read of a GPU."""
    found = {name for name, path in MODULES.items() if host_reads(path.read_text("utf-8"))}
    assert found == {"torch_utils.host_reads", "lafite_shifted.legacy.builders"}


@pytest.mark.parametrize("source", ["x.cpu()", "float(x.mean().item())", "[t.cpu() for t in x]"])
def test_host_reads_are_found(source: str):
    assert host_reads(source)


def test_downward_imports_are_allowed():
    source = "import torch\nfrom lafite_shifted.pipeline import TextToImage\nimport torch_utils.ema"
    assert upward_imports(source, module="training.gan.losses") == []
    assert upward_imports("from . import options", module="lafite_shifted.cli.demo") == []


@pytest.mark.parametrize(
    "source",
    ["import pickle", "from pickle import loads", "import torch\ntorch.load('x')",
     "from torch import load", "import numpy\nimport _pickle as fast",
     "import torch\ntorch.load('x', weights_only=False)",
     "import torch\ntorch.load('x', **{'weights_only': True})",
     "import torch\nload = torch.load\nload('x', weights_only=True)"],
)  # fmt: skip
def test_pickle_uses_are_found(source: str):
    assert pickle_uses(source)


def test_tensors_alone_may_be_unpickled():
    assert pickle_uses("import torch\ntorch.load('x', weights_only=True)") == []


def test_an_unpickling_error_may_be_caught():
    assert pickle_uses("from pickle import UnpicklingError") == []
    assert pickle_uses("from pickle import UnpicklingError, loads")


@pytest.mark.parametrize(
    "handler",
    ["except: pass", "except Exception: pass", "except (ValueError, Exception): pass",
     "except BaseException: pass"],
)  # fmt: skip
def test_broad_handlers_are_found(handler: str):
    assert broad_handlers(f"try:\n    f()\n{handler}")


def test_handlers_that_clean_up_or_name_a_type_are_allowed():
    assert broad_handlers("try:\n    f()\nexcept BaseException:\n    g()\n    raise") == []
    assert broad_handlers("try:\n    f()\nexcept (OSError, ValueError):\n    g()") == []


def test_rooms_of_a_floor_import_from_left_to_right_and_the_image_shows_them():
    """docs/architecture.png; `python docs/architecture.py` draws it again."""
    spec = importlib.util.spec_from_file_location("architecture", ROOT / "docs/architecture.py")
    assert spec is not None
    assert spec.loader is not None
    drawn = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(drawn)
    assert len(drawn.edges()) > 30
    assert drawn.backward_edges() == []
    assert drawn.is_current(drawn.IMAGE)
    assert {drawn.room_of(module) for module in MODULES} == set(drawn.SUBJECTS)

"""Draws docs/architecture.png: the rooms of the packages on their floors, and the imports between
them, read from the code.

    python docs/architecture.py            # draws it again
    python docs/architecture.py --check    # exit 1 where the picture is not that of the code

A room is a package below one of the floors, or the modules at the floor's top.
"""

import ast
import io
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
IMAGE = ROOT / "docs" / "architecture.png"
FLOORS = (
    "lafite_shifted.cli",
    "training",
    "lafite_shifted",
    "torch_utils",
    "ops_cuda",
)  # downwards
SUBJECTS = {
    "lafite_shifted.cli": "one verb a module: parse, check, call, print",
    "training": "loop, run folder,\nconfig, presets",
    "training.data": "sources, decoding,\nembeddings on disk",
    "training.gan": "data, augmentation,\nlosses, step, trainer",
    "training.prior": "trainer, evaluation,\nstudy",
    "training.clip": "data, trainer",
    "training.metrics": "distances, plots,\ngrids",
    "training.bench": "benchmarks",
    "training.tools": "demo, doctor",
    "lafite_shifted": "TextToImage, errors,\ndevice",
    "lafite_shifted.encoders": "CLIP, preprocessing,\ntext encoders",
    "lafite_shifted.gaussian": "mean, covariance,\nclusters",
    "lafite_shifted.prior": "diffusion, network",
    "lafite_shifted.decoder": "generator,\ndiscriminator",
    "lafite_shifted.io": "files, model folder",
    "torch_utils": "distributed, EMA, seeds, devices",
    "torch_utils.ops": "operators with autograd and reference",
    "ops_cuda": "CUDA and CPU kernels, emulation, build",
}


def room_of(module: str) -> str | None:
    """The room that a dotted module name lies in; None outside the packages."""
    known = [room for room in SUBJECTS if module == room or module.startswith(f"{room}.")]
    return max(known, key=len, default=None)


def floor_of(room: str) -> str:
    return max(
        (floor for floor in FLOORS if room == floor or room.startswith(f"{floor}.")), key=len
    )


def imports(path: Path) -> Iterator[str]:
    """The absolute module names that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def edges() -> dict[tuple[str, str], int]:
    """(importing room, imported room) -> number of files that import."""
    found: Counter[tuple[str, str]] = Counter()
    for package in ("training", "lafite_shifted", "torch_utils", "ops_cuda"):
        for path in (ROOT / package).rglob("*.py"):
            own = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
            for other in {room_of(name) for name in imports(path)}:
                if own and other and own != other:
                    found[own, other] += 1
    return dict(sorted(found.items()))


def record() -> str:
    """What the picture shows, as text that is stored in it."""
    return json.dumps([[*pair, count] for pair, count in edges().items()])


def draw(path: Path) -> None:
    """Write the picture, with `record` in it."""
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
    from PIL import Image, PngImagePlugin

    figure = Figure(figsize=(13, 8.2))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, 13), ylim=(0, 8.2))
    axis.axis("off")
    places: dict[str, tuple[float, float]] = {}
    for number, floor in enumerate(FLOORS):
        rooms = [room for room in SUBJECTS if floor_of(room) == floor]
        y, width = 6.9 - 1.6 * number, 11.4 / len(rooms)
        axis.add_patch(
            FancyBboxPatch(
                (0.15, y - 0.1), 12.7, 1.15, boxstyle="round,pad=0.05", fc="#f3f3f0", ec="none"
            )
        )
        axis.text(0.25, y + 0.5, f"{5 - number}", fontsize=18, color="#999999", va="center")
        for place, room in enumerate(rooms):
            x = 0.8 + place * width
            fc = "#dce9f7" if room != floor or len(rooms) == 1 else "#ffffff"
            axis.add_patch(
                FancyBboxPatch(
                    (x, y), width - 0.25, 0.95, boxstyle="round,pad=0.02", fc=fc, ec="#5580aa"
                )
            )
            middle = x + (width - 0.25) / 2
            name = room.removeprefix(f"{floor}.").replace(".", "/")
            axis.text(middle, y + 0.74, f"{name}/", fontsize=9, ha="center", weight="bold")
            axis.text(middle, y + 0.33, SUBJECTS[room], fontsize=7, ha="center", va="center")
            places[room] = (middle, y)
    for (own, other), count in edges().items():
        (x0, y0), (x1, y1) = places[own], places[other]
        same = y0 == y1
        axis.add_patch(
            FancyArrowPatch(
                (x0, y0 + (0.95 if same else 0.0)),
                (x1, y1 + 0.95),
                connectionstyle=f"arc3,rad={-0.25 if same else 0.04}",
                arrowstyle="-|>",
                mutation_scale=7,
                linewidth=0.4 + 0.12 * min(count, 12),
                color="#c0392b" if same else "#444444",
                alpha=0.5,
                zorder=3,
            )
        )
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    info = PngImagePlugin.PngInfo()
    info.add_text("imports", record())
    Image.open(content).convert("P", palette=Image.Palette.ADAPTIVE, colors=64).save(
        path, pnginfo=info, optimize=True
    )


def is_current(path: Path) -> bool:
    """Whether the picture shows the imports as they are."""
    from PIL import Image

    with Image.open(path) as image:
        return image.info.get("imports") == record()


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit(
            0 if is_current(IMAGE) else "docs/architecture.png is old: python docs/architecture.py"
        )
    draw(IMAGE)

"""Draws docs/architecture.png: the rooms of the packages on their floors, and the imports between
the rooms of a floor, read from the code.

    python docs/architecture.py            # draws it again
    python docs/architecture.py --check    # exit 1 where the image is not that of the code

A room is a package below one of the floors, or modules at the floor's top. A floor may import from
every lower floor, and a room from those to its right on the same floor.
"""

import ast
import io
import json
import sys
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
SUBJECTS = {  # in the order of imports: downwards, and from left to right
    "lafite_shifted.cli": "one verb a module: parse, check, call, print",
    "training.tools": "demo, doctor",
    "training.bench": "benchmarks",
    "training.chain": "evaluation,\nsentence to image",
    "training.gan": "data, augmentation,\nlosses, step, trainer,\nevaluation",
    "training.prior": "trainer, evaluation,\nstudy",
    "training.clip": "data, trainer",
    "training.metrics": "distances, plots,\ngrids",
    "training.data": "files, captions,\ndecoding, embeddings\non disk, image cache",
    "training": "loop, run folder,\nconfig",
    "lafite_shifted.legacy": "snapshots of\nolder programs",
    "lafite_shifted.serving": "page, JSON,\nbatches",
    "lafite_shifted.export": "ONNX, programs,\nrunner, site",
    "lafite_shifted": "TextToImage,\nmodel folder",
    "lafite_shifted.editing": "sphere, edits",
    "lafite_shifted.prior": "diffusion, network",
    "lafite_shifted.decoder": "generator,\ndiscriminator,\ninference",
    "lafite_shifted.gaussian": "mean, covariance,\nclusters",
    "lafite_shifted.encoders": "CLIP, preprocessing,\ntext encoders",
    "lafite_shifted.io": "files, PNG",
    "lafite_shifted.errors": "errors",
    "torch_utils": "distributed, EMA, seeds, devices",
    "torch_utils.ops": "operators with autograd and reference",
    "ops_cuda": "CUDA and CPU kernels, emulation, build",
}
BASE = ("lafite_shifted.errors", "lafite_shifted.device")  # one room: what all others use


def room_of(module: str) -> str | None:
    """The room that a dotted module name lies in; None outside the packages."""
    if module.startswith(BASE):
        return BASE[0]
    known = [room for room in SUBJECTS if module == room or module.startswith(f"{room}.")]
    return max(known, key=len, default=None)


def floor_of(room: str) -> str:
    """The floor of a package: the longest name in FLOORS that it begins with."""
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


def edges() -> list[tuple[str, str]]:
    """(importing room, imported room), sorted."""
    found: set[tuple[str, str]] = set()
    for package in ("training", "lafite_shifted", "torch_utils", "ops_cuda"):
        for path in (ROOT / package).rglob("*.py"):
            own = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
            for other in {room_of(name) for name in imports(path)}:
                if own and other and own != other:
                    found.add((own, other))
    return sorted(found)


def backward_edges() -> list[tuple[str, str]]:
    """Imports from right to left on one floor: there are none."""
    order = list(SUBJECTS)
    return [
        (own, other)
        for own, other in edges()
        if floor_of(own) == floor_of(other) and order.index(own) > order.index(other)
    ]


def record() -> str:
    """What the image shows, as text that is stored in it."""
    return json.dumps(edges())


def draw(path: Path) -> None:
    """Write the image, with `record` in it."""
    from matplotlib.figure import Figure
    from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
    from PIL import Image, PngImagePlugin

    figure = Figure(figsize=(13, 8.4))
    axis = figure.add_axes((0, 0, 1, 1))
    axis.set(xlim=(0, 13), ylim=(0, 8.4))
    axis.axis("off")
    places: dict[str, tuple[float, float]] = {}
    for number, floor in enumerate(FLOORS):
        rooms = [room for room in SUBJECTS if floor_of(room) == floor]
        y, width = 7.0 - 1.65 * number, 11.9 / len(rooms)
        plate = {"boxstyle": "round,pad=0.05", "fc": "#f3f3f0", "ec": "none"}
        axis.add_patch(FancyBboxPatch((0.15, y - 0.08), 12.7, 1.25, **plate))
        axis.text(
            0.25, y + 0.5, f"{len(FLOORS) - number}", fontsize=18, color="#999999", va="center"
        )
        for place, room in enumerate(rooms):
            x, middle = 0.75 + place * width, 0.75 + (place + 0.5) * width - 0.1
            box = {"boxstyle": "round,pad=0.02", "fc": "#dce9f7", "ec": "#5580aa"}
            axis.add_patch(FancyBboxPatch((x, y), width - 0.2, 0.85, **box))
            name = room.removeprefix(f"{floor}.").replace(".", "/") + "/" * (room != BASE[0])
            axis.text(middle, y + 0.68, name, fontsize=9, ha="center", weight="bold")
            axis.text(middle, y + 0.3, SUBJECTS[room], fontsize=7, ha="center", va="center")
            places[room] = (middle, y + 0.87)
    for own, other in edges():
        if floor_of(own) != floor_of(other):
            continue
        (x0, y0), (x1, y1) = places[own], places[other]
        bend = 0.9 / abs(x1 - x0) ** 0.75 * (1 if x1 > x0 else -1)
        arrow = FancyArrowPatch(
            (x0 + 0.12, y0),
            (x1 - 0.12, y1),
            connectionstyle=f"arc3,rad={-0.28 * bend}",
            arrowstyle="-|>",
            mutation_scale=8,
            linewidth=0.8,
            color="#33556f" if x1 > x0 else "#c0392b",
            alpha=0.6,
        )
        axis.add_patch(arrow)
    for number in range(len(FLOORS) - 1):
        y = 7.0 - 1.65 * number - 0.1
        axis.annotate(
            "", (0.37, y - 0.3), (0.37, y), arrowprops={"arrowstyle": "-|>", "color": "#999999"}
        )
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=110)
    info = PngImagePlugin.PngInfo()
    info.add_text("imports", record())
    Image.open(content).convert("P", palette=Image.Palette.ADAPTIVE, colors=64).save(
        path, pnginfo=info, optimize=True
    )


def is_current(path: Path) -> bool:
    """Whether the image shows the imports as they are."""
    from PIL import Image

    with Image.open(path) as image:
        return image.info.get("imports") == record()


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit(
            0 if is_current(IMAGE) else "docs/architecture.png is old: python docs/architecture.py"
        )
    draw(IMAGE)

"""What an export of `export onnx` weighs, how close its images are, and how long they take."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lafite_shifted.errors import InputError
from lafite_shifted.export.onnx_folder import KIND, SENTENCES
from lafite_shifted.export.runner import Model, Problem
from lafite_shifted.io.files import read_json


@dataclass(frozen=True)
class MeasuredExport:
    """Of one folder, by part: text, prior (where there is one), generator."""

    stored: dict[str, str]
    megabytes: dict[str, float]
    all_megabytes: float
    psnr_db: float | None  # as it was tried when it was written; None: equal images
    milliseconds: dict[str, float]  # of one image, the least of the rounds


def bench_export(folder: Path, *, rounds: int) -> MeasuredExport:
    """InputError where `folder` is no export as ONNX."""
    path = folder / "manifest.json"
    manifest = read_json(path) if path.is_file() else None
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise InputError(f"{folder} is no folder of `export onnx`. Give the --out of one.")
    parts = manifest["parts"]
    try:
        model = Model(lambda name: (folder / name).read_bytes(), threads=1)
    except Problem as problem:
        raise InputError(f"{folder}: {problem}") from problem
    sentence, seeds = SENTENCES[0], (0,)
    embedding = model.embed(sentence, seeds)
    text = _least(lambda: model.encode(sentence), rounds)
    both = _least(lambda: model.embed(sentence, seeds), rounds)
    found = {"text": text, "prior": max(both - text, 0.0)} if "prior" in parts else {"text": text}
    found["generator"] = _least(lambda: model.render(embedding, seeds), rounds)
    return MeasuredExport(
        stored={name: part["stored"] for name, part in parts.items()},
        megabytes={name: part["bytes"] / 1e6 for name, part in parts.items()},
        all_megabytes=sum(file.stat().st_size for file in folder.iterdir()) / 1e6,
        psnr_db=manifest["psnr_db"],
        milliseconds=found,
    )


def _least(run: Callable[[], object], rounds: int) -> float:
    """Milliseconds, after one run that warms up."""
    run()
    least = math.inf
    for _ in range(rounds):
        begin = time.perf_counter()
        run()
        least = min(least, 1e3 * (time.perf_counter() - begin))
    return least

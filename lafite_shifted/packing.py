"""Packing: a generator and an optional prior joined into one model folder with a model card."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lafite_shifted.discriminator_part import DiscriminatorPart
from lafite_shifted.encoders.encoder_id import EncoderId, check_same_encoder
from lafite_shifted.errors import InputError
from lafite_shifted.evaluation_records import REPORTS, find_reports, reports_markdown
from lafite_shifted.gaussian.cluster_stats import ClusterStats
from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.io.files import (
    atomic_directory,
    load_tensors,
    read_json,
    save_tensors,
    write_bytes,
    write_json,
)
from lafite_shifted.io.half import in_half
from lafite_shifted.model_folder import find_part


def pack_model(
    out: Path,
    *,
    gan: Path,
    prior: Path | None,
    discriminator: DiscriminatorPart | None = None,
    clip: EncoderId | None = None,
    half: bool = False,
) -> None:
    """Join a generator, an optional prior and an optional discriminator into one folder; `half`
    stores weights in float16, and the model is told to find its CLIP where `clip` was found.
    InputError if their CLIPs differ or `out` exists.
    """
    parts = {"generator": find_part(gan, "generator")}
    if prior:
        parts["prior"] = find_part(prior, "prior")
    if out.exists():
        raise InputError(f"{out} exists already. Choose another --out, or delete it first.")
    encoders = {
        name: EncoderId.from_json(read_json(part / "config.json")["encoder"])
        for name, part in parts.items()
    }
    if prior:
        check_same_encoder(
            encoders["prior"],
            encoders["generator"],
            what=f"The prior {parts['prior']}",
            remedy="Train the prior on embeddings of the generator's CLIP.",
        )
    if clip is not None:
        check_same_encoder(
            clip,
            encoders["generator"],
            what=f"--clip {clip.model}",
            remedy="Give the CLIP that the generator was trained with.",
        )
    with atomic_directory(out) as folder:
        for name, part in parts.items():
            shutil.copytree(part, folder / name)
            if clip is not None:
                _rename_clip(folder / name, clip)
            if half:
                _store_in_half(folder / name / "weights.safetensors", shown=part)
            for file in (folder / name).iterdir():
                write_bytes(file, file.read_bytes())  # flushed and fsynced
        if discriminator is not None:
            discriminator.save(folder, half=half)
        records = {name: read_json(folder / name / "config.json") for name in parts}
        reports = _copy_reports(folder, [gan, *([prior] if prior else [])], records)
        card = _model_card(*records.values()) + _evaluations(reports)
        write_bytes(folder / "README.md", card.encode())


def _copy_reports(
    folder: Path, runs: Sequence[Path], records: Mapping[str, dict[str, Any]]
) -> list[dict[str, Any]]:
    """The reports in `runs` of just these parts, once each, which `push` finds again."""
    trainings = {name: record["training"] for name, record in records.items()}
    found: list[dict[str, Any]] = []
    for run in runs:
        found += [report for report in find_reports(run, trainings) if report not in found]
    for number, report in enumerate(found):
        (folder / REPORTS).mkdir(exist_ok=True)
        write_json(folder / REPORTS / f"{number}.json", report)
    return found


def _evaluations(reports: Sequence[dict[str, Any]]) -> str:
    return f"\n## Evaluations\n\n{reports_markdown(reports)}\n" if reports else ""


def _store_in_half(path: Path, *, shown: Path) -> None:
    tensors, metadata = load_tensors(path)
    save_tensors(path, in_half(tensors, shown / path.name), metadata)


def _rename_clip(part: Path, clip: EncoderId) -> None:
    """Let a part record the same CLIP under another name."""
    record = read_json(part / "config.json")
    write_json(part / "config.json", record | {"encoder": clip.to_json()})
    for name, kind in (("stats", EmbeddingStats), ("clusters", ClusterStats)):
        path = part / f"{name}.safetensors"
        if path.is_file():
            stats = kind.load(path)
            stats.encoder_id = clip
            stats.save(path)


def _training_lines(part: str, record: dict[str, Any]) -> str:
    return "\n".join(
        f"- {part}, {name.replace('_', ' ')}: {value}" for name, value in record["training"].items()
    )


def _model_card(record: dict[str, Any], prior_record: dict[str, Any] | None = None) -> str:
    clip = EncoderId.from_json(record["encoder"]).model
    training = _training_lines("generator", record)
    if prior_record:
        process = prior_record["config"]["process"]
        prior = f"A diffusion prior ({process} process) turns text into an image embedding first."
        training += "\n" + _training_lines("prior", prior_record)
    else:
        prior = "There is no prior: the text embedding itself conditions the generator."
    return (
        f"# A text-to-image model made with lafite_shifted\n\n"
        f"{record['config']['resolution']} x {record['config']['resolution']} pixels, conditioned "
        f"on the CLIP `{clip}`. "
        f'{prior}\n\n    lafite-shifted generate "a red apple" --model THIS_FOLDER --out '
        "images\n\n"
        f"## Training\n\n{training}\n\n"
        "The licence of the training images decides what the images made with it may be used "
        "for.\n"
    )

"""Packing: a generator and an optional prior joined into one model folder with a model card."""

import shutil
from pathlib import Path
from typing import Any

from lafite_shifted.encoders.encoder_id import EncoderId, check_same_encoder
from lafite_shifted.errors import InputError
from lafite_shifted.io.files import atomic_directory, read_json, write_bytes
from lafite_shifted.model_folder import find_part


def pack_model(out: Path, *, gan: Path, prior: Path | None) -> None:
    """Join a generator and an optional prior into one folder; InputError if their CLIPs differ or
    `out` exists.
    """
    generator_part = find_part(gan, "generator")
    prior_part = find_part(prior, "prior") if prior else None
    if out.exists():
        raise InputError(f"{out} exists already. Choose another --out, or delete it first.")
    record = read_json(generator_part / "config.json")
    if prior_part:
        check_same_encoder(
            EncoderId.from_json(read_json(prior_part / "config.json")["encoder"]),
            EncoderId.from_json(record["encoder"]),
            what=f"The prior {prior_part}",
            remedy="Train the prior on embeddings of the generator's CLIP.",
        )
    with atomic_directory(out) as folder:
        for part, name in ((generator_part, "generator"), (prior_part, "prior")):
            if part:
                shutil.copytree(part, folder / name)
                for file in (folder / name).iterdir():
                    write_bytes(file, file.read_bytes())  # flushed and fsynced
        prior_record = read_json(prior_part / "config.json") if prior_part else None
        write_bytes(folder / "README.md", _model_card(record, prior_record).encode())


def _training_lines(part: str, record: dict[str, Any]) -> str:
    return "\n".join(
        f"- {part}, {name.replace('_', ' ')}: {value}" for name, value in record["training"].items()
    )


def _model_card(record: dict[str, Any], prior_record: dict[str, Any] | None) -> str:
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

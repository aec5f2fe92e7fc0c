"""The card of a model on the Hub, from the records that its training left in config.json."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lafite_shifted.encoders.encoder_id import EncoderId
from lafite_shifted.errors import InputError
from lafite_shifted.evaluation_records import find_reports, reports_markdown
from lafite_shifted.io.files import read_json
from lafite_shifted.model_folder import find_part, model_hash

GALLERY = "gallery.png"
PARTS = ("generator", "prior", "discriminator")
# fields of a training's record that are of its data; numbers that are neither are metrics
DATA = ("num_images", "num_captions", "hold_out", "crop", "resize", "background", "file")
COURSE = ("kimg", "begun_from", "kimg_before", "pseudo_text_cosine", "imported_from", "reference")


def check_license(license: str) -> str:
    """InputError unless it may stand in a card's header."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9.\-]*", license):
        raise InputError(
            f"--license {license!r} is no identifier. Give one of the Hub's, such as cc-by-4.0, "
            "apache-2.0 or other."
        )
    return license


def check_portable(folder: Path) -> None:
    """InputError where a part needs an encoder that lies in a folder of this machine."""
    for name, record in _records(folder).items():
        encoders = [block["model"] for block in record.get("encoder", [])]
        own = record["config"].get("text_encoder") or {}
        for model in [*encoders, *filter(None, [own.get("model")])]:
            place = model.removeprefix("local-dir:")
            if Path(place).is_absolute() or Path(place.partition("/")[2]).is_absolute():
                raise InputError(
                    f"The {name} needs the encoder {model}, which others do not have. Pack the "
                    "model with one that they can fetch: `pack --clip hf-hub:ORG/CLIP`."
                )


def _records(folder: Path) -> dict[str, dict[str, Any]]:
    found = {name: folder / name / "config.json" for name in PARTS}
    return {name: read_json(path) for name, path in found.items() if path.is_file()}


def hub_card(folder: Path, *, repo: str, license: str, prompts: Sequence[str]) -> str:
    """README.md of a model folder whose gallery has a row for each of `prompts`. InputError where
    `folder` is no model.
    """
    find_part(folder, "generator")
    records = _records(folder)
    size = records["generator"]["config"]["resolution"]
    clip = EncoderId.from_json(records["generator"]["encoder"]).model
    way = (
        "A diffusion prior turns text into an image embedding, a StyleGAN2 decoder that into an "
        "image, in one pass."
        if "prior" in records
        else "The text embedding itself conditions a StyleGAN2 decoder: there is no prior."
    )
    shown = "\n".join(f"- {prompt}" for prompt in prompts)
    header = f"license: {license}\nlibrary_name: lafite-shifted\npipeline_tag: text-to-image\n"
    header += "tags:\n- text-to-image\n- lafite-shifted\n- clip\n"
    return f"""---
{header}---

# {repo}

{size} x {size} pixels, conditioned on the CLIP `{clip}`. {way} Made with lafite_shifted; model
{model_hash(folder)}.

    pip install lafite-shifted
    lafite-shifted generate "{prompts[0]}" --model {repo} --out images

    from lafite_shifted import TextToImage
    images = TextToImage.from_pretrained("{repo}")("{prompts[0]}", num_images=4, seed=0)

## Images

![{len(prompts)} sentences, seeds from 0 on, not chosen]({GALLERY})

Seeds from 0 on, not chosen:

{shown}

## Data

{_rows(records, lambda name, _: name in DATA)}

## Metrics

{_metrics(folder, records)}

## Training

{_rows(records, lambda name, value: name not in DATA and not _is_metric(name, value))}

## Settings

{_settings(records)}

## Licence

`{license}`, as whoever published this model says. The licence of the training images decides what
images made with it may be used for.
"""


def trainings(records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What each part records of its training."""
    return {part: record.get("training", {}) for part, record in records.items()}


def _metrics(folder: Path, records: dict[str, dict[str, Any]]) -> str:
    """Of the training's own evaluations, and of the reports that lie in the folder."""
    reports = reports_markdown(find_reports(folder, trainings(records)))
    return "\n\n".join(filter(None, [_rows(records, _is_metric), reports]))


def _is_metric(name: str, value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and name not in (*DATA, *COURSE)


def _rows(records: dict[str, dict[str, Any]], wanted) -> str:
    rows = [
        f"| {part} | {name.replace('_', ' ')} | {_cell(value)} |"
        for part, record in records.items()
        for name, value in record.get("training", {}).items()
        if wanted(name, value)
    ]
    return "\n".join(["| part | | |", "|---|---|---|", *rows]) if rows else "None was recorded."


def _cell(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")


def _settings(records: dict[str, dict[str, Any]]) -> str:
    configs = {name: record["config"] for name, record in records.items() if "config" in record}
    text = json.dumps(configs, indent=1, ensure_ascii=False)
    return "\n".join(f"    {line}" for line in text.splitlines())

"""The reports that `evaluate gan` and `evaluate model` have left in a folder, for model cards."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lafite_shifted.errors import InputError
from lafite_shifted.io.files import read_json

REPORTS = "reports"  # where a packed model has those of the runs it was packed from
FIELDS = ("rows", "references", "training", "command", "eval_set", "resolution")


def find_reports(folder: Path, trainings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The reports in `folder` and in the folders in it, of a model of these `trainings` (what the
    parts record, by part): one of other weights, or of anything else, is left out.
    """
    places = [folder / "report.json", *sorted(folder.glob("*/report.json"))]
    places += sorted((folder / REPORTS).glob("*.json"))
    records = [_read(path) for path in places if path.is_file()]
    return [record for record in records if record and _is_of(record, trainings)]


def _read(path: Path) -> dict[str, Any] | None:
    try:
        record = read_json(path)
    except InputError:  # of another program, perhaps
        return None
    is_ours = isinstance(record, dict) and set(FIELDS) <= record.keys()
    return record if is_ours and isinstance(record["training"], dict) else None


def _is_of(record: Mapping[str, Any], trainings: Mapping[str, Any]) -> bool:
    told = record["training"]
    parts = told if "generator" in told else {"generator": told}  # `evaluate gan` tells of no other
    # as JSON has them: a tuple is a list there
    return all(
        json.dumps(trainings.get(part), sort_keys=True) == json.dumps(own, sort_keys=True)
        for part, own in parts.items()
    )


def reports_markdown(reports: Sequence[Mapping[str, Any]]) -> str:
    """A table for each report, with its judges and its command; empty where there is none."""
    return "\n\n".join(_section(report) for report in reports)


def _section(report: Mapping[str, Any]) -> str:
    where = str(report["eval_set"]).replace("_", "-")
    judges = "\n".join(_judge(space, told) for space, told in report["references"].items())
    rows: Mapping[str, Mapping[str, float]] = report["rows"]
    names = list(dict.fromkeys(name for metrics in rows.values() for name in metrics))
    lines = [
        "| " + " | ".join(["images of", *names]) + " |",
        "|---" * (len(names) + 1) + "|",
        *(
            "| " + " | ".join([row, *(_number(metrics.get(name)) for name in names)]) + " |"
            for row, metrics in rows.items()
        ),
    ]
    table = "\n".join(lines)
    return (
        f"On {where} images at {report['resolution']} px:\n\n    {report['command']}\n\n"
        f"{judges}\n\n{table}"
    )


def _judge(space: str, told: Mapping[str, Any]) -> str:
    """Who measured the metrics whose name ends in `space`, and against which images."""
    name = told.get("name", "the CLIP of the generator" if space == "clip" else space)
    return (
        f"- `{space}`: {name}, weights {told['encoder']}, {told['filter']}; {told['images']} real "
        f"images, hash {told['hash']}"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"

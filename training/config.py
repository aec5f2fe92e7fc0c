"""Configuration: frozen dataclasses, changed by `--set field=value`, stored in and read from
config.json.

pydantic does the parsing and the type errors; this file only finds the field and words the message.
"""

import dataclasses
import difflib
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from lafite_shifted.errors import InputError
from torch_utils.distributed import TIME_LIMIT_S

MAX_TIME_LIMIT_S = 7 * 24 * 3600

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Length and logging: the only fields that may change when a run is resumed."""

    kimg: float = 1000.0  # length of the run in thousands of samples
    log_kimg: float = 1.0  # a line in log.jsonl every so many thousand samples
    evaluate_kimg: float = 50.0  # held-out metrics and sample grids
    checkpoint_kimg: float = 25.0
    keep_checkpoints: int = 2
    time_limit_s: float = TIME_LIMIT_S  # of several processes: of waiting for another, then all end

    def __post_init__(self) -> None:
        positive(self, "kimg", "log_kimg", "evaluate_kimg", "checkpoint_kimg", "keep_checkpoints")
        positive(self, "time_limit_s")
        if self.time_limit_s > MAX_TIME_LIMIT_S:
            raise ValueError(f"time_limit_s must be at most {MAX_TIME_LIMIT_S}, a week")


def positive(config: Any, *fields: str) -> None:
    """ValueError unless each of `fields` is above zero, and finite."""
    for field in fields:
        if not 0 < getattr(config, field) < math.inf:
            raise ValueError(f"{field} must be above 0 and finite, not {getattr(config, field)}")


def field_paths(config: Any, prefix: str = "") -> list[str]:
    """Every leaf field of a dataclass tree, dotted."""
    paths = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            paths += field_paths(value, f"{prefix}{field.name}.")
        else:
            paths.append(f"{prefix}{field.name}")
    return paths


def override(config: Config, assignments: Sequence[str]) -> Config:
    """`config` with each "a.b=value" applied; InputError for an unknown field or a value of the
    wrong type.
    """
    values = dataclasses.asdict(config)  # type: ignore[call-overload]
    known = field_paths(config)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise InputError(
                f"--set {assignment}: write it as field=value, such as --set {known[0]}=1."
            )
        if path not in known:
            close = difflib.get_close_matches(path, known, n=3, cutoff=0.4)
            hint = (
                f"Did you mean {', '.join(close)}?"
                if close
                else f"The fields are: {', '.join(known)}."
            )
            raise InputError(f"--set {assignment}: there is no field {path!r}. {hint}")
        *parents, leaf = path.split(".")
        target = values
        for parent in parents:
            target = target[parent]
        target[leaf] = (
            text.split(",") if isinstance(target[leaf], (tuple, list)) else _none_or(text)
        )
    return parse(type(config), values)


def _none_or(text: str) -> str | None:
    return None if text.lower() in ("none", "null") else text


def parse(kind: type[Config], values: Any) -> Config:
    """A validated dataclass tree from nested dicts (config.json, or command-line strings)."""
    try:
        config = TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        reasons = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or kind.__name__}: {e['msg']}" for e in error.errors()
        )
        raise InputError(
            f"The configuration is not valid: {reasons}. Change the field or the flag."
        ) from error
    for path in field_paths(config):
        value = functools.reduce(getattr, path.split("."), config)
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(
                f"The configuration is not valid: {path} is {value}. Give a finite number."
            )
    return config


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Leaves that differ between two JSON values, as "field: old -> new"."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in sorted(old.keys() | new.keys()):
            found += differences(old.get(key), new.get(key), f"{prefix}.{key}" if prefix else key)
        return found
    return [] if old == new else [f"{prefix}: {old} -> {new}"]


def choose(presets: Mapping[str, Config], name: str) -> Config:
    """The preset called `name`; InputError lists the names."""
    if name not in presets:
        raise InputError(f"--preset {name}: not known. Choose one of {', '.join(presets)}.")
    return presets[name]

"""Fields of a configuration that take one of a few values."""

import dataclasses
from typing import Any, Literal, get_args, get_origin


def check_choices(config: Any) -> None:
    """ValueError where a field of the dataclass `config` has none of the values that its Literal
    names: a file may say anything.
    """
    for field in dataclasses.fields(config):
        value, choices = getattr(config, field.name), get_args(field.type)
        if get_origin(field.type) is Literal and value not in choices:
            raise ValueError(f"{field.name} must be one of {', '.join(choices)}, not {value!r}")

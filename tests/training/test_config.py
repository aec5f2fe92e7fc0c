"""Configuration from `--set`: every field within reach, every mistake explained."""

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Literal

import pytest

from lafite_shifted.errors import InputError
from training.clip.config import ClipTrainConfig
from training.config import RunConfig, differences, field_paths, override, parse
from training.gan.config import GanTrainConfig
from training.prior.config import PriorTrainConfig


@dataclass(frozen=True)
class Inner:
    layers: tuple[int, int] = (2, 3)
    name: Literal["linear", "cosine"] = "linear"


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    rate: float = 0.1
    steps: int = 10
    limit: float | None = None
    enabled: bool = True

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps must be at least 1, not {self.steps}")


def test_nested_fields_are_set_and_typed():
    changed = override(Outer(), ["inner.name=cosine", "rate=2e-3", "steps=7", "enabled=false"])
    assert changed == Outer(Inner(name="cosine"), rate=0.002, steps=7, enabled=False)
    assert isinstance(changed, Outer)
    assert isinstance(changed.inner, Inner)
    assert isinstance(changed.steps, int)


def test_the_last_assignment_wins_and_the_original_stays():
    original = Outer()
    assert override(original, ["steps=1", "steps=2"]).steps == 2
    assert original == Outer()


def test_tuple_fields_take_commas():
    assert override(Outer(), ["inner.layers=4,5"]).inner.layers == (4, 5)
    with pytest.raises(InputError, match=r"inner\.layers"):
        override(Outer(), ["inner.layers=4"])
    with pytest.raises(InputError, match=r"inner\.layers\.1"):
        override(Outer(), ["inner.layers=4,x"])


@pytest.mark.parametrize("text", ["none", "None", "null"])
def test_none_resets_an_optional_field(text: str):
    assert override(Outer(limit=3.0), [f"limit={text}"]).limit is None
    with pytest.raises(InputError, match="rate"):
        override(Outer(), [f"rate={text}"])


def test_unknown_field_suggests():
    with pytest.raises(InputError, match=r"--set step=3: there is no field 'step'.*mean steps"):
        override(Outer(), ["step=3"])
    with pytest.raises(InputError, match=r"Did you mean .*generator\.channel_max"):
        override(GanTrainConfig(), ["generator.chanel_max=3"])
    with pytest.raises(InputError, match=r"The fields are: inner\.layers, .*enabled"):
        override(Outer(), ["qqqqqq=3"])
    with pytest.raises(InputError, match="there is no field 'inner'"):
        override(Outer(), ["inner=3"])


@pytest.mark.parametrize("assignment", ["steps", "", "steps 3"])
def test_assignment_without_equals_says_how_to_write_it(assignment: str):
    with pytest.raises(InputError, match="write it as field=value"):
        override(Outer(), [assignment])


@pytest.mark.parametrize(
    "assignment", ["steps=1.5", "steps=many", "rate=fast", "enabled=perhaps", "inner.name=square"]
)
def test_value_of_the_wrong_type_names_the_field(assignment: str):
    with pytest.raises(InputError, match=assignment.partition("=")[0].replace(".", r"\.")):
        override(Outer(), [assignment])


def test_validation_of_the_class_is_an_input_error():
    with pytest.raises(InputError, match="steps must be at least 1, not 0"):
        override(Outer(), ["steps=0"])
    with pytest.raises(InputError, match="resolution must be a power of two"):
        override(GanTrainConfig(), ["generator.resolution=48", "discriminator.resolution=48"])
    with pytest.raises(InputError, match="kimg must be above 0"):
        override(GanTrainConfig(), ["run.kimg=-1"])


@pytest.mark.parametrize("config", [GanTrainConfig(), PriorTrainConfig(), ClipTrainConfig()])
def test_every_field_can_be_set_to_its_own_value(config):
    """So `--set` reaches every field, and config.json returns the same configuration."""
    for path in field_paths(config):
        value = config
        for part in path.split("."):
            value = getattr(value, part)
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        assert override(config, [f"{path}={text}"]) == config, path
    assert parse(type(config), json.loads(json.dumps(dataclasses.asdict(config)))) == config


def test_differences_name_the_leaves():
    old = {"a": {"b": 1, "c": [1, 2]}, "d": 1}
    assert differences(old, old) == []
    new = {"a": {"b": 2, "c": [1, 2]}, "e": 1}
    assert differences(old, new) == ["a.b: 1 -> 2", "d: 1 -> None", "e: None -> 1"]


@pytest.mark.parametrize("field_name", [f.name for f in dataclasses.fields(RunConfig)])
def test_lengths_and_intervals_must_be_positive(field_name: str):
    with pytest.raises(ValueError, match=f"{field_name} must be above 0"):
        RunConfig(**{field_name: 0})

"""Recipes in the Makefile: what they would run is what the commands take."""

import importlib
import shlex
import subprocess
from pathlib import Path

import click
import pytest

from lafite_shifted.cli.main import VERBS
from training.clip.config import ClipTrainConfig
from training.config import override
from training.gan.presets import GAN_PRESETS
from training.prior.presets import PRIOR_PRESETS

ROOT = Path(__file__).parent.parent


@pytest.fixture
def commands(tmp_path: Path) -> list[list[str]]:
    return commands_of("starter", tmp_path)


def commands_of(goal: str, empty: Path) -> list[list[str]]:
    """The words of each `lafite-shifted` that `make GOAL` runs where nothing is there yet."""
    settings = [f"STARTER_DATA={empty}/data", f"STARTER_RUNS={empty}/runs", f"VENV={empty}/venv"]
    told = subprocess.run(
        ["make", "--dry-run", goal, *settings],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    lines = [shlex.split(line) for line in told.replace("\\\n", " ").splitlines()]
    return [words[1:] for words in lines if words and words[0].endswith("bin/lafite-shifted")]


def test_the_starter_is_made_by_the_verbs_in_their_order(commands: list[list[str]]):
    verbs = [words[0] for words in commands]
    assert verbs == [
        *["dataset"] * 3,
        *["train-clip"] * 2,
        "embed",
        "train-prior",
        "dataset",
        "train-gan",
        "pack",
    ]
    sets = [words[1] for words in commands if words[0] == "dataset"]
    assert sets == ["emoji", "clipart", "wordnet", "emoji"]
    assert ["--skin-tones" in words for words in commands if words[0] == "dataset"][-1]
    assert {"--with-discriminator", "--half"} <= set(commands[-1])
    made = {words[words.index("--out") + 1] for words in commands if "--out" in words}
    used = [word for words in commands[3:] for word in words if "/runs/" in word]
    for path in used:  # what one before made, or part of it
        assert any(f"{path}/".startswith(f"{out}/") for out in made)


@pytest.mark.parametrize("goal", ["starter", "starter-judged"])
def test_every_flag_of_the_recipe_is_taken(goal: str, tmp_path: Path):
    commands = commands_of(goal, tmp_path)
    presets = {"train-gan": GAN_PRESETS["small"], "train-prior": PRIOR_PRESETS["tiny"]}
    for verb, *words in commands:
        command = importlib.import_module(f"lafite_shifted.cli.{VERBS[verb]}").command
        while isinstance(command, click.Group):
            command = command.commands[words.pop(0)]
        with command.make_context(verb, list(words)) as context:  # parses, runs nothing
            assignments = context.params.get("assignments", ())
        if assignments:
            override(presets.get(verb, ClipTrainConfig()), assignments)
    clip = next(words for words in commands if words[0] == "train-clip")
    assert sum(word == "--set" for word in clip) == {"starter": 10, "starter-judged": 5}[goal]

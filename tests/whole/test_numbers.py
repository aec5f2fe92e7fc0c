"""No flag and no setting takes a number that is not finite."""

import contextlib
from pathlib import Path

import pytest

from lafite_shifted.errors import InputError
from tests.commands import TINY_GAN, assert_refused, run_command

TEXT = "a red apple"


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e400"])
@pytest.mark.parametrize("flag", ["--truncation", "--eta", "--guidance"])
def test_generate_refuses_numbers_that_are_not_finite(
    flag: str, value: str, model_folder: Path, tmp_path: Path
):
    command = ("generate", TEXT, "--model", model_folder, "--out", tmp_path / "out")
    assert_refused(run_command(*command, flag, value), flag)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize("flag", ["--max-megapixels", "--cache-gib", "--max-bad", "--kimg"])
def test_training_refuses_numbers_that_are_not_finite(
    flag: str, value: str, some_images: Path, tmp_path: Path
):
    command = ("train-gan", some_images, "--out", tmp_path / "run", *TINY_GAN)
    assert_refused(run_command(*command, flag, value), flag)


def test_no_setting_takes_numbers_that_are_not_finite(tmp_path: Path, some_images: Path):
    """Whatever the field: every number with a fraction of every configuration."""
    from training.clip.config import ClipTrainConfig
    from training.config import field_paths, override
    from training.gan.presets import GAN_PRESETS
    from training.prior.presets import PRIOR_PRESETS

    tried = 0
    for config in (GAN_PRESETS["tiny"], PRIOR_PRESETS["tiny"], ClipTrainConfig()):
        for path in field_paths(config):
            for value in ("nan", "inf", "-inf"):
                with contextlib.suppress(InputError):
                    changed = override(config, [f"{path}={value}"])
                    found = changed
                    for part in path.split("."):
                        found = getattr(found, part)
                    assert not isinstance(found, float), (path, value)
                tried += 1
    assert tried > 100
    command = ("train-gan", some_images, "--out", tmp_path / "run", *TINY_GAN)
    assert_refused(run_command(*command, "--set", "pseudo_text_cosine=nan"), "pseudo_text_cosine")

"""Flags and settings out of range. Each time: a message
that says what to do next, the exit code of the contract, no traceback, nothing half-written.
"""

from pathlib import Path

import pytest

from tests.commands import OUT_VERBS, TINY_GAN, TINY_PRIOR, assert_refused, run_command, succeed
from torch_utils.ops import native


@pytest.mark.parametrize("verb", OUT_VERBS)
@pytest.mark.parametrize("value", ["0", "-3", "many"])
def test_batch_below_one(verb: str, value: str, some_images: Path, tmp_path: Path):
    outcome = run_command(verb, some_images, "--out", tmp_path / "out", "--batch-size", value)
    assert_refused(outcome, "--batch-size")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("verb", OUT_VERBS[1:])
@pytest.mark.parametrize(
    ("assignment", "expected"),
    [
        ("run.kimk=3", "Did you mean run.kimg"),
        ("batch=0", "batch must be above 0"),
        ("batch=many", "batch: "),
        ("batch", "write it as field=value"),
    ],
)
def test_bad_set(
    verb: str,
    assignment: str,
    expected: str,
    some_images: Path,
    shipped_images: Path,
    tmp_path: Path,
):
    images = shipped_images if verb == "train-clip" else some_images
    outcome = run_command(verb, images, "--out", tmp_path / "out", "--set", assignment)
    assert_refused(outcome, expected)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("verb", "field"),
    [("train-gan", "generator.condition_dim"), ("train-prior", "prior.embed_dim")],
)
def test_field_that_the_clip_decides(verb: str, field: str, some_images: Path, tmp_path: Path):
    assignment = f"{field}=7"
    outcome = run_command(verb, some_images, "--out", tmp_path / "out", "--set", assignment)
    assert_refused(outcome, f"--set {field}=7: the encoder decides this")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def broken_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = tmp_path / "broken-c++"
    compiler.write_text("#!/bin/sh\necho 'out of registers' >&2\nexit 1\n", encoding="utf-8")
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    monkeypatch.setenv("LAFITE_SHIFTED_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(native, "_choice", native._Choice())


@pytest.mark.usefixtures("broken_compiler")
def test_broken_compiler(some_images: Path, tmp_path: Path):
    arguments = ("train-gan", some_images, "--out", tmp_path / "run", *TINY_GAN)
    outcome = run_command(*arguments, "--ops", "compiled")
    assert_refused(outcome, "--ops compiled: ", "its log is ", "Use --ops auto or --ops reference")
    assert not (tmp_path / "run").exists()
    assert_refused(run_command("ops", "build", "--device", "cpu"), "its log is ", "--ops reference")
    prior = ("train-prior", some_images, "--out", tmp_path / "prior", *TINY_PRIOR)
    assert "operators" not in succeed(*prior).err  # it uses none, and so builds none
    assert_refused(run_command(*prior, "--ops", "compiled"), "--ops compiled: ")
    outcome = run_command(*arguments)
    assert outcome.code == 0, outcome.err
    assert (
        "operators: reference (the build of the native operators failed; its log is" in outcome.err
    )
    log = outcome.err.partition("its log is ")[2].partition(")")[0]
    assert "out of registers" in Path(log).read_text(encoding="utf-8")


@pytest.mark.parametrize("verb", ["train-gan", "train-prior"])
def test_bad_preset(verb: str, some_images: Path, tmp_path: Path):
    outcome = run_command(verb, some_images, "--out", tmp_path / "out", "--preset", "huge")
    assert_refused(outcome, "--preset huge: not known. Choose one of tiny")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("verb", "field"),
    [
        ("train-prior", "warmup_kimg=0"),
        ("train-prior", "evaluation_steps=5000"),
        ("train-prior", "beta2=2"),
        ("train-gan", "beta2=1"),
        ("train-gan", "generator.mapping_lr_multiplier=0"),
        ("train-gan", "r1_gamma=nan"),
        ("train-gan", "augment.scale=-1"),
        ("train-gan", "contrast_weight=inf"),
        ("train-gan", "ema_half_life_kimg=-1"),
    ],
)
def test_set_out_of_range(verb: str, field: str, some_images: Path, tmp_path: Path):
    preset = ("--preset", "tiny", "--set", field)
    outcome = run_command(verb, some_images, "--out", tmp_path / "out", *preset)
    assert_refused(outcome, "The configuration is not valid", "Change the field")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("device", ["cuda:99", "banana", "meta"])
@pytest.mark.parametrize("verb", ["embed", "train-gan", "train-prior"])
def test_bad_device(verb: str, device: str, some_images: Path, tmp_path: Path):
    outcome = run_command(verb, some_images, "--out", tmp_path / "out", "--device", device)
    assert_refused(outcome, f"--device {device}", "Use --device cpu")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "flags",
    [
        ("--resolution", "48"),
        ("--resolution", "0"),
        ("--kimg", "0"),
        ("--kimg", "-1"),
        ("--kimg", "nan"),
        ("--kimg", "inf"),
        ("--max-bad", "2"),
        ("--max-bad", "101%"),
        ("--max-bad", "-1%"),
        ("--max-bad", "nan"),
        ("--max-bad", "few"),
        ("--max-megapixels", "0"),
        ("--seed", "x"),
    ],
)
def test_values_out_of_range(flags: tuple[str, str], some_images: Path, tmp_path: Path):
    outcome = run_command("train-gan", some_images, "--out", tmp_path / "out", *flags)
    assert_refused(outcome, flags[0].removeprefix("--"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["nonsense"], ["embed"], ["embed", "--nonsense"], ["pack"]])
def test_usage_errors(arguments: list[str]):
    assert_refused(run_command(*arguments), "--help")

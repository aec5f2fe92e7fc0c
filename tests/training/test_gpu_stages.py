"""`make gpu`, shrunk: every stage on a CPU, and what becomes of a task that fails."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.processes import Python
from training.tools import gpu_stages
from training.tools.gpu_stages import Task, main, perform, run_stage, tasks_of

SHRUNK = ("--device", "cpu", "--shrunk")


@pytest.fixture
def forks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task's process is forked where its program is the command."""
    new = subprocess.Popen

    def start(command: Sequence[str], **options: Any) -> subprocess.Popen | Python:
        if "lafite_shifted.cli" not in command:
            return new(command, **options)
        return Python(command, env=options["env"], one=True)

    monkeypatch.setattr(subprocess, "Popen", start)


@pytest.mark.usefixtures("forks")
@pytest.mark.parametrize("stage", [1, 2])
def test_a_stage_writes_what_it_found(
    stage: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    some_images: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(gpu_stages, "shipped_images", lambda: some_images)
    assert main([*SHRUNK, "--stage", str(stage), "--out", str(tmp_path)]) == 0, capsys.readouterr()
    found = json.loads((tmp_path / "gpu.json").read_text())[str(stage)]
    assert found["machine"]["matrix TFLOP/s, bfloat16"] > 0
    statuses = {name: task["status"] for name, task in found["tasks"].items()}
    if stage == 1:
        assert statuses.pop("memory check") in ("missing", "done")
        rows = found["tasks"]["operators"]["result"]
        assert len(rows) == 36
        copied = found["machine"][gpu_stages.COPIED]
        for row in rows:
            assert row["share_of_copy"] == pytest.approx(row["gigabytes_per_second"] / copied)
    else:
        assert found["tasks"]["train tiny"]["result"]["over_convolutions"] > 1
        assert found["tasks"]["embed"]["result"]["images"] == 48
    assert set(statuses.values()) == {"done"}
    page = (tmp_path / "gpu.md").read_text()
    assert all(f"| {name} |" in page for name in found["tasks"])


def test_the_images_that_ship_are_embedded():
    assert len(list(gpu_stages.shipped_images().glob("*.png"))) == 512


@pytest.mark.usefixtures("forks")
def test_a_training_is_stopped_in_time_and_saves(some_images: Path, tmp_path: Path):
    options = {"shrunk": True, "run": tmp_path / "run", "images": some_images}
    (task,) = tasks_of(3, "cpu", **options)
    outcome = perform(task, 25.0)
    assert outcome.status == "done", outcome
    assert list((tmp_path / "run" / "checkpoints").iterdir())


def test_on_a_gpu_the_model_that_ships_is_trained_on(tmp_path: Path):
    options = {"shrunk": False, "run": tmp_path / "run", "images": tmp_path}
    (task,) = tasks_of(3, "cuda", **options)
    assert task.command[-2:] == ("--init", "starter")
    assert task.endless


def test_what_fails_or_takes_too_long_or_is_missing_is_told(tmp_path: Path):
    tasks = [
        Task("wrong", (sys.executable, "-c", "raise SystemExit('no')")),
        Task("missing", ("no-such-program",)),
        Task("right", (sys.executable, "-c", "print('{\\n\"results\": 5}')")),
        Task("slow", (sys.executable, "-c", "import time; time.sleep(60)")),
    ]
    outcomes = run_stage(1, torch.device("cpu"), tmp_path, tasks, limit_s=8.0)
    assert [outcome.status for outcome in outcomes] == ["failed", "missing", "done", "out of time"]
    assert (outcomes[0].result, outcomes[2].result) == (["no"], 5)
    run_stage(2, torch.device("cpu"), tmp_path, tasks[2:3])
    assert set(json.loads((tmp_path / "gpu.json").read_text())) == {"1", "2"}


def test_nothing_runs_where_there_is_no_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.setattr(gpu_stages.torch.cuda, "is_available", lambda: False)
    assert main(["--stage", "1"]) == 2
    assert "no GPU is here" in capsys.readouterr().out

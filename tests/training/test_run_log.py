"""The log of a run, and TensorBoard's, are cut back to the checkpoint."""

import itertools
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer

from lafite_shifted.io.files import read_json_lines
from tests.training.run_folders import open_run
from training.run_folder import Evaluation, RunFolder


def logged(run: RunFolder) -> list[dict]:
    return read_json_lines(run.path / "log.jsonl")


def scalars(run: RunFolder) -> list[tuple[int, float]]:
    """(step, value) of "loss" as TensorBoard shows it."""
    events = EventAccumulator(str(run.path / "tensorboard"))
    events.Reload()
    return [(event.step, round(event.value, 3)) for event in events.Scalars("loss")]


@pytest.mark.parametrize("files_before", [0, 9])  # of this process: TensorBoard counts them
def test_log_and_tensorboard_are_cut_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files_before: int
):
    numbers = itertools.count(files_before)
    monkeypatch.setattr(event_file_writer, "_global_uid", SimpleNamespace(get=numbers.__next__))
    run = open_run(tmp_path / "run")
    run.cut_back(0)
    for samples in (4, 8, 12):
        run.log(samples, {"loss": samples / 10})
    run.close()
    with (run.path / "log.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"samples": 16, "lo')  # killed while it wrote
    again = open_run(tmp_path / "run")
    again.cut_back(8)
    again.log(12, {"loss": 7.0})
    again.close()
    assert [(row["samples"], row["loss"]) for row in logged(again)] == [
        (4, 0.4),
        (8, 0.8),
        (12, 7.0),
    ]
    assert scalars(again) == [(4, 0.4), (8, 0.8), (12, 7.0)]


def test_images_and_histograms_are_cut_back_too(tmp_path: Path):
    run = open_run(tmp_path / "run")
    run.cut_back(0)
    for samples in (4, 8, 12):
        run.log(samples, {"loss": 0.1}, an_evaluation(samples))
    run.close()
    again = open_run(tmp_path / "run")
    again.cut_back(8)
    again.log(12, {"loss": 0.1}, an_evaluation(77))
    again.close()
    rows = logged(again)
    assert [row["fd_clip"] for row in rows] == [4, 8, 77]
    assert rows[-1]["reference"] == {"images": 77}
    kept = {"images": 9, "histograms": 9}
    events = EventAccumulator(str(run.path / "tensorboard"), size_guidance=kept)
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("fd_clip")] == [(4, 4), (8, 8), (12, 77)]
    shown = events.Images("samples")
    assert [(event.step, event.width, event.height) for event in shown] == [
        (4, 4, 2),
        (8, 8, 2),
        (12, 77, 2),
    ]
    values = events.Histograms("evaluation/logit_real")
    assert [(event.step, event.histogram_value.max) for event in values] == [
        (4, 4),
        (8, 8),
        (12, 77),
    ]


def an_evaluation(number: int) -> Evaluation:
    return Evaluation(
        {"fd_clip": float(number)},
        {"images": number},
        {"samples": Image.new("RGB", (number, 2), "red")},
        {"logit_real": torch.arange(number + 1)},
    )

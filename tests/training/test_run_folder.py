"""Run folders: checkpoints are whole, logs are cut back to them, another run is refused."""

import itertools
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer import event_file_writer
from torch import nn
from torch.optim import Adam

from lafite_shifted.errors import InputError
from lafite_shifted.io.files import read_json, read_json_lines
from tests.commands import half_written
from training import checkpoint as checkpoint_module
from training.checkpoint import Checkpoint, flatten_state, restore_state
from training.run_folder import Evaluation, RunFolder

DESCRIPTION = {
    "config": {"batch": 4, "run": {"kimg": 1.0}, "sizes": (1, 2)},
    "data": {"n": 3},
    "compute": {"ops": "compiled"},
}


def open_run(path: Path, **changes) -> RunFolder:
    return RunFolder(path, kind="gan", description=DESCRIPTION | changes)


def checkpoint(samples: int) -> Checkpoint:
    return Checkpoint(samples, {"a": torch.full((3,), samples)}, {"threads": 1, "x": [0.1]})


def test_checkpoints_return_and_old_ones_go(tmp_path: Path):
    run = open_run(tmp_path / "run")
    assert run.latest_checkpoint() is None
    for samples in (8, 16, 24):
        run.save_checkpoint(checkpoint(samples), keep=2)
    latest = run.latest_checkpoint()
    assert latest is not None
    assert (latest.samples, latest.state) == (24, {"threads": 1, "x": [0.1]})
    assert torch.equal(latest.tensors["a"], torch.full((3,), 24))
    kept = sorted(p.name for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert kept == ["samples-0000000016", "samples-0000000024"]


def test_failed_checkpoint_keeps_the_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    run = open_run(tmp_path / "run")
    run.save_checkpoint(checkpoint(8), keep=1)

    def full_disk(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            run.save_checkpoint(checkpoint(16), keep=1)
    latest = run.latest_checkpoint()
    assert latest is not None
    assert latest.samples == 8
    assert half_written(tmp_path) == []


def test_leftovers_of_a_killed_save_are_no_checkpoint(tmp_path: Path):
    run = open_run(tmp_path / "run")
    run.save_checkpoint(checkpoint(8), keep=2)
    run.close()
    leftover = tmp_path / "run" / "checkpoints" / ".samples-0000000016.1234.tmp"
    leftover.mkdir()
    (leftover / "state.safetensors").write_bytes(b"half")
    again = open_run(tmp_path / "run")
    latest = again.latest_checkpoint()
    assert latest is not None
    assert latest.samples == 8
    again.save_checkpoint(checkpoint(16), keep=2)
    assert half_written(tmp_path) == []


def test_damaged_checkpoint_is_an_input_error(tmp_path: Path):
    run = open_run(tmp_path / "run")
    run.save_checkpoint(checkpoint(8), keep=2)
    path = tmp_path / "run" / "checkpoints" / "samples-0000000008" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(InputError, match=r"truncated.*resumes from the checkpoint before"):
        run.latest_checkpoint()


def test_checkpoint_of_another_clip_or_format_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    other = open_run(tmp_path / "other", encoder=[{"model": "b"}])
    other.save_checkpoint(checkpoint(8), keep=2)
    run = open_run(tmp_path / "run", encoder=[{"model": "a"}])
    shutil.copytree(tmp_path / "other" / "checkpoints", tmp_path / "run" / "checkpoints")
    with pytest.raises(InputError, match="another CLIP"):
        run.latest_checkpoint()
    monkeypatch.setattr(checkpoint_module, "FORMAT", checkpoint_module.FORMAT + 1)
    with pytest.raises(InputError, match="has format 3, this version reads 4"):
        other.latest_checkpoint()


def test_same_run_opens_again_and_its_length_may_change(tmp_path: Path):
    open_run(tmp_path / "run")
    longer = {"batch": 4, "run": {"kimg": 9.0}, "sizes": (1, 2)}
    open_run(tmp_path / "run", config=longer)
    assert read_json(tmp_path / "run" / "config.json")["config"]["run"] == {"kimg": 9.0}


def test_another_configuration_is_refused_by_name(tmp_path: Path):
    open_run(tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_bytes()
    other = {"batch": 8, "run": {"kimg": 1.0}, "sizes": (1, 3)}
    with pytest.raises(InputError, match=r"config\.batch: 4 -> 8; config\.sizes: \[1, 2\] -> \[1"):
        open_run(tmp_path / "run", config=other)
    with pytest.raises(InputError, match=r"data\.n: 3 -> 4.*choose another --out"):
        open_run(tmp_path / "run", data={"n": 4})
    with pytest.raises(
        InputError, match=r"compute\.ops: compiled -> reference.*`lafite-shifted ops"
    ):
        open_run(tmp_path / "run", compute={"ops": "reference"})
    with pytest.raises(InputError, match="not that of a prior run"):
        RunFolder(tmp_path / "run", kind="prior", description=DESCRIPTION)
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_folder_that_is_no_run_is_refused(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(InputError, match=r"is not empty and is no run folder"):
        open_run(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("content", ["[]", "3", "{", '{"config": 3}', '{"model_type": "bert"}'])
def test_foreign_config_is_refused(tmp_path: Path, content: str):
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"no run folder|not valid JSON"):
        open_run(tmp_path)
    assert (tmp_path / "config.json").read_text(encoding="utf-8") == content


def test_embeddings_may_lie_there_before(tmp_path: Path):
    (tmp_path / "embeddings").mkdir()
    open_run(tmp_path)
    assert (tmp_path / "config.json").is_file()


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


def trained() -> tuple[nn.Module, Adam]:
    """A network with buffers and an optimizer with moments."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    optimizer = Adam(network.parameters(), lr=0.1, fused=True)
    for _ in range(3):
        optimizer.zero_grad()
        network(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
    return network, optimizer


def test_state_returns_bit_for_bit(tmp_path: Path):
    network, optimizer = trained()
    flat = flatten_state({"network": network, "optimizer": optimizer})
    run = open_run(tmp_path / "run")
    run.save_checkpoint(Checkpoint(1, flat, {}), keep=1)
    loaded = run.latest_checkpoint()
    assert loaded is not None
    torch.manual_seed(1)
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    other_optimizer = Adam(other.parameters(), lr=0.1, fused=True)
    restore_state({"network": other, "optimizer": other_optimizer}, loaded.tensors)
    again = flatten_state({"network": other, "optimizer": other_optimizer})
    assert again.keys() == flat.keys()
    assert all(torch.equal(again[name], flat[name]) for name in flat)
    assert "optimizer.0.exp_avg_sq" in flat
    x = torch.randn(5, 3)
    for net, opt in ((network, optimizer), (other, other_optimizer)):
        opt.zero_grad()
        net(x).square().sum().backward()
        opt.step()
    assert all(
        torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True)
    )


def test_config_json_explains_the_run(tmp_path: Path):
    open_run(tmp_path / "run")
    record = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    assert record["kind"] == "gan"
    assert record["format"] == 2
    assert record["config"]["sizes"] == [1, 2]


def test_a_folder_in_use_is_refused_until_it_is_closed(tmp_path: Path):
    first = RunFolder(tmp_path / "run", kind="walk", description={"config": {}})
    with pytest.raises(InputError, match="another process trains there"):
        RunFolder(tmp_path / "run", kind="walk", description={"config": {}})
    first.close()
    RunFolder(tmp_path / "run", kind="walk", description={"config": {}}).close()


def test_leftovers_of_a_killed_process_go(tmp_path: Path):
    run = tmp_path / "run"
    RunFolder(run, kind="walk", description={"config": {}}).close()
    (run / "checkpoints" / ".samples-0000000004.77.tmp").mkdir(parents=True)
    (run / "generator").mkdir()
    (run / ".generator.77.old").mkdir()
    (run / ".config.json.77.tmp").write_text("{", encoding="utf-8")
    RunFolder(run, kind="walk", description={"config": {}}).close()
    assert [p.name for p in run.rglob(".*")] == []


def test_a_folder_that_was_taken_away_comes_back(tmp_path: Path):
    """A kill between two renames must not cost the best generator."""
    run = tmp_path / "run"
    RunFolder(run, kind="walk", description={"config": {}}).close()
    (run / "best" / ".generator.77.old").mkdir(parents=True)
    (run / "best" / ".generator.77.old" / "config.json").write_text("{}", encoding="utf-8")
    (run / "best" / ".generator.77.tmp").mkdir()
    RunFolder(run, kind="walk", description={"config": {}}).close()
    assert [p.name for p in (run / "best").iterdir()] == ["generator"]
    assert (run / "best" / "generator" / "config.json").is_file()


def test_a_checkpoint_that_reads_otherwise_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A disk that keeps something else is found out before the checkpoint before goes."""
    run = open_run(tmp_path / "run")
    run.save_checkpoint(checkpoint(8), keep=1)
    whole = checkpoint_module.load_tensors

    def other(path: Path) -> tuple[dict, dict]:
        tensors, metadata = whole(path)
        return {name: tensor + 1 for name, tensor in tensors.items()}, metadata

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module, "load_tensors", other)
        with pytest.raises(OSError, match="reads otherwise than it was written"):
            run.save_checkpoint(checkpoint(16), keep=1)
    latest = run.latest_checkpoint()
    assert latest is not None
    assert latest.samples == 8

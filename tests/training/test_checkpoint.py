"""Checkpoints are whole or none, and state returns bit for bit."""

import os
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import Adam

from lafite_shifted.errors import InputError
from tests.commands import half_written
from tests.training.run_folders import checkpoint, open_run
from training import checkpoint as checkpoint_module
from training.checkpoint import Checkpoint, flatten_state, restore_state


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

"""The folder of one training run: config.json, log.jsonl, TensorBoard events, sample grids,
checkpoints.

On resume the log and the TensorBoard events are cut back to the newest checkpoint, so that a killed
run leaves the same files as an unbroken one.
"""

import fcntl
import json
import os
import time
import warnings
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lafite_shifted.errors import InputError
from lafite_shifted.io.files import (
    check_format,
    is_utf8,
    read_json,
    remove_leftovers,
    write_json,
    write_json_lines,
)
from lafite_shifted.io.starter import model_name
from torch_utils import distributed
from torch_utils.host_reads import HostRead, on_host
from training.checkpoint import Checkpoint, checkpoint_paths, read_checkpoint, write_checkpoint
from training.config import differences

FORMAT = 2


@dataclass(frozen=True)
class Evaluation:
    """Held-out metrics of a training, with what it shows beside them."""

    metrics: Mapping[str, float]
    reference: Mapping[str, int | str] | None = None  # what they are measured against
    images: Mapping[str, Image.Image] = field(default_factory=dict)
    histograms: Mapping[str, Tensor] = field(default_factory=dict)


class RunLock:
    """One process trains in a folder, which is made if need be; the lock goes with `release`, with
    this object or with the process. InputError if another has it.
    """

    def __init__(self, path: Path):
        path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDONLY)
        self.release = weakref.finalize(self, os.close, descriptor)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"{path} is in use: another process trains there. Wait for it, or choose another "
                "--out."
            ) from None
        except OSError:
            pass  # a file system without locks, as some shared ones are


class RunFolder:
    """Opens or creates the folder of a run.

    `description` (configuration, data, encoder) is what must not change when a run is resumed; its
    "run" part (length and logging) may. Raises InputError naming the differences. Of several
    processes the first checks and writes; all must see the same file system.
    """

    def __init__(
        self,
        path: Path,
        *,
        kind: str,
        description: Mapping[str, Any],
        lock: RunLock | None = None,
    ):
        """`lock` is one that the first process has taken already."""
        self.path = path
        self._lock = lock
        record = {"kind": kind, "format": FORMAT, **json.loads(json.dumps(description))}
        if distributed.is_main_process():
            check_usable(path, kind=kind)
            self._lock = lock or RunLock(path)
            remove_leftovers(path)
            config_path = path / "config.json"
            if config_path.is_file():
                _check_unchanged(read_json(config_path), record, path)
            write_json(config_path, record)
        distributed.barrier()
        self._encoder = record.get("encoder")
        self._writer = None

    @staticmethod
    def restore_threads(path: Path) -> None:
        """Set the thread count of the newest checkpoint, on which float sums depend. Statistics are
        computed when a trainer is built, so this comes first.
        """
        checkpoints = checkpoint_paths(path)
        if checkpoints:
            torch.set_num_threads(read_json(checkpoints[-1] / "state.json")["threads"])

    def save_checkpoint(self, checkpoint: Checkpoint, *, keep: int) -> None:
        """Write a checkpoint, read it again, then remove the oldest beyond `keep`. OSError leaves
        the ones before it.
        """
        write_checkpoint(self.path, checkpoint, encoder=self._encoder, keep=keep)

    def latest_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint, or None for a new run; InputError if it is damaged, of another
        format or of another encoder.
        """
        return read_checkpoint(self.path, encoder=self._encoder)

    def kept(self) -> str:
        """A sentence for the user on the last checkpoint of a run that something has stopped."""
        paths = checkpoint_paths(self.path)
        if not paths:
            return "No checkpoint was saved yet: the run begins anew."
        samples = int(paths[-1].name.partition("-")[2])
        return f"The last checkpoint, of {samples / 1000:g} kimg, is intact."

    def cut_back(self, samples: int) -> None:
        """Remove what was logged after `samples` images or pairs; open the TensorBoard events."""
        log = self.path / "log.jsonl"
        if log.is_file():
            write_json_lines(log, [row for row in _whole_lines(log) if row["samples"] <= samples])
        # a slow import, needed only once a run starts
        from torch.utils.tensorboard import SummaryWriter

        events = self.path / "tensorboard"
        if not is_utf8(events):  # TensorBoard would write elsewhere
            warnings.warn(
                f"The name of {self.path} is not UTF-8 in this locale: no TensorBoard events are "
                "written, log.jsonl is. Choose another --out or set LC_ALL=C.UTF-8 for both.",
                UserWarning,
                stacklevel=2,
            )
            return
        _await_next_second(events)
        self._writer = SummaryWriter(str(events), purge_step=samples + 1)

    def log(
        self, samples: int, values: Mapping[str, float], evaluation: Evaluation | None = None
    ) -> None:
        """Append a line to log.jsonl, with the reference of an evaluation's metrics; the scalars,
        images and histograms to TensorBoard.
        """
        found = evaluation or Evaluation({})
        scalars = {**values, **found.metrics}
        row = {"samples": samples, **scalars}
        if found.reference is not None:
            row["reference"] = dict(found.reference)
        with (self.path / "log.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())
        if self._writer is not None:
            for name, value in scalars.items():
                self._writer.add_scalar(name, value, samples)
            for name, image in found.images.items():
                self._writer.add_image(name, np.asarray(image), samples, dataformats="HWC")
            for name, tensor in found.histograms.items():
                here = on_host(tensor, HostRead.EVALUATION)
                finite = here[here.isfinite()].float()
                if len(finite):  # a run that has just diverged may have none
                    self._writer.add_histogram(f"evaluation/{name}", finite, samples)
            self._writer.flush()

    def close(self) -> None:
        """Close the log and let others in."""
        try:
            if self._writer is not None:
                self._writer.close()
        finally:
            if self._lock is not None:
                self._lock.release()


def _await_next_second(events: Path) -> None:
    """Sleep, at most a second, until a new event file sorts behind those in `events`: TensorBoard
    reads them by name, which has the second, and numbers those of a second "9", "10".
    """
    now = time.time()
    if any(events.glob(f"events.out.tfevents.{int(now):010d}.*")):
        time.sleep(1 - now % 1)


def recorded_start(run: Path, init: Path) -> dict[str, Any] | None:
    """The record of `init` in config.json of a run that began with it and has a checkpoint, else
    None: `init` may have changed since, and is not needed any more.
    """
    if not checkpoint_paths(run):
        return None
    recorded = read_json(run / "config.json").get("init")
    return recorded if recorded and recorded["path"] == model_name(init) else None


def check_usable(path: Path, *, kind: str) -> None:
    """InputError unless `path` is new, empty, holds embeddings only, or is a run of this kind."""
    if path.is_file():
        raise InputError(f"{path} is a file, not a folder. Choose another --out.")
    if not path.exists():
        return
    if (path / "config.json").is_file():
        record = read_json(path / "config.json")
        if not isinstance(record, dict) or record.get("kind") != kind:
            raise InputError(
                f"{path} is no run folder of this kind: its config.json is not that of a {kind} "
                "run. Choose another --out."
            )
        check_format(record, kind=kind, version=FORMAT, path=path / "config.json")
        return
    if any(
        entry.name != "embeddings" and not entry.name.startswith(".") for entry in path.iterdir()
    ):
        raise InputError(f"{path} is not empty and is no run folder. Choose another --out.")


def _whole_lines(log: Path) -> list[dict[str, Any]]:
    """Rows of a log whose last line may have been cut off by a kill."""
    rows = []
    for line in log.read_text(encoding="utf-8").splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _check_unchanged(old: dict, new: dict, path: Path) -> None:
    if not isinstance(old, dict) or not isinstance(old.get("config"), dict):
        raise InputError(
            f"{path} is no run folder: its config.json is another's. Choose another --out."
        )
    old, new = json.loads(json.dumps(old)), json.loads(json.dumps(new))
    for record in (old, new):
        record.get("config", {}).pop("run", None)
    changed = differences(old, new)
    if changed:
        machine = any(one.startswith("compute.") for one in changed)
        raise InputError(
            f"{path} holds a run with another configuration: {'; '.join(changed)}. "
            "Repeat the first command to resume it, or choose another --out."
            + " What `compute` tells is the machine's too: --device, --ops, and for compiled "
            "operators a compiler (`lafite-shifted ops status`)." * machine
        )

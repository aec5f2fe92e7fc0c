"""The images of a training as squares: all in memory where they fit, else decoded by threads
ahead of the step. Both give the same pixels, bit for bit.

An image that was readable when it was embedded and is not now is replaced by another one, whose
place follows from its own: what other samples meet stays as it is. Shape letters: M images, N of
a batch, R resolution.
"""

import itertools
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from lafite_shifted.io.files import read_json_lines, write_json_lines
from torch_utils import distributed, seeds
from torch_utils.memory import available_bytes
from training.data.files.image_files import UnreadableImageError
from training.data.images import bad_image_rows, check_share_of_bad

CACHE_SHARE = 0.5  # of the free memory, for all processes of a machine
MOST_THREADS = 16


class Cache(NamedTuple):
    """Whether the images are held in memory, and why."""

    holds: bool
    reason: str


def plan_cache(num_images: int, *, resolution: int, limit_gib: float | None) -> Cache:
    """`limit_gib` is that of one process; None: its share of half of the free memory."""
    size = num_images * 3 * resolution**2 / 2**30
    limit, whence = limit_gib, "--cache-gib"
    if limit is None:
        processes = distributed.local_world_size()
        limit = CACHE_SHARE * available_bytes() / processes / 2**30
        whence = "half of the free memory" + (f" / {processes} processes" * (processes > 1))
    where = f"{size:.3g} GiB, the limit is {limit:.3g} GiB ({whence})"
    if size <= limit:
        return Cache(True, f"held in main memory: {where}")
    return Cache(False, f"decoded ahead of each step by {num_threads()} threads: {where}")


def num_threads() -> int:
    """That decode in this process."""
    of_machine = hasattr(os, "sched_getaffinity")  # not on macOS
    cores = len(os.sched_getaffinity(0)) if of_machine else os.cpu_count() or 1
    return min(max(cores // distributed.local_world_size(), 2), MOST_THREADS)


class Taken(NamedTuple):
    """Images of a batch."""

    rows: list[int]  # of the images in the batch: not those requested where these were replaced
    pixels: Tensor  # [N, 3, R, R] uint8


class ImageLoader:
    """Images by row. `waited` counts the seconds that `get_batch` has needed so far."""

    def __init__(
        self,
        names: Sequence[str],
        read: Callable[[int], Tensor],
        *,
        held: Tensor | None = None,
        max_bad: float = 0.0,
        report: Path | None = None,
    ):
        """`read` gives the square [3, R, R] uint8 of a row, or raises UnreadableImageError."""
        self.names, self.waited = names, 0.0
        self._read, self._held, self._max_bad, self._report = read, held, max_bad, report
        self._bad: dict[int, str] = {}  # reasons
        self._news: list[int] = []  # bad rows that other processes have not been sent
        self._ahead: dict[int, Future[Tensor]] = {}
        self._pool = ThreadPoolExecutor(num_threads(), thread_name_prefix="decode")

    @staticmethod
    def of(pixels: Tensor) -> "ImageLoader":
        """Those of a tensor [M, 3, R, R] uint8."""
        names = [str(row) for row in range(len(pixels))]
        return ImageLoader(names, pixels.__getitem__, held=pixels)

    def __len__(self) -> int:
        return len(self.names)

    def preload(self) -> None:
        """Decode all of them, and keep them in memory."""

        def read(row: int) -> Tensor | str:
            try:
                return self._read(row)
            except UnreadableImageError as error:
                return str(error)

        held = None
        for row, square in enumerate(self._pool.map(read, range(len(self)))):
            if isinstance(square, str):
                self._note(row, square)
                continue
            held = square.new_zeros(len(self), *square.shape) if held is None else held
            held[row] = square
        self._held = held

    def prefetch(self, rows: Iterable[int]) -> None:
        """Begin to decode what will be taken soon."""
        if self._held is None:
            for row in rows:
                if row not in self._ahead and row not in self._bad:
                    self._ahead[row] = self._pool.submit(self._read, row)

    def get_batch(self, rows: Sequence[int]) -> Taken:
        """The images of these rows, each that cannot be read replaced by another one."""
        start = time.perf_counter()
        self.prefetch(rows)
        found = [self._shown(row) for row in rows]
        taken = Taken([row for row, _ in found], torch.stack([square for _, square in found]))
        self.waited += time.perf_counter() - start
        return taken

    def _shown(self, row: int) -> tuple[int, Tensor]:
        for candidate in itertools.chain([row], self._replacements(row)):
            if candidate in self._bad:
                continue
            try:
                return candidate, self._square(candidate)
            except UnreadableImageError as error:
                self._note(candidate, str(error))
        self._check()
        raise AssertionError("no image is left, but not all are bad")

    def _replacements(self, row: int) -> Iterator[int]:
        """All rows, from a place on that follows from `row` alone."""
        start = seeds.seed_of("replacement", row)
        return ((start + step) % len(self) for step in range(len(self)))

    def _square(self, row: int) -> Tensor:
        if self._held is not None:
            return self._held[row]
        ahead = self._ahead.pop(row, None)
        return self._read(row) if ahead is None else ahead.result()

    # --- what cannot be read

    def _note(self, row: int, reason: str) -> None:
        self._bad[row] = reason
        self._news.append(row)

    def _bad_names(self) -> list[tuple[str, str]]:
        return [(self.names[row], reason) for row, reason in sorted(self._bad.items())]

    def _check(self) -> None:
        # others in their place would be another training set, which a run does not resume with
        remedy = "Put them back as they were"
        bad = self._bad_names()
        check_share_of_bad(bad, len(self), max_share=self._max_bad, remedy=remedy)

    def sync(self) -> None:
        """Tell all processes what any of them could not read, list it in the report, and warn.

        All must call it. Raises TooManyBadImagesError above the share allowed.
        """
        news, self._news = distributed.union(self._news), []
        if not news:
            return
        for row in news:
            self._bad.setdefault(row, "another process could not read it")
        if distributed.is_main_process():
            fresh = [(self.names[row], self._bad[row]) for row in news]
            name, reason = fresh[0]
            more = f"; so are {len(fresh) - 1} more" if len(fresh) > 1 else ""
            listed = ""
            if self._report is not None:
                self._add_to(self._report, bad_image_rows(fresh))
                listed = f". All are listed in {self._report}"
            warnings.warn(
                f"{name} cannot be read any more ({reason}): replaced by another{more}{listed}",
                UserWarning,
                stacklevel=2,
            )
        self._check()

    @staticmethod
    def _add_to(report: Path, rows: list[dict[str, str]]) -> None:
        before = read_json_lines(report) if report.is_file() else []
        names = {row["file_name"] for row in rows}
        kept = [row for row in before if row["file_name"] not in names]
        write_json_lines(report, [*kept, *rows])

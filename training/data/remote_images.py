"""Training on tar shards at a URL: fetched while they are needed, in an order that needs few of
them at a time.

Each epoch deals the shards out to the processes; a process mixes the images of WINDOW shards at a
time, and fetches the next ones meanwhile. So the order follows from the seed, the position and the
number of processes: a run resumed with as many is exact.
"""

import shutil
import tempfile
import threading
import weakref
from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from lafite_shifted.errors import InputError
from torch_utils import distributed, seeds
from training.data.files.image_files import ImageFiles
from training.data.files.sources import open_files
from training.data.remote_shards import PREFIX, fetch_shard, shard_name

WINDOW = 4  # shards whose images are mixed
KEPT = 3 * WINDOW  # on disk: this window's, the next one's, and what is still being read
FETCHES = 2  # at a time

Expect = Callable[[Sequence[str]], None]  # of shards' names


class FetchedShard:
    """The files of a shard, in a folder that goes with the last reader."""

    def __init__(self, url: str):
        folder = tempfile.mkdtemp(prefix=PREFIX)
        weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.files: ImageFiles = open_files(fetch_shard(url, Path(folder)))


class RemoteImages:
    """The images of the shards at `urls` by name, SHARD/FILE: what `ImageSource` is to those at
    hand. The latest KEPT shards stay on disk.
    """

    def __init__(self, urls: Sequence[str], *, where: str):
        self.where = where
        self.urls = {shard_name(url): url for url in urls}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(FETCHES, thread_name_prefix="fetch")
        self._shards: OrderedDict[str, Future[FetchedShard]] = OrderedDict()  # the latest last

    def read(self, name: str) -> bytes:
        """The file; UnreadableImageError where it cannot be read, InputError where its shard
        cannot be had.
        """
        shard, _, member = name.partition("/")
        fetched = self._shard(shard).result()  # stays while it is read
        return fetched.files.read(member)

    def size(self, name: str) -> int:
        """Bytes of the file; fails as `read` does."""
        shard, _, member = name.partition("/")
        return self._shard(shard).result().files.stamp(member)[0]

    def prefetch(self, shards: Sequence[str]) -> None:
        """Begin to fetch what will be needed soon."""
        for shard in shards:
            self._shard(shard)

    def _shard(self, name: str) -> Future[FetchedShard]:
        with self._lock:
            if name not in self._shards:
                self._shards[name] = self._pool.submit(FetchedShard, self.urls[name])
            self._shards.move_to_end(name)
            if len(self._shards) > KEPT:
                self._shards.popitem(last=False)
            return self._shards[name]


class ShardOrder:
    """Which training images this process meets, one position of its own after another."""

    def __init__(self, names: Sequence[str], *, key: seeds.Key, prefetch: Expect | None = None):
        """`names` are those of the training images, SHARD/FILE; `prefetch` hears of the shards that
        will be needed. InputError where there are fewer shards than processes.
        """
        self._key, self._prefetch = key, prefetch
        self._rows: dict[str, array[int]] = {}
        for row, name in enumerate(names):
            self._rows.setdefault(name.partition("/")[0], array("q")).append(row)
        if len(self._rows) < distributed.world_size():
            raise InputError(
                f"{len(self._rows)} shards hold images to train on, fewer than the "
                f"{distributed.world_size()} processes that share them. Start fewer, or pack "
                "the images in smaller shards."
            )
        self._windows: list[list[str]] = []  # of all epochs so far
        self._starts = [0]  # of each window, and of the next one
        self._num_epochs = 0
        self._mixed = lru_cache(maxsize=2)(self._mix)

    def rows(self, positions: range) -> list[int]:
        """The rows at these positions."""
        return [self._row(position) for position in positions]

    def _row(self, position: int) -> int:
        while position >= self._starts[-1]:
            self._add_epoch()
        window = bisect_right(self._starts, position) - 1
        return self._mixed(window)[position - self._starts[window]]

    def _add_epoch(self) -> None:
        shards = list(self._rows)
        order = self._permutation(len(shards), "shards", self._num_epochs)
        own = [shards[i] for i in order[distributed.rank() :: distributed.world_size()]]
        for start in range(0, len(own), WINDOW):
            window = own[start : start + WINDOW]
            self._windows.append(window)
            self._starts.append(self._starts[-1] + sum(len(self._rows[name]) for name in window))
        self._num_epochs += 1

    def _mix(self, number: int) -> list[int]:
        """The rows of a window; begins to fetch its shards, and the next one's."""
        if number + 1 == len(self._windows):
            self._add_epoch()
        if self._prefetch is not None:
            self._prefetch([*self._windows[number], *self._windows[number + 1]])
        rows = [row for name in self._windows[number] for row in self._rows[name]]
        key = distributed.rank(), distributed.world_size(), number
        return [rows[i] for i in self._permutation(len(rows), "window", *key)]

    def _permutation(self, size: int, *key: int | str) -> list[int]:
        return torch.randperm(size, generator=seeds.generator(*self._key, *key)).tolist()


def in_first_shards(names: Sequence[str], chosen: Tensor, *, count: int) -> Tensor:
    """Of `chosen` [M] bool, the images in as few shards as hold `count` of them, or all; `names`
    are SHARD/FILE, sorted.
    """
    kept, shard = torch.zeros_like(chosen), ""
    for found, row in enumerate(map(int, chosen.nonzero().flatten().numpy())):
        head = names[row].partition("/")[0]
        if found >= count and head != shard:
            break
        kept[row], shard = True, head
    return kept

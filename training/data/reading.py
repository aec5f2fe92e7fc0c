"""How images are read, as one object that passes through many hands, and the reading itself: from a
name to an image whose memory is accounted for.
"""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from lafite_shifted.errors import DEFAULT_MAX_BAD
from training.data.decoding import DEFAULT_MAX_MEGAPIXELS, DEFAULT_SQUARES, Decoded, decode
from training.data.memory_budget import MemoryBudget, Ticket

Progress = Callable[[int, int], None]


def silent(_done: int, _total: int) -> None:
    pass


@dataclass(frozen=True)
class ReadOptions:
    """What a user decides about the reading of a set."""

    max_bad: float = DEFAULT_MAX_BAD  # share that may be unreadable
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS  # larger ones are bad
    progress: Progress = silent  # hears of (done, total)
    # of all threads that decode with these options
    memory: MemoryBudget = field(default_factory=MemoryBudget, compare=False)


DEFAULT_READING = ReadOptions()


class Readable(Protocol):
    """Where images are read by name: an `ImageSource`, or `RemoteImages`."""

    def read(self, name: str) -> bytes: ...


@dataclass(frozen=True)
class OpenImage:
    """A decoded image, the file that it came from, and the memory that is reserved for it."""

    decoded: Decoded
    content: bytes
    ticket: Ticket


@contextmanager
def open_image(
    source: Readable,
    name: str,
    options: ReadOptions,
    background: tuple[int, int, int] = DEFAULT_SQUARES.colour,
) -> Iterator[OpenImage]:
    """Read and decode; the memory counts as used until the block ends. UnreadableImageError as in
    `decode`.
    """
    with options.memory.ticket() as ticket:
        content = source.read(name)
        ticket.reserve(len(content))
        decoded = decode(
            io.BytesIO(content),
            max_megapixels=options.max_megapixels,
            background=background,
            reserve=ticket.reserve,
        )
        yield OpenImage(decoded, content, ticket)

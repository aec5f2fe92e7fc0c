"""How images are read, as one object that passes through many hands, and the reading itself: from a
name to an image whose memory is accounted for.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from lafite_shifted.errors import DEFAULT_MAX_BAD
from training.data.decoding.crop import DEFAULT_SQUARES
from training.data.decoding.decode import DEFAULT_MAX_MEGAPIXELS, Decoded, decode
from training.data.decoding.memory_budget import MemoryBudget, Ticket
from training.data.files.image_files import MAX_BYTES

Progress = Callable[[int, int], None]


def silent(_done: int, _total: int) -> None:
    """Progress that nobody watches."""


@dataclass(frozen=True)
class ReadOptions:
    """What a user decides about the reading of a set."""

    max_bad: float = DEFAULT_MAX_BAD  # share that may be unreadable
    max_megapixels: float = DEFAULT_MAX_MEGAPIXELS  # larger ones are bad
    progress: Progress = silent  # hears of (done, total)
    # of all threads that decode with these options
    memory: MemoryBudget = field(default_factory=MemoryBudget, compare=False)


DEFAULT_READ_OPTIONS = ReadOptions()


class Readable(Protocol):
    """Where images are read by name: an `ImageSource`, or `RemoteImages`."""

    def size(self, name: str) -> int:
        """Bytes of the file."""
        ...

    def read(self, name: str) -> bytes:
        """The file; UnreadableImageError says why not."""
        ...


@dataclass(frozen=True)
class OpenImage:
    """A decoded image, the file that it came from, and the memory that is reserved for it."""

    decoded: Decoded
    content: bytes
    ticket: Ticket


Result = TypeVar("Result")


def read_image(
    source: Readable,
    name: str,
    use: Callable[[OpenImage], Result],
    *,
    options: ReadOptions = DEFAULT_READ_OPTIONS,
    background: tuple[int, int, int] = DEFAULT_SQUARES.colour,
) -> Result:
    """What `use` makes of an image, whose memory counts as used until then. UnreadableImageError
    as in `decode`.
    """
    with options.memory.ticket() as ticket:
        # in a call of its own, with which the image goes before its memory counts as free
        return _used(source, name, use, options.max_megapixels, background, ticket)


def _used(
    source: Readable,
    name: str,
    use: Callable[[OpenImage], Result],
    max_megapixels: float,
    background: tuple[int, int, int],
    ticket: Ticket,
) -> Result:
    ticket.reserve(min(source.size(name), MAX_BYTES))  # of larger files nothing is read
    content = source.read(name)
    decoded = decode(
        io.BytesIO(content),
        max_megapixels=max_megapixels,
        background=background,
        reserve=ticket.reserve,
    )
    return use(OpenImage(decoded, content, ticket))

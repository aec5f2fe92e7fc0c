"""All threads that decode stay within one budget, whatever the shape of the images."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from PIL import Image

from tests.commands import image_folder
from training.data.decoding.decode import SquareConfig, to_square
from training.data.decoding.memory_budget import MemoryBudget
from training.data.decoding.read_image import OpenImage, ReadOptions, read_image
from training.data.images import ImageSource


def most_at_once(budget: MemoryBudget, steps: list[int], *, threads: int = 6) -> int:
    """Bytes that `threads` threads hold together at most, each taking `steps` one after another."""
    held, most, lock = 0, 0, threading.Lock()

    def work(_: int) -> None:
        nonlocal held, most
        with budget.ticket() as ticket:
            for size in steps:
                ticket.reserve(size)
                with lock:
                    held += size
                    most = max(most, held)
                time.sleep(0.002)
            with lock:
                held -= sum(steps)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(work, range(24)))
    return most


def test_threads_together_stay_within_the_budget():
    assert 60 < most_at_once(MemoryBudget(100), [30]) <= 100


def test_one_that_needs_more_goes_alone():
    """Beyond the limit there is one at most, and nobody waits for ever."""
    assert most_at_once(MemoryBudget(100), [300]) == 300
    assert most_at_once(MemoryBudget(100), [30, 90]) <= 100 + 120


def test_a_failure_frees_what_was_held():
    budget = MemoryBudget(10)
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"), budget.ticket() as ticket:  # noqa: PT012
            ticket.reserve(10)
            raise ValueError("broken")


def test_an_image_counts_by_its_pixels(tmp_path: Path):
    """While it is used, whichever shape; a file of a hundred bytes may be one of megabytes."""
    for number, size in enumerate([(1000, 1000), (1_000_000, 1), (1, 1_000_000)]):
        Image.new("1", size).save(tmp_path / f"{number}.png")
    source, options = ImageSource(tmp_path), ReadOptions()

    def held(opened: OpenImage) -> int:
        return opened.ticket.size

    sizes = [read_image(source, name, held, options=options) for name in source.names]
    assert all(12e6 <= size < 13e6 for size in sizes)


@pytest.mark.parametrize("crop", ["centre", "stretch", "pad"])
@pytest.mark.parametrize("size", [(40_000, 2), (2_000_000, 1), (1, 2_000_000), (3, 70_000)])
def test_squares_of_thin_images(size: tuple[int, int], crop: str):
    how = SquareConfig(crop=crop)  # type: ignore[arg-type]  # one of its values
    square = to_square(Image.new("RGB", size, "red"), 16, how)
    assert square.shape == (16, 16, 3)
    assert tuple(square[8, 8]) == (255, 0, 0)


def test_threads_wait_for_each_other_while_embedding(tmp_path: Path, clip, monkeypatch):
    """With a budget of one image there is one at a time."""
    from training.data.embeddings import embed

    folder = image_folder(tmp_path / "p", *(f"{n}.png" for n in range(8)))
    inside, most, lock = 0, 0, threading.Lock()
    plain = embed.levels_of

    def counted(image: Image.Image):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.02)
        with lock:
            inside -= 1
        return plain(image)

    monkeypatch.setattr(embed, "levels_of", counted)
    options = ReadOptions(memory=MemoryBudget(1))
    report = embed.embed_folder(ImageSource(folder), tmp_path / "out", clip, options=options)
    assert (report.num_embedded, most) == (8, 1)

"""Progress bars of verbs, on stderr, and the log lines of a training."""

import errno
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lafite_shifted.cli.pace import Pace

if TYPE_CHECKING:
    from training.loop import Progress


@contextmanager
def progress_bar(description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """A callable (done, total), in `unit`, that draws a bar with rate and time left on stderr."""
    from tqdm import tqdm

    with tqdm(
        desc=description, unit=unit, file=sys.stderr, dynamic_ncols=True, leave=True, disable=None
    ) as bar:

        def update(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield update


def show_progress(
    progress: "Iterator[Progress]",
    description: str,
    *,
    rechoose: Callable[[], str | None] | None = None,
) -> dict[str, float]:
    """Run a training to its end with a bar on stderr, and print every logged line on stdout: kimg,
    seconds a kimg, time left, memory, then the other values. Only the main process prints.
    `rechoose` as of `Pace`. Returns the last logged values.
    """
    from tqdm import tqdm

    from torch_utils import distributed

    last: dict[str, float] = {}
    if not distributed.is_main_process():
        for step in progress:
            last = step.logged or last
        return last
    with tqdm(
        desc=description,
        bar_format="{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total_fmt} kimg [{elapsed}, "
        "{remaining} left, {rate_inv_fmt}{postfix}]",
        unit="kimg",
        file=sys.stderr,
        dynamic_ncols=True,
        disable=None,
    ) as bar:
        pace = Pace(rechoose=rechoose)
        for step in progress:
            bar.total = step.total_samples / 1000
            line = pace.step(counts=step.logged is None, data_time=last.get("data_time"))
            if line:
                with _terminal_may_be_gone():
                    tqdm.write(line, file=sys.stderr)
            if bar.n == 0:
                bar.initial = step.samples / 1000
            bar.update(step.samples / 1000 - bar.n)
            if step.logged:
                last = step.logged
                bar.set_postfix_str(f"{last['peak_mem_gib']:.2f} GiB", refresh=False)
                with _terminal_may_be_gone():
                    tqdm.write(_progress_line(step, last), file=sys.stdout)
    return last


@contextmanager
def _terminal_may_be_gone() -> Iterator[None]:
    """What is written to a terminal that was closed is lost, as the bar is; the run continues, to
    the end of the step if SIGHUP is not ignored.
    """
    try:
        yield
    except OSError as error:
        if error.errno != errno.EIO:
            raise


def _progress_line(step: "Progress", logged: dict[str, float]) -> str:
    from tqdm import tqdm

    from training.loop import MACHINE_COLUMNS

    seconds = logged["seconds_per_kimg"]
    left = tqdm.format_interval((step.total_samples - step.samples) / 1000 * seconds)
    words = [
        f"{step.samples / 1000:8.1f} kimg",
        f"{seconds:.1f} s/kimg",
        f"{left} left",
        f"{logged['peak_mem_gib']:.2f} GiB",
    ]
    words += [
        f"{name} {value:.4g}" for name, value in logged.items() if name not in MACHINE_COLUMNS
    ]
    return "  ".join(words)

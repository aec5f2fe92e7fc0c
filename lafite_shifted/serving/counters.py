"""What a server counts, in Prometheus' text format (version 0.0.4)."""

import threading
from collections import Counter
from collections.abc import Iterable

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SIZES = (1, 2, 4, 8, 16, 32, 64)


class Histogram:
    """Counts of values up to each bound."""

    def __init__(self, bounds: tuple[float, ...]):
        self.bounds, self.counts = bounds, [0] * (len(bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        place = next((n for n, b in enumerate(self.bounds) if value <= b), len(self.bounds))
        self.counts[place] += 1
        self.total += value

    def lines(self, name: str) -> list[str]:
        """As text."""
        found, below = [f"# TYPE {name} histogram"], 0
        for bound, count in zip((*self.bounds, "+Inf"), self.counts, strict=True):
            below += count
            found.append(f'{name}_bucket{{le="{bound}"}} {below}')
        return [*found, f"{name}_sum {self.total:.6f}", f"{name}_count {below}"]


class Counters:
    """Of all requests of a server; threads may share it."""

    def __init__(self):
        self._lock = threading.Lock()
        self.requests: Counter[tuple[str, int]] = Counter()  # by path and status
        self.images = 0
        self.seconds, self.batches = Histogram(SECONDS), Histogram(SIZES)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count an answer."""
        with self._lock:
            self.requests[path, status] += 1
            self.seconds.add(seconds)

    def made(self, images: int, batches: Iterable[int]) -> None:
        """Count images, and the sizes of batches since."""
        with self._lock:
            self.images += images
            for size in batches:
                self.batches.add(size)

    def text(self, *, waiting: int) -> str:
        """For a scraper."""
        with self._lock:
            lines = ["# TYPE lafite_requests_total counter"]
            lines += [
                f'lafite_requests_total{{path="{path}",status="{status}"}} {count}'
                for (path, status), count in sorted(self.requests.items())
            ]
            lines += ["# TYPE lafite_images_total counter", f"lafite_images_total {self.images}"]
            lines += ["# TYPE lafite_waiting gauge", f"lafite_waiting {waiting}"]
            lines += self.seconds.lines("lafite_request_seconds")
            lines += self.batches.lines("lafite_batch_images")
        return "\n".join(lines) + "\n"

"""Simultaneous requests as one batch: one thread owns the model; the first request waits a few
milliseconds for others, then all are sampled and rendered together.

Shape letters: N images, R resolution.
"""

import functools
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lafite_shifted.editing.latents import Latents
from lafite_shifted.errors import InputError
from lafite_shifted.generation import Generation
from lafite_shifted.pipeline import TextToImage
from lafite_shifted.prompts import Prompt
from lafite_shifted.serving.limits import Limits
from torch_utils.threads import Reprobe


class QueueFullError(Exception):
    """More requests wait than the limit allows."""


class StoppedError(RuntimeError):
    """Nobody waits for long work any more: the server stops, or its client has gone."""


@dataclass(frozen=True)
class PromptWork:
    """Images of one prompt."""

    prompt: Prompt
    seeds: Sequence[int]
    generation: Generation


# with what long work calls between its steps: it raises StoppedError
EditWork = Callable[[TextToImage, Callable[[], None]], Latents]


@dataclass
class Job:
    """A request in the queue, or in work."""

    work: PromptWork | EditWork
    future: "Future[list[Tensor]]" = field(default_factory=Future)
    is_wanted: bool = True  # False: its client has gone

    @property
    def num_images(self) -> int:
        """That are known beforehand."""
        return len(self.work.seeds) if isinstance(self.work, PromptWork) else 1


class Batcher:
    """Answers with images [R, R, 3] uint8 on the CPU; a request's do not depend on who else asks,
    but for rounding.
    """

    def __init__(self, model: TextToImage, limits: Limits):
        self.model, self.limits = model, limits
        self.batch_sizes: deque[int] = deque()  # to be counted
        self._jobs: queue.Queue[Job | None] = queue.Queue(limits.queue)
        self._is_closing = False
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    @property
    def is_alive(self) -> bool:
        """Whether requests are still answered."""
        return self._thread.is_alive()

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._jobs.qsize()

    def submit(self, work: PromptWork | EditWork) -> Job:
        """With the images to come; QueueFullError where too many wait. A future that is cancelled
        before its turn costs nothing.
        """
        job = Job(work)
        try:
            self._jobs.put_nowait(job)
        except queue.Full:
            raise QueueFullError from None
        return job

    def _check(self, job: Job) -> None:
        if self._is_closing or not job.is_wanted:
            raise StoppedError("The server stops." if self._is_closing else "The client has gone.")

    def close(self) -> None:
        """Stop, after the work that has begun, or at the next step of long work."""
        if not self._is_closing:
            self._is_closing = True
            self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        stopped, rechoose = False, Reprobe(self.model.device)
        while not stopped:
            jobs, stopped = self._gather()
            alive = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            made = [(job, latents) for job, latents in self._make(alive) if latents is not None]
            self._render(made)
            if self._jobs.empty():
                rechoose()

    def _gather(self) -> tuple[list[Job], bool]:
        """The first that comes, and what follows within the window, up to a whole batch."""
        first = self._jobs.get()
        if first is None:
            return [], True
        jobs, count = [first], first.num_images
        until = time.monotonic() + self.limits.window_ms / 1000
        while count < self.limits.batch:
            try:
                job = self._jobs.get(timeout=max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if job is None:
                return jobs, True
            jobs.append(job)
            count += job.num_images
        return jobs, False

    def _make(self, jobs: Sequence[Job]) -> list[tuple[Job, Latents | None]]:
        """The latents of each; prompts of the same settings go through the prior together."""
        found: list[tuple[Job, Latents | None]] = []
        groups: dict[Generation, list[Job]] = {}
        for job in jobs:
            if isinstance(job.work, PromptWork):
                groups.setdefault(job.work.generation, []).append(job)
            else:
                make = functools.partial(job.work, self.model, functools.partial(self._check, job))
                found.append((job, self._answer(job, make)))
        for generation, group in groups.items():
            together = self._answer(None, lambda g=group, s=generation: self._sampled(g, s))
            if together is None:  # one of them cannot be had: which, each by itself tells
                found += [
                    (job, self._answer(job, lambda j=job, s=generation: self._sampled([j], s)))
                    for job in group
                ]
                continue
            start = 0
            for job in group:
                found.append((job, together[start : start + job.num_images]))
                start += job.num_images
        return found

    def _sampled(self, jobs: Sequence[Job], generation: Generation) -> Latents:
        works = [job.work for job in jobs if isinstance(job.work, PromptWork)]
        prompts = [work.prompt for work in works for _ in work.seeds]
        seeds = [seed for work in works for seed in work.seeds]
        embedding = self.model.sampler(prompts, generation)(seeds)
        truncation = generation.truncation
        with torch.no_grad():
            return Latents.of_seeds(self.model.generator, embedding, seeds, truncation=truncation)

    @staticmethod
    def _answer(job: Job | None, make: Callable[[], Latents]) -> Latents | None:
        """What `make` gives; what it raises is the answer of the job."""
        try:
            return make()
        except (InputError, ValueError, RuntimeError) as error:
            if job is not None:
                job.future.set_exception(error)
            return None

    def _render(self, made: Sequence[tuple[Job, Latents]]) -> None:
        """All in batches, and each answer as soon as its last image is there."""
        if not made:
            return
        shared = [(job, part) for job, part in made if _is_plain(part)]
        own = [(job, part) for job, part in made if not _is_plain(part)]
        groups = ([shared] if shared else []) + [[pair] for pair in own]
        for group in groups:
            try:
                self._render_group(group)
            except RuntimeError as error:  # such as memory that does not suffice
                for job, _ in group:
                    if not job.future.done():
                        job.future.set_exception(error)

    def _render_group(self, group: Sequence[tuple[Job, Latents]]) -> None:
        """See `_render`."""
        latents = group[0][1] if len(group) == 1 else Latents.joined([part for _, part in group])
        waiting = list(group)
        images: list[Tensor] = []
        for first in range(0, len(latents), self.limits.batch):
            part = latents[first : first + self.limits.batch]
            self.batch_sizes.append(len(part))
            images += list(part.levels(self.model.generator, batch=self.limits.batch))
            while waiting and len(images) >= len(waiting[0][1]):
                job, rows = waiting.pop(0)
                job.future.set_result(images[: len(rows)])
                images = images[len(rows) :]


def _is_plain(latents: Latents) -> bool:
    return latents.embedding.ndim == 2 and latents.w.ndim == 2 and latents.noise is None

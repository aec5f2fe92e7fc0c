"""Requests at the same time: batches, the queue, long work."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

from lafite_shifted.editing.guidance import GuidanceConfig
from lafite_shifted.editing.latents import Latents
from lafite_shifted.pipeline import TextToImage
from lafite_shifted.serving.batcher import Batcher, PromptWork, QueueFullError, StoppedError
from lafite_shifted.serving.limits import Limits
from tests.lafite_shifted.serving.images import levels, opened


def test_simultaneous_requests_share_batches_and_keep_their_images(
    client: TestClient, model: TextToImage
):
    def ask(number: int) -> tuple[int, dict]:
        body = {"prompt": f"thing {number % 5}", "seed": number, "num_images": 1 + number % 3}
        while (answer := client.post("/v1/generate", json=body)).status_code == 429:
            assert answer.headers["Retry-After"] == "1"
        return number, answer.json()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(24)))
    for number, answer in answers:
        images = [opened(image) for image in answer["images"]]
        assert len(images) == 1 + number % 3
        assert images[0].info["seed"] == str(number)
        expected = model(f"thing {number % 5}", seed=number, num_images=len(images))
        assert np.abs(levels(images) - levels(expected)).max() <= 1
    text = client.get("/metrics").text
    batches = int(text.split("lafite_batch_images_count ")[1].split()[0])
    images = int(text.split("\nlafite_images_total ")[1].split()[0])
    assert batches < images


def test_one_bad_request_of_a_batch_fails_alone(model: TextToImage):
    from lafite_shifted.errors import InputError
    from lafite_shifted.generation import Generation
    from lafite_shifted.prior.samplers import SamplerConfig
    from lafite_shifted.prompts import Prompt

    batcher = Batcher(model, Limits(window_ms=200))
    bad = Generation(sampling=SamplerConfig(10**6))
    good = batcher.submit(PromptWork(Prompt.of("a cat"), [1], Generation()))
    refused = batcher.submit(PromptWork(Prompt.of("a cat"), [1], bad))
    assert len(good.future.result()) == 1
    with pytest.raises(InputError, match="sampling steps"):
        refused.future.result()
    batcher.close()
    assert not batcher.is_alive


def test_a_full_queue_is_told_and_cancelled_work_is_not_done(model: TextToImage):
    started, go = threading.Event(), threading.Event()

    def slow(model: TextToImage, _check: Callable[[], None]):
        started.set()
        go.wait()
        return model.latents("a cat")

    batcher = Batcher(model, Limits(queue=2, batch=1))
    first = batcher.submit(slow)
    started.wait()
    waiting = [batcher.submit(slow) for _ in range(2)]
    with pytest.raises(QueueFullError):
        batcher.submit(slow)
    assert waiting[0].future.cancel()
    go.set()
    assert len(first.future.result()) == len(waiting[1].future.result()) == 1
    batcher.close()


@pytest.mark.parametrize("reason", ["The server stops", "The client has gone"])
def test_long_work_that_nobody_waits_for_ends_at_its_next_step(
    model: TextToImage, limits: Limits, reason: str
):
    begun = threading.Event()
    config = GuidanceConfig(best_of=1, steps=100_000)

    def work(model: TextToImage, check: Callable[[], None]) -> Latents:
        def step() -> None:
            begun.set()
            check()

        return model.guide("a", config=config, on_step=step).latents

    batcher = Batcher(model, limits)
    job = batcher.submit(work)
    assert begun.wait(timeout=60)
    if reason == "The client has gone":
        job.is_wanted = False
        with pytest.raises(StoppedError, match=reason):
            job.future.result(timeout=60)
    batcher.close()
    with pytest.raises(StoppedError, match=reason):
        job.future.result(timeout=0)

"""Graphs of the generator, with a capture in place of CUDA's that replays on the CPU."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from lafite_shifted.decoder import graphs
from lafite_shifted.decoder.graphs import MOST, Graphed

CPU = torch.device("cpu")


class Recorder:
    """Captures a call as CUDA does: it runs once, and each replay writes to the same memory."""

    def __init__(self, pause: float = 0.0):
        self.captured, self.replayed, self.pause = 0, 0, pause

    def __call__(
        self, call: Callable[[], Tensor], device: torch.device
    ) -> tuple[Callable[[], None], Tensor]:
        assert device == CPU
        self.captured += 1
        result = call()

        def replay() -> None:
            self.replayed += 1
            time.sleep(self.pause)  # whoever writes to the buffers now is noticed
            result.copy_(call())

        return replay, result


def graphed(weight: Tensor, recorder: Recorder) -> Graphed:
    return Graphed(lambda x, y: x @ weight + y, lambda: [weight], capture=recorder)


def test_one_graph_a_shape_gives_what_the_function_gives():
    recorder, weight = Recorder(), torch.randn(4, 4)
    run = graphed(weight, recorder)
    for size in (1, 3, 1, 3, 3):
        x, y = torch.randn(size, 4), torch.randn(size, 4)
        torch.testing.assert_close(run(x, y), x @ weight + y)
    assert (recorder.captured, recorder.replayed) == (2, 5)


def test_a_result_outlives_the_next_call():
    run = graphed(torch.eye(4), Recorder())
    first, zero = run(torch.ones(2, 4), torch.zeros(2, 4)), torch.zeros(2, 4)
    run(torch.full((2, 4), 7.0), zero)
    assert first.equal(torch.ones(2, 4))
    first.fill_(5.0)  # nor is it a buffer that the next one reads
    assert run(torch.ones(2, 4), zero).equal(torch.ones(2, 4))


def test_a_parameter_that_changes_is_captured_again():
    recorder, tensors = Recorder(), [torch.eye(4)]
    run = Graphed(lambda x: x @ tensors[0], lambda: tensors, capture=recorder)
    x = torch.randn(2, 4)
    run(x)
    tensors[0].mul_(2)  # in place
    torch.testing.assert_close(run(x), 2 * x)
    tensors[0] = 3 * torch.eye(4)  # elsewhere, as `.to` leaves it
    torch.testing.assert_close(run(x), 3 * x)
    run(x)
    assert recorder.captured == 3


def test_there_are_few_graphs():
    recorder = Recorder()
    run = graphed(torch.eye(4), recorder)
    for size in [*range(1, MOST + 2), MOST + 1, 1]:  # the first has gone by the end
        run(torch.ones(size, 4), torch.ones(size, 4))
    assert len(run._graphs) == MOST
    assert recorder.captured == MOST + 2


def test_threads_get_their_own_results():
    run = graphed(torch.eye(4), Recorder(pause=0.002))
    together = threading.Barrier(4)

    def calls(number: int) -> bool:
        together.wait()
        x = torch.full((2, 4), float(number))
        return all(run(x, x).equal(2 * x) for _ in range(10))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(calls, range(4)))


def test_images_of_a_generator_are_the_same(monkeypatch: pytest.MonkeyPatch):
    """What `render` takes the graph for on a GPU, here by the same way on the CPU."""
    from tests.small_model import small_model

    recorder = Recorder()
    monkeypatch.setattr(graphs, "capture_on_cuda", recorder)
    generator = small_model(CPU).generator
    embeddings = torch.randn(3, generator.encoder_id.dim)
    with torch.no_grad():
        w = generator.w(range(3))
        expected = generator.render(embeddings, w)
        assert recorder.captured == 0
        torch.testing.assert_close(generator.graphed(embeddings, w), expected)
        torch.testing.assert_close(generator.graphed(embeddings, w), expected)
        assert recorder.captured == 1
        generator.network.generator.to_rgbs[0].bias.add_(1.0)  # type: ignore[operator, union-attr]
        changed = generator.graphed(embeddings, w)
        torch.testing.assert_close(changed, generator.render(embeddings, w))
    assert (changed - expected).abs().min() > 0.1

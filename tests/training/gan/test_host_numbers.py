"""Numbers of the host made ahead: in a thread, once, and the same as without."""

import threading

from training.gan.host_numbers import HostNumbers


def test_what_is_prefetched_is_computed_in_a_thread_and_once():
    computed: list[tuple[int, float, bool]] = []

    def compute(position: int, probability: float) -> int:
        is_main = threading.current_thread() is threading.main_thread()
        computed.append((position, probability, is_main))
        return position

    numbers = HostNumbers(compute)
    assert numbers.get(0, 0.5) == 0
    numbers.prefetch(4, 0.5)
    assert numbers.get(4, 0.5) == 4
    assert computed == [(0, 0.5, False), (4, 0.5, False)]
    numbers.prefetch(8, 0.5)
    assert numbers.get(20, 0.5) == 20  # a run that resumes elsewhere
    assert (20, 0.5, False) in computed
    numbers.prefetch(24, 0.5)
    assert numbers.get(24, 0.6) == 24  # of another probability than was expected
    assert (24, 0.6, False) in computed


def test_waiting_is_counted():
    gate = threading.Event()
    numbers = HostNumbers(lambda position, probability: gate.wait(0.2))
    numbers.get(0, 0.0)
    assert numbers.waited > 0.15

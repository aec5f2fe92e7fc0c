"""What the host learns two steps later, and what is under way when a run stops."""

import torch

from torch_utils.lagged import LAG, Lagged


def run(lagged: Lagged, steps: range) -> list[float]:
    found = []
    for step in steps:
        found.append(lagged.take())
        lagged.put(torch.tensor(float(step)))
    return found


def test_a_number_comes_out_two_steps_later():
    assert run(Lagged(0.5), range(6)) == [0.5] * LAG + [0, 1, 2, 3]


def test_what_is_under_way_is_state():
    first, second = Lagged(0.5), torch.nn.ModuleDict({"inner": Lagged(7.0)})
    run(first, range(5))
    second.load_state_dict({f"inner.{name}": value for name, value in first.state_dict().items()})
    inner = second["inner"]
    assert isinstance(inner, Lagged)
    assert run(inner, range(5, 8)) == [3, 4, 5]


def test_a_number_that_is_changed_afterwards_comes_out_as_it_was():
    lagged, value = Lagged(0.0), torch.tensor(1.0)
    for _ in range(LAG):
        lagged.take()
        lagged.put(value)
    value += 1
    assert lagged.take() == 1

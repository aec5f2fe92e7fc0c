"""Scalars of the log: their means, whatever is read in between."""

import torch

from training.log_sums import LogSums


def scalar(value: float) -> torch.Tensor:
    return torch.tensor(value)


def test_means_are_over_the_steps_that_had_the_value():
    sums = LogSums()
    sums.add({"a": scalar(1.0), "b": scalar(10.0)})
    sums.add({"a": scalar(2.0)})
    assert sums.means() == {"a": 1.5, "b": 10.0}
    sums.add({"a": scalar(5.0)})
    assert sums.means() == {"a": 5.0}


def test_what_is_skipped_does_not_count():
    sums = LogSums()
    sums.add({"loss": scalar(1.0), "skipped": scalar(0.0)})
    sums.add({"loss": scalar(torch.nan), "skipped": scalar(1.0)})
    assert sums.means() == {"loss": 1.0, "skipped": 0.5}
    sums.add({"loss": scalar(torch.nan), "skipped": scalar(1.0)})
    assert sums.means() == {"skipped": 1.0}


def test_a_checkpoint_holds_what_was_summed():
    whole, parts = LogSums(), LogSums()
    for value in (0.1, 0.2):
        whole.add({"a": scalar(value)})
        parts.add({"a": scalar(value)})
    resumed = LogSums(dict(parts.read()))
    whole.read()  # for the same checkpoint
    for value in (0.3, 0.4):
        whole.add({"a": scalar(value)})
        resumed.add({"a": scalar(value)})
    assert whole.means() == resumed.means()

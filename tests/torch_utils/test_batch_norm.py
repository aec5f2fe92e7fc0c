"""Folding batch norms into convolutions: the same results, or nothing is touched."""

import copy

import pytest
import torch
from torch import Tensor, nn

from torch_utils.batch_norm import fold_batch_norms


class Net(nn.Module):
    """A convolution with its batch norm; its result goes elsewhere too if it is `shared`, or
    through an activation in between, if there is one.
    """

    def __init__(self, *, shared: bool = False, between: bool = False):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.last = nn.Conv2d(8, 4, 1)
        self.shared, self.between = shared, between
        self.activation = nn.ReLU(inplace=True)  # gives the very tensor that it was given

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        y = self.norm(self.activation(x) if self.between else x)
        return self.last(y + x if self.shared else y)


def network(**options: bool) -> Net:
    torch.manual_seed(0)
    net = Net(**options).eval()
    nn.init.normal_(net.norm.weight)
    nn.init.normal_(net.norm.bias)
    assert net.norm.running_mean is not None
    assert net.norm.running_var is not None
    net.norm.running_mean.normal_()
    net.norm.running_var.uniform_(0.5, 2)
    return net


def num_batch_norms(net: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())


def test_a_folded_batch_norm_has_the_same_results(rng: torch.Generator):
    net = network()
    folded, x = copy.deepcopy(net), torch.randn(2, 3, 8, 8, generator=rng)
    assert fold_batch_norms(folded, lambda: [folded(x)])
    assert (num_batch_norms(net), num_batch_norms(folded)) == (1, 0)
    other = torch.randn(2, 3, 8, 8, generator=rng)
    torch.testing.assert_close(folded(other), net(other))


@pytest.mark.parametrize("option", ["shared", "between"])
def test_a_batch_norm_that_cannot_be_folded_stays(option: str, rng: torch.Generator):
    net = network(**{option: True})
    kept, x = copy.deepcopy(net), torch.randn(2, 3, 8, 8, generator=rng)
    assert not fold_batch_norms(kept, lambda: [kept(x)])
    assert num_batch_norms(kept) == 1
    assert kept(x).equal(net(x))

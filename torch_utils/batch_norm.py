"""Batch norms of a network in evaluation mode, folded into the convolutions before them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

TOLERANCE = 1e-3  # of a result's largest value; a batch norm that is lost changes far more


@torch.no_grad()
def fold_batch_norms(network: nn.Module, run: Callable[[], list[Tensor]]) -> bool:
    """Fold, in place, each batch norm that `run()`, which computes with the network, computes once
    and of a convolution's result. What timm's batch norms do besides, their activation, stays.

    False, and all as it was, where the results are not the same then: something else takes a
    convolution's result too.
    """
    pairs, before = _pairs(network, run)
    computed = [id(module) for pair in pairs for module in pair]
    places = {
        child: (parent, name)
        for parent in network.modules()
        for name, child in parent.named_children()
    }
    replaced: list[tuple[nn.Module, str, nn.Module]] = []

    def put(new: nn.Module, *, instead_of: nn.Module) -> None:
        parent, name = places[instead_of]
        replaced.append((parent, name, instead_of))
        setattr(parent, name, new)

    for convolution, norm in pairs:
        if computed.count(id(convolution)) == computed.count(id(norm)) == 1:
            put(fuse_conv_bn_eval(convolution, norm), instead_of=convolution)
            put(getattr(norm, "act", nn.Identity()), instead_of=norm)
    pairs_of_results = zip(before, run(), strict=True)
    same = all((a - b).abs().max() <= TOLERANCE * a.abs().max() for a, b in pairs_of_results)
    if not same:
        for parent, name, module in replaced:
            setattr(parent, name, module)
    return same


def _pairs(
    network: nn.Module, run: Callable[[], list[Tensor]]
) -> tuple[list[tuple[nn.Conv2d, nn.BatchNorm2d]], list[Tensor]]:
    """Convolutions with the batch norms of their results, as `run()` meets them; its results."""
    makers: dict[int, nn.Conv2d] = {}  # of results, by identity
    results, pairs = list[Tensor](), list[tuple[nn.Conv2d, nn.BatchNorm2d]]()

    def note_result(convolution: nn.Conv2d, _inputs: tuple[Tensor, ...], result: Tensor) -> None:
        makers[id(result)] = convolution
        results.append(result)  # as long as it lives, no other has its identity

    def note_input(norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        if id(inputs[0]) in makers:
            pairs.append((makers[id(inputs[0])], norm))

    handles = []
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(note_result))
        elif isinstance(module, nn.BatchNorm2d):
            handles.append(module.register_forward_pre_hook(note_input))
    found = run()
    for handle in handles:
        handle.remove()
    return pairs, found

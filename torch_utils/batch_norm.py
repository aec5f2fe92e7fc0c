"""Batch norms of a network in evaluation mode, folded into the convolutions before them."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_batch_norms(network: nn.Module, run: Callable[[], object]) -> None:
    """Fold, in place, each batch norm that is computed once, and of a convolution's result, by
    `run()`, which computes the whole network. What timm's batch norms do besides, their activation,
    stays.
    """
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
    run()
    for handle in handles:
        handle.remove()
    computed = [id(module) for pair in pairs for module in pair]
    places = {
        child: (parent, name)
        for parent in network.modules()
        for name, child in parent.named_children()
    }
    for convolution, norm in pairs:
        if computed.count(id(convolution)) == computed.count(id(norm)) == 1:
            _put(places[convolution], fuse_conv_bn_eval(convolution, norm))
            _put(places[norm], getattr(norm, "act", nn.Identity()))


def _put(place: tuple[nn.Module, str], module: nn.Module) -> None:
    parent, name = place
    setattr(parent, name, module)

"""The networks with the operators in them: images and gradients of gradients are the reference's.

On each implementation, see conftest.py.
"""

import torch
from torch import Tensor

from lafite_shifted.decoder.discriminator import Discriminator, DiscriminatorConfig
from lafite_shifted.decoder.generator import Generator, GeneratorConfig
from tests.operators import using
from tests.torch_utils.ops.on_images import assert_close_as_a_whole, normal


def networks() -> tuple[Generator, Discriminator]:
    torch.manual_seed(0)
    generator = Generator(
        GeneratorConfig(
            resolution=16, condition_dim=8, channel_base=128, channel_max=16, z_dim=8, w_dim=8
        )
    )
    discriminator = Discriminator(
        DiscriminatorConfig(resolution=16, condition_dim=8, channel_base=128, channel_max=16)
    )
    for layer in generator.layers:
        torch.nn.init.constant_(layer.noise_strength, 0.3)
    return generator, discriminator


def test_networks_and_their_r1_gradient_match_the_reference():
    """The case the operators exist for: parameters' gradients of a squared input gradient."""
    generator, discriminator = networks()
    z, condition = normal(4, 8).float(), normal(4, 8, seed=1).float()

    def run() -> list[Tensor]:
        images = generator(z, condition)
        leaf = images.detach().requires_grad_()
        realness, feature = discriminator(leaf)
        logit = realness + (feature * condition).sum(dim=1)
        (slope,) = torch.autograd.grad(logit.sum(), leaf, create_graph=True)
        parameters = list(discriminator.parameters())
        r1 = torch.autograd.grad(slope.square().sum(), parameters, allow_unused=True)
        through = torch.autograd.grad(discriminator(images)[0].sum(), list(generator.parameters()))
        return [images, *(g for g in r1 if g is not None), *through]

    found = run()
    with using(None):
        expected = run()
    assert_close_as_a_whole(found, expected)


def test_path_length_gradient_matches_the_reference():
    """G is differentiated twice by path-length regularisation."""
    generator, _ = networks()
    w = generator.mapping(normal(2, 8).float()).detach().requires_grad_()
    condition, noise = normal(2, 8, seed=1).float(), normal(2, 3, 16, 16, seed=2).float()

    def run() -> list[Tensor]:
        images = generator.synthesise(w, condition)
        (slope,) = torch.autograd.grad((images * noise).sum(), w, create_graph=True)
        parameters = [p for n, p in generator.named_parameters() if "mapping" not in n]
        grads = torch.autograd.grad(slope.square().sum(), parameters, allow_unused=True)
        return [g for g in grads if g is not None]

    found = run()
    with using(None):
        expected = run()
    assert len(found) > 10
    assert_close_as_a_whole(found, expected)

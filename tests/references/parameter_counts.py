"""How many numbers the networks of arXiv:1912.04958 learn, with the conditioning of
arXiv:2111.13792, counted by hand from their descriptions.
"""

from lafite_shifted.decoder.discriminator import DiscriminatorConfig
from lafite_shifted.decoder.generator import GeneratorConfig


def channels(config: GeneratorConfig | DiscriminatorConfig, resolution: int) -> int:
    return min(config.channel_base // resolution, config.channel_max)


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def generator(config: GeneratorConfig) -> int:
    w, dim = config.w_dim, config.condition_dim
    hidden = (dim + w) // 2
    condition_layers = linear(dim, hidden) + linear(hidden, w)

    def layer(inputs: int, outputs: int) -> int:
        affine, bias, noise_strength = linear(2 * w, inputs), outputs, 1
        return condition_layers + affine + 9 * inputs * outputs + bias + noise_strength

    def to_rgb(inputs: int) -> int:
        return condition_layers + linear(2 * w, inputs) + linear(inputs, 3)

    now = channels(config, 4)
    total = linear(config.z_dim, w) + (config.mapping_layers - 1) * linear(w, w)
    total += 4 * 4 * now + layer(now, now) + to_rgb(now)
    if config.conditional_start:
        total += linear(2 * w, 4 * 4 * now)
    resolution = 8
    while resolution <= config.resolution:
        before, now = now, channels(config, resolution)
        total += layer(before, now) + layer(now, now) + to_rgb(now)
        resolution *= 2
    return total


def discriminator(config: DiscriminatorConfig) -> int:
    resolution = config.resolution
    now = channels(config, resolution)
    total = linear(3, now)
    while resolution > 4:
        resolution //= 2
        before, now = now, channels(config, resolution)
        total += linear(9 * before, before) + linear(9 * before, now) + before * now
    statistic = 1 if config.group > 1 else 0
    total += linear(9 * (now + statistic), now) + linear(16 * now, now)
    return total + linear(now, 1) + linear(now, config.condition_dim)

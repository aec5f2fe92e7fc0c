"""Sampling image embeddings from a prior: configuration, guidance, thresholding, best of several.

Shape letters: N texts, R samples a text, D embedding.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from lafite_shifted.encoders.text_features import TextFeatures
from lafite_shifted.errors import InputError
from lafite_shifted.prior.caches import StepCache
from lafite_shifted.prior.diffusion import NoiseGaussian
from lafite_shifted.prior.prior import THRESHOLD_PERCENTILE, EncodedText, Prior
from lafite_shifted.prior.samplers import (
    LinearStep,
    SamplerConfig,
    StepCallback,
    clamp_dynamically,
    guide,
    plan,
    sample,
)
from torch_utils import seeds
from torch_utils.seeds import Key
from torch_utils.sending import to_device

DEFAULT_STEPS = 4  # where the configuration leaves them open


@torch.no_grad()
def sample_embeddings(
    prior: Prior,
    text: TextFeatures | EncodedText,
    *,
    sample_seeds: Sequence[int],
    sampling: SamplerConfig | None = None,
    on_step: StepCallback | None = None,
) -> Tensor:
    """Unit image embeddings [N R, D] for N texts and N R seeds: row n R + r depends on text n
    and its own seed. Of `best_of` candidates a row keeps the one closest to its text's embedding.
    `on_step` is called after each step of every candidate. InputError where the prior cannot sample
    so.
    """
    sampling = resolve_sampler(prior, sampling or SamplerConfig())
    if isinstance(text, TextFeatures):
        text = prior.encode_text(text, guided=sampling.guidance != 1.0)
    repeats, rest = divmod(len(sample_seeds), len(text.cluster))
    assert not rest, "every text has the same number of seeds"
    gaussian = prior.gaussian_of(text.cluster.repeat_interleave(repeats))
    wanted = text.embedding.repeat_interleave(repeats, dim=0)  # [N R, D]
    steps = plan_of(prior, sampling)
    caches = prior.cache_times(text.cache, [t for t, _ in steps], repeats=repeats)
    once = partial(_sample_once, prior, gaussian, caches, steps, sample_seeds, sampling, on_step)
    best = once(candidate=0)
    for candidate in range(1, sampling.best_of):
        other = once(candidate=candidate)
        closer = (other * wanted).sum(dim=1) > (best * wanted).sum(dim=1)
        best = torch.where(closer[:, None], other, best)
    return best


def resolve_sampler(prior: Prior, sampling: SamplerConfig) -> SamplerConfig:
    """`sampling` with the steps and the sampler that suit this prior, where they are left open;
    InputError for what it cannot do.

    The solver suits the v-parameterisation: it evaluates the network at little noise, where
    the errors of a network that predicts z_0 are largest (docs/prior.md).
    """
    most = prior.config.step_budget or prior.schedule.num_steps
    steps = min(DEFAULT_STEPS, most) if sampling.steps is None else sampling.steps
    is_energy, few = prior.config.objective == "energy", prior.config.step_budget is not None
    usual = "dpm++" if prior.config.is_v_parameterised and not (is_energy or few) else "ancestral"
    sampler = sampling.sampler or usual
    if steps > most:
        raise InputError(
            f"{steps} sampling steps: this prior allows {most}. Give fewer (`--steps`)."
        )
    if sampling.dynamic_threshold and prior.threshold_quantile is None:
        raise InputError(
            "This prior has no percentile for dynamic thresholding. Train it with this "
            "version, or leave --dynamic-threshold out."
        )
    if sampler == "dpm++" and few:
        raise InputError(
            "The sampler dpm++ needs timesteps that this prior was not trained on. Use "
            "`--sampler ancestral`."
        )
    if sampler != "ancestral" and is_energy:
        raise InputError(
            f"The sampler {sampler} needs the mean of z_0, and this prior, of the energy "
            "objective, gives samples. Use `--sampler ancestral`."
        )
    return replace(sampling, steps=steps, sampler=sampler)


def _sample_once(
    prior: Prior,
    gaussian: NoiseGaussian,
    caches: Mapping[int, StepCache],
    steps: Sequence[tuple[int, LinearStep]],
    sample_seeds: Sequence[int],
    sampling: SamplerConfig,
    on_step: StepCallback | None,
    *,
    candidate: int,
) -> Tensor:
    """One sample for each seed; `caches` of each timestep."""
    device = caches[steps[0][0]].mask.device

    def normal(*key: int | str) -> Tensor:
        key = key if candidate == 0 else (*key, candidate)
        shape = (prior.config.embed_dim,)
        noise = seeds.normal_per_sample(shape, key=key, indices=sample_seeds)
        return to_device(noise, device)

    def denoise(z_t: Tensor, t: int) -> Tensor:
        sample_noise = normal("prior sample", t) if prior.config.objective == "energy" else None
        z0, *without = prior.denoise(z_t, t, gaussian, caches[t], sample_noise)
        if without:
            z0 = guide(z0, without[0], sampling.guidance)
        if sampling.dynamic_threshold and prior.threshold_quantile is not None:
            y0 = clamp_dynamically(
                gaussian.whiten(z0), prior.threshold_quantile, percentile=THRESHOLD_PERCENTILE
            )
            z0 = gaussian.unwhiten(y0)
        return z0

    return normalised(
        prior, sample(denoise, lambda step: normal("prior", step), gaussian, steps, on_step)
    )


def plan_of(prior: Prior, sampling: SamplerConfig) -> list[tuple[int, LinearStep]]:
    """The steps of a sampler, resolved, on this prior's schedule."""
    assert sampling.steps is not None  # resolved, as the sampler is
    assert sampling.sampler is not None
    return plan(
        prior.schedule, num_steps=sampling.steps, sampler=sampling.sampler, eta=sampling.eta
    )


def noise_keys(prior: Prior, steps: Sequence[tuple[int, LinearStep]]) -> list[Key]:
    """The keys of the noises that one sample takes, in the order of their first use."""
    keys: list[Key] = [("prior", 0)]
    for number, (t, step) in enumerate(steps, start=1):
        if prior.config.objective == "energy":
            keys.append(("prior sample", t))
        if step.sigma > 0:
            keys.append(("prior", number))
    return keys


def normalised(prior: Prior, z0: Tensor) -> Tensor:
    """Unit embeddings [N, D] of z_0 [N, D]: once, at the end, because early predictions rightly
    have norms below 1.
    """
    encoder = prior.stats.encoder_id
    return encoder.normalise(z0) if encoder else F.normalize(z0, dim=1)

"""Sampling image embeddings from a prior: configuration, guidance, thresholding, best of several.

Shape letters: N texts, R samples a text, D embedding.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from lafite_shifted.encoders.text_features import TextFeatures
from lafite_shifted.errors import InputError
from lafite_shifted.prior.diffusion import NoiseGaussian
from lafite_shifted.prior.network import TextCache
from lafite_shifted.prior.prior import THRESHOLD_PERCENTILE, EncodedText, Prior
from lafite_shifted.prior.samplers import SamplerConfig, clamp_dynamically, guide, plan, sample
from torch_utils import seeds

DEFAULT_STEPS = 4  # where the configuration leaves them open


@torch.no_grad()
def sample_embeddings(
    prior: Prior,
    text: TextFeatures | EncodedText,
    *,
    sample_seeds: Sequence[int],
    sampling: SamplerConfig | None = None,
) -> Tensor:
    """Unit image embeddings [N R, D] for N texts and N R seeds: row n R + r depends on text n
    and its own seed. Of `best_of` candidates a row keeps the one closest to its text's embedding.
    InputError where the prior cannot sample so.
    """
    sampling = resolve_sampler(prior, sampling or SamplerConfig())
    if isinstance(text, TextFeatures):
        text = prior.encode_text(text, guided=sampling.guidance != 1.0)
    repeats, rest = divmod(len(sample_seeds), len(text.cluster))
    assert not rest, "every text has the same number of seeds"
    gaussian = prior.gaussian_of(text.cluster.repeat_interleave(repeats))
    wanted = text.embedding.repeat_interleave(repeats, dim=0)  # [N R, D]
    best = _sample_once(prior, gaussian, text.caches, sample_seeds, sampling, candidate=0)
    for candidate in range(1, sampling.best_of):
        other = _sample_once(
            prior, gaussian, text.caches, sample_seeds, sampling, candidate=candidate
        )
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
    caches: Sequence[TextCache],
    sample_seeds: Sequence[int],
    sampling: SamplerConfig,
    *,
    candidate: int,
) -> Tensor:
    """One sample for each seed; `caches` with the text, and without it if guided."""
    device = caches[0].visible.device

    def normal(*key: int | str) -> Tensor:
        key = key if candidate == 0 else (*key, candidate)
        shape = (prior.config.embed_dim,)
        return seeds.normal_per_sample(shape, key=key, indices=sample_seeds).to(device)

    def denoise(z_t: Tensor, t: int) -> Tensor:
        time = torch.full((len(z_t),), t, device=device)
        sample_noise = normal("prior inner", t) if prior.config.objective == "energy" else None
        z0, *without = (prior.predict(z_t, time, gaussian, cache, sample_noise) for cache in caches)
        if without:
            z0 = guide(z0, without[0], sampling.guidance)
        if sampling.dynamic_threshold and prior.threshold_quantile is not None:
            y0 = clamp_dynamically(
                gaussian.whiten(z0), prior.threshold_quantile, percentile=THRESHOLD_PERCENTILE
            )
            z0 = gaussian.unwhiten(y0)
        return z0

    assert sampling.steps is not None  # resolved, as the sampler is
    assert sampling.sampler is not None
    steps = plan(
        prior.schedule,
        num_steps=sampling.steps,
        sampler=sampling.sampler,
        eta=sampling.eta,
    )
    # normalised once, at the end: early predictions rightly have norms below 1
    z0 = sample(denoise, lambda step: normal("prior", step), gaussian, steps)
    encoder = prior.stats.encoder_id
    return encoder.normalise(z0) if encoder else F.normalize(z0, dim=1)

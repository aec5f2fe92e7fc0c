"""Prompts to image embeddings: through the prior, or as text embeddings; sentences with weights
are mixed on the sphere.

Shape letters: N prompts, R seeds a prompt, P sentences, D embedding.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lafite_shifted.editing.sphere import spherical_mean
from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.text_encoder import TextEncoder, read_texts
from lafite_shifted.errors import InputError
from lafite_shifted.generation import Generation
from lafite_shifted.prior.prior import Prior
from lafite_shifted.prior.sample_embeddings import resolve_sampler, sample_embeddings
from lafite_shifted.prior.samplers import StepCallback
from lafite_shifted.prompts import Prompt
from torch_utils.torch_defaults import plain_settings

EmbeddingSampler = Callable[[Sequence[int]], Tensor]  # N R seeds -> [N R, D], row n R + r


def embedding_sampler(
    prompts: Sequence[Prompt],
    clip: ClipEncoder,
    prior: Prior | None,
    text_encoder: TextEncoder | None,
    *,
    generation: Generation,
    on_step: StepCallback | None = None,
) -> EmbeddingSampler:
    """Encode N prompts, once, to be sampled with any seeds. A prompt of several sentences is the
    weighted mean of their image embeddings, all of one seed.
    """
    texts = [text for prompt in prompts for text in prompt.texts]
    if generation.use_prior and prior is not None:
        sample = _through_prior(texts, clip, prior, text_encoder, generation, on_step)
    elif generation.negative_prompt is None:
        sample = _text_embeddings(texts, clip)
    else:
        raise InputError(
            "A negative prompt acts through the guidance of a prior, and this model has none. Add "
            "one with `pack --prior`, or leave --negative out."
        )
    if len(texts) == len(prompts):
        return sample

    @plain_settings()
    @torch.no_grad()
    def mix(seeds: Sequence[int]) -> Tensor:
        size = len(seeds) // len(prompts)
        own = [seeds[n * size : (n + 1) * size] for n in range(len(prompts))]
        pairs = zip(prompts, own, strict=True)
        rows = sample([seed for prompt, part in pairs for _ in prompt.texts for seed in part])
        points = rows.view(len(texts), size, -1).split([len(prompt.texts) for prompt in prompts])
        means = [
            part[0] if len(part) == 1 else spherical_mean(part, torch.tensor(prompt.weights))
            for prompt, part in zip(prompts, points, strict=True)
        ]
        return clip.id.normalise(torch.cat(means))

    return mix


def _distinct(texts: Sequence[str]) -> tuple[list[str], Tensor]:
    """Each text once, and where the texts are among them."""
    distinct = list(dict.fromkeys(texts))
    places = {text: number for number, text in enumerate(distinct)}
    return distinct, torch.tensor([places[text] for text in texts])


def _text_embeddings(texts: Sequence[str], clip: ClipEncoder) -> EmbeddingSampler:
    distinct, rows = _distinct(texts)
    embedding = clip.embed_texts(distinct)[rows].embedding
    return lambda seeds: embedding.repeat_interleave(len(seeds) // len(embedding), dim=0)


def _through_prior(
    texts: Sequence[str],
    clip: ClipEncoder,
    prior: Prior,
    text_encoder: TextEncoder | None,
    generation: Generation,
    on_step: StepCallback | None,
) -> EmbeddingSampler:
    sampling = resolve_sampler(prior, generation.chosen_sampling)
    distinct, rows = _distinct(texts)
    features = read_texts(distinct, clip, text_encoder)
    negative = None
    if generation.negative_prompt is not None:
        negative = read_texts([generation.negative_prompt], clip, text_encoder)
    encoded = prior.encode_text(features, guided=sampling.guidance != 1.0, negative=negative)
    if len(distinct) < len(texts):
        encoded = encoded[rows]

    @plain_settings()
    def sample(seeds: Sequence[int]) -> Tensor:
        return sample_embeddings(
            prior, encoded, sample_seeds=seeds, sampling=sampling, on_step=on_step
        )

    return sample

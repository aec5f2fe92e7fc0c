"""What a manifest says of all images of a command, beside prompt and seed."""

import dataclasses
from typing import Any

from lafite_shifted.generation import Generation
from lafite_shifted.pipeline import TextToImage
from lafite_shifted.prior.sample_embeddings import resolve_sampler


def settings_of(model: TextToImage, generation: Generation, *, from_text: bool) -> dict[str, Any]:
    """Model, precision, and how prior and generator were used. InputError for what the prior cannot
    do.
    """
    sampling = None
    if model.prior is not None and generation.use_prior and from_text:
        sampling = resolve_sampler(model.prior.prior, generation.chosen_sampling)
    return {
        "model": model.hash,
        "dtype": str(model.generator.network.compute_dtype).removeprefix("torch."),
        "truncation": generation.truncation,
        "negative_prompt": generation.negative_prompt,
        "sampling": dataclasses.asdict(sampling) if sampling else None,
    }

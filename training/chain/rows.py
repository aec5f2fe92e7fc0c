"""The chains from a sentence to an image embedding that are compared: the text embedding itself,
mean regression, priors in several numbers of steps, and the true image embedding.

Shape letters: N images, m captions, D embedding.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from lafite_shifted.encoders.text_encoder import TextEncoder
from lafite_shifted.errors import InputError
from lafite_shifted.model_folder import find_part, load_prior
from lafite_shifted.pipeline import TextToImage
from lafite_shifted.prior.sample_embeddings import resolve_sampler
from lafite_shifted.prior.samplers import SamplerConfig
from torch_utils.device import DtypeName
from training.gan.data import GanData
from training.gan.evaluate import EvalSet
from training.prior.regression import MeanRegression

TEXT, REGRESSION, TRUE = "text embedding (no prior)", "mean regression", "true image embedding"

# (rows [N] of the evaluation set, N seeds) -> unit image embeddings [N, D]
Sample = Callable[[Sequence[int], Sequence[int]], Tensor]


def samples_of(
    model: TextToImage,
    baseline: TextToImage | None,
    eval_set: EvalSet,
    data: GanData,
    *,
    steps: Sequence[int],
) -> tuple[dict[str, Sample], list[str]]:
    """The rows by name, and a line for each that is left out."""
    notes = list[str]()
    found: dict[str, Sample] = {TEXT: _sentences(model, eval_set, None)}
    try:
        found[REGRESSION] = _regression(model, eval_set, data)
    except InputError as error:
        notes.append(f"note: {REGRESSION} is left out. {error}")
    for name, chain in (("baseline prior", baseline), ("prior", model)):
        if chain is None:
            continue
        if chain.prior is None:
            notes.append("note: the model has no prior. Add one with `pack --prior`.")
            continue
        for count in steps:
            row, sampling = f"{name}, {count} step{'s' * (count > 1)}", SamplerConfig(count)
            try:
                resolve_sampler(chain.prior.prior, sampling)
            except InputError as error:
                notes.append(f"note: {row}: left out. {error}")
                continue
            found[row] = _sentences(chain, eval_set, sampling)
    found[TRUE] = lambda rows, _: eval_set.embeddings[torch.as_tensor(rows)]
    return found, notes


def with_prior(model: TextToImage, prior: Path, *, dtype: DtypeName) -> TextToImage:
    """`model` with the prior in another run or model folder; InputError where that is of another
    CLIP.
    """
    loaded = load_prior(find_part(prior, "prior"), device=model.device, dtype=dtype)
    wanted = loaded.prior.config.text_encoder
    reader = TextEncoder.load(wanted.model, device=model.device) if wanted else None
    return TextToImage(model.clip, model.generator, loaded, text_encoder=reader)


def _sentences(model: TextToImage, eval_set: EvalSet, sampling: SamplerConfig | None) -> Sample:
    """By the model's prior; without `sampling` the text embeddings themselves."""

    def sample(rows: Sequence[int], seeds: Sequence[int]) -> Tensor:
        texts = [eval_set.texts[row] for row in rows]
        return model.embed(texts, seeds=seeds, use_prior=sampling is not None, sampling=sampling)

    return sample


def _regression(model: TextToImage, eval_set: EvalSet, data: GanData) -> Sample:
    """Fitted on the captions of the training images."""
    images = data.embeddings[:].repeat_interleave(data.first_caption.diff(), dim=0)  # [m, D]
    regression = MeanRegression.fit(data.captions[:], images)
    text = _sentences(model, eval_set, None)
    encoder_id = model.clip.id
    return lambda rows, seeds: regression.predict(text(rows, seeds), encoder_id)

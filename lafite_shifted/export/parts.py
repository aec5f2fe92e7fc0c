"""A model as three programs of tensors alone: text tower, prior, generator. What is random comes in
as noise, what depends on Python's values is decided before.

Shape letters: N batch, L tokens, F width of the text tower, D embedding, K noises, Z latent, R
resolution.
"""

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from open_clip.model import CLIP, CustomTextCLIP
from torch import Tensor, nn

from lafite_shifted.decoder.loaded import LoadedGenerator
from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.text_features import TextFeatures
from lafite_shifted.encoders.text_tower import text_features, text_lengths
from lafite_shifted.pipeline import TextToImage
from lafite_shifted.prior.prior import Prior
from lafite_shifted.prior.sample_embeddings import (
    noise_keys,
    normalised,
    plan_of,
    resolve_sampler,
)
from lafite_shifted.prior.samplers import SamplerConfig, guide, sample
from torch_utils.ops import native

EXAMPLE_ROWS = 2  # of the batch that programs are traced with; 1 would be taken for a constant


class TextPart(nn.Module):
    """Token ids [N, L] int64 -> unit embedding [N, D], states [N, L, F] and lengths [N]."""

    def __init__(self, clip: ClipEncoder):
        super().__init__()
        assert isinstance(clip.model, CLIP | CustomTextCLIP)
        self.clip = copy.copy(clip.model)  # without the image tower
        self.clip._modules = {k: v for k, v in clip.model._modules.items() if k != "visual"}

    def forward(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Token numbers [N, L] -> embedding [N, D], states [N, L, F], lengths [N]."""
        features = text_features(self.clip, ids, text_lengths(self.clip, ids))
        return features.embedding, features.tokens, features.lengths


class PriorPart(nn.Module):
    """The whole sampler: what TextPart gives, of a text and of what guidance leads away from
    (length 0: no text), standard normal `noise` [N, K, D] in the order of `keys`, and `guidance`
    [N], 1 for none -> unit image embeddings [N, D].
    """

    def __init__(self, prior: Prior, sampling: SamplerConfig):
        super().__init__()
        self.network = prior.network
        self.prior = [prior]  # its Gaussians are no parameters
        self.steps = plan_of(prior, sampling)
        self.keys = noise_keys(prior, self.steps)
        self.levels = {t: float(prior.schedule.abar[t]) for t, _ in self.steps}

    def forward(
        self,
        text_embedding: Tensor,
        text_states: Tensor,
        text_lengths: Tensor,
        negative_embedding: Tensor,
        negative_states: Tensor,
        negative_lengths: Tensor,
        noise: Tensor,
        guidance: Tensor,
    ) -> Tensor:
        """Image embeddings [N, D] of texts and negative prompts, by the noise [N, ..., D] of all
        steps and the guidance [N].
        """
        (prior,) = self.prior
        cluster = prior.assign(text_embedding)
        clusters = cluster.repeat(2)  # both are of the text's Gaussian, whose chain this is
        both = TextFeatures(
            torch.cat([text_embedding, negative_embedding]),
            torch.cat([text_states, negative_states]),
            torch.cat([text_lengths, negative_lengths]),
        )
        cache = self.network.encode_padded_text(both, clusters)
        gaussian, gaussians = prior.gaussian_of(cluster), prior.gaussian_of(clusters)

        def normal(*key: int | str) -> Tensor:
            return noise[:, self.keys.index(key)]

        def denoise(z_t: Tensor, t: int) -> Tensor:
            own = None
            if prior.config.objective == "energy":
                own = normal("prior sample", t).repeat(2, 1)
            time = torch.full(clusters.shape, t)
            predicted = prior.predict(  # [2 N, D]
                z_t.repeat(2, 1), time, gaussians, cache, own, level=self.levels[t]
            )
            count = z_t.shape[0]
            return guide(predicted[:count], predicted[count:], guidance[:, None])

        z0 = sample(denoise, lambda step: normal("prior", step), gaussian, self.steps)
        return normalised(prior, z0)


class GeneratorPart(nn.Module):
    """Unit embeddings [N, D], z [N, Z] and truncation [N], 1 for none -> images [N, 3, R, R],
    about [-1, 1]. Synthesis noise is the fixed buffer.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, generator: LoadedGenerator):
        super().__init__()
        self.network = generator.network.generator
        self.register_buffer("mean", generator.gaussian.mean)
        self.register_buffer("deviation", generator.gaussian.variances.sqrt())

    def forward(self, image_embedding: Tensor, z: Tensor, truncation: Tensor) -> Tensor:
        """[N, D], [N, Z] and [N] -> images [N, 3, R, R] in [-1, 1]."""
        mapping = self.network.mapping
        w = torch.lerp(mapping.w_average, mapping(z), truncation[:, None])
        return self.network.synthesise(w, (image_embedding - self.mean) / self.deviation)


@dataclass(frozen=True)
class Part:
    """A module with example inputs by name, whose first axis is the batch."""

    module: nn.Module
    inputs: dict[str, Tensor]
    outputs: tuple[str, ...]
    record: dict = field(default_factory=dict)  # what the manifest says of it, besides

    def program(self) -> torch.export.ExportedProgram:
        """As torch.export gives it, for every batch size."""
        batch = torch.export.Dim("batch", min=1)
        with reference_operators(), torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of PyTorch's own deprecations
            return torch.export.export(
                self.module.eval(),
                tuple(self.inputs.values()),
                dynamic_shapes=tuple({0: batch} for _ in self.inputs),
                strict=False,
            )


@contextmanager
def reference_operators() -> Iterator[None]:
    """Operators in plain PyTorch, which every exporter knows."""
    mode = native.mode()
    native.choose("reference")
    try:
        yield
    finally:
        native.choose(mode)


def parts_of(model: TextToImage, sampling: SamplerConfig | None = None) -> dict[str, Part]:
    """text, prior (where there is one) and generator of a model on the CPU, in float32. InputError
    for what the prior cannot do.
    """
    n, clip, config = EXAMPLE_ROWS, model.clip, model.generator.network.config
    ids = torch.zeros(n, clip.context_length, dtype=torch.int64)
    ids[:, 1] = 1  # somewhere is the largest
    text = TextPart(clip)
    outputs = ("text_embedding", "text_states", "text_lengths")
    parts = {"text": Part(text, {"ids": ids}, outputs)}
    if model.prior is not None:
        prior = model.prior.prior
        found = resolve_sampler(prior, sampling or SamplerConfig())
        module = PriorPart(prior, found)
        with torch.no_grad():
            examples = dict(zip(outputs, text(ids), strict=True))
        negative = {f"negative_{k.removeprefix('text_')}": v.clone() for k, v in examples.items()}
        rest = {"noise": torch.randn(n, len(module.keys), clip.id.dim), "guidance": torch.ones(n)}
        times = [t for t, _ in module.steps]
        record = {"sampler": found.sampler, "steps": found.steps, "times": times}
        record["noise"] = module.keys
        parts["prior"] = Part(module, examples | negative | rest, ("image_embedding",), record)
    inputs = {
        "image_embedding": torch.nn.functional.normalize(torch.randn(n, clip.id.dim), dim=1),
        "z": torch.randn(n, config.z_dim),
        "truncation": torch.ones(n),
    }
    parts["generator"] = Part(GeneratorPart(model.generator), inputs, ("image",))
    return parts

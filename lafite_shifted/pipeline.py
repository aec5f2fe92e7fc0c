"""The public API: words in, images out.

    model = TextToImage.from_pretrained("my-model")
    images = model("a red apple", num_images=4, seed=0)

Shape letters: N images, D embedding.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lafite_shifted.decoder.generator import to_uint8
from lafite_shifted.device import resolve_device
from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.encoder_id import check_same_encoder, check_same_text_encoder
from lafite_shifted.encoders.ensemble import load_clip
from lafite_shifted.encoders.text_encoder import TextEncoder, read_texts
from lafite_shifted.encoders.text_features import clean_text
from lafite_shifted.errors import InputError
from lafite_shifted.model_folder import (
    LoadedGenerator,
    LoadedPrior,
    load_generator,
    load_prior,
    model_hash,
)
from lafite_shifted.prior.sample_embeddings import resolve_sampler, sample_embeddings
from lafite_shifted.prior.samplers import SamplerConfig
from torch_utils import seeds
from torch_utils.device import DtypeName
from torch_utils.torch_defaults import kept_random_state, plain_settings


class TextToImage:
    """A generator with its CLIP and, if there is one, its prior, which may read another text
    encoder's token states. `hash` identifies the weights.
    """

    def __init__(
        self,
        clip: ClipEncoder,
        generator: LoadedGenerator,
        prior: LoadedPrior | None,
        *,
        text_encoder: TextEncoder | None = None,
        hash: str = "",
    ):
        for what, part in (("The generator", generator), ("The prior", prior)):
            if part is not None:
                check_same_encoder(
                    part.encoder_id, clip.id, what=what, remedy="Give the CLIP it was trained with."
                )
        if prior is not None:
            check_same_text_encoder(
                text_encoder and text_encoder.id,
                prior.prior.config.text_encoder,
                what="The text encoder",
                remedy="Give the one that the prior was trained with.",
            )
        self.clip, self.generator, self.prior, self.hash = clip, generator, prior, hash
        self.text_encoder = text_encoder
        self.device = clip.device

    @staticmethod
    @plain_settings()
    @kept_random_state()
    def from_pretrained(
        path: str | Path,
        *,
        device: str = "auto",
        dtype: DtypeName = "auto",
        clip: str | None = None,
        text_encoder: str | None = None,
    ) -> "TextToImage":
        """Load a model folder, or a Hugging Face Hub id such as "someone/model" where no such
        folder exists.

        `dtype` is of activations, by default the one that training chooses on `device`: bfloat16
        where it is fast, else float32. `clip` and `text_encoder` override the names of the CLIP and
        of the prior's text encoder, for weights that lie elsewhere now. Raises InputError.
        """
        folder = Path(path)
        if not folder.is_dir():
            folder = _download(str(path))
        chosen = resolve_device(device)
        generator = load_generator(folder / "generator", device=chosen, dtype=dtype)
        prior = None
        if (folder / "prior").is_dir():
            prior = load_prior(folder / "prior", device=chosen, dtype=dtype)
        try:
            encoder = load_clip(clip or generator.encoder_id.model, device=chosen)
        except InputError as error:
            raise InputError(
                f"{path} needs the CLIP that it was trained with. {error} If it lies elsewhere "
                "now, say where with `--clip` (in Python: clip=...)."
            ) from error
        wanted = prior.prior.config.text_encoder if prior else None
        reader = TextEncoder.load(text_encoder or wanted.model, device=chosen) if wanted else None
        return TextToImage(encoder, generator, prior, text_encoder=reader, hash=model_hash(folder))

    @plain_settings()
    @torch.no_grad()
    def sampler(
        self,
        texts: Sequence[str],
        *,
        use_prior: bool = True,
        sampling: SamplerConfig | None = None,
    ) -> Callable[[Sequence[int]], Tensor]:
        """Encode N texts, once. The function returned gives image embeddings [N R, D] of N R seeds,
        row n R + r of text n; without a prior, the text embeddings themselves.
        """
        texts = [clean_text(text) for text in texts]
        distinct = list(dict.fromkeys(texts))
        rows = torch.tensor([distinct.index(text) for text in texts])
        if not use_prior or self.prior is None:
            embedding = self.clip.embed_texts(distinct).embedding[rows]
            return lambda seeds: embedding.repeat_interleave(len(seeds) // len(embedding), dim=0)
        prior = self.prior.prior
        sampling = resolve_sampler(prior, sampling or SamplerConfig())
        features = read_texts(distinct, self.clip, self.text_encoder)[rows]
        encoded = prior.encode_text(features, guided=sampling.guidance != 1.0)

        @plain_settings()
        def sample(seeds: Sequence[int]) -> Tensor:
            return sample_embeddings(prior, encoded, sample_seeds=seeds, sampling=sampling)

        return sample

    def embed(
        self,
        texts: Sequence[str],
        *,
        seeds: Sequence[int],
        use_prior: bool = True,
        sampling: SamplerConfig | None = None,
    ) -> Tensor:
        """Image embeddings [N R, D] for N texts and N R seeds, see `sampler`."""
        return self.sampler(texts, use_prior=use_prior, sampling=sampling)(seeds)

    @plain_settings()
    @torch.no_grad()
    def decode(
        self, embeddings: Tensor, *, seeds: Sequence[int], truncation: float = 1.0
    ) -> Tensor:
        """Images [N, R, R, 3] uint8 of unit image embeddings [N, D]; z of row i comes from
        `seeds[i]` alone.
        """
        if not math.isfinite(truncation):
            raise InputError(f"truncation must be finite, not {truncation}. Give 1 for none.")
        network = self.generator.network
        z = latents(seeds, network.config.z_dim).to(self.device)
        condition = self.generator.gaussian.standardise(embeddings.to(self.device))
        return to_uint8(network(z, condition, truncation=truncation))

    def images(
        self,
        text: str,
        *,
        num_images: int = 1,
        seed: int = 0,
        batch: int = 16,
        use_prior: bool = True,
        sampling: SamplerConfig | None = None,
        truncation: float = 1.0,
    ) -> Iterator[tuple[int, Image.Image]]:
        """(seed, image) pairs; image i uses seed + i, with separate streams for prior and z."""
        if num_images < 1 or batch < 1:
            raise InputError(
                f"num_images and batch must be at least 1, not {num_images} and {batch}."
            )
        sample = self.sampler([text], use_prior=use_prior, sampling=sampling)
        for start in range(0, num_images, batch):
            part = range(seed + start, seed + min(start + batch, num_images))
            made = self.decode(sample(part), seeds=part, truncation=truncation)
            for number, array in zip(part, made, strict=True):
                yield number, Image.fromarray(array.numpy())

    def __call__(
        self,
        text: str,
        *,
        num_images: int = 1,
        seed: int = 0,
        use_prior: bool = True,
        sampling: SamplerConfig | None = None,
    ) -> list[Image.Image]:
        """`num_images` images of `text`; the same seed gives the same images."""
        made = self.images(
            text, num_images=num_images, seed=seed, use_prior=use_prior, sampling=sampling
        )
        return [image for _, image in made]


def latents(sample_seeds: Sequence[int], dim: int) -> Tensor:
    """z [N, Z] whose row i depends on `sample_seeds[i]` alone."""
    return seeds.normal_per_sample((dim,), key=("z",), indices=sample_seeds)


def _download(name: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    if name.count("/") != 1:
        raise InputError(
            f"{name} is no folder. Give a model folder (see `lafite-shifted pack`) or a Hub id "
            "ORG/MODEL."
        )
    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.md"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(
            f"{name} is no folder here, and the Hub has not given it ({reason}). Check the name "
            "and the network."
        ) from error

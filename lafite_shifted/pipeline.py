"""The public API: words in, images out.

    model = TextToImage.from_pretrained("starter")  # the one that ships, or a folder
    images = model("a red apple", num_images=4, seed=0)

Shape letters: N prompts or images, R images a prompt or resolution, D embedding.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import get_args

import torch
from PIL import Image
from torch import Tensor

from lafite_shifted.decoder.generator import to_uint8
from lafite_shifted.device import resolve_device
from lafite_shifted.edits import Edits, PromptLike
from lafite_shifted.embedding_sampler import EmbeddingSampler, embedding_sampler
from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.encoder_id import check_same_encoder, check_same_text_encoder
from lafite_shifted.encoders.ensemble import load_clip
from lafite_shifted.encoders.image_input import image_levels
from lafite_shifted.encoders.text_encoder import TextEncoder
from lafite_shifted.errors import InputError
from lafite_shifted.generation import (
    Callback,
    Generation,
    Output,
    OutputType,
    Seeds,
    as_output,
    batches,
    sampling_of,
    seeds_of,
)
from lafite_shifted.io.hub import download
from lafite_shifted.io.starter import model_path
from lafite_shifted.model_folder import (
    LoadedGenerator,
    LoadedPrior,
    load_generator,
    load_prior,
    model_hash,
)
from lafite_shifted.prior.samplers import SamplerConfig
from lafite_shifted.prompts import Prompt
from torch_utils.device import DtypeName, pick_dtype
from torch_utils.torch_defaults import kept_random_state, plain_settings

BATCH = 16  # images a forward pass


class TextToImage(Edits):
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
        revision: str | None = None,
    ) -> "TextToImage":
        """Load "starter", the model that ships (./starter is a folder); a model folder; or a
        Hugging Face Hub id such as "someone/model" where no such folder exists: `revision`, or
        "someone/model@REVISION", is a branch, tag or commit of it.

        `dtype` is of activations, by default the one that training chooses on `device`: bfloat16
        where it is fast, else float32. `clip` and `text_encoder` override the names of the CLIP and
        of the prior's text encoder, for weights that lie elsewhere now. Raises InputError.
        """
        folder = model_path(path) if isinstance(path, str) else path
        if not folder.is_dir():
            folder = download(str(path), revision=revision)
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
    def to(
        self,
        device: str | torch.device | torch.dtype | None = None,
        dtype: torch.dtype | DtypeName | None = None,
    ) -> "TextToImage":
        """Move the model, in place, and return it: `.to("cuda")`, `.to("cuda", torch.bfloat16)`,
        `.to(torch.float32)`. `dtype` is of activations; it stays what it is where none is given.
        """
        if isinstance(device, torch.dtype):
            device, dtype = None, device
        chosen = self.device if device is None else resolve_device(str(device))
        kind = dtype or self.generator.network.compute_dtype
        if isinstance(kind, str) and kind in get_args(DtypeName):
            kind = pick_dtype(kind, chosen)
        if isinstance(kind, str) or kind not in (torch.float32, torch.bfloat16, torch.float16):
            raise InputError(f"dtype {kind} is not one of auto, float32, bfloat16 and float16.")
        self.generator = self.generator.to(chosen, kind)
        self.clip.to(chosen)
        if self.text_encoder is not None:
            self.text_encoder.to(chosen)
        if self.prior is not None:
            self.prior.prior.to_device(chosen).compute_dtype = kind
        self.device = chosen
        return self

    @plain_settings()
    @torch.no_grad()
    def sampler(
        self, prompts: Sequence[PromptLike], generation: Generation | None = None
    ) -> EmbeddingSampler:
        """Encode N prompts, once. The function returned gives image embeddings [N R, D] of N R
        seeds, row n R + r of prompt n; without a prior, text embeddings.
        """
        generation = generation or Generation()
        images = [prompt for prompt in prompts if isinstance(prompt, Image.Image)]
        if images:
            if len(images) < len(prompts):
                raise InputError("Give sentences or images; `interpolate` mixes the two.")
            if generation.negative_prompt is not None:
                raise InputError("Images pass no prior. Leave the negative prompt out.")
            embedding = self.embed_images(images)
            return lambda seeds: embedding.repeat_interleave(len(seeds) // len(embedding), dim=0)
        callback = generation.callback_on_step_end

        def on_step(step: int, time: int, z: Tensor) -> Tensor | None:
            assert callback is not None
            changed = (callback(self, step, time, {"latents": z}) or {}).get("latents")
            if changed is not None and getattr(changed, "shape", None) != z.shape:
                raise InputError(
                    f"callback_on_step_end must return `latents` of the shape {list(z.shape)} that "
                    "it was given."
                )
            return changed

        return embedding_sampler(
            [Prompt.of(prompt) for prompt in prompts if not isinstance(prompt, Image.Image)],
            self.clip,
            self.prior.prior if self.prior else None,
            self.text_encoder,
            generation=generation,
            on_step=on_step if callback else None,
        )

    def embed(
        self,
        prompts: Sequence[PromptLike],
        *,
        seeds: Sequence[int],
        use_prior: bool = True,
        sampling: SamplerConfig | None = None,
    ) -> Tensor:
        """Image embeddings [N R, D] for N prompts and N R seeds, see `sampler`."""
        return self.sampler(prompts, Generation(use_prior, sampling))(seeds)

    @plain_settings()
    @torch.no_grad()
    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """Embeddings [N, D] of N images of any size, as training takes them."""
        return self.clip.embed_images([image_levels(image) for image in images])

    @plain_settings()
    @torch.no_grad()
    def render(
        self, embeddings: Tensor, *, seeds: Sequence[int], truncation: float = 1.0
    ) -> Tensor:
        """Images [N, 3, R, R], about [-1, 1], of unit image embeddings [N, D]; z of row i comes
        from `seeds[i]` alone.
        """
        truncation = Generation(truncation=truncation).truncation
        return self.generator.render(embeddings, self.generator.w(seeds, truncation=truncation))

    def decode(
        self, embeddings: Tensor, *, seeds: Sequence[int], truncation: float = 1.0
    ) -> Tensor:
        """The same as [N, R, R, 3] uint8, on the CPU."""
        return to_uint8(self.render(embeddings, seeds=seeds, truncation=truncation))

    def stream(
        self,
        prompts: Sequence[PromptLike],
        seeds: Sequence[Sequence[int]],
        generation: Generation | None = None,
        *,
        batch: int = BATCH,
    ) -> Iterator[tuple[int, int, Tensor]]:
        """(number of the prompt, seed, image [R, R, 3] uint8 on the CPU) of the seeds of each
        prompt, in their order, as they are made; several prompts share a forward pass.
        """
        parts = self._batches(prompts, seeds, generation or Generation(), batch=batch)
        for numbers, own, images in parts:
            yield from zip(numbers, own, to_uint8(images), strict=True)

    def _batches(
        self,
        prompts: Sequence[PromptLike],
        seeds: Sequence[Sequence[int]],
        generation: Generation,
        *,
        batch: int,
    ) -> Iterator[tuple[list[int], list[int], Tensor]]:
        """Numbers of prompts, seeds, and images [n, 3, R, R] of each forward pass, on the
        device.
        """
        for part, passes in batches(seeds, batch):
            sample = self.sampler([prompts[n] for n in part], generation)
            for own in passes:
                flat = [seed for row in own for seed in row]
                images = self.render(sample(flat), seeds=flat, truncation=generation.truncation)
                numbers = [n for n, row in zip(part, own, strict=True) for _ in row]
                yield numbers, flat, images

    def __call__(
        self,
        prompt: PromptLike | list[PromptLike] | tuple[PromptLike, ...],
        *,
        negative_prompt: str | None = None,
        num_images: int = 1,
        seed: Seeds | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        use_prior: bool = True,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        sampling: SamplerConfig | None = None,
        truncation: float = 1.0,
        output_type: OutputType = "pil",
        callback_on_step_end: Callback | None = None,
        batch: int = BATCH,
    ) -> Output:
        """`num_images` images of each prompt, those of a prompt together: image i uses `seed` + i,
        from 0 unless told. A sequence of seeds stands for as many images of each prompt; a
        `torch.Generator` draws a seed for each image, or each of a list of them does.

        `num_inference_steps` and `guidance_scale` are the prior's, by default 4 (or its step
        budget) and 1, which is none (2 with a negative prompt); `sampling` has what else it knows.
        `output_type`: "pil", a list; "pt", a tensor [N, 3, R, R] in [0, 1]; "np", an array [N, R,
        R, 3] in [0, 1]. `callback_on_step_end` is called as diffusers does, with (model, step,
        time, {"latents": noisy embeddings [N, D]}), after each step of the prior, and may return
        such a dict to continue with.
        """
        prompts = list(prompt) if isinstance(prompt, list | tuple) else [prompt]
        if not prompts:
            raise InputError(
                "The list of prompts is empty. Give a sentence, such as 'a red apple'."
            )
        negative = negative_prompt or None
        sampling = sampling_of(sampling, num_inference_steps, guidance_scale, negative)
        generation = Generation(use_prior, sampling, truncation, negative, callback_on_step_end)
        seeds = seeds_of(len(prompts), num_images, seed=seed, generator=generator)
        parts = self._batches(prompts, seeds, generation, batch=batch)
        return as_output((images for *_, images in parts), output_type)

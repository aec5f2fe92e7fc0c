"""The edits of `TextToImage`: each method is what a verb, and a tab of the page, calls.

Wherever an image is changed, a sentence, a PIL image, or what another edit has made may be given.
Shape letters: N images, D embedding, R resolution.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from lafite_shifted.decoder.loaded import LoadedGenerator
from lafite_shifted.editing.guidance import GuidanceConfig, Guided, guide
from lafite_shifted.editing.interpolation import interpolate, loop, strip_times
from lafite_shifted.editing.latents import Latents
from lafite_shifted.editing.projection import Projection, ProjectionConfig
from lafite_shifted.editing.style_mixing import style_mix
from lafite_shifted.editing.text_difference import strength_steps, text_direction, turn
from lafite_shifted.editing.variations import spread_embedding
from lafite_shifted.embedding_sampler import EmbeddingSampler
from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.image_input import as_rgb, image_levels
from lafite_shifted.errors import InputError
from lafite_shifted.generation import Generation, Seeds, seeds_of, to_pil
from lafite_shifted.io.image_file import GIVEN_SUFFIXES
from lafite_shifted.prompts import Prompt
from torch_utils.torch_defaults import plain_settings

# {"a cat": 0.7, "a tiger": 0.3} mixes two sentences; an image stands for its own embedding
PromptLike = str | Mapping[str, float] | Prompt | Image.Image
DIRECTION_SEEDS = 16  # of the prior, whose mean is what a sentence means


class Edited(Sequence[Image.Image]):
    """The images of an edit, rendered when they are first looked at; `latents` are what they are
    made of, for the next edit.
    """

    def __init__(self, latents: Latents, generator: LoadedGenerator):
        self.latents, self._generator = latents, generator

    @cached_property
    def _images(self) -> list[Image.Image]:
        return [to_pil(levels) for levels in self.latents.levels(self._generator)]

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index):
        """An image, or a list of them."""
        return self._images[index]


End = PromptLike | Latents | Edited


class Edits:
    """What is done to images, on top of what `TextToImage` is."""

    clip: ClipEncoder
    generator: LoadedGenerator

    def sampler(
        self, prompts: Sequence[PromptLike], generation: Generation | None = None
    ) -> EmbeddingSampler:
        """See `TextToImage`."""
        raise NotImplementedError

    def embed_images(self, images: Sequence[Image.Image]) -> Tensor:
        """See `TextToImage`."""
        raise NotImplementedError

    @plain_settings()
    @torch.no_grad()
    def latents(
        self, end: End, *, seed: Seeds = 0, generation: Generation | None = None
    ) -> Latents:
        """What the images of a sentence or an image are made of, one for each seed."""
        if isinstance(end, Edited):
            end = end.latents
        if isinstance(end, Latents):
            if len(end) != 1:
                raise InputError(f"{len(end)} images are given where one is meant. Choose one.")
            return end
        if isinstance(end, str) and end.lower().endswith(GIVEN_SUFFIXES):
            raise InputError(
                f"{end!r} is a sentence here, and looks like a file. Give `PIL.Image.open({end!r})`"
                ", or `Latents.load` of latents."
            )
        generation = generation or Generation()
        (numbers,) = seeds_of(1, 1, seed=seed, generator=None)
        embedding = self.sampler([end], generation)(numbers)
        return Latents.of_seeds(
            self.generator, embedding, numbers, truncation=generation.truncation
        )

    def render_latents(self, latents: Latents, *, batch: int = 16) -> list[Image.Image]:
        """The images."""
        return [to_pil(levels) for levels in latents.levels(self.generator, batch=batch)]

    @plain_settings()
    @torch.no_grad()
    def variations(
        self,
        image: End,
        *,
        num_images: int = 4,
        seed: Seeds = 0,
        spread: float = 0.0,
        truncation: float = 1.0,
    ) -> Edited:
        """The image's embedding with the z of each seed; `spread` moves the embedding, too, by
        steps along Sigma^{1/2}: 1 is about as far as an unrelated image.
        """
        count = num_images if isinstance(seed, int | np.integer) else 1
        (numbers,) = seeds_of(1, count, seed=seed, generator=None)
        if not 0 <= spread < float("inf"):
            raise InputError(f"The spread must be a number from 0 on, not {spread}.")
        embedding = self.latents(image, seed=numbers[0]).embedding
        moved = spread_embedding(embedding, self.generator, numbers, spread=spread)
        return Edited(
            Latents.of_seeds(self.generator, moved, numbers, truncation=truncation), self.generator
        )

    @plain_settings()
    @torch.no_grad()
    def interpolate(
        self,
        a: End,
        b: End,
        *,
        steps: int = 8,
        seed: int = 0,
        seed_b: int | None = None,
        generation: Generation | None = None,
    ) -> Edited:
        """`steps` images from a to b, both included: embedding and z on great circles. `seed_b` is
        of b, by default `seed`.
        """
        times = strip_times(steps)
        generation = generation or Generation()
        first = self.latents(a, seed=seed, generation=generation)
        last = self.latents(b, seed=seed if seed_b is None else seed_b, generation=generation)
        return Edited(
            interpolate(first, last, self.generator, times, truncation=generation.truncation),
            self.generator,
        )

    @plain_settings()
    @torch.no_grad()
    def edit(
        self,
        image: End,
        source: str,
        target: str,
        *,
        strength: float | Sequence[float] = 0.4,
        seed: int = 0,
        generation: Generation | None = None,
    ) -> Edited:
        """The image with its embedding turned from `source`, what it shows, towards `target`: 0 is
        the image, 1 the direction alone. w and noise stay, so project an image first that is to be
        recognised.

        The direction is between the means of what the prior makes of both sentences: measured
        (docs/editing.md), it leads further than that between text embeddings, which
        arXiv:2204.06125 takes and `Generation(use_prior=False)` too.
        """
        strengths = strength_steps(strength)
        generation = generation or Generation()
        size = DIRECTION_SEEDS
        rows = self.sampler([source, target], generation)(list(range(size)) * 2)
        before, after = self.clip.id.normalise(rows.view(2, size, -1).mean(dim=1)).split(1)
        direction = text_direction(before, after)
        return Edited(
            turn(
                self.latents(image, seed=seed, generation=generation),
                direction,
                self.generator,
                strengths,
            ),
            self.generator,
        )

    @plain_settings()
    @torch.no_grad()
    def projection(self, image: Image.Image, config: ProjectionConfig | None = None) -> Projection:
        """The beginning of one, to be run in parts, saved and resumed; `project` runs one."""
        size = self.generator.network.config.resolution
        square = ImageOps.fit(as_rgb(image), (size, size), method=Image.Resampling.LANCZOS)
        return Projection(
            self.generator,
            self.clip,
            image_levels(square)[None],
            self.embed_images([image]),
            config or ProjectionConfig(),
        )

    def project(
        self, image: Image.Image, *, steps: int = 200, config: ProjectionConfig | None = None
    ) -> Projection:
        """w and noise with which the generator gives `image` back, its CLIP embedding held:
        `.latents`, to be edited, and `.metrics()`, PSNR and cosine.
        """
        projection = self.projection(image, config)
        for _ in projection.run(steps):
            pass
        return projection

    @plain_settings()
    @torch.no_grad()
    def style_mix(
        self,
        a: End,
        b: End,
        *,
        layers: Collection[int],
        seed: int = 0,
        seed_b: int | None = None,
        generation: Generation | None = None,
    ) -> Edited:
        """a, with these layers from b; 0 is the coarsest. `seed_b` is of b, by default `seed`."""
        first = self.latents(a, seed=seed, generation=generation)
        last = self.latents(b, seed=seed if seed_b is None else seed_b, generation=generation)
        return Edited(style_mix(first, last, self.generator, layers), self.generator)

    def guide(
        self,
        text: str | Mapping[str, float] | Prompt,
        *,
        num_images: int = 4,
        seed: Seeds = 0,
        config: GuidanceConfig | None = None,
        generation: Generation | None = None,
        on_step: Callable[[], None] | None = None,
    ) -> Guided:
        """Images nearer to a sentence by CLIP: the best of several seeds each, then gradient steps
        on w or z inside a trust region. `on_step` is called after each step of each image.
        """
        generation = generation or Generation()
        count = num_images if isinstance(seed, int | np.integer) else 1
        (numbers,) = seeds_of(1, count, seed=seed, generator=None)
        wanted = self.sampler([text], Generation(use_prior=False))([0])
        return guide(
            self.generator,
            self.clip,
            self.sampler([text], generation),
            wanted,
            numbers,
            config or GuidanceConfig(),
            truncation=generation.truncation,
            on_step=on_step,
        )

    @plain_settings()
    @torch.no_grad()
    def walk_latents(
        self,
        stops: Sequence[End],
        *,
        seeds: Sequence[int] = (0,),
        frames: int = 24,
        generation: Generation | None = None,
    ) -> Sequence[Latents]:
        """What the frames of `walk` are made of, from one stop to the next at a time."""
        if not stops or not seeds:
            raise InputError("A walk needs a stop and a seed. Give at least one of each.")
        generation = generation or Generation()
        count = max(len(stops), len(seeds))
        places = [
            self.latents(stops[n % len(stops)], seed=seeds[n % len(seeds)], generation=generation)
            for n in range(count)
        ]
        return loop(places, self.generator, frames=frames, truncation=generation.truncation)

    def walk(
        self,
        stops: Sequence[End],
        *,
        seeds: Sequence[int] = (0,),
        frames: int = 24,
        generation: Generation | None = None,
    ) -> Iterator[Image.Image]:
        """The frames of a loop through all stops and back, `frames` from each to the next. Stop n
        has seed n of `seeds`, which begin again; one stop goes through all seeds.
        """
        parts = self.walk_latents(stops, seeds=seeds, frames=frames, generation=generation)
        return (image for part in parts for image in self.render_latents(part))

"""The edits, each the method of `TextToImage` that its verb calls."""

import asyncio
import base64
import time
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from io import BytesIO

from PIL import Image

from lafite_shifted.editing.guidance import GuidanceConfig
from lafite_shifted.editing.latents import Latents
from lafite_shifted.editing.projection import Projection, ProjectionConfig
from lafite_shifted.edits import End
from lafite_shifted.errors import InputError
from lafite_shifted.generation import Generation, to_pil
from lafite_shifted.io.animation import write_animation
from lafite_shifted.pipeline import TextToImage
from lafite_shifted.serving.requests import (
    NUM_IMAGES,
    NUM_STEPS,
    STRENGTHS,
    Animation,
    Answer,
    EditBody,
    GuideBody,
    InterpolateBody,
    ProjectBody,
    StyleMixBody,
    VariationsBody,
    WalkBody,
)
from lafite_shifted.serving.requests import End as EndBody
from lafite_shifted.serving.server import Server

Check = Callable[[], None]  # of long work, between its steps
PROJECTIONS = 16  # that are kept, of the latest images


class EditEndpoints:
    """POST /v1/variations and the others."""

    def __init__(self, server: Server):
        self.server = server
        # by image, steps and seed: a slider of `edit` asks for the same one at every move
        self._projections: OrderedDict[tuple[bytes, int, int], Latents] = OrderedDict()

    async def variations(self, body: VariationsBody) -> Answer:
        """An image's embedding, with other z."""
        count = self.server.count(body.num_images, NUM_IMAGES)
        self.server.check(count)
        image = await self.server.image(body.image)
        seeds = range(body.seed, body.seed + count)
        shared = {"spread": f"{body.spread:g}"} | truncated(body)
        records = [{"seed": str(seed)} | shared for seed in seeds]
        return await self.server.answer(
            lambda model, _check: (
                model.variations(
                    image, seed=list(seeds), spread=body.spread, truncation=body.truncation
                ).latents
            ),
            records,
        )

    async def interpolate(self, body: InterpolateBody) -> Answer:
        """The way from one image or sentence to another."""
        count = max(2, self.server.count(body.num_images, NUM_STEPS))
        self.server.check(count)
        a, b = await self.server.end(body.a), await self.server.end(body.b)
        generation = Generation(truncation=body.truncation)
        shared = told("from", body.a) | told("to", body.b) | truncated(body)
        records = [{"step": f"{number + 1} of {count}"} | shared for number in range(count)]
        return await self.server.answer(
            lambda model, _check: (
                model.interpolate(
                    a,
                    b,
                    steps=count,
                    seed=body.a.seed,
                    seed_b=body.b.seed,
                    generation=generation,
                ).latents
            ),
            records,
        )

    async def edit(self, body: EditBody) -> Answer:
        """An image changed by the difference of two sentences."""
        strengths = body.strengths or STRENGTHS[: self.server.limits.images]
        self.server.check(len(strengths), body.source, body.target)
        self.server.check_work(gradient_steps=body.project_steps)
        image = await self.server.image(body.image)
        generation = Generation(truncation=body.truncation)
        shared = {"seed": str(body.seed), "project_steps": str(body.project_steps)}
        records = [
            {"from": body.source, "to": body.target, "strength": f"{strength:g}"}
            | shared
            | truncated(body)
            for strength in strengths
        ]

        def work(model: TextToImage, check: Check) -> Latents:
            start: End = image
            if body.project_steps:
                start = self._projected_once(model, image, body, check)
            found = model.edit(
                start,
                body.source,
                body.target,
                strength=strengths,
                seed=body.seed,
                generation=generation,
            )
            return found.latents

        return await self.server.answer(work, records)

    def _projected_once(
        self, model: TextToImage, image: Image.Image, body: EditBody, check: Check
    ) -> Latents:
        """In the one thread that works for all requests."""
        content = sha256(repr((image.mode, image.size)).encode() + image.tobytes()).digest()
        key = (content, body.project_steps, body.seed)
        if key not in self._projections:
            found = _projected(model, image, body.project_steps, body.seed, check)
            self._projections[key] = found.latents
            if len(self._projections) > PROJECTIONS:
                self._projections.popitem(last=False)
        return self._projections[key]

    async def style_mix(self, body: StyleMixBody) -> Answer:
        """a, with some layers of b."""
        self.server.check(1)
        a, b = await self.server.end(body.a), await self.server.end(body.b)
        generation = Generation(truncation=body.truncation)
        numbers = sorted(set(body.layers))
        shared = told("a", body.a) | told("b", body.b) | truncated(body)
        records = [{"layers_of_b": ",".join(map(str, numbers)) or "none"} | shared]
        return await self.server.answer(
            lambda model, _check: (
                model.style_mix(
                    a,
                    b,
                    layers=numbers,
                    seed=body.a.seed,
                    seed_b=body.b.seed,
                    generation=generation,
                ).latents
            ),
            records,
        )

    async def guide(self, body: GuideBody) -> Answer:
        """Images nearer to a sentence, by the CLIP of the model."""
        count = self.server.count(body.num_images, NUM_IMAGES)
        self.server.check(count, body.prompt)
        self.server.check_work(
            gradient_steps=count * body.steps,
            candidates=count * body.candidates,
        )
        seeds = range(body.seed, body.seed + count)
        shared = {"candidates": str(body.candidates), "steps": str(body.steps)}
        shared |= {"radius": f"{body.radius:g}"} | truncated(body)
        records = [{"prompt": body.prompt, "seed": str(seed)} | shared for seed in seeds]
        config = GuidanceConfig(body.candidates, body.steps, radius=body.radius)
        generation = Generation(truncation=body.truncation)

        def work(model: TextToImage, check: Check) -> Latents:
            found = model.guide(
                body.prompt,
                seed=list(seeds),
                config=config,
                generation=generation,
                on_step=check,
            )
            for record, before, after in zip(records, found.of_seed, found.of_end, strict=True):
                record |= {"cosine_before": f"{before:.3f}", "cosine": f"{after:.3f}"}
            return found.latents

        return await self.server.answer(work, records)

    async def project(self, body: ProjectBody) -> Answer:
        """An image as the generator gives it back, its embedding held."""
        self.server.check_work(gradient_steps=body.steps)
        image = await self.server.image(body.image)
        record = {"steps": str(body.steps), "seed": str(body.seed)}

        def work(model: TextToImage, check: Check) -> Latents:
            found = _projected(model, image, body.steps, body.seed, check)
            metrics = found.metrics()
            record.update(psnr=f"{metrics['psnr']:.1f} dB", cosine=f"{metrics['cosine']:.3f}")
            return found.latents

        return await self.server.answer(work, [record])

    async def walk(self, body: WalkBody) -> Animation:
        """A loop through sentences or seeds."""
        count = max(len(body.stops), len(body.seeds))
        if count < 2:
            raise InputError("A walk needs two stops at least. Give more sentences, or more seeds.")
        self.server.check(1, *body.stops)
        self.server.check_work(frames=count * body.frames)
        begun = time.monotonic()
        generation = Generation(truncation=body.truncation)

        def work(model: TextToImage, _check: Check) -> Latents:
            parts = model.walk_latents(
                body.stops, seeds=body.seeds, frames=body.frames, generation=generation
            )
            return Latents.joined(list(parts))

        images = await self.server.rendered(work)
        metadata = {"stops": " | ".join(body.stops), "seed": ",".join(map(str, body.seeds))}
        metadata |= truncated(body) | {"model": self.server.model.hash}
        file = BytesIO()
        frames = map(to_pil, images)
        await asyncio.to_thread(write_animation, file, "webp", frames, metadata, fps=body.fps)
        return Animation(
            webp=base64.b64encode(file.getvalue()).decode(),
            frames=len(images),
            metadata=metadata,
            seconds=round(time.monotonic() - begun, 4),
        )


def _projected(
    model: TextToImage, image: Image.Image, steps: int, seed: int, check: Check
) -> Projection:
    projection = model.projection(image, ProjectionConfig(seed=seed))
    for _ in projection.run(steps):
        check()
    return projection


# --- what an image says of how it was made


def truncated(
    body: VariationsBody | InterpolateBody | EditBody | StyleMixBody | GuideBody | WalkBody,
) -> dict[str, str]:
    return {"truncation": f"{body.truncation:g}"}


def told(name: str, end: EndBody) -> dict[str, str]:
    """A sentence or an upload, and its seed."""
    return {name: end.prompt or "an upload", f"{name}_seed": str(end.seed)}

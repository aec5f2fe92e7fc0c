"""The edits, each the method of `TextToImage` that its verb calls."""

import asyncio
import base64
import time
from collections.abc import Callable
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


class EditEndpoints:
    """POST /v1/variations and the others."""

    def __init__(self, server: Server):
        self.server = server

    async def variations(self, body: VariationsBody) -> Answer:
        """An image's embedding, with other z."""
        self.server.check(body.num_images)
        image = await self.server.image(body.image)
        seeds = range(body.seed, body.seed + body.num_images)
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
        self.server.check(body.num_images)
        a, b = await self.server.end(body.a), await self.server.end(body.b)
        generation = Generation(truncation=body.truncation)
        shared = told("from", body.a) | told("to", body.b) | truncated(body)
        records = [{"step": str(number)} | shared for number in range(body.num_images)]
        return await self.server.answer(
            lambda model, _check: (
                model.interpolate(
                    a,
                    b,
                    steps=body.num_images,
                    seed=body.a.seed,
                    seed_b=body.b.seed,
                    generation=generation,
                ).latents
            ),
            records,
        )

    async def edit(self, body: EditBody) -> Answer:
        """An image changed by the difference of two sentences."""
        self.server.check(len(body.strengths), body.source, body.target)
        self.server.check_work(gradient_steps=body.project_steps)
        image = await self.server.image(body.image)
        generation = Generation(truncation=body.truncation)
        shared = {"seed": str(body.seed), "project_steps": str(body.project_steps)}
        records = [
            {"from": body.source, "to": body.target, "strength": f"{strength:g}"}
            | shared
            | truncated(body)
            for strength in body.strengths
        ]

        def work(model: TextToImage, check: Check) -> Latents:
            start: End = image
            if body.project_steps:
                start = _projected(model, image, body.project_steps, body.seed, check).latents
            found = model.edit(
                start,
                body.source,
                body.target,
                strength=body.strengths,
                seed=body.seed,
                generation=generation,
            )
            return found.latents

        return await self.server.answer(work, records)

    async def style_mix(self, body: StyleMixBody) -> Answer:
        """a, with some layers of b."""
        self.server.check(1)
        a, b = await self.server.end(body.a), await self.server.end(body.b)
        generation = Generation(truncation=body.truncation)
        numbers = sorted(set(body.layers))
        shared = told("coarse", body.a) | told("fine", body.b) | truncated(body)
        records = [{"layers": ",".join(map(str, numbers))} | shared]
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
        self.server.check(body.num_images, body.prompt)
        self.server.check_work(
            gradient_steps=body.num_images * body.steps,
            candidates=body.num_images * body.candidates,
        )
        seeds = range(body.seed, body.seed + body.num_images)
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

"""What the endpoints share, and the one that makes images of sentences."""

import asyncio
import base64
import binascii
import dataclasses
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from io import BytesIO

from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from PIL import Image
from torch import Tensor

from lafite_shifted.encoders.text_features import clean_text
from lafite_shifted.errors import InputError
from lafite_shifted.generation import NEGATIVE_GUIDANCE, Generation, to_pil
from lafite_shifted.io.png import write_png
from lafite_shifted.pipeline import TextToImage
from lafite_shifted.prior.sample_embeddings import resolve_sampler
from lafite_shifted.prior.samplers import SamplerConfig
from lafite_shifted.prompts import Prompt
from lafite_shifted.serving.batcher import Batcher, EditWork, PromptWork, QueueFullError
from lafite_shifted.serving.counters import Counters
from lafite_shifted.serving.limits import Limits
from lafite_shifted.serving.requests import (
    NUM_IMAGES,
    Answer,
    End,
    GenerateBody,
    LimitsAnswer,
    MadeImage,
)

_DATA_URL = re.compile(r"\s*data:[^,]{0,200};base64,", re.IGNORECASE)
Decode = Callable[[bytes], Image.Image]  # raises InputError


class Server:
    """What the endpoints share."""

    def __init__(self, model: TextToImage, decode: Decode, limits: Limits):
        self.model, self.decode, self.limits = model, decode, limits
        self.batcher, self.counters = Batcher(model, limits), Counters()

    async def generate(self, body: GenerateBody) -> Response | Answer:
        """Images of a sentence, or of several with weights."""
        if (body.prompt is None) == (body.mix is None):
            raise InputError("Give `prompt`, or `mix`, one of the two.")
        prompt = Prompt.of(body.mix if body.mix is not None else body.prompt or "")
        negative = None if body.negative is None else clean_text(body.negative)
        count = self.count(body.num_images, NUM_IMAGES)
        seeds = body.seeds or range(body.seed, body.seed + count)
        self.check(len(seeds), *prompt.texts, *([negative] if negative else []))
        if body.steps is not None and body.steps > self.limits.prior_steps:
            raise InputError(f"steps is {body.steps}, the limit is {self.limits.prior_steps}.")
        if not body.use_prior and (body.steps is not None or body.guidance not in (None, 1.0)):
            raise InputError("steps and guidance are the prior's, and use_prior is false.")
        usual = 1.0 if negative is None else NEGATIVE_GUIDANCE
        guidance = usual if body.guidance is None else body.guidance
        sampling = SamplerConfig(body.steps, guidance=guidance)
        generation = Generation(body.use_prior, sampling, body.truncation, negative)
        shared = {"prompt": str(prompt), "truncation": f"{body.truncation:g}"}
        if body.use_prior and self.model.prior is not None:
            chosen = resolve_sampler(self.model.prior.prior, sampling)
            shared |= {"steps": str(chosen.steps), "guidance": f"{guidance:g}"}
            shared |= {"negative": negative} if negative else {}
        else:
            shared |= {"prior": "none"}
        records = [shared | {"seed": str(seed)} for seed in seeds]
        if body.stream:
            return StreamingResponse(
                self._lines(prompt, seeds, generation, records), media_type="application/x-ndjson"
            )
        return await self.answer(PromptWork(prompt, seeds, generation), records)

    async def limits_answer(self) -> LimitsAnswer:
        """What this server allows, and what its model is."""
        network = self.model.generator.network
        return LimitsAnswer(
            model=self.model.hash,
            resolution=network.config.resolution,
            has_prior=self.model.prior is not None,
            layers=len(network.generator.layers),
            limits=dataclasses.asdict(self.limits),
        )

    async def health(self) -> JSONResponse:
        """200 while requests are answered."""
        alive = self.batcher.is_alive
        return JSONResponse({"status": "ok" if alive else "stopped"}, 200 if alive else 503)

    async def metrics(self) -> PlainTextResponse:
        """Prometheus' text format."""
        text = self.counters.text(waiting=self.batcher.waiting)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4")

    # --- helpers

    def count(self, requested: int | None, default: int) -> int:
        """Images of a request; `default`, or as many as are allowed, where it says no number."""
        return min(default, self.limits.images) if requested is None else requested

    def check(self, num_images: int, *texts: str) -> None:
        """InputError where a request is beyond the limits."""
        limits = self.limits
        if num_images > limits.images:
            raise InputError(f"{num_images} images: the limit of a request is {limits.images}.")
        if len(texts) > limits.sentences:
            raise InputError(f"{len(texts)} sentences: the limit is {limits.sentences}.")
        for text in texts:
            if len(text) > limits.prompt_characters:
                raise InputError(
                    f"A sentence has {len(text)} characters, the limit is "
                    f"{limits.prompt_characters}."
                )

    def check_work(self, **counts: int) -> None:
        """The same of what `Limits` names: gradient_steps, candidates, frames."""
        for name, count in counts.items():
            limit = getattr(self.limits, name)
            if count > limit:
                raise InputError(
                    f"{count} {name.replace('_', ' ')} in all: the limit of a request is {limit}."
                )

    async def image(self, encoded: str) -> Image.Image:
        """An image of a request; InputError where it is none."""
        data = "".join(_DATA_URL.sub("", encoded, count=1).split())  # `base64` breaks lines
        try:
            content = base64.b64decode(data, validate=True)
        except (binascii.Error, ValueError) as error:
            raise InputError(
                f"The image is not base64 ({error}). Send what `base64 -w0 FILE` says, or a data "
                "URL of it."
            ) from error
        if len(content) > self.limits.upload_bytes:
            raise InputError(
                f"The image has {len(content)} bytes, the limit is {self.limits.upload_bytes}."
            )
        return await asyncio.to_thread(self.decode, content)

    async def end(self, end: End) -> Prompt | Image.Image:
        """What an edit takes, of a request."""
        if (end.prompt is None) == (end.image is None):
            raise InputError("Each end is a `prompt` or an `image`, one of the two.")
        if end.image is not None:
            return await self.image(end.image)
        prompt = Prompt.of(end.prompt or "")
        self.check(1, *prompt.texts)
        return prompt

    async def rendered(self, work: PromptWork | EditWork) -> list[Tensor]:
        """Images [R, R, 3] uint8, once the batches that hold them are done. Where the client goes
        away meanwhile, what waits is not begun, and long work ends at its next step.
        """
        job = self.batcher.submit(work)
        try:
            images = await asyncio.wrap_future(job.future)
        except asyncio.CancelledError:
            job.is_wanted = False
            raise
        sizes = [self.batcher.batch_sizes.popleft() for _ in range(len(self.batcher.batch_sizes))]
        self.counters.made(len(images), sizes)
        return images

    async def answer(
        self, work: PromptWork | EditWork, records: Sequence[Mapping[str, str]]
    ) -> Answer:
        """The answer that has all images, each with its record."""
        begun = time.monotonic()
        images = await self.rendered(work)
        made = await asyncio.to_thread(self.encoded, images, records)
        return Answer(images=made, seconds=round(time.monotonic() - begun, 4))

    def encoded(
        self, images: Sequence[Tensor], records: Sequence[Mapping[str, str]]
    ) -> list[MadeImage]:
        """Images and their records as JSON holds them."""
        made = []
        for image, record in zip(images, records, strict=True):
            metadata, file = {**record, "model": self.model.hash}, BytesIO()
            write_png(file, to_pil(image), metadata)
            made.append(
                MadeImage(png=base64.b64encode(file.getvalue()).decode(), metadata=metadata)
            )
        return made

    async def _lines(
        self,
        prompt: Prompt,
        seeds: Sequence[int],
        generation: Generation,
        records: Sequence[Mapping[str, str]],
    ) -> AsyncIterator[str]:
        """One image a line; a reader that goes away costs no more than the image in work."""
        for seed, record in zip(seeds, records, strict=True):
            try:
                images = await self.rendered(PromptWork(prompt, [seed], generation))
            except (InputError, QueueFullError) as error:  # the status is sent already
                yield json.dumps({"detail": str(error) or "Too many requests wait."}) + "\n"
                return
            (made,) = await asyncio.to_thread(self.encoded, images, [record])
            yield made.model_dump_json() + "\n"

"""The bodies of requests under /v1 and of their answers. Strict: what is not known is refused, with
the place and the reason. Bounds that a server sets itself are checked in `app`.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from lafite_shifted.generation import NEGATIVE_GUIDANCE

Seed = Annotated[int, Field(ge=-(2**62), le=2**62)]
Text = Annotated[str, Field(min_length=1, description="A sentence, such as: a red apple")]
Upload = Annotated[
    str, Field(min_length=1, description="A PNG, JPEG, WebP, GIF or BMP in base64, or its data URL")
]
# where none is given: these, or as many as the server allows
NUM_IMAGES, NUM_STEPS, STRENGTHS = 4, 8, (0.0, 0.2, 0.4, 0.6)
NumImages = Annotated[
    int | None, Field(ge=1, description=f"{NUM_IMAGES} unless the server allows fewer")
]


class Body(BaseModel):
    """Of every request."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Settings(Body):
    """What the prior and the generator are told."""

    num_images: NumImages = None
    seed: Seed = Field(0, description="Image i uses seed + i")
    truncation: float = Field(1.0, ge=-10, le=10)
    guidance: float | None = Field(
        None,
        ge=-100,
        le=100,
        description=f"Of the prior; 1, which is none, or {NEGATIVE_GUIDANCE:g} with `negative`",
    )
    steps: int | None = Field(None, ge=1, description="Sampling steps of the prior")
    negative: str | None = Field(None, min_length=1, description="What guidance leads away from")
    use_prior: bool = True


class GenerateBody(Settings):
    """POST /v1/generate."""

    prompt: Text | None = Field(None, description="A sentence; or `mix`")
    seeds: list[Seed] | None = Field(
        None, min_length=1, description="One an image, in place of `seed` and `num_images`"
    )
    mix: dict[str, float] | None = Field(None, description="Sentences and their weights")
    stream: bool = Field(False, description="One image a line, as they come")


class VariationsBody(Body):
    """POST /v1/variations."""

    image: Upload
    num_images: NumImages = None
    seed: Seed = 0
    spread: float = Field(0.0, ge=0, le=10)
    truncation: float = Field(1.0, ge=-10, le=10)


class End(Body):
    """One end of an interpolation: a sentence or an image."""

    prompt: Text | None = None
    image: Upload | None = None
    seed: Seed = 0


class InterpolateBody(Body):
    """POST /v1/interpolate."""

    a: End
    b: End
    num_images: int | None = Field(
        None, ge=2, description=f"{NUM_STEPS} unless the server allows fewer"
    )
    truncation: float = Field(1.0, ge=-10, le=10)


class EditBody(Body):
    """POST /v1/edit."""

    image: Upload
    source: Text = Field(description="What the image shows")
    target: Text = Field(description="What it shall show")
    strengths: list[Annotated[float, Field(ge=0, le=1)]] | None = Field(
        None,
        min_length=1,
        description=f"One an image; {', '.join(map(str, STRENGTHS))}, or as many as are allowed",
    )
    seed: Seed = 0
    truncation: float = Field(1.0, ge=-10, le=10)
    project_steps: int = Field(0, ge=0, description="The image is projected first, to be kept")


class StyleMixBody(Body):
    """POST /v1/style-mix."""

    a: End
    b: End
    layers: list[Annotated[int, Field(ge=0)]] = Field(
        description="That come from b; 0 is the coarsest"
    )
    truncation: float = Field(1.0, ge=-10, le=10)


class GuideBody(Body):
    """POST /v1/guide."""

    prompt: Text
    num_images: NumImages = None
    seed: Seed = Field(0, description="Image i uses seed + i")
    candidates: int = Field(8, ge=1, description="Seeds an image, of which the best is taken")
    steps: int = Field(20, ge=0, description="Of the gradient, after that")
    radius: float = Field(0.5, gt=0, le=10, description="Of the trust region")
    truncation: float = Field(1.0, ge=-10, le=10)


class ProjectBody(Body):
    """POST /v1/project."""

    image: Upload
    steps: int = Field(100, ge=0)
    seed: Seed = 0


class WalkBody(Body):
    """POST /v1/walk."""

    stops: list[Text] = Field(min_length=1, description="Sentences, in their order")
    seeds: list[Seed] = Field([0], min_length=1, description="One stop goes through all of them")
    frames: int = Field(16, ge=1, description="From each stop to the next")
    fps: int = Field(12, ge=1, le=50)
    truncation: float = Field(1.0, ge=-10, le=10)


class MadeImage(BaseModel):
    """An image, and what it was made from, which the PNG holds as well."""

    png: str = Field(description="In base64")
    metadata: dict[str, str]


class Answer(BaseModel):
    """Of every request for images."""

    images: list[MadeImage]
    seconds: float


class Animation(BaseModel):
    """POST /v1/walk: a loop that plays for ever."""

    webp: str = Field(description="In base64")
    frames: int
    metadata: dict[str, str]
    seconds: float


class Refusal(BaseModel):
    """Why not, and what to do."""

    detail: str | list[dict[str, object]]


class LimitsAnswer(BaseModel):
    """GET /v1/limits."""

    model: str
    resolution: int
    has_prior: bool
    layers: int
    limits: dict[str, float]
    kind: Literal["lafite-shifted"] = "lafite-shifted"

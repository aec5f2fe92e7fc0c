"""What a server allows, and how it batches: stated at /v1/limits, and in every refusal."""

from dataclasses import dataclass

from lafite_shifted.errors import InputError


@dataclass(frozen=True)
class Limits:
    """All that bounds a request, or all of them together."""

    prompt_characters: int = 500
    sentences: int = 8  # of one request, the mixed ones together; stops of a walk
    images: int = 16  # of one request
    prior_steps: int = 64
    # of `project` and `guide`, all images together: while they run, other requests wait
    gradient_steps: int = 400
    candidates: int = 128  # of `guide`, all images together
    frames: int = 240  # of a walk
    upload_bytes: int = 8 * 2**20  # of one image
    upload_megapixels: float = 20.0
    queue: int = 64  # requests that wait; more are told to come back
    batch: int = 16  # images a forward pass, of all requests together
    window_ms: float = 4.0  # that the first request of a batch waits for others

    def __post_init__(self) -> None:
        counts = (self.prompt_characters, self.images, self.queue, self.batch, self.upload_bytes)
        if min(counts) < 1 or self.window_ms < 0 or self.upload_megapixels <= 0:
            raise InputError("Limits of a server must be above 0. Change the flag.")

    def __str__(self) -> str:
        named = vars(self).items()
        return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in named)

    @property
    def body_bytes(self) -> int:
        """Of a request: two images in base64, and the rest."""
        return 2 * (self.upload_bytes * 4 // 3 + 4) + 2**16

"""Text-to-image models trained on images alone: a StyleGAN2 decoder of CLIP embeddings and a
shifted diffusion prior.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lafite_shifted.pipeline import TextToImage

__all__ = ["TextToImage", "__version__"]

try:
    __version__ = version("lafite-shifted")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"


def __getattr__(name: str) -> object:
    """`TextToImage` on first use: importing torch takes seconds, which `--help` must not."""
    if name == "TextToImage":
        from lafite_shifted.pipeline import TextToImage

        return TextToImage
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Text-to-image models trained on images alone: a StyleGAN2 decoder of CLIP embeddings and a
shifted diffusion prior.
"""

import sys
from importlib.machinery import PathFinder
from importlib.metadata import PackageNotFoundError, version
from importlib.util import module_from_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lafite_shifted.pipeline import TextToImage

__all__ = ["TextToImage", "__version__"]

try:
    __version__ = version("lafite-shifted")
except PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"


def use_own(*names: str) -> None:
    """Import these packages, which lie beside this one, whatever comes first on the path: a user's
    folder may hold another `training` or `torch_utils`. ImportError where one is imported already.
    """
    beside = str(Path(__file__).resolve().parents[1])
    for name in names:
        spec = PathFinder.find_spec(name, [beside])
        if spec is None or spec.loader is None:
            continue
        found = sys.modules.get(name)
        if found is None:
            sys.modules[name] = module = module_from_spec(spec)
            spec.loader.exec_module(module)
        elif Path(found.__file__ or "").resolve() != Path(spec.origin or "").resolve():
            raise ImportError(
                f"lafite_shifted needs its own package {name!r}, but {found.__file__} is imported "
                "already under that name. Import lafite_shifted first, or rename the other."
            )


use_own("torch_utils", "ops_cuda")


def __getattr__(name: str) -> object:
    """`TextToImage` on first use: importing torch takes seconds, which `--help` must not."""
    if name == "TextToImage":
        from lafite_shifted.pipeline import TextToImage

        return TextToImage
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Where the model that ships with lafite_shifted lies, and its name: `starter`, wherever a model or
a CLIP is named. It imports nothing slow: the command line uses it.

    starter/  clip/, generator/, prior/, discriminator/, README.md: a model folder and its CLIP
"""

from importlib import resources
from pathlib import Path

from lafite_shifted.errors import InputError

STARTER = "starter"


def starter_folder() -> Path:
    """The shipped model folder, whether its weights are there or not."""
    return Path(str(resources.files("lafite_shifted") / "assets" / STARTER))


def starter_clip() -> Path:
    """The folder of the shipped CLIP."""
    return starter_folder() / "clip"


def has_starter() -> bool:
    """Whether the weights of the shipped model are there, beside its CLIP."""
    return (starter_folder() / "generator" / "weights.safetensors").is_file()


def starter_model() -> Path:
    """The shipped model folder; InputError where its weights are missing."""
    if not has_starter():
        raise InputError(
            f"The starter model is not in this installation: {starter_folder()} lacks "
            "generator/weights.safetensors. Install lafite-shifted again, make the model with "
            "`make starter` in a clone of the repository, or name a model folder of your own; "
            "`demo --from-scratch` needs none."
        )
    return starter_folder()


def model_path(name: str) -> Path:
    """The path of what is called `name`: `starter`, else a folder. ./starter is a folder."""
    return starter_model() if name == STARTER else Path(name)


def model_name(path: Path) -> str:
    """A model folder's name that means the same on another machine, where it is the shipped one."""
    return STARTER if path == starter_folder() else str(path)

"""What `--clip` takes: names of models, tags and files of weights, and what may be read of them."""

import zipfile
from pathlib import Path

import open_clip
from open_clip.pretrained import get_pretrained_cfg

from lafite_shifted.errors import InputError
from lafite_shifted.io.shell import absolute, expanded
from lafite_shifted.io.starter import STARTER, starter_clip


def recorded_name(name: str) -> str:
    """A --clip value that means the same in another folder: paths become absolute, ~ the home
    folder.
    """
    if name == STARTER or name.startswith("hf-hub:"):
        return name
    folder = name.removeprefix("local-dir:")
    if (Path(expanded(folder)) / "open_clip_config.json").is_file():
        return name.removesuffix(folder) + absolute(folder)
    model, slash, pretrained = name.partition("/")
    if slash and model in open_clip.list_models() and Path(expanded(pretrained)).is_file():
        return f"{model}/{absolute(pretrained)}"
    return name


def resolve(name: str) -> tuple[str, str | None]:
    """open_clip's (model name, pretrained) for a --clip value."""
    if name == STARTER:
        return f"local-dir:{starter_clip()}", None
    if name.startswith(("hf-hub:", "local-dir:")):
        return name, None
    path = Path(name)
    if (path / "open_clip_config.json").is_file():
        return f"local-dir:{path}", None
    model, slash, pretrained = name.partition("/")
    if not slash or not pretrained or model not in open_clip.list_models():
        raise InputError(
            f"--clip {name}: not known. Give `starter`, MODEL/PRETRAINED such as "
            "ViT-B-32/laion2b_s34b_b79k (or "
            "ViT-B-32/path/to/weights.safetensors), hf-hub:ORG/REPO, or a folder with "
            "open_clip_config.json."
        )
    tags = open_clip.list_pretrained_tags_by_model(model)
    if pretrained not in tags and not Path(pretrained).is_file():
        raise InputError(
            f"--clip {name}: {pretrained!r} is neither a file nor a pretrained tag of {model}. "
            f"Its tags are: {', '.join(tags) or 'none'}."
        )
    return model, pretrained


def needs_quick_gelu(model: str, pretrained: str | None) -> bool:
    """Whether the weights of this tag were trained with QuickGELU: the wrong one silently hurts."""
    return bool(pretrained and get_pretrained_cfg(model, pretrained).get("quick_gelu", False))


def weights_files(model_name: str, pretrained: str | None) -> list[Path]:
    """Local files that open_clip may unpickle."""
    if pretrained is not None:
        return [Path(pretrained)]
    folder = Path(model_name.removeprefix("local-dir:"))
    return [*folder.glob("*.bin"), *folder.glob("*.pth")]


def refuse_torchscript(path: Path) -> None:
    """TorchScript archives carry code; open_clip would run it."""
    if path.is_file() and zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.endswith("constants.pkl") for entry in archive.namelist()):
                raise InputError(
                    f"{path} is a TorchScript archive, which can run code. Use safetensors "
                    "weights instead."
                )

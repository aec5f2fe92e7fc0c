"""The model that ships: sentences to images, then the same model adapted to another style of
drawing by images alone.

Shape letters: N images, D embedding, R resolution.
"""

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from PIL import Image
from torch import Tensor

from lafite_shifted.errors import InputError
from lafite_shifted.io.files import read_json_lines, write_json
from lafite_shifted.io.png import save_png
from lafite_shifted.io.starter import STARTER, starter_model
from lafite_shifted.packing import pack_model
from lafite_shifted.pipeline import TextToImage
from training.gan.config import GanTrainConfig
from training.gan.data import GanData
from training.gan.evaluate import embed_uint8
from training.gan.features.config import FeatureConfig
from training.gan.presets import GAN_PRESETS
from training.gan.report import renderer
from training.gan.run import gan_config, load_backbone, open_gan_run
from training.gan.transfer import with_networks_of
from training.loop import Progress, run_loop
from training.metrics.distances import feature_kernel_distance, nearest
from training.metrics.grids import GAP, labelled_grid, with_column_titles
from training.metrics.judges import ClipJudge, ImageJudge
from training.metrics.resnet import JudgeMissingError, ResNetJudge

ASSETS = Path(__file__).parents[2] / "lafite_shifted" / "assets"
SENTENCES = (
    "a red heart",
    "a smiling yellow face",
    "a blue square button",
    "a green leaf",
    "a black clock",
    "a flag",
    "a brown animal face",
    "an orange fruit",
)
SEEDS_PER_SENTENCE = 4
SIDE = 64  # pixels of an image in the grid, at least

Say = Callable[[str], None]  # a line for the user
Show = Callable[[Iterator[Progress], str], dict[str, float]]  # drains a training


@dataclass(frozen=True)
class DemoConfig:
    """How the model that ships is adapted."""

    adapt_kimg: float = 8.0
    # of its training, as --set takes them: few images, which should be fitted soon
    settings: tuple[str, ...] = (
        "learning_rate=0.005",
        "pixel_matching_weight=10",
        "pseudo_text_cosine=0.99",
    )
    seed: int = 0


@dataclass(frozen=True)
class DemoResult:
    """What the demo made."""

    grid: Path
    table: list[str]
    next_commands: list[str]
    metrics: dict[str, dict[str, float]]


def run_demo(
    out: Path, config: DemoConfig, *, device: torch.device, say: Say, show: Show
) -> DemoResult:
    """Generate, adapt, pack, generate again and measure; resumes what was interrupted."""
    shipped = starter_model()  # refused before anything is written
    say("\n== 1. sentences, by the model that ships")
    starter = TextToImage.from_pretrained(STARTER, device=str(device))
    before = _images_of(starter, seed=config.seed)
    rows = list(zip(SENTENCES, before, strict=True))
    first = out / "starter.png"
    save_png(first, labelled_grid(rows, scale=_scale(before)).image, {"model": starter.hash})
    say(f"{len(SENTENCES)} sentences, {SEEDS_PER_SENTENCE} images each: {first}")

    say("\n== 2. the same model, adapted to 512 drawings of another style; no caption is used")
    run = out / "adapted"
    base = with_networks_of(shipped, run, GAN_PRESETS["small"])
    training = gan_config(
        _without_missing_network(base, starter, device, say),
        kimg=config.adapt_kimg,
        seed=config.seed,
        # none of the shipped images is on the held-out side
        assignments=["hold_out=false", *config.settings],
    )
    trainer, folder, report = open_gan_run(
        training, ASSETS / "style", run, starter.clip, device=device, init=shipped
    )
    say(f"{report.num_embedded} images embedded, {report.num_reused} reused")
    for line in trainer.kept:
        say(line)
    show(run_loop(trainer, trainer.config.run, folder), "adapting")

    say("\n== 3. pack with the prior as it was, generate again, measure")
    model = out / "model"
    shutil.rmtree(model, ignore_errors=True)
    pack_model(model, gan=run, prior=shipped)
    adapted = TextToImage.from_pretrained(model, device=str(device))
    grid = _write_grid(out, before, adapted, trainer.data, seed=config.seed)
    judge = _judge_of(starter, say)
    metrics = _measure({"starter": starter, "adapted": adapted}, trainer.data, judge)
    write_json(out / "metrics.json", metrics)
    table = _table(metrics, judge, trainer.data)
    return DemoResult(grid, table, _next_commands(model, config.settings), metrics)


def _images_of(model: TextToImage, *, seed: int) -> list[list[Image.Image]]:
    """Of every sentence, with the same seeds whatever the model."""
    made = [model(text, num_images=SEEDS_PER_SENTENCE, seed=seed) for text in SENTENCES]
    return cast(list[list[Image.Image]], made)


def _scale(rows: Sequence[Sequence[Image.Image]]) -> int:
    return max(1, SIDE // rows[0][0].width)


def _without_missing_network(
    config: GanTrainConfig, model: TextToImage, device: torch.device, say: Say
) -> GanTrainConfig:
    """`config` without heads on features where their frozen network is not installed here."""
    try:
        load_backbone(config, model.clip, device=device)
    except InputError as error:
        say(f"warning: {error} Until then the discriminator of pixels adapts the model alone.")
        return dataclasses.replace(config, features=FeatureConfig())
    return config


def _write_grid(
    out: Path, before: list[list[Image.Image]], adapted: TextToImage, data: GanData, *, seed: int
) -> Path:
    """A row for each sentence: before, after, and the drawings of the new style that are nearest to
    the latter, by CLIP.
    """
    named = read_json_lines(ASSETS / "style" / "metadata.jsonl")
    names = {row["file_name"]: row["text"] for row in named}
    rows = []
    for text, first, second in zip(SENTENCES, before, _images_of(adapted, seed=seed), strict=True):
        seen = embed_uint8(adapted.clip, torch.stack([_pixels(image) for image in second]))
        closest = nearest(seen, data.embeddings).tolist()
        real = data.images.get_batch(closest).pixels.permute(0, 2, 3, 1)  # [N, R, R, 3]
        found = dict.fromkeys(names[data.images.names[row]] for row in closest)
        shown = [*first, *second, *(Image.fromarray(array.numpy()) for array in real)]
        rows.append((f"{text}   (nearest: {', '.join(found)})", shown))
    scale = _scale(before)
    titles = ("starter", "adapted, the same seeds", "nearest of the 512 drawings")
    width = SEEDS_PER_SENTENCE * (scale * before[0][0].width + GAP) - GAP  # of a third of the grid
    image = with_column_titles(labelled_grid(rows, scale=scale).image, titles, cell=width)
    save_png(out / "grid.png", image, {"model": adapted.hash})
    return out / "grid.png"


def _pixels(image: Image.Image) -> Tensor:
    """[R, R, 3] uint8."""
    return torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(
        image.height, image.width, 3
    )


def _judge_of(model: TextToImage, say: Say) -> ImageJudge:
    try:
        return ResNetJudge.load()
    except JudgeMissingError as error:
        say(
            f"warning: {error} Until then the distance is by the CLIP that conditions the model, "
            "which is no judge of it."
        )
        return ClipJudge(model.clip)


@torch.no_grad()
def _measure(
    models: Mapping[str, TextToImage], data: GanData, judge: ImageJudge
) -> dict[str, dict[str, float]]:
    """Kernel distance of images generated from the embeddings of the drawings to these drawings;
    and of one half of them to the other.
    """
    rows = list(range(len(data.images)))
    real = judge.features(data.images.get_batch(rows).pixels.permute(0, 2, 3, 1))
    found = {}
    for name, model in models.items():
        made = judge.features(renderer(model)(data.embeddings[:]))
        found[name] = {"kid_judge": feature_kernel_distance(made, real, paired=True)}
    floor = feature_kernel_distance(real[::2], real[1::2])
    return found | {"real against real": {"kid_judge": floor}}


def _table(
    metrics: Mapping[str, Mapping[str, float]], judge: ImageJudge, data: GanData
) -> list[str]:
    lines = [
        f"Kernel distance to the {len(data.images)} drawings of the new style, by {judge.name}, of "
        "images generated from",
        "their embeddings; lower is closer",
        "",
    ]
    return lines + [f"{name:20}{values['kid_judge']:10.4f}" for name, values in metrics.items()]


def _next_commands(model: Path, settings: Sequence[str]) -> list[str]:
    flags = " ".join(f"--set {setting}" for setting in settings)
    return [
        f'lafite-shifted generate "a smiling cat" --model {model} --out images',
        f"lafite-shifted train-gan DRAWINGS --out runs/mine --init starter {flags}",
        "lafite-shifted pack --gan runs/mine --prior starter --out my-model",
    ]

"""Images and captions for training a small CLIP: one caption sampled per image and step, mild
image augmentation.

Shape letters: N batch, R resolution in pixels.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lafite_shifted.errors import InputError
from lafite_shifted.io.files import sha256_of
from torch_utils import seeds
from torch_utils.sending import to_device
from training.data.decoding.crop import to_square
from training.data.decoding.read_image import (
    DEFAULT_READ_OPTIONS,
    OpenImage,
    ReadOptions,
    read_image,
)
from training.data.embeddings.report_file import LeftOut
from training.data.files.image_files import UnreadableImageError
from training.data.images import ImageSource, check_share_of_bad
from training.data.split import SplitItem, is_held_out, normalised_name, split_keys

STYLE_PHRASES = {
    "flat": ("flat {}", "flat emoji of {}", "{}, flat emoji", "{} emoji"),
    "3d": ("3d {}", "3d emoji of {}", "{}, 3d emoji", "{} emoji"),
    "clipart": ("clipart of {}", "drawing of {}", "{}, clipart", "{} image"),
}


@dataclass(frozen=True)
class CaptionedImage:
    """One image's words; its pixels are row `row` of `CaptionedSet.pixels`."""

    name: str
    tags: tuple[str, ...]
    style: str
    key: str  # see training.data.split
    row: int


@dataclass(frozen=True)
class CaptionedSet:
    """Decoded images [M, R, R, 3] uint8, divided into training and held-out ones."""

    pixels: np.ndarray
    training: list[CaptionedImage]
    held_out: list[CaptionedImage]
    hold_out: bool = True  # else the held-out images are among the training ones
    left_out: LeftOut = field(default_factory=LeftOut)  # names with their folders

    def evaluation_images(self, limit: int) -> list[CaptionedImage]:
        """Up to `limit` held-out images, one a name, of names that training leaves out, where it
        leaves any out.
        """
        seen = {image.name for image in self.training} if self.hold_out else set()
        by_name: dict[str, CaptionedImage] = {}
        for image in sorted(
            self.held_out, key=lambda p: seeds.seed_of("evaluation", p.name, p.style, p.row)
        ):
            if image.name not in seen:
                by_name.setdefault(image.name, image)
        return list(by_name.values())[:limit]

    @cached_property
    def _families(self) -> dict[str, list[int]]:
        """Training images by key."""
        found: dict[str, list[int]] = {}
        for number, image in enumerate(self.training):
            found.setdefault(image.key, []).append(number)
        return found

    def with_siblings(
        self, chosen: np.ndarray, *, share: float, rng: np.random.Generator
    ) -> np.ndarray:
        """`chosen` training images, up to `share` of them replaced: the last by images of one key
        with an earlier one, under another name. They are what a text is hardest to tell from.
        """
        first = round(len(chosen) * (1 - share))
        kept = [int(number) for number in chosen[:first]]
        for number in kept[:first]:
            image = self.training[number]
            others = [
                other
                for other in self._families[image.key]
                if other not in kept and self.training[other].name != image.name
            ]
            room = min(2, len(others), len(chosen) - len(kept))
            kept += (
                [int(other) for other in rng.choice(others, room, replace=False)] if room else []
            )
        rest = [int(number) for number in chosen[first:] if number not in kept]
        return np.array(kept + rest[: len(chosen) - len(kept)])

    def sampling_weights(self) -> np.ndarray:
        """Probability of each training image: 1 / sqrt(images that share its key), so that no
        family dominates.
        """
        counts = Counter(image.key for image in self.training)
        weights = np.array([counts[image.key] ** -0.5 for image in self.training])
        return weights / weights.sum()


def _tidy(text: str) -> str:
    return " ".join(text.replace("_", " ").split())


def load_captioned_set(
    folders: Sequence[Path],
    *,
    resolution: int,
    hold_out: bool = True,
    options: ReadOptions = DEFAULT_READ_OPTIONS,
) -> CaptionedSet:
    """Decode every captioned image of `folders`; without `hold_out` all are for training.
    InputError if fewer than 100 have captions, TooManyBadImagesError if more than a share
    `options.max_bad` cannot be read.
    """
    found: list[tuple[CaptionedImage, SplitItem]] = []
    pixels: list[np.ndarray] = []
    left_out = LeftOut()

    def square(opened: OpenImage) -> tuple[np.ndarray, str]:
        return to_square(opened.decoded.image, resolution), sha256_of(opened.content)

    def read(source: ImageSource, name: str) -> tuple[np.ndarray, str] | str:
        try:
            return read_image(source, name, square, options=options)
        except UnreadableImageError as error:
            return str(error)

    for folder in folders:
        source, bad = ImageSource(folder), list[tuple[str, str]]()
        names = [name for name in source.names if name in source.captions]
        with ThreadPoolExecutor(max_workers=2) as pool:
            decoded = list(pool.map(partial(read, source), names))
        for name, result in zip(names, decoded, strict=True):
            if isinstance(result, str):
                bad.append((name, result))
                continue
            image = _captioned(source, name, row=len(pixels))
            found.append((image, SplitItem(name, image.name, result[1])))
            pixels.append(result[0])
        part = LeftOut(bad, source.caption_problems, source.not_used)
        left_out = left_out.joined(part.below(str(folder)))
    if left_out.bad:
        total = len(found) + len(left_out.bad)
        check_share_of_bad(left_out.bad, total, max_share=options.max_bad)
    if len(found) < 100:
        raise InputError(
            f"Only {len(found)} images with captions in {', '.join(map(str, folders))}; "
            "training a CLIP needs "
            "thousands. Build sets with `lafite-shifted dataset emoji --out DIR` and `dataset "
            "clipart`."
        )
    keys = split_keys([item for _, item in found])
    images = [replace(one, key=key) for (one, _), key in zip(found, keys, strict=True)]
    training = [image for image in images if not (hold_out and is_held_out(image.key))]
    others = [image for image in images if is_held_out(image.key)]
    return CaptionedSet(np.stack(pixels), training, others, hold_out, left_out)


def _captioned(source: ImageSource, name: str, *, row: int) -> CaptionedImage:
    """With the words that the set has for it; the key is that of the whole set, and comes later."""
    metadata = source.metadata.get(name, {})
    tags, style = metadata.get("tags"), metadata.get("style")
    words = [tag for tag in tags if isinstance(tag, str)] if isinstance(tags, list) else []
    tidy = dict.fromkeys(_tidy(tag).lower() for tag in words if tag != "hash")
    text = _tidy(source.captions[name][0])
    return CaptionedImage(text, tuple(tidy), style if isinstance(style, str) else "", "", row)


def draw_caption(image: CaptionedImage, rng: np.random.Generator) -> str:
    """A random wording: name, name with tags, or tags alone, at times with a style phrase."""
    kind = rng.random()
    tags = list(image.tags)
    rng.shuffle(tags)
    chosen = tags[: int(rng.integers(1, 5))]
    if kind < 0.55 or not tags:
        text = image.name
        if rng.random() < 0.3:
            text = normalised_name(text) or text
    elif kind < 0.85:
        text = ", ".join([image.name, *chosen] if rng.random() < 0.5 else [*chosen, image.name])
    else:
        text = ", ".join(chosen)
    if image.style in STYLE_PHRASES and rng.random() < 0.25:
        phrases = STYLE_PHRASES[image.style]
        text = phrases[int(rng.integers(len(phrases)))].format(text)
    words = text.split()
    if len(words) > 2 and rng.random() < 0.3:
        words = [word for word in words if rng.random() > 0.15] or words
    return " ".join(words).lower()


def augment(
    images: Tensor, *, strength: float, colour: float, generator: torch.Generator
) -> Tensor:
    """Random scale, shift and rotation to `strength`, brightness, contrast and saturation to
    `colour`, of [N, 3, R, R] in [-1, 1]; no mirror and no hue, which captions speak of.
    """
    n = len(images)
    draw = torch.rand(n, 8, generator=generator)  # on the CPU, whatever the device
    uniform = 2 * to_device(draw, images.device) - 1  # [-1, 1]
    angle = uniform[:, 0] * strength * math.radians(20)
    scale_x = torch.exp(uniform[:, 1] * strength * 0.25)
    scale_y = scale_x * torch.exp(uniform[:, 2] * strength * 0.12)
    shift = uniform[:, 3:5] * strength * 0.2
    cos, sin = angle.cos(), angle.sin()
    rows = torch.stack(
        [cos * scale_x, -sin * scale_y, shift[:, 0], sin * scale_x, cos * scale_y, shift[:, 1]],
        dim=1,
    )
    grid = F.affine_grid(rows.view(n, 2, 3), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    level = uniform[:, 5:8, None, None] * colour
    grey = moved.mean(dim=1, keepdim=True)
    moved = grey + (moved - grey) * (1 + 0.4 * level[:, 0:1])
    moved = (moved + 1) * (1 + 0.25 * level[:, 1:2]) - 1 + 0.15 * level[:, 2:3]
    return moved.clamp(-1, 1)


def describe(folders: Sequence[Path], data: CaptionedSet) -> dict:
    """What config.json records of the data, to notice when it changes."""
    names = json.dumps([[p.name, p.style] for p in (*data.training, *data.held_out)])
    return {
        "folders": [folder.name for folder in folders],
        "num_training": len(data.training),
        "num_held_out": len(data.held_out),
        "fingerprint": f"{seeds.seed_of(names):016x}",
    }

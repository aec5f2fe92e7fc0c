"""Training a small CLIP from scratch (arXiv:2103.00020) on captioned drawings: the maker of the
shipped `starter`.

Shape letters: N batch, D embedding, R resolution.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from lafite_shifted.errors import InputError
from torch_utils import seeds
from torch_utils.device import pick_dtype
from torch_utils.ema import Ema
from torch_utils.host_reads import HostRead, on_host
from torch_utils.sending import send, to_device
from training.clip.config import ClipTrainConfig
from training.clip.data import CaptionedImage, CaptionedSet, augment, draw_caption
from training.clip.losses import contrastive_loss
from training.clip.save import save_clip
from training.clip.start import ClipStart
from training.clip.teacher import TeacherHead
from training.clip.thumbnail import ThumbnailHead
from training.metrics.distances import retrieval_at
from training.run_folder import Evaluation

NOTHING = ClipStart()


def encode_texts(
    model: Any,  # open_clip's CLIP: its parts are attributes that no type says
    tokenizer: open_clip.SimpleTokenizer,
    texts: Sequence[str],
    *,
    device: torch.device,
) -> Tensor:
    """`model.encode_text` of N texts, [N, D], at as many positions as the longest has: no token
    sees those behind it.
    """
    longest = max(len(tokenizer.encode(text)) for text in texts) + 2  # start and end
    length = min(longest, len(model.positional_embedding))
    ids = to_device(tokenizer(list(texts))[:, :length], device)
    x = model.token_embedding(ids) + model.positional_embedding[:length]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
    return x[torch.arange(len(ids), device=device), ids.argmax(dim=1)] @ model.text_projection


@dataclass(frozen=True)
class TextParts:
    """Unit embeddings [N, D] of captions: the text tower's own and, with a teacher, those that its
    head gives, and the mean of 1 - cosine of the two, over further texts too.
    """

    own: Tensor
    taught: Tensor | None = None
    distance: Tensor = field(default_factory=lambda: torch.zeros(()))


class ClipTrainer:
    """One contrastive step on a batch sampled with `CaptionedSet.sampling_weights`.

    With a teacher, images are compared with its embeddings of the captions, through a head that
    learns; the text tower follows what the head gives, for the captions and for `texts`.
    """

    waited = 0.0  # all data lie in memory

    def __init__(
        self,
        config: ClipTrainConfig,
        data: CaptionedSet,
        *,
        device: torch.device,
        start: ClipStart = NOTHING,
    ):
        if config.batch > len(data.training):
            raise InputError(
                f"--batch-size {config.batch}: there are only {len(data.training)} images with "
                "captions to train on. Give a smaller --batch-size, or more images."
            )
        self.config, self.data, self.device = config, data, device
        self.teacher, self.texts = start.teacher, start.texts
        self.batch = config.batch
        torch.manual_seed(seeds.seed_of(config.seed, "clip weights"))
        model = CLIP(**config.model.open_clip_config())
        self.pretrained = start.apply(model)
        self.model = model.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.head = (
            TeacherHead(start.teacher.dim, config.model.embed_dim, config.teacher).to(device)
            if start.teacher
            else None
        )
        self.thumbnails = (
            ThumbnailHead(config.model.embed_dim).to(device) if config.thumbnail_weight else None
        )
        self.ema = Ema(self.model, half_life=config.ema_half_life_kimg * 1000)
        self.tokenizer = open_clip.SimpleTokenizer(context_length=config.model.context_length)
        self.weights = data.sampling_weights()
        dtype = pick_dtype(config.dtype, device)
        self.autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
        self.optimizer = self._optimizer()

    def _optimizer(self) -> AdamW:
        config = self.config
        heads = [part for part in (self.head, self.thumbnails) if part]
        named = [p for part in (self.model, *heads) for p in part.named_parameters()]
        pretrained = set(self.pretrained)
        groups = dict[tuple[float, float, bool], list[nn.Parameter]]()
        for name, parameter in named:
            decay = config.weight_decay if parameter.ndim >= 2 else 0.0
            if name == "token_embedding.weight":
                decay = config.word_vector_decay
            known = parameter in pretrained
            rate = config.pretrained_learning_rate if known else config.learning_rate
            groups.setdefault((rate, decay, known), []).append(parameter)
        return AdamW(
            [
                {
                    "params": parameters,
                    "lr": rate,
                    "base_lr": rate,
                    "weight_decay": decay,
                    "pretrained": from_weights,
                }
                for (rate, decay, from_weights), parameters in groups.items()
            ],
            betas=(0.9, 0.98),
            eps=1e-6,
            fused=True,
        )

    def parts(self) -> Mapping[str, nn.Module | Optimizer]:
        """Everything with state, by name."""
        heads = {"head": self.head, "thumbnails": self.thumbnails}
        return {
            "model": self.model,
            "ema": self.ema.network,
            "optimizer": self.optimizer,
            **{name: part for name, part in heads.items() if part},
        }

    def _set_learning_rates(self, samples_seen: int) -> None:
        """Warm-up and cosine decay; that of a pretrained tower begins where it is let go."""
        config, kimg = self.config, samples_seen / 1000
        decay = 0.5 * (1 + math.cos(math.pi * min(1.0, kimg / config.schedule_kimg)))
        for group in self.optimizer.param_groups:
            since = kimg - (config.frozen_kimg if group["pretrained"] else 0)
            warmup = min(1.0, max(0.0, since + 1e-3) / config.warmup_kimg)
            group["lr"] = group["base_lr"] * warmup * max(decay, 0.01)

    def _sent(self, images: list[CaptionedImage]) -> tuple[Tensor, Tensor]:
        """Pixels [N, 3, R, R] in [-1, 1], and numbers [N] that images of one name share."""
        numbers: dict[str, int] = {}
        for image in images:
            numbers.setdefault(image.name, len(numbers))
        pixels = torch.from_numpy(self.data.pixels[[image.row for image in images]])
        names = torch.tensor([numbers[image.name] for image in images])
        sent = send({"pixels": pixels, "names": names}, self.device)
        return sent["pixels"].permute(0, 3, 1, 2).float() / 127.5 - 1, sent["names"]

    def step(self, samples_seen: int) -> Mapping[str, Tensor]:
        """One step on images and captions; scalars to log."""
        config = self.config
        rng = seeds.numpy_generator(config.seed, "clip batch", samples_seen)
        chosen = rng.choice(len(self.data.training), size=self.batch, replace=False, p=self.weights)
        if config.sibling_share:
            chosen = self.data.with_siblings(chosen, share=config.sibling_share, rng=rng)
        images = [self.data.training[i] for i in chosen]
        captions = [draw_caption(image, rng) for image in images]
        pixels, name_index = self._sent(images)
        pixels = augment(
            pixels,
            strength=config.augment_strength,
            colour=config.colour_strength,
            generator=seeds.generator(config.seed, "clip augment", samples_seen),
        )
        self._set_learning_rates(samples_seen)
        torch.manual_seed(seeds.seed_of(config.seed, "clip dropout", samples_seen))
        self.model.train()
        with self.autocast:
            image_features = self._image_features(
                pixels.contiguous(memory_format=torch.channels_last),
                frozen=samples_seen < 1000 * config.frozen_kimg,
            )
            texts = self._text_features(captions, rng)
        scale = self.model.logit_scale.exp().clamp(max=100)
        same = (name_index[:, None] == name_index[None, :]).float()
        normalised = F.normalize(image_features.float(), dim=1)
        options = {"same": same, "smoothing": config.label_smoothing}
        loss = contrastive_loss(normalised, texts.own, scale, **options)
        logged = {"loss": loss.detach(), "logit_scale": scale.detach()}
        if texts.taught is not None:
            taught = contrastive_loss(normalised, texts.taught, scale, **options)
            logged["loss_teacher"] = taught.detach()
            logged["loss_distillation"] = texts.distance.detach()
            of = config.teacher
            loss = of.own_weight * loss + taught + of.distillation_weight * texts.distance
        if self.thumbnails:
            thumbnail = self.thumbnails.loss(normalised, pixels)
            logged["loss_thumbnail"] = thumbnail.detach()
            loss = loss + config.thumbnail_weight * thumbnail
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        nn.utils.clip_grad_norm_(parameters, 1.0)
        self.optimizer.step()
        self.ema.update(self.model, batch=self.batch, samples_seen=samples_seen + self.batch)
        return logged

    def _image_features(self, pixels: Tensor, *, frozen: bool) -> Tensor:
        """[N, D]; a pretrained trunk takes no part in training while it is frozen."""
        if not (self.pretrained and frozen):
            return self.model.encode_image(pixels)
        tower: Any = self.model.visual
        tower.trunk.eval()
        with torch.no_grad():
            features = tower.trunk(pixels)
        return tower.head(features)

    def _text_features(self, captions: Sequence[str], rng: np.random.Generator) -> "TextParts":
        """What images are compared with."""
        more = list[str]()
        if self.texts:
            rows = rng.integers(len(self.texts), size=self.config.teacher.num_texts)
            more = [self.texts[row] for row in rows]
        texts = [*captions, *more]
        own = encode_texts(self.model, self.tokenizer, texts, device=self.device)
        own = F.normalize(own.float(), dim=1)
        if self.teacher is None or self.head is None:
            return TextParts(own)
        known = self.teacher.embed(texts)  # [N + T, F]
        self.head.eval()
        with torch.no_grad():
            target = F.normalize(self.head(known).float(), dim=1)
        self.head.train()
        distance = (1 - (own * target).sum(dim=1)).mean()
        known = known[: len(captions)]
        noise = torch.from_numpy(rng.standard_normal(known.shape, np.float32))
        noise = to_device(noise, known.device)
        noisy = known + noise * (self.config.teacher.noise / known.shape[1] ** 0.5)
        taught = F.normalize(self.head(F.normalize(noisy, dim=1)).float(), dim=1)
        return TextParts(own[: len(captions)], taught, distance)

    @torch.no_grad()
    def embed(self, images: list[CaptionedImage]) -> tuple[Tensor, Tensor]:
        """Unit image and text embeddings [M, D] of images and their names, by the averaged
        network.
        """
        image_parts, text_parts = [], []
        for start in range(0, len(images), 250):
            part = images[start : start + 250]
            with self.autocast:
                image = self.ema.network.encode_image(
                    self._sent(part)[0].contiguous(memory_format=torch.channels_last),
                    normalize=True,
                )
                ids = to_device(self.tokenizer([p.name.lower() for p in part]), self.device)
                text = self.ema.network.encode_text(ids, normalize=True)
            image_parts.append(image.float())
            text_parts.append(text.float())
        return torch.cat(image_parts), torch.cat(text_parts)

    def evaluate(self, samples_seen: int, folder: Path) -> Evaluation:
        """Text-to-image recall over held-out images, one a name, also without the skin-tone
        variants; the EMA network is written to `folder/clip` in open_clip's own layout.
        """
        images = self.data.evaluation_images(self.config.num_evaluation)
        results = {}
        for suffix, subset in (
            ("", images),
            ("_plain", [p for p in images if "skin tone" not in p.name]),
        ):
            if not subset:
                continue
            image_embeddings, text_embeddings = self.embed(subset)
            similarity = on_host(text_embeddings @ image_embeddings.T, HostRead.EVALUATION)
            results[f"retrieval_1{suffix}"] = retrieval_at(similarity, 1)
            results[f"retrieval_10{suffix}"] = retrieval_at(similarity, 10)
        save_clip(self.ema.network, self.config.model, folder / "clip")
        return Evaluation(results)

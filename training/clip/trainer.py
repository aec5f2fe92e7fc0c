"""Training a small CLIP from scratch (arXiv:2103.00020) on captioned drawings: the maker of the
shipped `starter`.

Shape letters: N batch, D embedding, R resolution.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
import torch.nn.functional as F
from open_clip.model import CLIP
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from lafite_shifted.errors import InputError
from lafite_shifted.io.files import save_tensors, write_json
from torch_utils import seeds
from torch_utils.device import pick_dtype
from torch_utils.ema import Ema
from training.clip.data import CaptionedImage, CaptionedSet, augment, draw_caption
from training.config import RunConfig, positive
from training.metrics.distances import retrieval_at
from training.run_folder import Evaluation

MEAN = (0.5, 0.5, 0.5)  # preprocessing of the starter: images in [-1, 1]
STD = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class ClipModelConfig:
    """Architecture, in open_clip's terms: its modified ResNet and its text transformer."""

    embed_dim: int = 128
    image_size: int = 64  # pixels
    vision_layers: tuple[int, int, int, int] = (2, 2, 2, 2)  # bottleneck blocks a stage
    vision_width: int = 24
    context_length: int = 32  # tokens
    text_width: int = 192
    text_heads: int = 6
    text_layers: int = 3

    def open_clip_config(self) -> dict[str, Any]:
        """The `model_cfg` of an open_clip_config.json."""
        return {
            "embed_dim": self.embed_dim,
            "vision_cfg": {
                "image_size": self.image_size,
                "layers": list(self.vision_layers),
                "width": self.vision_width,
                "head_width": 32,
            },
            "text_cfg": {
                "context_length": self.context_length,
                "vocab_size": 49408,
                "width": self.text_width,
                "heads": self.text_heads,
                "layers": self.text_layers,
            },
        }


@dataclass(frozen=True)
class ClipTrainConfig:
    """Everything `train-clip` needs besides the images."""

    model: ClipModelConfig = field(default_factory=ClipModelConfig)
    run: RunConfig = field(
        default_factory=lambda: RunConfig(
            kimg=600, log_kimg=5, evaluate_kimg=50, checkpoint_kimg=25
        )
    )
    batch: int = 256
    learning_rate: float = 1e-3
    warmup_kimg: float = 20.0
    schedule_kimg: float = 600.0  # where the cosine decay of the learning rate ends
    weight_decay: float = 0.2
    label_smoothing: float = 0.1
    word_vector_decay: float = 0.2  # weight decay of the token embedding
    augment_strength: float = 1.0
    ema_half_life_kimg: float = 20.0
    num_evaluation: int = 1000
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"  # of activations while training
    seed: int = 0

    def __post_init__(self) -> None:
        positive(self, "batch", "learning_rate", "warmup_kimg", "schedule_kimg", "num_evaluation")


def contrastive_loss(
    images: Tensor, texts: Tensor, scale: Tensor, *, same: Tensor, smoothing: float
) -> Tensor:
    """Symmetric InfoNCE over unit vectors [N, D]; pairs that `same` [N, N] marks (one name) share
    the target.
    """
    logits = scale * images @ texts.T  # [N, N]
    target = same / same.sum(dim=1, keepdim=True)
    target = (1 - smoothing) * target + smoothing / len(target)
    rows = F.cross_entropy(logits, target)
    columns = F.cross_entropy(logits.T, target.T / target.T.sum(dim=1, keepdim=True))
    return (rows + columns) / 2


class ClipTrainer:
    """One contrastive step on a batch sampled with `CaptionedSet.sampling_weights`."""

    waited = 0.0  # all data lie in memory

    def __init__(self, config: ClipTrainConfig, data: CaptionedSet, *, device: torch.device):
        if config.batch > len(data.training):
            raise InputError(
                f"--batch-size {config.batch}: there are only {len(data.training)} images with "
                "captions to train on. Give a smaller --batch-size, or more images."
            )
        self.config, self.data, self.device = config, data, device
        self.batch = config.batch
        torch.manual_seed(seeds.seed_of(config.seed, "clip weights"))
        model = CLIP(**config.model.open_clip_config())
        self.model = model.to(device).to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        self.ema = Ema(self.model, half_life=config.ema_half_life_kimg * 1000)
        self.tokenizer = open_clip.SimpleTokenizer(context_length=config.model.context_length)
        self.weights = data.sampling_weights()
        dtype = pick_dtype(config.dtype, device)
        self.autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
        words = [p for name, p in self.model.named_parameters() if name == "token_embedding.weight"]
        matrices = [
            p for name, p in self.model.named_parameters() if p.ndim >= 2 and p is not words[0]
        ]
        others = [p for p in self.model.parameters() if p.ndim < 2]
        groups = [
            {"params": words, "weight_decay": config.word_vector_decay},
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = AdamW(
            groups, lr=config.learning_rate, betas=(0.9, 0.98), eps=1e-6, fused=True
        )

    def parts(self) -> Mapping[str, nn.Module | Optimizer]:
        """Everything with state, by name."""
        return {"model": self.model, "ema": self.ema.network, "optimizer": self.optimizer}

    def _learning_rate(self, samples_seen: int) -> float:
        kimg = samples_seen / 1000
        warmup = min(1.0, (kimg + 1e-3) / self.config.warmup_kimg)
        decay = 0.5 * (1 + math.cos(math.pi * min(1.0, kimg / self.config.schedule_kimg)))
        return self.config.learning_rate * warmup * max(decay, 0.01)

    def _pixels(self, images: list[CaptionedImage]) -> Tensor:
        """[N, 3, R, R] in [-1, 1]."""
        batch = torch.from_numpy(self.data.pixels[[image.row for image in images]])
        return batch.to(self.device).permute(0, 3, 1, 2).float() / 127.5 - 1

    def step(self, samples_seen: int) -> Mapping[str, Tensor]:
        """One contrastive step; scalars to log."""
        config = self.config
        rng = seeds.numpy_generator(config.seed, "clip batch", samples_seen)
        chosen = rng.choice(len(self.data.training), size=self.batch, replace=False, p=self.weights)
        images = [self.data.training[i] for i in chosen]
        texts = self.tokenizer([draw_caption(image, rng) for image in images]).to(self.device)
        names = [image.name for image in images]
        numbers = {name: number for number, name in enumerate(dict.fromkeys(names))}
        name_index = torch.tensor([numbers[name] for name in names], device=self.device)
        pixels = augment(
            self._pixels(images),
            strength=config.augment_strength,
            generator=seeds.generator(config.seed, "clip augment", samples_seen),
        )
        learning_rate = self._learning_rate(samples_seen)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.model.train()
        with self.autocast:
            image_features = self.model.encode_image(
                pixels.contiguous(memory_format=torch.channels_last)
            )
            text_features = self.model.encode_text(texts)
        scale = self.model.logit_scale.exp().clamp(max=100)
        same = (name_index[:, None] == name_index[None, :]).float()
        loss = contrastive_loss(
            F.normalize(image_features.float(), dim=1),
            F.normalize(text_features.float(), dim=1),
            scale,
            same=same,
            smoothing=config.label_smoothing,
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.ema.update(self.model, batch=self.batch, samples_seen=samples_seen + self.batch)
        return {"loss": loss.detach(), "logit_scale": scale.detach()}

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
                    self._pixels(part).contiguous(memory_format=torch.channels_last), normalize=True
                )
                text = self.ema.network.encode_text(
                    self.tokenizer([p.name.lower() for p in part]).to(self.device), normalize=True
                )
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
            similarity = text_embeddings @ image_embeddings.T
            results[f"retrieval_1{suffix}"] = retrieval_at(similarity, 1)
            results[f"retrieval_10{suffix}"] = retrieval_at(similarity, 10)
        save_clip(self.ema.network, self.config.model, folder / "clip")
        return Evaluation(results)


def save_clip(model: nn.Module, config: ClipModelConfig, folder: Path) -> None:
    """Write float16 weights and open_clip_config.json: a folder that open_clip's `local-dir:`
    loads.
    """
    tensors = {
        name: tensor.half() if tensor.is_floating_point() else tensor
        for name, tensor in model.state_dict().items()
    }
    save_tensors(folder / "open_clip_model.safetensors", tensors, {})
    preprocess = {"size": config.image_size, "mean": MEAN, "std": STD, "interpolation": "bicubic"}
    write_json(
        folder / "open_clip_config.json",
        {
            "model_cfg": config.open_clip_config(),
            "preprocess_cfg": preprocess | {"resize_mode": "shortest"},
        },
    )

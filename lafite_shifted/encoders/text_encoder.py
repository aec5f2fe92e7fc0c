"""Token states of any Hugging Face text encoder (T5, BERT, XLM-R, ...) in place of the CLIP's own:
a prior reads them (arXiv:2211.15388 adds those of T5), while the text embedding stays the CLIP's,
which selects clusters and the best of several samples. Needs the extra `text` (transformers).

Shape letters: N texts, L tokens, F width of the encoder.
"""

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.encoder_id import TextEncoderId, weights_digest
from lafite_shifted.encoders.text_features import TOKENIZING, TextFeatures, clean_text
from lafite_shifted.errors import InputError
from lafite_shifted.io.shell import absolute, expanded
from torch_utils.sending import to_device

LONGEST = 512  # tokens, where neither tokenizer nor model has a limit


class TextEncoder:
    """An encoder with its tokenizer, frozen, in evaluation mode, float32."""

    def __init__(self, model: nn.Module, tokenizer, *, name: str, device: torch.device):
        self.model = model.to(device).eval().requires_grad_(False)
        self.tokenizer, self.device = tokenizer, device
        positions = getattr(model.config, "max_position_embeddings", None) or LONGEST
        self.context_length = min(tokenizer.model_max_length, positions, LONGEST)
        digest = weights_digest(model.state_dict())
        self.id = TextEncoderId(name, digest, int(self.states(["a"])[0].shape[2]))

    @staticmethod
    def load(
        name: str, *, device: torch.device | str = "cpu", flag: str = "--text-encoder"
    ) -> "TextEncoder":
        """A folder, or a Hub id such as google/flan-t5-base; safetensors weights only. InputError
        says what is wrong with what `flag` names.
        """
        if Path(expanded(name)).is_dir():
            name = absolute(name)  # it is recorded, and used from another folder later
        try:
            from transformers import AutoModelForTextEncoding, AutoTokenizer
            from transformers.utils import logging
        except ImportError as error:
            raise InputError(
                f"{flag} {name} needs the package transformers. Install it: pip install "
                "'lafite-shifted[text]'."
            ) from error
        logging.set_verbosity_error()  # it would list the decoder's weights as left out
        logging.disable_progress_bar()
        try:
            tokenizer = AutoTokenizer.from_pretrained(name, padding_side="right")
            model = AutoModelForTextEncoding.from_pretrained(
                name, use_safetensors=True, dtype=torch.float32
            )
        except (OSError, ValueError, KeyError, RuntimeError, TypeError, ImportError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"{flag} {name}: cannot be loaded ({reason[:300]}). Give a folder with "
                "config.json, tokenizer and safetensors weights of a text encoder, or a Hub id "
                "such as google/flan-t5-base."
            ) from error
        return TextEncoder(model, tokenizer, name=name, device=torch.device(device))

    def to(self, device: torch.device) -> None:
        """Move the model."""
        self.model.to(device)
        self.device = device

    @torch.no_grad()
    def states(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token states [N, L, F] float32, zero behind each text, and lengths [N]. A text beyond the
        context length is cut, with a warning.
        """
        limit = self.context_length
        with TOKENIZING:
            ids = self.tokenizer(list(texts))["input_ids"]
            padded = self.tokenizer(
                list(texts), padding=True, truncation=True, max_length=limit, return_tensors="pt"
            )
        cut = [text for text, found in zip(texts, ids, strict=True) if len(found) > limit]
        if cut:
            warnings.warn(
                f"The text {cut[0][:40]!r}... is longer than the {limit} tokens that the text "
                "encoder reads; the rest is ignored.",
                UserWarning,
                stacklevel=2,
            )
        mask = to_device(padded["attention_mask"], self.device)
        lengths = padded["attention_mask"].sum(dim=1)  # on the CPU
        sent = to_device(padded["input_ids"], self.device)
        output = self.model(input_ids=sent, attention_mask=mask)
        return output.last_hidden_state.float() * mask[..., None], lengths


def read_texts(
    texts: Sequence[str], clip: ClipEncoder, encoder: TextEncoder | None
) -> TextFeatures:
    """Features of N texts that condition a prior: the CLIP's features, with the token states of
    `encoder` if there is one.
    """
    texts = [clean_text(text) for text in texts]
    features = clip.embed_texts(texts)
    if encoder is None:
        return features
    tokens, lengths = encoder.states(texts)
    return replace(features, tokens=tokens, lengths=lengths)

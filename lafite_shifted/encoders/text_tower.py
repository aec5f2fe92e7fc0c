"""The text tower of an open_clip model: token ids to features.

Shape letters: N batch, L tokens, F width of the text tower, D embedding.
"""

from typing import Any

import torch
import torch.nn.functional as F
from open_clip.model import CLIP, CustomTextCLIP
from torch import Tensor, nn

from lafite_shifted.encoders.text_features import TextFeatures
from torch_utils.sending import to_device


def text_features(model: CLIP | CustomTextCLIP, ids: Tensor, lengths: Tensor) -> TextFeatures:
    """Features of token ids [N, L], on the model's device, and of their `text_lengths` [N]."""
    embedding, states = _text_states(model, ids)
    inside = torch.arange(states.shape[1]) < lengths[:, None]  # [N, L]
    inside = to_device(inside, states.device)
    return TextFeatures(
        F.normalize(embedding.float(), dim=1), states.float() * inside[..., None], lengths
    )


def text_lengths(model: nn.Module, ids: Tensor) -> Tensor:
    """Tokens up to and including end-of-text. The byte-pair vocabulary has its largest id there;
    others pad.
    """
    text = getattr(model, "text", model)
    pool = getattr(text, "pool_type", getattr(text, "text_pool_type", None))
    if pool == "argmax":
        return ids.argmax(dim=1) + 1
    pad = getattr(getattr(text, "config", None), "pad_token_id", None) or getattr(text, "pad_id", 0)
    return (ids != pad).sum(dim=1)


def is_causal(model: CLIP | CustomTextCLIP) -> bool:
    """Whether `model` is OpenAI's CLIP: causal attention, pooled at the end of the text."""
    is_masked = isinstance(model, CLIP) and model.attn_mask is not None
    return is_masked and model.text_pool_type == "argmax"


def _text_states(model: CLIP | CustomTextCLIP, ids: Tensor) -> tuple[Any, Any]:
    """Projected text embedding [N, D] and token states [N, L, F] after the final norm."""
    if is_causal(model):
        return _causal_states(model, ids)
    text = getattr(model, "text", None)
    if text is not None and not hasattr(text, "forward_intermediates"):  # a Hugging Face tower
        text.output_tokens = True
        return text(ids)
    arguments = {"text_indices": 1, "normalize_intermediates": True, "text_output_fmt": "NLC"}
    output = model.forward_intermediates(text=ids, normalize=False, **arguments)
    return output["text_features"], output["text_intermediates"][-1]


def _causal_states(model: Any, ids: Tensor) -> tuple[Tensor, Tensor]:
    """The same for any L up to the context length, all of which open_clip would take."""
    length = ids.shape[1]
    x = model.token_embedding(ids) + model.positional_embedding[:length]
    x = model.transformer(x, attn_mask=model.attn_mask[:length, :length])
    states = model.ln_final(x)  # [N, L, F]
    pooled = states[torch.arange(ids.shape[0], device=ids.device), ids.argmax(dim=1)]
    projection = model.text_projection
    if projection is None:
        return pooled, states
    is_layer = isinstance(projection, nn.Linear)
    return projection(pooled) if is_layer else pooled @ projection, states

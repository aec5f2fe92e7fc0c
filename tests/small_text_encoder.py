"""Hugging Face text encoders with random weights, saved as published ones are."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, T5Config, T5Model

WORDS = ("a", "red", "green", "apple", "boat", "of", "the", "sea")


def save_small_text_encoder(folder: Path, *, kind: str, seed: int = 0, limit: int = 12) -> Path:
    """Write a whole T5 (its encoder is what is wanted) or a BERT, which reads `limit` tokens."""
    torch.manual_seed(seed)
    size = len(WORDS) + 3
    if kind == "t5":
        config = T5Config(vocab_size=size, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=2)
        model: torch.nn.Module = T5Model(config)
    else:
        config = BertConfig(
            vocab_size=size,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=limit,
        )
        model = BertModel(config)
    model.save_pretrained(folder, safe_serialization=True)  # type: ignore[operator]
    vocabulary = {word: i for i, word in enumerate(("<pad>", "</s>", "<unk>", *WORDS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=limit,
    )
    fast.save_pretrained(folder)
    return folder

"""CLIP's byte-pair tokenizer (arXiv:2103.00020) as a tokenizer.json, which the package `tokenizers`
and its relatives read without Python code of ours.
"""

from typing import Any

from open_clip.tokenizer import SimpleTokenizer, get_clean_fn

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.ensemble import ClipEnsemble
from lafite_shifted.errors import InputError

WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# what ftfy mends and a keyboard or a word processor writes
REPAIRS = {"[\u2018-\u201b\u02bc]": "'", "[\u201c-\u201f]": '"', "\ufb00": "ff", "\ufb01": "fi"}
REPAIRS |= {"\ufb02": "fl", "\ufb03": "ffi", "\ufb04": "ffl", r"[\s\u0085]+": " "}


def byte_pair_tokenizer(clip: ClipEncoder) -> SimpleTokenizer:
    """That of a CLIP; InputError where it has another one, or several."""
    found = None if isinstance(clip, ClipEnsemble) else clip.tokenizer
    usual = get_clean_fn("lower")
    if isinstance(found, SimpleTokenizer) and not found.reduction_fn and found.clean_fn is usual:
        return found
    raise InputError(
        f"The model's CLIP {clip.id.model} cannot be exported: it has not CLIP's own byte-pair "
        "tokenizer, or is several. Export a model of one CLIP such as ViT-B-32/laion2b_s34b_b79k."
    )


def tokenizer_json(tokenizer: SimpleTokenizer, *, context_length: int) -> dict[str, Any]:
    """Cuts at and pads to `context_length`, as training does."""
    start, end = ("<start_of_text>", "<end_of_text>")
    first, last = tokenizer.sot_token_id, tokenizer.eot_token_id
    special = {"special": True, "single_word": False, "lstrip": False, "rstrip": False}
    replacements = [
        {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}
        for pattern, content in REPAIRS.items()
    ]
    ends = [{"type": "Strip", "strip_left": True, "strip_right": True}, {"type": "Lowercase"}]
    split = {"type": "Split", "pattern": {"Regex": WORDS}, "behavior": "Removed", "invert": True}
    bytes_ = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    single = [_special(start), {"Sequence": {"id": "A", "type_id": 0}}, _special(end)]
    return {
        "version": "1.0",
        "truncation": {
            "max_length": context_length,
            "strategy": "LongestFirst",
            "stride": 0,
            "direction": "Right",
        },
        "padding": {
            "strategy": {"Fixed": context_length},
            "direction": "Right",
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "!",
            "pad_to_multiple_of": None,
        },
        "added_tokens": [
            {"id": number, "content": name, "normalized": False, **special}
            for number, name in ((first, start), (last, end))
        ],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, *replacements, *ends]},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [split, bytes_ | {"trim_offsets": True}],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": single,
            "pair": single,
            "special_tokens": {
                name: {"id": name, "ids": [number], "tokens": [name]}
                for number, name in ((first, start), (last, end))
            },
        },
        "decoder": bytes_ | {"trim_offsets": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "fuse_unk": False,
            "vocab": tokenizer.encoder,
            "merges": [" ".join(pair) for pair in tokenizer.bpe_ranks],
        },
    }


def _special(name: str) -> dict[str, Any]:
    return {"SpecialToken": {"id": name, "type_id": 0}}

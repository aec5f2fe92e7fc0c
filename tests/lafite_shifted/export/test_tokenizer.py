"""tokenizer.json, as the package tokenizers reads it, against open_clip's own tokenizer."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.encoders.ensemble import ClipEnsemble
from lafite_shifted.errors import InputError
from lafite_shifted.export.runner import Model
from lafite_shifted.export.tokenizer import byte_pair_tokenizer

SENTENCES = [
    "a red heart", "A Cat\u2019s \u201chat\u201d &amp; a dog", "it's we've I'll don't they're",
    "na\u00efve caf\u00e9 \ufb01sh \ufb02ag", "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8",
    "faces \U0001f600\U0001f603 \U0001f468\u200d\U0001f469\u200d\U0001f467", "12:30 3.14 5\u00bd",
    "  spaces\t\nand lines", "<b>bold</b> &lt;3", "don''t!!! ...", "x" * 300, "word " * 50,
    "\u03a9mega \u00df Stra\u00dfe", "a\u00a0b", "___under_score", "a\u2013b \u2014 c\u2026",
    "e\u0301", "\uff37\uff29\uff24\uff25", "\uff8a\uff9d", "<end_of_text> hi",
]  # fmt: skip


class Ids:
    """Stands for the text tower: keeps what it is given."""

    def run(self, _outputs, inputs):
        self.ids = inputs["ids"]
        return []


def ids_of(exported: Path, text: str) -> list[int]:
    """What the runner gives to the text tower."""
    session = Ids()
    model = Model.__new__(Model)
    from tokenizers import Tokenizer

    model.tokenizer = Tokenizer.from_file(str(exported / "tokenizer.json"))
    model.sessions = {"text": session}  # type: ignore[dict-item]
    model.encode(text)
    return session.ids[0].tolist()


@pytest.mark.parametrize("text", SENTENCES)
def test_ids_are_those_of_open_clip(exported: Path, clip: ClipEncoder, text: str):
    expected = clip.tokenizer([text], context_length=clip.context_length)[0].tolist()
    assert ids_of(exported, text) == expected


@settings(max_examples=60, deadline=None)
@given(
    st.text("abcdefghijklmnopqrstuvwxyzABC '\u2019.,!?-0123456789\u00e9\u00fc\u4e2d", max_size=60)
)
def test_ids_of_any_sentence(exported: Path, clip: ClipEncoder, text: str):
    expected = clip.tokenizer([text], context_length=clip.context_length)[0].tolist()
    assert ids_of(exported, text) == expected


def test_other_tokenizers_are_refused(clip: ClipEncoder):
    with pytest.raises(InputError, match="cannot be exported"):
        byte_pair_tokenizer(ClipEnsemble([clip, clip]))

"""Prompts: a sentence, or several with weights, as they are written on a command line or in a file.

a red apple
"a cat:0.7" "a tiger:0.3"     one prompt: the embeddings of both, mixed on the sphere
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lafite_shifted.encoders.text_features import clean_text
from lafite_shifted.errors import InputError

# the weight stands right behind a word, so that "at 12:30" and "smile :3" are sentences; behind a
# number it has a point, as in "Apollo 11:0.7"
_WEIGHTED = re.compile(
    r"(?P<text>.*(\S(?=:\s*-?\d*[.,]\d)|[^\s\d])):\s*"
    r"(?P<weight>-?(\d+[.,]?\d*|[.,]\d+)(e-?\d+)?)\s*(?P<percent>%?)",
    re.DOTALL,
)
_QUOTED = re.compile(r'\s*"[^"]*"(\s+"[^"]*")+\s*')


@dataclass(frozen=True)
class Prompt:
    """Sentences and their weights, which sum to 1."""

    texts: tuple[str, ...]
    weights: tuple[float, ...]

    @staticmethod
    def of(value: "str | Mapping[str, float] | Prompt") -> "Prompt":
        """A sentence, or {sentence: weight}; InputError for what is neither."""
        if isinstance(value, Prompt):
            return value
        if not isinstance(value, Mapping):
            return Prompt((clean_text(value),), (1.0,))
        texts = tuple(clean_text(text) for text in value)
        try:
            weights = [float(weight) for weight in value.values()]
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"A weight is no number ({error}). Give each sentence one.") from error
        if not all(w >= 0 for w in weights) or not 0 < sum(weights) < float("inf"):
            raise InputError(
                f"The weights {', '.join(f'{w:g}' for w in weights) or 'of no sentence'} mix "
                "nothing. Give numbers of at least 0, one of them above; what an image must not "
                "show is a negative prompt."
            )
        return Prompt(texts, tuple(weight / sum(weights) for weight in weights))

    def __str__(self) -> str:
        """As it is written; for names, labels and manifests."""
        if len(self.texts) == 1:
            return self.texts[0]
        pairs = zip(self.texts, self.weights, strict=True)
        return " ".join(f'"{text}:{weight:.4g}"' for text, weight in pairs)


def parse_prompts(words: Sequence[str]) -> list[Prompt]:
    """The arguments of a command: each a prompt, or all of them with weights one prompt."""
    found = [_WEIGHTED.fullmatch(clean_text(word).strip()) for word in words]
    is_plain = not any(found)
    if len(words) == 1 and (only := found[0]):  # "episode:3" is a sentence
        is_plain = only["weight"].isdecimal() and not only["percent"]
    if is_plain:
        return list(dict.fromkeys(Prompt.of(word) for word in words))
    if len(words) == 1 or not all(found):
        plain = next((w for w, match in zip(words, found, strict=True) if not match), None)
        other = f"{plain!r} has none" if plain else "there is nothing to mix it with"
        weighted = next(w for w, match in zip(words, found, strict=True) if match)
        raise InputError(
            f"{weighted!r} ends in a weight, and {other}. Give every sentence a weight, as in "
            '`generate "a cat:0.7" "a tiger:0.3"`, or none; with a space before the colon it is '
            "part of the sentence."
        )
    pairs = [(match["text"], _number(match)) for match in found if match]
    if len({text for text, _ in pairs}) < len(pairs):
        raise InputError("A sentence has two weights. Give each once.")
    return [Prompt.of(dict(pairs))]


def _number(match: re.Match[str]) -> float:
    """0.7, 0,7 as some languages write it, or 70 %."""
    return float(match["weight"].replace(",", ".")) / (100 if match["percent"] else 1)


def parse_prompt_lines(content: bytes, *, where: str) -> list[Prompt]:
    """A prompt a line, blank ones left out; `where` names the file in errors."""
    try:
        lines = re.split(r"\r\n?|\n", content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8 text ({error}). Save it as UTF-8.") from error
    prompts: dict[Prompt, None] = {}
    for number, line in enumerate(lines, start=1):
        line = line.strip()
        if not line:
            continue
        try:
            words = shlex.split(line) if _QUOTED.fullmatch(line) else [line]
            prompts |= dict.fromkeys(parse_prompts(words))
        except InputError as error:
            raise InputError(f"{where}, line {number}: {error}") from error
    if not prompts:
        raise InputError(f"{where} holds no prompt. Write one a line, such as: a red apple")
    return list(prompts)

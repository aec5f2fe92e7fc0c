"""Text files as they are found: UTF-8 with or without a mark, UTF-16, Windows-1252. What is none of
them is refused, not guessed at: a caption in the wrong alphabet would be trained on.
"""

import codecs
import re
import unicodedata

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before that of UTF-16, which begins alike
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# beyond letters, what Windows-1252 is used for; its other signs are mostly another encoding's bytes
_SIGNS = frozenset(
    "\N{LEFT SINGLE QUOTATION MARK}\N{RIGHT SINGLE QUOTATION MARK}\N{EN DASH}\N{NO-BREAK SPACE}"
    "“”—…•€£©®°½¼¾«»¿¡™§\xad²³·"
)
_ACCENTS = "[À-ÖØ-öø-ÿŠšŽžŒœŸ]"
_MOST_FOREIGN = 0.4  # share of letters beyond ASCII in a text of Western Europe, at the most


class UndecodableTextError(Exception):
    """The bytes are no text of a known encoding; the message is the reason."""


def decode_text(content: bytes) -> str:
    """The text; UndecodableTextError says why not. Line ends stay as they are."""
    for mark, encoding in _MARKS:
        if content.startswith(mark):
            return _decoded(content[len(mark) :], encoding)
    if b"\0" in content:
        return _guessed(_decoded(content, _unmarked_utf16(content)), "UTF-16")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return _western(content)


def _decoded(content: bytes, encoding: str) -> str:
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise UndecodableTextError(f"no {encoding.upper()} text: save it as UTF-8") from error


def _unmarked_utf16(content: bytes) -> str:
    """Spaces and ASCII signs have a zero byte: second in little endian, first in big endian."""
    little, big = content[1::2].count(0), content[::2].count(0)
    if len(content) % 2 or min(little, big) > max(little, big) / 4:
        raise UndecodableTextError("holds zero bytes: no text, or save it as UTF-8")
    return "utf-16-le" if little > big else "utf-16-be"


def _western(content: bytes) -> str:
    """Windows-1252, where that gives words; another alphabet's bytes give other signs, or many
    accents in a row.
    """
    unknown = UndecodableTextError("its encoding is not known: save it as UTF-8")
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError:
        raise unknown from None
    foreign = [char for char in text if char > "\x7f"]
    accents = re.findall(_ACCENTS, text)
    if (
        not set(foreign) <= _SIGNS | set(accents)
        or len(accents) > max(1, _MOST_FOREIGN * sum(map(str.isalpha, text)))
        or re.search(f"{_ACCENTS}{{3}}", text)
    ):
        raise unknown
    return _guessed(text, "Windows-1252")


def _guessed(text: str, encoding: str) -> str:
    """`text` without control characters, which tell that the guess was wrong."""
    if any(unicodedata.category(char) == "Cc" and char not in "\t\n\r\v\f\x85" for char in text):
        raise UndecodableTextError(f"holds control characters: no {encoding} text")
    return text

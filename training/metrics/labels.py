"""Labels of grids in any script: drawn in a font of this machine that has all their letters, and
where there is none, with the numbers of the missing ones in place of empty boxes.
"""

import functools
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from fontTools.ttLib import TTFont, TTLibError
from PIL import Image, ImageDraw, ImageFont, features

SIZE = 13  # pixels of a letter
LINE = 18  # of a line
MOST_LINES = 3
MOST_FONTS = 300  # that are looked at
BROAD = ("noto", "cjk", "unifont", "unicode", "wqy", "droid", "hei", "gothic", "arial", "deja")
MOST_LETTERS = 600  # that are measured: more do not fit
_JOINERS = frozenset("\u200c\u200d\ufe0e\ufe0f")  # they have no shape of their own


@dataclass(frozen=True)
class Label:
    """Lines of text as they will be drawn, and whether they are all of it."""

    lines: tuple[str, ...]
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont
    complete: bool

    @property
    def height(self) -> int:
        """In pixels."""
        return LINE * len(self.lines)

    def draw(self, canvas: Image.Image, place: tuple[int, int]) -> None:
        """With its upper left corner at `place`."""
        draw = ImageDraw.Draw(canvas)
        for number, line in enumerate(self.lines):
            draw.text((place[0], place[1] + number * LINE), line, fill="black", font=self.font)


def label_of(text: str, *, width: int) -> Label:
    """`text` in lines of at most `width` pixels, its own line ends as slashes."""
    plain = " / ".join(" ".join(line.split()) for line in text.splitlines() if line.strip())
    font, letters = _font_for(frozenset(plain[:MOST_LETTERS]))
    shown = "".join(_shown(char, letters) for char in plain[:MOST_LETTERS])
    lines = _wrapped(shown, font, width)
    fits = len(lines) <= MOST_LINES and len(plain) <= MOST_LETTERS
    if not fits:
        lines = lines[:MOST_LINES]
        lines[-1] = f"{lines[-1][:-3]} ..."
    complete = fits and all(_can_draw(char, letters) for char in plain)
    return Label(tuple(lines), font, complete)


def _shown(char: str, letters: frozenset[int]) -> str:
    if _can_draw(char, letters):
        return char
    return "" if char in _JOINERS else f"[{ord(char):X}]"


def _can_draw(char: str, letters: frozenset[int]) -> bool:
    if ord(char) not in letters:
        return False
    # without raqm Pillow sets from left to right, letter by letter
    return features.check("raqm") or unicodedata.bidirectional(char) not in ("R", "AL", "AN")


def _wrapped(
    text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> list[str]:
    """Broken between words where possible."""
    lines, line = list[str](), ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if font.getlength(longer) <= width:
            line = longer
            continue
        lines += [line] if line else []
        line = word
        while font.getlength(line) > width and len(line) > 1:
            cut = next(
                n for n in range(len(line), 0, -1) if n == 1 or font.getlength(line[:n]) <= width
            )
            lines.append(line[:cut])
            line = line[cut:]
    return [*lines, line]


def _font_for(text: frozenset[str]) -> tuple[ImageFont.FreeTypeFont, frozenset[int]]:
    """The first font that has all letters of `text`, or the one with the most, and its letters."""
    wanted = {ord(char) for char in text if char not in _JOINERS}
    best, most = None, -1
    for path in _fonts():
        letters = _letters(path)
        found = len(wanted & letters)
        if found > most and (font := _loaded(path)) is not None:
            best, most = (font, letters), found
        if found == len(wanted):
            break
    assert best is not None, "matplotlib comes with fonts"
    return best


def _fonts() -> Iterator[str]:
    yield _own_font()
    yield from _system_fonts()


@functools.cache
def _own_font() -> str:
    """That of matplotlib, where its wheels have it: importing matplotlib takes .2 s."""
    spec = find_spec("matplotlib")
    assert spec, "matplotlib is a requirement"
    assert spec.origin
    font = Path("fonts", "ttf", "DejaVuSans.ttf")
    path = Path(spec.origin).parent / "mpl-data" / font
    if not path.is_file():  # as in a system's own package
        import matplotlib

        path = Path(matplotlib.get_data_path()) / font
    return str(path)


@functools.cache
def _system_fonts() -> tuple[str, ...]:
    """The likely ones first; looked for where matplotlib's own does not suffice."""
    from matplotlib import font_manager

    found = sorted(font_manager.findSystemFonts(), key=lambda path: (not _is_broad(path), path))
    return tuple(found[:MOST_FONTS])


def _is_broad(path: str) -> bool:
    """Whether the name says that a font has many scripts, or one that few have: looked at first."""
    return any(word in Path(path).name.lower() for word in BROAD)


@functools.cache
def _letters(path: str) -> frozenset[int]:
    try:
        with TTFont(path, fontNumber=0, lazy=True) as font:
            return frozenset(font.getBestCmap() or ())
    except (TTLibError, OSError, KeyError, ValueError, AssertionError):  # no font that is read
        return frozenset()


@functools.cache
def _loaded(path: str) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(path, SIZE)
    except OSError:  # as of bitmaps in one size, such as colour emoji
        return None

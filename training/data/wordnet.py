"""Words and short phrases of WordNet 3.0 (Debian's wordnet-base; Princeton's licence), on which a
text tower is trained on a sentence encoder's embeddings of words that no caption holds.
"""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lafite_shifted.io.files import atomic_file
from training.data.datasets import check_unused, run_tool

PACKAGE = "wordnet-base"
PARTS = ("noun", "verb", "adj", "adv")
MAX_WORDS = 12  # of a definition: longer ones say more than captions do


def build_wordnet(out: Path) -> int:
    """Write `out`/texts.txt, one text a line: every word, the synonyms of nouns, and their short
    definitions; how many. InputError as `build_dataset`.
    """
    check_unused(out)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        run_tool("apt-get", "download", PACKAGE, cwd=work)
        run_tool("dpkg", "-x", next(work.glob("*.deb")).name, "root", cwd=work)
        texts = dict.fromkeys(
            text
            for part in PARTS
            for line in (work / f"root/usr/share/wordnet/data.{part}")
            .read_text("utf-8")
            .split("\n")
            for text in texts_of(line, nouns=part == "noun")
        )
    with atomic_file(out / "texts.txt") as f:
        f.write("".join(f"{text}\n" for text in texts).encode())
    return len(texts)


def texts_of(line: str, *, nouns: bool) -> Iterator[str]:
    """The texts in a line of WordNet's data files (wndb(5)): "offset file type count word id ... |
    definition; examples", the count of words in hexadecimal.
    """
    if not line.strip() or line.startswith("  "):  # the licence
        return
    head, _, gloss = line.partition("|")
    fields = head.split()
    words = fields[4 : 4 + 2 * int(fields[3], 16) : 2]
    words = [re.sub(r"\(.*?\)", "", word).replace("_", " ").lower() for word in words]
    yield from words
    if nouns:
        if len(words) > 1:
            yield ", ".join(words[:3])
        definition = gloss.split(";")[0].strip().lower()
        if definition and len(definition.split()) <= MAX_WORDS:
            yield definition

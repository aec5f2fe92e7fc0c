"""Texts from WordNet's data files."""

from pathlib import Path

import pytest

from lafite_shifted.errors import InputError
from training.data import wordnet
from training.data.wordnet import build_wordnet, texts_of

APPLE = "07739125 13 n 01 apple 0 003 @ 13134947 n 0000 | fruit with red or yellow or green skin"
FRUIT = "13134947 20 n 02 Fruit 0 seed_vessel(a) 1 000 | " + "very " * 12 + "long"
RED = '00381097 00 s 02 red 0 blood-red 0 000 | of a color; "red apples"'


def test_words_synonyms_and_short_definitions():
    assert list(texts_of(APPLE, nouns=True)) == ["apple", "fruit with red or yellow or green skin"]
    assert list(texts_of(FRUIT, nouns=True)) == ["fruit", "seed vessel", "fruit, seed vessel"]
    assert list(texts_of(RED, nouns=False)) == ["red", "blood-red"]
    assert list(texts_of("  1 This software and database is being provided", nouns=True)) == []


def test_a_file_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def run(command: str, *arguments: str, cwd: Path) -> None:
        if command == "apt-get":
            (cwd / "wordnet-base.deb").touch()
            return
        folder = cwd / "root/usr/share/wordnet"
        folder.mkdir(parents=True)
        for part, lines in (("noun", [APPLE, FRUIT]), ("verb", []), ("adj", [RED]), ("adv", [RED])):
            (folder / f"data.{part}").write_text("\n".join(["  1 licence", *lines, ""]))

    monkeypatch.setattr(wordnet, "run_tool", run)
    count = build_wordnet(tmp_path / "out")
    lines = (tmp_path / "out" / "texts.txt").read_text().splitlines()
    assert len(lines) == count == 7
    assert lines[-1] == "blood-red"
    with pytest.raises(InputError, match="is not empty"):
        build_wordnet(tmp_path / "out")

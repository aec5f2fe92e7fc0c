"""Sentences and weights, as they are written."""

import pytest

from lafite_shifted.errors import InputError
from lafite_shifted.prompts import Prompt, parse_prompt_lines, parse_prompts


def test_weights_make_one_prompt():
    (prompt,) = parse_prompts(["a cat:0.7", "a tiger:.3"])
    assert prompt == Prompt(("a cat", "a tiger"), (0.7, 0.3))
    assert str(prompt) == '"a cat:0.7" "a tiger:0.3"'
    assert parse_prompts(["a cat:7", "a tiger:3"]) == [prompt]
    for words in (
        ["a cat: 0.7", "a tiger: 0.3"],
        ["a cat:0.7 ", "a tiger:.3\t"],
        ["a cat:0,7", "a tiger:0,3"],
        ["a cat:70%", "a tiger:30 %"],
        ["a cat:7e-1", "a tiger:3e-1"],
    ):
        assert parse_prompts(words) == [prompt]
    (prompt,) = parse_prompts(["Apollo 11:0.75", "a clock at 10:30:.25"])
    assert prompt == Prompt(("Apollo 11", "a clock at 10:30"), (0.75, 0.25))


@pytest.mark.parametrize("text", ["at 12:30", "smile :3", "a cat", "a: b", "note:", "4:3", "x:y"])
def test_colons_of_sentences_stay(text: str):
    assert parse_prompts([text, "a dog"]) == [Prompt.of(text), Prompt.of("a dog")]


@pytest.mark.parametrize("text", ["episode:3", "Mark: 3", "at 12:30"])
def test_a_sentence_by_itself_may_end_in_a_whole_number(text: str):
    assert parse_prompts([text]) == [Prompt.of(text)]
    content = f"{text}\na dog\n".encode()
    assert parse_prompt_lines(content, where="f") == [Prompt.of(text), Prompt.of("a dog")]


def test_a_prompt_given_twice_is_one():
    assert parse_prompts(["a cat", "a dog", "a cat"]) == [Prompt.of("a cat"), Prompt.of("a dog")]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["a cat:0.7", "a dog"], "'a dog' has none"),
        (["a cat:0.7"], "nothing to mix it with"),
        (["room: 3.5"], "with a space before the colon it is part of the sentence"),
        (["a cat:70%"], "nothing to mix it with"),
        (["episode:3", "a dog"], "'a dog' has none"),
        (["a cat:0", "a dog:0"], "mix nothing"),
        (["a cat:-1", "a dog:2"], "negative prompt"),
        (["a cat:1", "a cat:2"], "two weights"),
        (["  "], "A sentence is empty"),
    ],
)
def test_what_cannot_be_meant_is_refused(words: list[str], expected: str):
    with pytest.raises(InputError, match=expected):
        parse_prompts(words)


def test_lines_are_prompts():
    content = '\ufeffa red apple\r\n\n  a cat  \n"a cat:0.7" "a tiger:0.3"\r"quoted"\na red apple\n'
    found = parse_prompt_lines(content.encode(), where="f")
    expected = ["a red apple", "a cat", '"a cat:0.7" "a tiger:0.3"', '"quoted"']
    assert [str(prompt) for prompt in found] == expected
    assert found[2].weights == (0.7, 0.3)


def test_bad_lines_are_named():
    for content, expected in (
        (b"a cat\n\n\xff\xfe", "f is not UTF-8"),
        (b"\n \n", "f holds no prompt"),
        (b'a cat\n"a cat:1" "a dog"\n', "f, line 2: 'a cat:1' ends in a weight"),
    ):
        with pytest.raises(InputError, match=expected):
            parse_prompt_lines(content, where="f")


@pytest.mark.parametrize(
    "value",
    [
        *({}, {"a": 0.0}, {"a": -1.0, "b": 2.0}, {"a": float("nan")}, 3),
        *({"a": "x"}, {"a": None}, {"a": 1e308, "b": 1e308}, {"a": 10**400}),
    ],
)
def test_python_prompts_are_checked(value):
    with pytest.raises(InputError):
        Prompt.of(value)

"""The README's commands run, in its order, on a small folder and for a few steps."""

import re
import shlex
from pathlib import Path

import pytest

from lafite_shifted.cli import main as command_line

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BRIEF_GAN = (
    "--preset tiny --kimg 0.016 --batch-size 8 --set generator.channel_base=128"
    " --set generator.z_dim=16 --set generator.w_dim=16 --set discriminator.channel_base=128"
)
BRIEF_PRIOR = "--preset tiny --kimg 0.032 --batch-size 16 --set prior.width=32 --set prior.heads=2"


def readme_commands() -> list[list[str]]:
    lines = re.findall(r"^    (lafite-shifted .*)$", README, flags=re.MULTILINE)
    assert lines
    return [shlex.split(line, comments=True) for line in lines]


def shortened(words: list[str], images: Path) -> list[str]:
    """The same command on `images`, with the shipped CLIP and a tiny network."""
    words = [str(images) if word in ("PHOTOS", "CAPTIONED", "DRAWINGS") else word for word in words]
    if "--clip" in words:
        words[words.index("--clip") + 1] = "starter"
    if "--preset" in words:
        at = words.index("--preset")
        del words[at : at + 2]
    brief = {"train-gan": BRIEF_GAN, "train-prior": BRIEF_PRIOR}.get(words[1], "")
    if "--init" in words:  # the sizes are those of the model
        brief = "--kimg 0.016 --batch-size 8"
    return [*words, *shlex.split(brief)]


def run(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", words)
    command_line.main()


def test_readme_names_real_make_targets():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^    make (\S+)", README, flags=re.MULTILINE))
    assert targets == {"demo", "test"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE)


@pytest.mark.usefixtures("starter")
def test_readme_commands_run(
    some_images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
):
    monkeypatch.chdir(tmp_path)
    commands = readme_commands()
    verbs = [words[1] for words in commands]
    chain = ["train-gan", "pack", "generate"]
    assert verbs == ["generate", *chain, *chain, "evaluate", "train-prior", "pack"]
    for words in commands:
        run(shortened(words, some_images), monkeypatch)
    for folder in ("out", "drawn", "images"):
        assert (tmp_path / folder / "grid.png").is_file()
    snippet = re.search(
        r"^    from lafite_shifted.*?(?=\n\n)", README, flags=re.MULTILINE | re.DOTALL
    )
    assert snippet
    scope: dict = {}
    exec("\n".join(line[4:] for line in snippet.group().splitlines()), scope)
    assert [image.size for image in scope["images"]] == [(32, 32)] * 4


def test_readme_has_no_placeholder_left():
    assert re.findall(r"\b[A-Z]{3,}_[A-Z]+\b|TODO|TBD", README) == []


def test_readme_paths_exist():
    for path in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / path).exists(), path

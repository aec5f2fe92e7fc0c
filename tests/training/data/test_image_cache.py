"""Images of a training: held in memory or decoded ahead, they are the same, bit for bit; one that
cannot be read any more is replaced, and said to be.
"""

import shutil
import threading
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.errors import TooManyBadImagesError
from lafite_shifted.io.files import read_json_lines
from tests.commands import TINY_GAN, run_command, succeed
from tests.real_images import damage
from tests.training.runs import (
    GAN_FIELDS,
    INTERVALS,
    Open,
    assert_same_run,
    last_checkpoint,
    train,
)
from training.data.decoding.crop import to_square
from training.data.decoding.decode import decode
from training.data.decoding.read_image import ReadOptions
from training.data.embeddings.embedding_set import EmbeddingSet
from training.data.files.image_files import UnreadableImageError
from training.data.image_cache import ImageLoader, plan_cache
from training.data.images import ImageSource
from training.gan.data import GanData, load_gan_data
from training.gan.presets import GAN_PRESETS
from training.gan.run import gan_config, open_gan_run
from training.gan.trainer import GanTrainer

BOTH = pytest.mark.parametrize("cache_gib", [None, 0.0], ids=["held", "streamed"])


@pytest.fixture
def images(tmp_path: Path, some_images: Path, some_embeddings: Path) -> Path:
    """A copy to damage, with its embeddings in `run/embeddings` beside it."""
    shutil.copytree(some_embeddings, tmp_path / "run" / "embeddings")
    return Path(shutil.copytree(some_images, tmp_path / "images"))


def load(images: Path, *, cache_gib: float | None, max_bad: float = 0.1) -> GanData:
    return load_gan_data(
        ImageSource(images),
        EmbeddingSet(images.parent / "run" / "embeddings"),
        resolution=16,
        hold_out=True,
        cache_gib=cache_gib,
        options=ReadOptions(max_bad=max_bad),
    )


def square(path: Path) -> Tensor:
    return torch.from_numpy(to_square(decode(path).image, 16).copy()).permute(2, 0, 1)


@BOTH
def test_squares_are_those_of_the_files(images: Path, cache_gib: float | None):
    """In any order, expected or not, and again."""
    squares = load(images, cache_gib=cache_gib).images
    for rows in ([5, 0, 47], [0, 1], [1, 1, 2]):
        squares.prefetch([rows[0], 30])
        taken = squares.get_batch(rows)
        assert taken.rows == rows
        expected = [square(images / squares.names[row]) for row in rows]
        assert taken.pixels.equal(torch.stack(expected))
    squares.sync()  # nothing to tell: a warning would be an error


def test_images_are_decoded_ahead_once_each():
    go, readers = threading.Event(), list[str]()

    def read(row: int) -> Tensor:
        assert go.wait(60)
        readers.append(threading.current_thread().name)
        return torch.full((3, 2, 2), row, dtype=torch.uint8)

    squares = ImageLoader(list("abcdef"), read)
    squares.prefetch([0, 1, 2])  # does not wait
    squares.prefetch([2, 3])
    assert squares.waited == 0
    go.set()
    assert squares.get_batch([3, 1, 2, 0]).pixels[:, 0, 0, 0].tolist() == [3, 1, 2, 0]
    assert len(readers) == 4
    assert all(name.startswith("decode") for name in readers)
    assert squares.waited > 0


# --- where they are held


def test_cache_is_planned_by_size(monkeypatch: pytest.MonkeyPatch):
    held = plan_cache(1000, resolution=64, limit_gib=0.02)
    assert held == (True, "held in main memory: 0.0114 GiB, the limit is 0.02 GiB (--cache-gib)")
    ahead = plan_cache(1000, resolution=64, limit_gib=0.01)
    assert not ahead.holds
    assert ahead.reason.startswith("decoded ahead of each step by ")
    monkeypatch.setattr("training.data.image_cache.available_bytes", lambda: 4 * 2**30)
    assert plan_cache(2**20, resolution=16, limit_gib=None).holds  # 0.75 GiB of 2
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    shared = plan_cache(2**20, resolution=16, limit_gib=None)
    assert not shared.holds
    assert "the limit is 0.5 GiB (half of the free memory / 4 processes)" in shared.reason


# --- what cannot be read any more


def fragile(
    count: int, *, bad: set[int], max_bad: float, report: Path | None = None
) -> ImageLoader:
    def read(row: int) -> Tensor:
        if row in bad:
            raise UnreadableImageError("broken")
        return torch.full((3, 2, 2), row, dtype=torch.uint8)

    names = [f"{row}.png" for row in range(count)]
    return ImageLoader(names, read, max_bad=max_bad, report=report)


@pytest.mark.parametrize("held", [True, False])
def test_replacement_follows_from_the_place_alone(held: bool):
    """It is readable, the same whenever it is requested, and nobody else's image changes."""
    bad, shown = {3, 4, 5, 60}, list[list[int]]()
    for order in (range(100), range(99, -1, -1)):
        squares = fragile(100, bad=bad, max_bad=0.1)
        if held:
            squares.preload()
        rows = {row: squares.get_batch([row]) for row in order}
        assert all(int(taken.pixels[0, 0, 0, 0]) == taken.rows[0] for taken in rows.values())
        shown.append([rows[row].rows[0] for row in range(100)])
    assert shown[0] == shown[1]
    assert {row for row in range(100) if shown[0][row] != row} == bad
    assert bad.isdisjoint(shown[0])
    assert len({shown[0][row] for row in bad}) > 1


def test_bad_images_are_told_once_and_listed(tmp_path: Path):
    report = tmp_path / "report.jsonl"
    report.write_text('{"file_name": "other.png", "reason": "too large"}\n', encoding="utf-8")
    squares = fragile(10, bad={2, 7}, max_bad=0.2, report=report)
    for row in (2, 7):
        squares.get_batch([row])
        with pytest.warns(UserWarning, match=rf"{row}\.png cannot .* \(broken\): replaced"):
            squares.sync()
    squares.get_batch([2, 7])
    squares.sync()
    rows = {row["file_name"]: row["reason"] for row in read_json_lines(report)}
    assert rows == {"other.png": "too large", "2.png": "broken", "7.png": "broken"}


@pytest.mark.filterwarnings("ignore:.*cannot be read any more")
def test_too_many_bad_images_stop_with_the_list():
    squares = fragile(10, bad={2, 7}, max_bad=0.1)
    squares.get_batch([2])
    squares.sync()
    squares.get_batch([7])
    with pytest.raises(TooManyBadImagesError, match=r"2 of 10 (.|\n)*2\.png(.|\n)*7\.png"):
        squares.sync()
    with pytest.raises(TooManyBadImagesError, match="3 of 3"):
        fragile(3, bad={0, 1, 2}, max_bad=1.0).get_batch([0])


# --- trainings


@pytest.fixture
def open_gan(images: Path, clip: ClipEncoder) -> Iterator[Open]:
    def open_run(out: Path, *fields: str, cache_gib: float | None = 0.0):
        shutil.copytree(images.parent / "run" / "embeddings", out / "embeddings")
        config = gan_config(
            GAN_PRESETS["tiny"], resolution=16, assignments=[*GAN_FIELDS, *INTERVALS, *fields]
        )
        trainer, run, _ = open_gan_run(
            config, images, out, clip, device=torch.device("cpu"), cache_gib=cache_gib
        )
        return trainer, config.run, run

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*cannot be read any more")
        yield open_run


def test_streamed_run_equals_the_held_one(images: Path, open_gan: Open, tmp_path: Path):
    """With a damaged image too, and where it was killed and went on."""
    damage(sorted(images.glob("*.png"))[20])
    train(open_gan(tmp_path / "held", cache_gib=None))
    train(open_gan(tmp_path / "streamed"))
    assert_same_run(tmp_path / "streamed", tmp_path / "held")
    rows = read_json_lines(tmp_path / "held" / "log.jsonl")
    assert any(row["replaced"] > 0 for row in rows)
    assert all(0 < row["data_time"] < 1 for row in rows)
    train(open_gan(tmp_path / "killed"), until=20)
    shutil.rmtree(tmp_path / "killed" / "embeddings")
    train(open_gan(tmp_path / "killed"))
    assert_same_run(tmp_path / "killed", tmp_path / "held")


@pytest.mark.filterwarnings("always:.*cannot be read any more")
def test_images_lost_between_two_starts_are_replaced(images: Path):
    """Whether they are gone, or changed for the worse; the run goes on up to --max-bad."""
    command = ("train-gan", images, "--out", images.parent / "run", *TINY_GAN)
    succeed(*command, "--kimg", "0.016")
    gone, broken, *others = sorted(images.glob("*.png"))
    gone.unlink()
    broken.write_bytes(b"not an image")
    outcome = succeed(*command, "--kimg", "0.064")  # the rest of the epoch
    assert f"warning: {gone.name} cannot be read any more (the file does not exist)" in outcome.err
    assert "replaced by another; so are 1 more. All are listed in" in outcome.err
    report = read_json_lines(images.parent / "run" / "embeddings" / "report.jsonl")
    lost = {
        row["file_name"] for row in report if not row["file_name"].startswith("metadata.jsonl,")
    }
    assert lost == {gone.name, broken.name}
    assert sum(row["replaced"] for row in read_json_lines(images.parent / "run/log.jsonl")) > 0
    for path in others[:2]:
        path.unlink()
    before = last_checkpoint(images.parent / "run")
    outcome = run_command(*command, "--kimg", "0.08")
    assert outcome.code == 3
    assert all(path.name in outcome.err for path in (gone, broken, *others[:2]))
    assert last_checkpoint(images.parent / "run") == before


@pytest.mark.filterwarnings("always:.*cannot be read any more")
def test_run_stopped_by_lost_images_resumes_when_they_are_back(
    images: Path, monkeypatch: pytest.MonkeyPatch
):
    """As if nothing had happened: it begins again at the checkpoint, and the exit tells so."""
    run, reference = images.parent / "run", images.parent / "reference"
    shutil.copytree(run / "embeddings", reference / "embeddings")
    fields = ("run.checkpoint_kimg=0.024", "run.log_kimg=0.016")
    options = (*TINY_GAN, "--kimg", "0.08", "--cache-gib", "0", "--set", fields[0])

    def command(out: Path) -> tuple[str | Path, ...]:
        return ("train-gan", images, "--out", out, *options, "--set", fields[1])

    real, away = GanTrainer.step, images.parent / "away"

    def step(self: GanTrainer, samples_seen: int) -> Mapping[str, Tensor]:
        if samples_seen == 32:  # a checkpoint was saved, and a step followed
            shutil.copytree(images, away)
            for path in images.glob("*.png"):
                path.unlink()
        return real(self, samples_seen)

    with monkeypatch.context() as patch:
        patch.setattr(GanTrainer, "step", step)
        outcome = run_command(*command(run))
    assert outcome.code == 3
    assert "more than --max-bad 5% allows. Put them back as they were, or raise" in outcome.err
    assert "The last checkpoint, of 0.024 kimg, is intact. Run the same command" in outcome.err
    assert last_checkpoint(run).name == "samples-0000000024"
    shutil.copytree(away, images, dirs_exist_ok=True)
    succeed(*command(run))
    succeed(*command(reference))
    assert_same_run(run, reference)

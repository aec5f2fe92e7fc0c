"""Training on shards at a URL: each shard is fetched when its images are needed, the order is a
fresh one of all images each epoch, and a run that was stopped resumes exactly.
"""

import gc
from collections import Counter
from pathlib import Path

import pytest
import torch

from lafite_shifted.errors import InputError
from lafite_shifted.io.files import read_json_lines
from tests.commands import TINY_GAN, run_command, succeed
from tests.ranks import succeed_in_ranks
from tests.shard_server import Server, write_shard
from tests.training.runs import assert_same_run
from training.data.decoding.read_image import read_image
from training.data.remote_images import (
    KEPT,
    WINDOW,
    RemoteImages,
    ShardOrder,
    in_first_shards,
)

SIZES = [5, 1, 7, 3, 4, 2, 6, 1, 1, 8, 3]  # images in each of some shards
NAMES = [f"s-{s:03d}.tar/{n:04d}.png" for s, size in enumerate(SIZES) for n in range(size)]
STREAMED = ("--cache-gib", "0", "--set", "dtype=float32", "--set", "run.checkpoint_kimg=0.008")


def shard_of(row: int) -> str:
    return NAMES[row].partition("/")[0]


@pytest.fixture
def as_process(monkeypatch: pytest.MonkeyPatch):
    """Become process number `rank` of `count`."""

    def become(rank: int, count: int) -> None:
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(count))

    return become


@pytest.fixture
def many(server: Server, shipped_images: Path) -> Server:
    """Fourteen shards of four images each."""
    images = sorted(shipped_images.glob("*.png"))
    for number in range(14):
        write_shard(server.folder / f"s-{number:03d}.tar", images[4 * number : 4 * number + 4])
    return server


def test_an_epoch_shows_every_image_once_and_the_next_one_in_another_order():
    order = ShardOrder(NAMES, key=(0,))
    epochs = [order.rows(range(e * len(NAMES), (e + 1) * len(NAMES))) for e in range(3)]
    assert all(sorted(epoch) == list(range(len(NAMES))) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert ShardOrder(NAMES, key=(1,)).rows(range(len(NAMES))) != epochs[0]


def test_the_order_follows_from_the_position_alone():
    """In whatever pieces, and from wherever it is asked."""
    whole = ShardOrder(NAMES, key=(0,)).rows(range(200))
    order = ShardOrder(NAMES, key=(0,))
    assert [
        row for start in range(0, 200, 8) for row in order.rows(range(start, start + 8))
    ] == whole
    assert order.rows(range(20)) == whole[:20]
    assert ShardOrder(NAMES, key=(0,)).rows(range(150, 200)) == whole[150:]


def test_a_few_shards_are_mixed_at_a_time_and_the_next_ones_expected():
    heard: list[list[str]] = []
    order = ShardOrder(NAMES, key=(0,), prefetch=lambda shards: heard.append(list(shards)))
    rows = order.rows(range(len(NAMES)))
    met = list(dict.fromkeys(map(shard_of, rows)))  # in the order of their first image
    start = 0
    for k, window in enumerate(range(0, len(SIZES), WINDOW)):
        names = set(met[window : window + WINDOW])
        size = sum(SIZES[int(name[2:5])] for name in names)
        assert {shard_of(row) for row in rows[start : start + size]} == names
        assert set(heard[k][: len(names)]) == names
        assert set(heard[k][len(names) :]) >= set(met[window + WINDOW : window + 2 * WINDOW])
        start += size
    assert rows[: SIZES[int(met[0][2:5])]] != sorted(rows[: SIZES[int(met[0][2:5])]])


def test_processes_meet_all_images_between_them(as_process):
    """Each its own shards; together an epoch."""
    met = Counter[int]()
    for rank, num_shards in enumerate([4, 4, 3]):
        as_process(rank, 3)
        heard: list[str] = []
        order = ShardOrder(NAMES, key=(0,), prefetch=heard.extend)
        order.rows(range(1))
        own = heard[:num_shards]  # one window
        met.update(order.rows(range(sum(SIZES[int(name[2:5])] for name in own))))
    assert met == Counter(range(len(NAMES)))


def test_fewer_shards_than_processes_are_refused(as_process):
    as_process(0, 12)
    with pytest.raises(InputError, match=r"11 shards .* fewer than the 12 processes"):
        ShardOrder(NAMES, key=(0,))


def test_images_to_measure_on_lie_in_the_first_shards():
    chosen = torch.tensor([row % 2 == 0 for row in range(len(NAMES))])
    kept = in_first_shards(NAMES, chosen, count=4)
    assert kept.nonzero().flatten().tolist() == [0, 2, 4, 6, 8, 10, 12]
    assert in_first_shards(NAMES, chosen, count=1000).equal(chosen)


def test_few_shards_are_kept_and_none_is_left(many: Server, tmp_path: Path, monkeypatch):
    """A shard that has been dropped is fetched again."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(work))
    urls = [f"{many.url}/s-{number:03d}.tar" for number in range(14)]
    images = RemoteImages(urls, where="there")
    order = [*range(14), 13, 0]
    for number in order:
        name = f"s-{number:03d}.tar/0001.png"
        assert read_image(images, name, lambda opened: opened.decoded.image.size) == (64, 64)
        assert len(list(work.glob("*/*.tar"))) <= KEPT
    assert len(list(work.glob("*/*.tar"))) == KEPT < 14
    assert many.fetched == [f"/s-{number:03d}.tar" for number in [*range(14), 0]]
    del images
    gc.collect()
    assert list(work.iterdir()) == []


def train(where: str | Path, out: Path, *more: str) -> Path:
    succeed("train-gan", str(where), "--out", out, *TINY_GAN, *STREAMED, *more)
    return out


def test_a_stopped_training_resumes_exactly(many: Server, tmp_path: Path):
    """And held in memory it is the same."""
    url = f"{many.url}/s-{{000..013}}.tar"
    whole = train(url, tmp_path / "whole")
    train(url, tmp_path / "parts", "--kimg", "0.016")
    assert_same_run(train(url, tmp_path / "parts"), whole)
    assert_same_run(train(url, tmp_path / "held", "--cache-gib", "1"), whole)
    names = [row["file_name"] for row in read_json_lines(whole / "embeddings" / "index.jsonl")]
    assert names[-1] == "s-013.tar/0003.png"


def test_two_processes_fetch_their_own_shards(many: Server, tmp_path: Path):
    """They embed them too; stopped and gone on with as many, they are exact."""
    url = f"{many.url}/s-{{000..013}}.tar"
    command = ["train-gan", url, *TINY_GAN, *STREAMED, "--set", "hold_out=false"]
    succeed_in_ranks(*command, "--out", tmp_path / "whole", folder=tmp_path)
    parts = (*command, "--out", tmp_path / "parts")
    succeed_in_ranks(*parts, "--kimg", "0.016", folder=tmp_path)
    succeed_in_ranks(*parts, folder=tmp_path)
    assert_same_run(tmp_path / "parts", tmp_path / "whole")


def test_what_cannot_be_fetched_ends_the_run_and_it_can_go_on(many: Server, tmp_path: Path):
    url, out = f"{many.url}/s-{{000..013}}.tar", tmp_path / "out"
    train(url, out, "--kimg", "0.016")
    for path in many.folder.glob("s-*.tar"):
        path.rename(path.with_suffix(".away"))
    outcome = run_command("train-gan", url, "--out", out, *TINY_GAN, *STREAMED)
    assert outcome.code == 2
    assert "cannot be fetched (exit code 22 of curl)" in outcome.err
    assert "run the same command again" in outcome.err
    for path in many.folder.glob("s-*.away"):
        path.rename(path.with_suffix(".tar"))
    assert_same_run(train(url, out), train(url, tmp_path / "whole"))


def test_a_dry_run_fetches_nothing(many: Server, tmp_path: Path):
    url = f"{many.url}/s-{{000..013}}.tar"
    outcome = succeed("train-gan", url, "--out", tmp_path / "out", *TINY_GAN, "--dry-run")
    assert "in 14 shards, not fetched for this" in outcome.out
    assert many.fetched == []


def test_everything_else_needs_the_images_at_hand(tmp_path: Path):
    outcome = run_command("train-prior", "http://127.0.0.1/a.tar", "--out", tmp_path / "out")
    assert outcome.code == 2
    assert "download them first" in outcome.err

"""Shards at a URL, from a server on this machine: what comes of them is what comes of the same
shards on disk, and they are refused for the same reasons.
"""

import shutil
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest
import torch

from lafite_shifted.errors import InputError
from lafite_shifted.io.files import read_json_lines
from tests.commands import run_command, succeed
from tests.ranks import succeed_in_ranks
from tests.shard_server import Server, write_shard
from training.data.embeddings.embedding_set import EmbeddingSet
from training.data.remote_shards import shard_urls, wait_for_all


def test_shards_at_a_url_are_those_on_disk(shards: Server, tmp_path: Path):
    """Whoever embeds them; what is done is not fetched again."""
    url, out = f"{shards.url}/s-{{000..002}}.tar", tmp_path / "out"
    assert "12 images embedded, 0 reused" in succeed("embed", url, "--out", out).err
    succeed("embed", shards.folder, "--out", tmp_path / "disk")
    found, expected = EmbeddingSet(out), EmbeddingSet(tmp_path / "disk")
    assert list(found.names) == list(expected.names)
    assert found.names[4] == "s-001.tar/0000.png"
    assert found.image[:].equal(expected.image[:])
    assert list(found.captions) == list(expected.captions)
    # batches of other sizes are rounded otherwise
    torch.testing.assert_close(found.text[:], expected.text[:], atol=1e-3, rtol=0)
    assert found.fingerprint == expected.fingerprint
    assert found.held_out.equal(expected.held_out)
    assert f"embeddings            12 of {found.image.shape[1]}" in succeed("stats", out).out
    assert shards.fetched == [f"/s-{number:03d}.tar" for number in range(3)]
    before = (out / "index.jsonl").stat().st_mtime_ns
    assert "0 images embedded, 12 reused" in succeed("embed", url, "--out", out).err
    assert len(shards.fetched) == 3
    assert (out / "index.jsonl").stat().st_mtime_ns == before  # not joined again
    fewer = f"{shards.url}/s-{{000..001}}.tar"
    assert "0 images embedded, 8 reused" in succeed("embed", fewer, "--out", out).err
    assert len(EmbeddingSet(out)) == 8


def test_processes_share_the_shards(shards: Server, tmp_path: Path):
    url = f"{shards.url}/s-{{000..002}}.tar"
    succeed_in_ranks("embed", url, "--out", tmp_path / "two", folder=tmp_path)
    succeed("embed", url, "--out", tmp_path / "one")
    assert sorted(shards.fetched) == sorted(2 * [f"/s-{number:03d}.tar" for number in range(3)])
    one, two = EmbeddingSet(tmp_path / "one"), EmbeddingSet(tmp_path / "two")
    assert two.image[:].equal(one.image[:])
    assert two.fingerprint == one.fingerprint


def test_what_was_embedded_before_a_failure_stays(shards: Server, tmp_path: Path):
    (shards.folder / "s-002.tar").rename(shards.folder / "later.tar")
    command = ("embed", f"{shards.url}/s-{{000..002}}.tar", "--out", tmp_path / "out")
    outcome = run_command(*command)
    assert outcome.code == 2
    assert "s-002.tar cannot be fetched (exit code 22 of curl)" in outcome.err
    assert "run the same command again" in outcome.err
    (shards.folder / "later.tar").rename(shards.folder / "s-002.tar")
    shards.fetched.clear()
    assert "4 images embedded, 8 reused" in succeed(*command).err
    assert shards.fetched == ["/s-002.tar"]
    outcome = run_command(*command, "--background", "black")
    assert outcome.code == 2
    assert "background: white -> black" in outcome.err
    outcome = run_command("embed", f"{shards.url}/s-{{001..002}}.tar", *command[2:])
    assert outcome.code == 2
    assert "Choose another --out" in outcome.err


def test_a_transfer_that_breaks_off_is_no_short_shard(shards: Server, tmp_path: Path):
    shutil.copy(shards.folder / "s-000.tar", shards.folder / "cut.tar")
    outcome = run_command("embed", f"{shards.url}/cut.tar", "--out", tmp_path / "out")
    assert outcome.code == 2
    assert "cut.tar cannot be fetched (exit code 18 of curl)" in outcome.err


def test_bad_images_are_listed_under_their_shard(shards: Server, tmp_path: Path):
    with tarfile.open(shards.folder / "s-001.tar", "a") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))  # empty
    url, out = f"{shards.url}/s-{{000..001}}.tar", tmp_path / "out"
    outcome = run_command("embed", url, "--out", out, "--max-bad", "0.1")
    assert outcome.code == 3
    assert "1 of 9 images cannot be read" in outcome.err
    assert read_json_lines(out / "report.jsonl")[0]["file_name"] == "s-001.tar/a.png"
    succeed("embed", url, "--out", out, "--max-bad", "0.2")


def test_harmful_shards_are_refused(server: Server, tmp_path: Path, shipped_images: Path):
    images = sorted(shipped_images.glob("*.png"))[:1]
    write_shard(server.folder / "out.tar", images, more={"../a.png": b""})
    write_shard(server.folder / "nested.tar", images, more={"a.zip": b""})
    (server.folder / "page.tar").write_text("<html>", encoding="utf-8")
    for name, reason in (
        ("out", "a path out of the archive"),
        ("nested", "an archive in the archive"),
        ("page", "is damaged, or no uncompressed tar"),
    ):
        outcome = run_command("embed", f"{server.url}/{name}.tar", "--out", tmp_path / name)
        assert outcome.code == 2
        assert reason in outcome.err


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("pipe:touch {canary}; cat x.tar", "by http or https"),
        ("file://{canary}.tar", "by http or https"),
        ("http://127.0.0.1/a.zip", "only .tar shards"),
        ("http://127.0.0.1/a.tar::pipe:touch {canary}.tar", "by http or https"),
        ("http://127.0.0.1/{{a,b}}/x.tar", "names x.tar more than once"),
        ("http://127.0.0.1/${{LACKING}}.tar", "no pattern of URLs"),
    ],
)
def test_what_is_no_shard_at_a_url_is_refused(pattern: str, reason: str, tmp_path: Path):
    canary = tmp_path / "canary"
    outcome = run_command("embed", pattern.format(canary=canary), "--out", tmp_path / "out")
    assert outcome.code == 2
    assert reason in outcome.err
    assert list(tmp_path.iterdir()) == []


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "webdataset.gopen", None)
    with pytest.raises(InputError, match=r'pip install "lafite_shifted\[webdataset\]"'):
        shard_urls("http://127.0.0.1/a.tar")


def test_a_slow_process_is_waited_for_while_it_advances(tmp_path: Path, monkeypatch):
    """However long, as long as something is written now and then."""
    monkeypatch.setenv("WORLD_SIZE", "2")

    def write_slowly() -> None:
        for name in (
            "00000/shard-00000.x",
            "00000/done.json",
            "00001/shard-00000.x",
            "00001/done.json",
        ):
            time.sleep(0.3)
            (tmp_path / "parts" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "parts" / name).write_text("{}", encoding="utf-8")

    writer = threading.Thread(target=write_slowly)
    writer.start()
    wait_for_all(tmp_path, 2, quiet_s=0.8, longest_pause_s=0.05)
    writer.join()
    with pytest.raises(InputError, match=r"has not grown for 0\.2 s.* run the same command again"):
        wait_for_all(tmp_path, 3, quiet_s=0.2, longest_pause_s=0.05)
    monkeypatch.setenv("WORLD_SIZE", "1")
    wait_for_all(tmp_path, 3)

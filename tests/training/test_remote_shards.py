"""Shards at a URL, from a server on this machine: what comes of them is what comes of the same
shards on disk, and they are refused for the same reasons.
"""

import io
import shutil
import sys
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lafite_shifted.errors import InputError
from lafite_shifted.files import read_json_lines
from tests.commands import run_command, succeed
from tests.training.test_several_processes import finished, launch
from training.embeddings import EmbeddingSet
from training.remote_shards import shard_urls


@dataclass
class Server:
    """A folder below a URL, and what was asked of it."""

    folder: Path
    url: str
    asked: list[str] = field(default_factory=list)


class Handler(SimpleHTTPRequestHandler):
    """Names with `cut` break off in the middle."""

    def __init__(self, *args, server_record: Server, **kwargs):
        self.record = server_record
        super().__init__(*args, directory=str(server_record.folder), **kwargs)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.record.asked.append(self.path)
        if "cut" not in self.path:
            return super().do_GET()
        content = (self.record.folder / self.path[1:]).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        return None


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    record = Server(tmp_path / "served", "")
    record.folder.mkdir()
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, server_record=record))
    record.url = f"http://127.0.0.1:{http.server_port}"
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    yield record
    http.shutdown()
    thread.join()
    http.server_close()


def write_shard(path: Path, pictures: list[Path], *, more: dict[str, bytes] | None = None) -> None:
    """Numbered pictures with captions, as WebDataset has them."""
    entries = dict(more or {})
    for number, picture in enumerate(pictures):
        entries[f"{number:04d}.png"] = picture.read_bytes()
        entries[f"{number:04d}.txt"] = f"the picture {picture.stem}".encode()
    with tarfile.open(path, "w") as archive:
        for name, content in entries.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


@pytest.fixture
def shards(server: Server, shipped_pictures: Path) -> Server:
    """Three of four pictures each."""
    pictures = sorted(shipped_pictures.glob("*.png"))
    for number in range(3):
        write_shard(server.folder / f"s-{number:03d}.tar", pictures[4 * number : 4 * number + 4])
    return server


def test_shards_at_a_url_are_those_on_disk(shards: Server, tmp_path: Path):
    """Whoever embeds them; what is done is not fetched again."""
    url, out = f"{shards.url}/s-{{000..002}}.tar", tmp_path / "out"
    assert "12 pictures embedded, 0 reused" in succeed("embed", url, "--out", out).err
    succeed("embed", shards.folder, "--out", tmp_path / "disk")
    found, expected = EmbeddingSet(out), EmbeddingSet(tmp_path / "disk")
    assert found.names == expected.names
    assert found.names[4] == "s-001.tar/0000.png"
    assert found.image.equal(expected.image)
    assert found.captions == expected.captions
    assert found.text.equal(expected.text)
    assert found.fingerprint == expected.fingerprint
    assert found.held_out.equal(expected.held_out)
    assert f"embeddings            12 of {found.image.shape[1]}" in succeed("stats", out).out
    assert shards.asked == [f"/s-{number:03d}.tar" for number in range(3)]
    assert "0 pictures embedded, 12 reused" in succeed("embed", url, "--out", out).err
    assert len(shards.asked) == 3


def test_processes_share_the_shards(shards: Server, tmp_path: Path):
    url = f"{shards.url}/s-{{000..002}}.tar"
    finished(launch(["embed", url, "--out", str(tmp_path / "two")]))
    succeed("embed", url, "--out", tmp_path / "one")
    assert sorted(shards.asked) == sorted(2 * [f"/s-{number:03d}.tar" for number in range(3)])
    one, two = EmbeddingSet(tmp_path / "one"), EmbeddingSet(tmp_path / "two")
    assert two.image.equal(one.image)
    assert two.fingerprint == one.fingerprint


def test_what_was_embedded_before_a_failure_stays(shards: Server, tmp_path: Path):
    (shards.folder / "s-002.tar").rename(shards.folder / "later.tar")
    command = ("embed", f"{shards.url}/s-{{000..002}}.tar", "--out", tmp_path / "out")
    outcome = run_command(*command)
    assert outcome.code == 2
    assert "s-002.tar cannot be fetched (exit code 22 of curl)" in outcome.err
    assert "run the same command again" in outcome.err
    (shards.folder / "later.tar").rename(shards.folder / "s-002.tar")
    shards.asked.clear()
    assert "4 pictures embedded, 8 reused" in succeed(*command).err
    assert shards.asked == ["/s-002.tar"]
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


def test_bad_pictures_are_listed_under_their_shard(shards: Server, tmp_path: Path):
    with tarfile.open(shards.folder / "s-001.tar", "a") as archive:
        archive.addfile(tarfile.TarInfo("a.png"))  # empty
    url, out = f"{shards.url}/s-{{000..001}}.tar", tmp_path / "out"
    outcome = run_command("embed", url, "--out", out, "--max-bad", "0.1")
    assert outcome.code == 3
    assert "1 of 9 pictures cannot be read" in outcome.err
    assert read_json_lines(out / "report.jsonl")[0]["file_name"] == "s-001.tar/a.png"
    succeed("embed", url, "--out", out, "--max-bad", "0.2")


def test_harmful_shards_are_refused(server: Server, tmp_path: Path, shipped_pictures: Path):
    pictures = sorted(shipped_pictures.glob("*.png"))[:1]
    write_shard(server.folder / "out.tar", pictures, more={"../a.png": b""})
    write_shard(server.folder / "nested.tar", pictures, more={"a.zip": b""})
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


def test_a_training_of_pictures_needs_them_at_hand(tmp_path: Path):
    outcome = run_command("train-gan", "http://127.0.0.1/a.tar", "--out", tmp_path / "out")
    assert outcome.code == 2
    assert "download them first" in outcome.err


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "webdataset.gopen", None)
    with pytest.raises(InputError, match=r'pip install "lafite_shifted\[webdataset\]"'):
        shard_urls("http://127.0.0.1/a.tar")

"""`stats` as its users type it: clusters, merging, figures, several processes, constant memory."""

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from lafite_shifted.encoders.encoder_id import EncoderBlock, EncoderId
from lafite_shifted.gaussian.cluster_stats import ClusterStats
from lafite_shifted.gaussian.stats import EmbeddingStats
from lafite_shifted.io.files import save_tensors
from tests.commands import Outcome, run_command, succeed
from tests.ranks import succeed_in_ranks

ENCODER = EncoderId((EncoderBlock("made up", "abc", "{}", 32),))


def write_shards(folder: Path, num_shards: int, *, rows: int = 100, dim: int = 32) -> Path:
    """Shards without an index, as a cluster of machines may write them."""
    for number in range(num_shards):
        drawn = torch.randn(rows, dim, generator=torch.Generator().manual_seed(number))
        image = F.normalize(drawn * torch.linspace(2, 0.2, dim) + 1, dim=1).half()
        metadata = {"kind": "embeddings", "format": 1, "encoder": ENCODER.to_json()}
        save_tensors(folder / f"shard-{number:05d}.safetensors", {"image": image}, metadata)
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("shards"), 7)


def test_files_of_parts_merge_into_that_of_the_whole(shards: Path, tmp_path: Path):
    for name, numbers in (("a", (0, 1, 2)), ("b", (3,)), ("c", (4, 5, 6))):
        for number in numbers:
            (tmp_path / name).mkdir(exist_ok=True)
            shutil.copy(shards / f"shard-{number:05d}.safetensors", tmp_path / name)
        succeed("stats", tmp_path / name, "--out", tmp_path / f"{name}.safetensors")
    parts = [tmp_path / f"{name}.safetensors" for name in "abc"]
    succeed("stats", "--merge", *parts, "--out", tmp_path / "merged.safetensors")
    succeed("stats", shards, "--out", tmp_path / "whole.safetensors")
    merged = EmbeddingStats.load(tmp_path / "merged.safetensors")
    whole = EmbeddingStats.load(tmp_path / "whole.safetensors")
    assert merged.count == whole.count == 700
    assert merged.encoder_id == ENCODER
    torch.testing.assert_close(merged.covariance, whole.covariance, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", ["diagonal", "low-rank", "full"])
def test_clusters_count_every_embedding(shards: Path, tmp_path: Path, kind: str):
    out = tmp_path / "clusters.safetensors"
    options = ("--clusters", "5", "--covariance-type", kind, "--out", out)
    found = json.loads(succeed("stats", shards, *options, "--json").out)
    assert (sum(found["counts"]), found["clusters"]) == (700, 5)
    saved = ClusterStats.load(out)
    assert saved.counts.tolist() == found["counts"]
    assert saved.encoder_id == ENCODER
    words = succeed("stats", shards, *options).out
    assert f"clusters    5 of 5 in use, {min(found['counts'])} to {max(found['counts'])}" in words
    merged = tmp_path / "twice.safetensors"
    succeed("stats", "--merge", out, out, "--out", merged)
    assert ClusterStats.load(merged).counts.equal(2 * saved.counts)


@pytest.mark.parametrize("kind", ["diagonal", "full"])
def test_clusters_of_several_folders_merge_around_the_same_centroids(
    shards: Path, tmp_path: Path, kind: str
):
    first, second, whole = (tmp_path / f"{name}.safetensors" for name in ("a", "b", "whole"))
    succeed("stats", shards, "--clusters", "5", "--covariance-type", kind, "--out", first)
    more = tmp_path / "more"
    more.mkdir()
    write_shards(more, 9)  # the same, and two others
    succeed("stats", more, "--centroids", first, "--out", second)
    both = tmp_path / "both.safetensors"
    succeed("stats", "--merge", first, second, "--out", both)
    merged, again = ClusterStats.load(both), ClusterStats.load(second)
    assert again.covariance_type == kind
    assert again.centroids.equal(ClusterStats.load(first).centroids)
    assert (int(again.counts.sum()), int(merged.counts.sum())) == (900, 1600)
    other = succeed("stats", more, "--clusters", "5", "--covariance-type", kind, "--out", whole)
    assert "clusters    5 of 5" in other.out
    outcome = run_command("stats", "--merge", first, whole, "--out", both)
    assert outcome.code == 2
    assert "`stats --centroids`" in outcome.err


def test_the_figure_shows_spectrum_and_cone(shards: Path, tmp_path: Path):
    succeed("stats", shards, "--plot", tmp_path / "cone.png")
    with Image.open(tmp_path / "cone.png") as figure:
        pixels = np.asarray(figure.convert("RGB")).astype(int)
    assert pixels.shape[1] > 2 * pixels.shape[0]
    blue = (pixels[:, :, 2] - pixels[:, :, 0] > 80).any(axis=0)
    half = len(blue) // 2
    assert blue[:half].any()  # the spectrum's curve
    assert blue[half:].any()  # the histogram


def test_processes_share_the_shards_and_find_the_same(shards: Path, tmp_path: Path):
    """One output, the statistics of one process to rounding, the same clusters."""

    def run(name: str, succeed: Callable[..., Outcome]) -> tuple[EmbeddingStats, ClusterStats]:
        outs = [tmp_path / f"{name}-{part}.safetensors" for part in ("stats", "clusters")]
        for out, options in zip(outs, ([], ["--clusters", "4"]), strict=True):
            done = succeed("stats", shards, "--json", "--out", out, *options)
            assert len(done.out.splitlines()) == 1
        return EmbeddingStats.load(outs[0]), ClusterStats.load(outs[1])

    alone = run("alone", succeed)
    shared = run("shared", functools.partial(succeed_in_ranks, folder=tmp_path, count=3))
    assert shared[0].count == alone[0].count == 700
    torch.testing.assert_close(shared[0].m2, alone[0].m2, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(shared[0].fourth, alone[0].fourth, rtol=1e-12, atol=1e-13)
    assert shared[1].counts.equal(alone[1].counts)
    assert shared[1].centroids.equal(alone[1].centroids)


def test_memory_does_not_grow_with_the_number_of_shards(tmp_path: Path):
    """Ten times the shards, of 1 MB in float32 each, within the same memory."""
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from training.data.embeddings.stream import EmbeddingStream, stream_stats\n"
        "stream_stats(EmbeddingStream(Path(sys.argv[1])))\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)\n"
    )
    peaks = []
    for num_shards in (6, 60):
        folder = tmp_path / str(num_shards)
        folder.mkdir()
        write_shards(folder, num_shards, rows=8192)
        done = subprocess.run(
            [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 20, peaks  # MB; the embeddings added are 57 MB in float32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--merge", "A"), "--merge needs --out"),
        (("--merge", "A", "--out", "OUT", "--clusters", "3"), "goes without --clusters"),
        (
            ("--merge", "A", "--out", "OUT", "--centroids", "A"),
            "goes without --clusters, --centroids",
        ),
        (("A", "--clusters", "3", "--centroids", "A"), "Leave out --clusters"),
        (("A", "--centroids", "MISSING"), "does not exist"),
        (("A", "A"), "2 folders are given"),
        (("A", "--clusters", "1000"), "there are 700. Give fewer clusters"),
        (("A", "--clusters", "0"), "not in the range"),
        (("A", "--clusters", "600000", "--covariance-type", "full"), "would take 22.9 GiB"),
        (("MISSING",), "holds no embeddings"),
        (("--merge", "MISSING", "--out", "OUT"), "does not exist"),
        (("--merge", "A/shard-00000.safetensors", "--out", "OUT"), "holds 'embeddings'"),
    ],
)
def test_bad_input_is_named(shards: Path, tmp_path: Path, arguments: tuple[str, ...], message: str):
    places = {"A": shards, "MISSING": tmp_path / "nothing", "OUT": tmp_path / "out.safetensors"}
    places["A/shard-00000.safetensors"] = shards / "shard-00000.safetensors"
    outcome = run_command("stats", *(places.get(argument, argument) for argument in arguments))
    assert outcome.code == 2
    assert message in outcome.err
    assert not places["OUT"].exists()

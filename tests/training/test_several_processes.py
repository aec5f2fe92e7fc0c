"""Training in several processes: the same samples meet the same randomness, so the log
is that of one process, up to the order of sums; what is refused; stopping and going on.
"""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from lafite_shifted.io.files import load_tensors, read_json_lines
from tests.commands import TINY_GAN, TINY_PRIOR, assert_refused, run_command, succeed
from tests.ranks import run_ranks, succeed_in_ranks, torchrun
from tests.real_images import damage
from tests.torture_bench import children
from torch_utils import seeds
from training.data.synthetic_cone import PAIRS_PER_NAME

STEPS = 6
FIELDS = ("dtype=float32", "run.log_kimg=0.008", "run.checkpoint_kimg=0.008")
# a temperature of .1 multiplies by ten what a batch of another size rounds in the CLIP
CLIP_LOSS = ("clip_weight=0.5", "clip_temperature=1")
OPTIONS = (*TINY_PRIOR, *(word for field in FIELDS for word in ("--set", field)))


@pytest.fixture(scope="module")
def cone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cone") / "out"
    succeed("dataset", "cone", "--out", folder, "--names", "100")
    return folder


def arguments(cone: Path, out: Path, *more: str, kimg: float = 0.008 * STEPS) -> list[str]:
    command = ["train-prior", cone, "--out", out, *OPTIONS, "--kimg", kimg, *more]
    return [str(word) for word in command]


def rows(run: Path) -> list[dict]:
    lines = (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("clusters", [0, 4])
def test_two_processes_log_what_one_does(cone: Path, tmp_path: Path, clusters: int):
    """Losses and norms of gradients of the same whole batch, step by step; one writes and
    speaks. Clusters are of every embedding once.
    """
    more = ("--process", "clusters", "--set", f"prior.num_clusters={clusters}") if clusters else ()
    succeed(*arguments(cone, tmp_path / "one", *more))
    both = succeed_in_ranks(*arguments(cone, tmp_path / "two", *more), folder=tmp_path)
    assert both.out.count("prior in") == 1
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert len(one) == len(two) == STEPS
    for a, b in zip(one, two, strict=True):
        for name in ("samples", "loss", "gradient_norm"):
            assert b[name] == pytest.approx(a[name], rel=1e-5), name
    assert one[0]["loss"] != one[1]["loss"]
    names = [{path.name for path in (tmp_path / run).iterdir()} for run in ("one", "two")]
    assert names[0] == names[1]
    if clusters:
        files = [tmp_path / run / "prior" / "clusters.safetensors" for run in ("one", "two")]
        counts = [load_tensors(file)[0]["counts"] for file in files]
        assert counts[0].equal(counts[1])
        assert int(counts[0].sum()) < 100 * PAIRS_PER_NAME


def test_a_stopped_run_of_two_resumes_exactly(cone: Path, tmp_path: Path):
    """SIGTERM to torchrun reaches all; they stop at the same step, with one checkpoint."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    long = 0.008 * 60
    succeed_in_ranks(*arguments(cone, whole, kimg=long), folder=tmp_path)
    process = torchrun(arguments(cone, broken, kimg=long))
    deadline = time.monotonic() + 300  # on a machine that does much else
    while not list(broken.glob("checkpoints/samples-*")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert 0 < rows(broken)[-1]["samples"] < 60 * 8
    succeed_in_ranks(*arguments(cone, broken, kimg=long), folder=tmp_path)
    a, b = (load_tensors(run / "prior" / "weights.safetensors")[0] for run in (whole, broken))
    assert all(a[name].equal(b[name]) for name in a)
    keep = ("samples", "loss", "gradient_norm")
    logs = [[{k: row[k] for k in keep} for row in rows(run)] for run in (whole, broken)]
    assert logs[0] == logs[1]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_process_ends_all_in_time(cone: Path, tmp_path: Path, number: int):
    """Killed, or stopped so that the others wait for it: none is left, long before torchrun would
    kill what does not hear, and the exit is not 0.
    """
    limit = 15
    command = [*arguments(cone, tmp_path / "run", kimg=80), "--set", f"run.time_limit_s={limit}"]
    process = torchrun(command)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("run/checkpoints/samples-*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    ranks = children(process.pid)
    assert len(ranks) == 2
    os.kill(ranks[0], number)
    deadline = time.monotonic() + limit + 25  # 10 on a machine that does nothing else
    while any(Path(f"/proc/{pid}").exists() for pid in ranks):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    process.communicate()
    assert process.returncode != 0


def test_another_number_of_processes_resumes(cone: Path, tmp_path: Path):
    succeed_in_ranks(*arguments(cone, tmp_path / "run", kimg=0.024), folder=tmp_path)
    succeed(*arguments(cone, tmp_path / "run"))
    succeed(*arguments(cone, tmp_path / "one"))
    for a, b in zip(rows(tmp_path / "one"), rows(tmp_path / "run"), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-3)


def test_a_gan_resumes_with_another_number_of_processes(
    some_images: Path, some_embeddings: Path, tmp_path: Path
):
    """The second step, by one process from the checkpoint of two, is that of one process alone, up
    to the order of sums.
    """
    fields = ("dtype=float32", "run.log_kimg=0.008", *CLIP_LOSS, "path_length_weight=2")
    options = [word for field in fields for word in ("--set", field)]

    def command(out: Path, kimg: float) -> list[str]:
        words = ("train-gan", some_images, "--out", out, *TINY_GAN, *options, "--kimg", kimg)
        return [str(word) for word in words]

    for name in ("one", "mixed"):
        shutil.copytree(some_embeddings, tmp_path / name / "embeddings")
    succeed_in_ranks(*command(tmp_path / "mixed", 0.008), folder=tmp_path)
    succeed(*command(tmp_path / "mixed", 0.016))
    succeed(*command(tmp_path / "one", 0.016))
    one, mixed = rows(tmp_path / "one"), rows(tmp_path / "mixed")
    assert [row["samples"] for row in mixed] == [8, 16]
    names = ("loss_d", "loss_g", "logit_real", "loss_infonce_fake", "loss_infonce_clip", "ada_rt")
    for a, b in zip(one, mixed, strict=True):
        for name in names:
            assert b[name] == pytest.approx(a[name], rel=1e-3, abs=1e-5), name
    assert one[0]["loss_d"] != pytest.approx(one[1]["loss_d"], rel=1e-3)


@pytest.mark.filterwarnings("always:.*cannot be read any more")
def test_two_processes_train_a_gan_as_one_does(some_images: Path, tmp_path: Path):
    """With contrastive terms over the whole batch; decoding as they go, with an image that one of
    them cannot read any more.
    """
    images = Path(shutil.copytree(some_images, tmp_path / "images"))

    def command(out: Path) -> list[str]:
        fields = ("dtype=float32", "run.log_kimg=0.008", *CLIP_LOSS, "r1_every=2")
        words = [
            "train-gan",
            images,
            "--out",
            out,
            *TINY_GAN,
            "--cache-gib",
            "0",
            "--max-bad",
            "5%",
        ]
        return [str(word) for word in (*words, *(w for f in fields for w in ("--set", f)))]

    assert_refused(
        run_ranks(*command(tmp_path / "two"), folder=tmp_path), "Several processes need embeddings"
    )
    for name in ("one", "two"):
        succeed("embed", images, "--out", tmp_path / name / "embeddings")
    wanted = seeds.epoch_indices([13], size=48, key=(0, "images"))[0]  # by the second process
    lost = sorted(images.glob("*.png"))[wanted]
    damage(lost)
    told = f"warning: {lost.name} cannot be read any more"
    assert told in succeed(*command(tmp_path / "one")).err
    both = succeed_in_ranks(*command(tmp_path / "two"), folder=tmp_path)
    assert both.out.count("generator in") == 1
    for name in ("one", "two"):
        report = read_json_lines(tmp_path / name / "embeddings" / "report.jsonl")
        assert [row["file_name"] for row in report] == [lost.name]
    one, two = rows(tmp_path / "one"), rows(tmp_path / "two")
    assert len(one) == len(two) == 4
    assert one[1]["replaced"] == 1 / 8
    for a, b in zip(one[:2], two[:2], strict=True):  # Adam turns rounding of small gradients large
        assert b["replaced"] == a["replaced"]
        for name in (
            "loss_d",
            "loss_g",
            "loss_infonce_real",
            "loss_infonce_fake",
            "loss_infonce_clip",
        ):
            assert b[name] == pytest.approx(a[name], rel=1e-3), name


def test_what_several_processes_cannot_do_is_refused(
    cone: Path, some_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WORLD_SIZE", "3")
    outcome = run_command("train-prior", some_images, "--out", tmp_path / "a", *OPTIONS)
    assert outcome.code == 2
    assert "need embeddings that are ready" in outcome.err
    outcome = run_command("embed", some_images, "--out", tmp_path / "a")
    assert outcome.code == 2
    assert "Run `embed` in one" in outcome.err
    assert not (tmp_path / "a").exists()
    outcome = run_ranks(*arguments(cone, tmp_path / "b"), folder=tmp_path, count=3)
    assert_refused(outcome, "A batch of 8 is not shared evenly by 3 processes")
    assert not (tmp_path / "b" / "config.json").exists()

"""`push`, and models of the Hub wherever one is named: against a Hub of this machine, over HTTP."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import safetensors.numpy
from PIL import Image

from lafite_shifted.model_folder import model_hash
from tests import processes
from tests.commands import assert_refused, half_written, run_command, succeed
from tests.fake_hub import TOKEN, FakeHub, fake_hub

REPO = "someone/drawings"
PUSH = ("--license", "cc-by-4.0", "--prompt", "a red heart", "--prompt", "a cat")


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with fake_hub() as found:
        yield found


SETTINGS = """
import importlib
from huggingface_hub import constants, hf_api
importlib.reload(constants)
hf_api.api.__init__()
"""
PROGRAM = "from lafite_shifted.cli.main import main; main()"


def settings(hub: FakeHub, home: Path) -> dict[str, str]:
    """The environment of a process whose Hub is `hub`."""
    found = {"HF_ENDPOINT": hub.url, "HF_HOME": str(home), "HF_HUB_OFFLINE": "0"}
    found |= {"HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_TELEMETRY": "1"}
    return {**os.environ, **found}


def away(hub: FakeHub, home: Path, *words: str | Path, **more: str) -> CompletedProcess:
    """`lafite-shifted WORDS` as a process of its own, whose Hub is `hub`: huggingface_hub takes its
    settings when it is imported, or, forked, again.
    """
    command = [sys.executable, "-c", SETTINGS + PROGRAM, *words]
    return processes.run(command, env=settings(hub, home) | more)


def fresh(hub: FakeHub, home: Path, *words: str | Path) -> CompletedProcess:
    """The same, in an interpreter of its own."""
    command = [sys.executable, "-c", PROGRAM, *map(str, words)]
    options = {"capture_output": True, "text": True, "check": False}
    return subprocess.run(command, env=settings(hub, home), **options)


def test_dry_run_writes_what_would_be_sent(model_folder: Path, tmp_path: Path):
    out = tmp_path / "sent"
    said = succeed("push", model_folder, REPO, *PUSH, "--dry-run", out)
    assert "nothing sent" in said.out
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    parts = {f"{part}/{name}" for part in ("generator", "prior")
             for name in ("config.json", "weights.safetensors", "stats.safetensors")}  # fmt: skip
    assert names == parts | {"README.md", "gallery.png"}
    assert half_written(out) == []
    assert model_hash(out) == model_hash(model_folder)
    card = (out / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlicense: cc-by-4.0\n")
    training = json.loads((out / "generator" / "config.json").read_text())["training"]
    assert f"| generator | num images | {training['num_images']} |" in card
    assert f"| generator | kimg | {training['kimg']} |" in card
    assert '"resolution": 16' in card
    assert "- a cat" in card
    with Image.open(out / "gallery.png") as image:
        image.load()
        assert image.width > 8 * 16
    assert succeed(
        "generate", "a cat", "--model", out, "--num-images", "1", "--out", tmp_path / "i"
    )


def test_metrics_of_a_run_are_in_the_card(model_folder: Path, tmp_path: Path):
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    config = folder / "generator" / "config.json"
    record = json.loads(config.read_text(encoding="utf-8"))
    record["training"] |= {"held_out_kid_clip": 0.0123, "reference": {"hash": "a|b"}}
    config.write_text(json.dumps(record), encoding="utf-8")
    succeed("push", folder, REPO, *PUSH, "--dry-run", tmp_path / "sent")
    card = (tmp_path / "sent" / "README.md").read_text(encoding="utf-8")
    metrics = card.split("## Metrics")[1].split("## Training")[0]
    assert "| generator | held out kid clip | 0.0123 |" in metrics
    assert "kimg" not in metrics
    assert '{"hash": "a\\|b"}' in card


def report_of(folder: Path, **changes: object) -> dict[str, object]:
    """What `evaluate gan` writes of the generator in `folder`, in short."""
    training = json.loads((folder / "generator" / "config.json").read_text())["training"]
    judge = {"name": "efficientnet_lite0", "encoder": "abc", "filter": "64 pixels", "images": 12,
             "hash": "def"}  # fmt: skip
    rows = {"generator": {"kid_judge": 0.0123456}, "the same images": {"kid_judge": 0.0, "x": 2}}
    command = "lafite-shifted evaluate gan RUN PHOTOS"
    return {"rows": rows, "references": {"judge": judge}, "training": training, "command": command,
            "eval_set": "held_out", "resolution": 64} | changes  # fmt: skip


def test_reports_of_evaluations_are_in_the_cards(model_folder: Path, tmp_path: Path):
    """Of these weights alone, with judge and command; a packed model keeps them for `push`."""
    run = Path(shutil.copytree(model_folder, tmp_path / "run"))
    reports = {
        "evaluation": report_of(run),
        "older": report_of(run, training={"kimg": 1}, command="of older weights"),
        "other": {"rows": 3},
    }
    for name, report in reports.items():
        (run / name).mkdir()
        (run / name / "report.json").write_text(json.dumps(report), encoding="utf-8")
    (run / "report.json").write_text("no JSON", encoding="utf-8")
    packed = tmp_path / "packed"
    succeed("pack", "--gan", run, "--prior", model_folder, "--out", packed)
    succeed("push", packed, REPO, *PUSH, "--dry-run", tmp_path / "sent")
    succeed("push", run, REPO, *PUSH, "--dry-run", tmp_path / "sent-run")
    for folder in (packed, tmp_path / "sent", tmp_path / "sent-run"):
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert "    lafite-shifted evaluate gan RUN PHOTOS\n" in card
        assert "- `judge`: efficientnet_lite0, weights abc, 64 pixels; 12 real images" in card
        assert "| images of | kid_judge | x |" in card
        assert "| generator | 0.01235 |  |" in card
        assert "of older weights" not in card
    assert not (tmp_path / "sent" / "reports").exists()


def test_pushed_pinned_fetched_and_kept(hub: FakeHub, model_folder: Path, tmp_path: Path):
    """The whole way, then without the network, and an older commit by its name."""
    home = tmp_path / "home"
    sent = fresh(hub, home, "push", model_folder, REPO, *PUSH)
    assert sent.returncode == 0, sent.stderr + str(hub.requests[-3:])
    commit = hub.branches[REPO]["main"]
    assert f"--model {REPO}@{commit}" in sent.stdout
    files = hub.commits[REPO][commit]
    assert {name.rpartition(".")[2] for name in files} == {"json", "safetensors", "md", "png"}
    assert safetensors.numpy.load(files["generator/weights.safetensors"])
    hub.commit(REPO, "main", {"generator/config.json": b"{}"})  # a newer one, which is broken
    flags = ("--num-images", "1", "--device", "cpu", "--dtype", "float32")
    pinned = ("generate", "a cat", "--model", f"{REPO}@{commit}", *flags)
    made = away(hub, home, *pinned, "--out", tmp_path / "pinned")
    assert made.returncode == 0, made.stderr
    newest = away(hub, home, "generate", "a cat", "--model", REPO, "--out", tmp_path / "newest")
    assert_refused_process(newest, "holds no generator")
    succeed("generate", "a cat", "--model", model_folder, *flags, "--out", tmp_path / "own")
    name = "a-cat-0000.png"
    with Image.open(tmp_path / "pinned" / name) as one, Image.open(tmp_path / "own" / name) as two:
        assert one.tobytes() == two.tobytes()
    count = len(hub.requests)
    offline = away(hub, home, *pinned, "--out", tmp_path / "offline", HF_HUB_OFFLINE="1")
    assert offline.returncode == 0, offline.stderr
    assert len(hub.requests) == count, "offline means that nobody is asked"
    hub.url = "http://127.0.0.1:9"  # nobody there: what was fetched serves
    gone = away(hub, home, *pinned, "--out", tmp_path / "gone")
    assert gone.returncode == 0, gone.stderr
    unknown = away(hub, tmp_path / "other", *pinned, "--out", tmp_path / "x", HF_HUB_OFFLINE="1")
    assert_refused_process(unknown, "the Hub has not given it")


def assert_refused_process(found: CompletedProcess, *expected: str) -> None:
    assert found.returncode == 2, found.stderr
    assert "Traceback" not in found.stderr
    for text in expected:
        assert text in found.stderr


def test_refusals_of_the_hub(hub: FakeHub, model_folder: Path, tmp_path: Path):
    home = tmp_path / "home"
    words = ("push", model_folder, REPO, *PUSH)
    assert_refused_process(away(hub, home, *words, HF_TOKEN="wrong"), "your token")
    assert_refused_process(away(hub, home, *words, HF_HUB_OFFLINE="1"), "HF_HUB_OFFLINE is set")
    assert hub.commits == {}
    missing = away(hub, home, "generate", "a cat", "--model", REPO, "--out", tmp_path / "x")
    assert_refused_process(missing, "the Hub has not given it")
    nobody = {"HF_ENDPOINT": "http://127.0.0.1:1"}
    assert_refused_process(away(hub, home, *words, **nobody), "The Hub has not taken", "network")
    missing = away(hub, home, "generate", "a cat", "--model", REPO, "--out", tmp_path, **nobody)
    assert_refused_process(missing, "the Hub has not given it", "network")


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (("no-slash", "--license", "mit"), "is no Hub id"),
        (("a/b/c", "--license", "mit"), "is no Hub id"),
        ((REPO, "--license", "my: licence\n"), "is no identifier"),
        ((REPO,), "--license"),
    ],
)
def test_bad_flags_are_refused(model_folder: Path, flags: tuple[str, ...], expected: str):
    assert_refused(run_command("push", model_folder, *flags), expected)


def test_a_clip_of_this_machine_is_refused(model_folder: Path, tmp_path: Path):
    folder = Path(shutil.copytree(model_folder, tmp_path / "model"))
    config = folder / "generator" / "config.json"
    record = json.loads(config.read_text(encoding="utf-8"))
    record["encoder"][0]["model"] = "ViT-B-32//home/me/weights.safetensors"
    config.write_text(json.dumps(record), encoding="utf-8")
    outcome = run_command("push", folder, REPO, *PUSH, "--dry-run", tmp_path / "sent")
    assert_refused(outcome, "which others do not have", "pack --clip")


def test_no_model_is_refused(tmp_path: Path):
    assert_refused(run_command("push", tmp_path, REPO, *PUSH), "holds no generator")

"""`doctor` has a line for each thing that a training needs, and never fails itself."""

import json
import os
import sys
from pathlib import Path

import pytest

from tests.commands import run_command, succeed
from training.tools import doctor
from training.tools.doctor import Finding


def test_doctor_has_a_line_for_each_thing():
    outcome = succeed("doctor")
    for name in (
        "Python",
        "torch",
        "CUDA",
        "GPU",
        "open_clip",
        "starter CLIP",
        "starter model",
        "compiler",
        "nvcc",
        "operators",
        "shared memory",
        "disk",
    ):
        assert f" {name} " in outcome.out, name
    assert "operators" in outcome.out
    for line in outcome.out.splitlines():
        if line.startswith("missing"):
            assert "-> " in outcome.out[outcome.out.index(line) + len(line) :].splitlines()[1], line


def test_doctor_as_json():
    findings = json.loads(succeed("doctor", "--json").out)
    assert {finding["state"] for finding in findings} <= {"ok", "missing", "broken"}
    assert [finding["name"] for finding in findings][:2] == ["Python", "torch"]


def test_doctor_exits_1_when_nothing_can_run(monkeypatch: pytest.MonkeyPatch):
    broken = Finding("torch", "broken", "cannot be imported", "pip install torch")
    monkeypatch.setattr(doctor, "examine", lambda: [broken])
    outcome = run_command("doctor")
    assert outcome.code == 1
    assert "pip install torch" in outcome.out


def test_doctor_notices_a_folder_that_hides_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "training").mkdir()
    (tmp_path / "training" / "__init__.py").touch()
    unreadable = str(tmp_path / ("x" * 300))  # as of a folder of another user's
    monkeypatch.setattr(sys, "path", [unreadable, str(tmp_path), *sys.path])
    outcome = run_command("doctor")
    assert outcome.code == 0  # commands take their own
    assert f"{tmp_path / 'training' / '__init__.py'} has the name of a package" in outcome.out


def test_doctor_works_without_compiler(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", os.devnull)
    assert "missing compiler" in succeed("doctor").out

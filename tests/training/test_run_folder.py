"""Run folders: another run's is refused, one in use too, and what a killed process left goes."""

import json
from pathlib import Path

import pytest

from lafite_shifted.errors import InputError
from lafite_shifted.io.files import read_json
from tests.training.run_folders import DESCRIPTION, open_run
from training.run_folder import RunFolder


def test_same_run_opens_again_and_its_length_may_change(tmp_path: Path):
    open_run(tmp_path / "run")
    longer = {"batch": 4, "run": {"kimg": 9.0}, "sizes": (1, 2)}
    open_run(tmp_path / "run", config=longer)
    assert read_json(tmp_path / "run" / "config.json")["config"]["run"] == {"kimg": 9.0}


def test_another_configuration_is_refused_by_name(tmp_path: Path):
    open_run(tmp_path / "run")
    before = (tmp_path / "run" / "config.json").read_bytes()
    other = {"batch": 8, "run": {"kimg": 1.0}, "sizes": (1, 3)}
    with pytest.raises(InputError, match=r"config\.batch: 4 -> 8; config\.sizes: \[1, 2\] -> \[1"):
        open_run(tmp_path / "run", config=other)
    with pytest.raises(InputError, match=r"data\.n: 3 -> 4.*choose another --out"):
        open_run(tmp_path / "run", data={"n": 4})
    with pytest.raises(
        InputError, match=r"compute\.ops: compiled -> reference.*`lafite-shifted ops"
    ):
        open_run(tmp_path / "run", compute={"ops": "reference"})
    with pytest.raises(InputError, match="not that of a prior run"):
        RunFolder(tmp_path / "run", kind="prior", description=DESCRIPTION)
    assert (tmp_path / "run" / "config.json").read_bytes() == before


def test_folder_that_is_no_run_is_refused(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("keep", encoding="utf-8")
    with pytest.raises(InputError, match=r"is not empty and is no run folder"):
        open_run(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("content", ["[]", "3", "{", '{"config": 3}', '{"model_type": "bert"}'])
def test_foreign_config_is_refused(tmp_path: Path, content: str):
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=r"no run folder|not valid JSON"):
        open_run(tmp_path)
    assert (tmp_path / "config.json").read_text(encoding="utf-8") == content


def test_embeddings_may_lie_there_before(tmp_path: Path):
    (tmp_path / "embeddings").mkdir()
    open_run(tmp_path)
    assert (tmp_path / "config.json").is_file()


def test_config_json_explains_the_run(tmp_path: Path):
    open_run(tmp_path / "run")
    record = json.loads((tmp_path / "run" / "config.json").read_text(encoding="utf-8"))
    assert record["kind"] == "gan"
    assert record["format"] == 2
    assert record["config"]["sizes"] == [1, 2]


def test_a_folder_in_use_is_refused_until_it_is_closed(tmp_path: Path):
    first = RunFolder(tmp_path / "run", kind="walk", description={"config": {}})
    with pytest.raises(InputError, match="another process trains there"):
        RunFolder(tmp_path / "run", kind="walk", description={"config": {}})
    first.close()
    RunFolder(tmp_path / "run", kind="walk", description={"config": {}}).close()


def test_leftovers_of_a_killed_process_go(tmp_path: Path):
    run = tmp_path / "run"
    RunFolder(run, kind="walk", description={"config": {}}).close()
    (run / "checkpoints" / ".samples-0000000004.77.tmp").mkdir(parents=True)
    (run / "generator").mkdir()
    (run / ".generator.77.old").mkdir()
    (run / ".config.json.77.tmp").write_text("{", encoding="utf-8")
    RunFolder(run, kind="walk", description={"config": {}}).close()
    assert [p.name for p in run.rglob(".*")] == []


def test_a_folder_that_was_taken_away_comes_back(tmp_path: Path):
    """A kill between two renames must not cost the best generator."""
    run = tmp_path / "run"
    RunFolder(run, kind="walk", description={"config": {}}).close()
    (run / "best" / ".generator.77.old").mkdir(parents=True)
    (run / "best" / ".generator.77.old" / "config.json").write_text("{}", encoding="utf-8")
    (run / "best" / ".generator.77.tmp").mkdir()
    RunFolder(run, kind="walk", description={"config": {}}).close()
    assert [p.name for p in (run / "best").iterdir()] == ["generator"]
    assert (run / "best" / "generator" / "config.json").is_file()

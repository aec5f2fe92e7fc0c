"""The shortened form of `make torture`: a few faults of each kind that needs no mount."""

import shutil

import pytest

from tests import torture, torture_disks
from tests.torture_bench import Bench


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench.set_up(tmp_path_factory.mktemp("torture"), steps=30)  # two evaluations


def test_kills(bench: Bench):
    told = torture.kills(bench, 5, in_saves=2, in_evaluations=1)
    assert told.startswith("5 kills, 2 of them inside the save of a checkpoint, 1 inside")


def test_signals(bench: Bench):
    assert torture.signals(bench, 1, fresh=0).startswith("1 each of SIGTERM, SIGINT, SIGUSR1")


def test_second_sigint(bench: Bench):
    assert "all left at once" in torture.second_sigint(bench, 2)


def test_disks_that_fail(bench: Bench):
    assert "(2 in checkpoint): told, exit 2" in torture_disks.failing_disks(bench, 1)


def test_the_check_notices_a_difference(bench: Bench):
    """A torture that cannot fail proves nothing: another seed's run is not the unbroken one."""
    process = bench.start("other", more=("--seed", "1"))
    assert process.wait() == 0, bench.output()
    with pytest.raises(AssertionError):
        bench.check("other")


@pytest.mark.parametrize("part", ["generator", "best/generator"])
def test_the_check_reads_the_generators(bench: Bench, part: str):
    run = f"mixed-{part.partition('/')[0]}"
    shutil.copytree(bench.folder / "forked", bench.folder / run)
    bench.check(run)
    config = bench.folder / run / part / "config.json"
    config.write_text(config.read_text().replace('"kimg"', '"other"'))
    with pytest.raises(AssertionError):
        bench.check(run)

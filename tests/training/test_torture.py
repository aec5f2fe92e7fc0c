"""The shortened form of `make torture`: a few faults of each kind that needs no mount."""

import pytest

from tests import torture


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> torture.Bench:
    return torture.Bench.set_up(tmp_path_factory.mktemp("torture"))


def test_kills(bench: torture.Bench):
    assert torture.kills(bench, 2, inside_saves=1).startswith("2 kills, 1 of them inside a save")


def test_disks_that_fail(bench: torture.Bench):
    assert "exit 2, then exact resumes" in torture.failing_disks(bench, 1)


def test_the_check_notices_a_difference(bench: torture.Bench):
    """A torture that cannot fail proves nothing: another seed's run is not the unbroken one."""
    process = bench.start("other", more=("--seed", "1"))
    assert process.wait() == 0, bench.output()
    with pytest.raises(AssertionError):
        bench.check("other")

"""Requests that schemathesis invents from the OpenAPI description, valid and not: none is answered
with a 500, each answer is as described.
"""

import hypothesis
import pytest

from tests.whole.conftest import Address

schemathesis = pytest.importorskip("schemathesis")
checks = pytest.importorskip("schemathesis.specs.openapi.checks")

pytestmark = pytest.mark.slow

CASES = 60  # of each operation


def operations(address: Address) -> list:
    schema = schemathesis.openapi.from_url(f"{address.url}/openapi.json")
    return [result.ok() for result in schema.get_all_operations()]


def test_the_description_names_every_operation(address: Address):
    found = {(one.method.upper(), one.path) for one in operations(address)}
    verbs = ("generate", "variations", "interpolate", "edit", "style-mix", "guide", "project")
    assert {("POST", f"/v1/{name}") for name in (*verbs, "walk")} <= found
    assert ("GET", "/healthz") in found


@pytest.mark.parametrize("mode", ["POSITIVE", "NEGATIVE"])
def test_no_request_is_answered_with_a_500(address: Address, mode: str):
    kind = schemathesis.GenerationMode[mode]
    num_cases = 0
    for operation in operations(address):
        if mode == "NEGATIVE" and operation.method.upper() == "GET":
            continue  # they take nothing that could be wrong

        @hypothesis.settings(
            max_examples=CASES,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(hypothesis.HealthCheck),
        )
        @hypothesis.given(case=operation.as_strategy(generation_mode=kind))
        def check(case):
            nonlocal num_cases
            num_cases += 1
            # a description cannot say that of `prompt` and `mix` one is wanted
            case.call_and_validate(excluded_checks=[checks.positive_data_acceptance])

        check()
    assert num_cases >= 8 * CASES

"""400 requests, 16 at a time, some read slowly and some gone: all answers belong to their requests,
and memory stays flat.
"""

import asyncio

import pytest

pytest.importorskip("httpx")

from tests.whole.conftest import Address
from tests.whole.serving_load import load

pytestmark = pytest.mark.slow


def test_every_answer_belongs_to_its_request_and_memory_is_flat(address: Address):
    asyncio.run(load(address.url, 400, 16))
    before = address.resident_mib
    found = asyncio.run(load(address.url, 400, 16))
    assert found["answered_and_timed"] >= 360
    assert found["p95_ms"] < 40 * found["p50_alone_ms"]
    assert address.resident_mib < before + 40

"""A bounded load on a server of this machine: requests at a time, some read slowly, some go away.

python -m tests.whole.serving_load http://127.0.0.1:8000 [--requests 400] [--at-a-time 16]
"""

import argparse
import asyncio
import base64
import io
import json
import statistics
import time

import httpx
from PIL import Image

ABORTED, SLOW = 20, 25  # every 20th request goes away, every 25th is read slowly


async def one(client: httpx.AsyncClient, number: int) -> float | None:
    """Seconds of a request whose answer belongs to it; None where it was aborted."""
    body = {"prompt": f"a red thing {number % 7}", "seed": number, "num_images": 1}
    begun = time.perf_counter()
    if number % ABORTED == 0:
        try:
            await client.post("/v1/generate", json=body, timeout=0.003)
        except httpx.TimeoutException:
            return None
    if number % SLOW == 0:
        async with client.stream("POST", "/v1/generate", json=body) as answer:
            parts = []
            async for part in answer.aiter_bytes(256):
                parts.append(part)
                await asyncio.sleep(0.01)
            told = json.loads(b"".join(parts))
        seconds = None
    else:
        answer = await client.post("/v1/generate", json=body)
        assert answer.status_code == 200, answer.text
        told, seconds = answer.json(), time.perf_counter() - begun
    (image,) = told["images"]
    found = Image.open(io.BytesIO(base64.b64decode(image["png"])))
    found.load()
    assert found.info["prompt"] == body["prompt"], number
    assert found.info["seed"] == str(number), number
    return seconds


async def load(url: str, requests: int, at_a_time: int) -> dict[str, float]:
    """p50 and p95 in ms, alone and under load; images a second."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        alone = [await one(client, number) for number in range(1, 19)]
        room = asyncio.Semaphore(at_a_time)

        async def limited(number: int) -> float | None:
            async with room:
                return await one(client, number)

        begun = time.perf_counter()
        found = await asyncio.gather(*(limited(number) for number in range(requests)))
        seconds = time.perf_counter() - begun
    single = sorted(s for s in alone if s is not None)
    times = sorted(s for s in found if s is not None)
    return {
        "requests": requests,
        "answered_and_timed": len(times),
        "p50_alone_ms": 1000 * statistics.median(single),
        "p50_ms": 1000 * statistics.median(times),
        "p95_ms": 1000 * times[int(0.95 * len(times))],
        "requests_per_second": requests / seconds,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--at-a-time", type=int, default=16)
    given = parser.parse_args()
    print(json.dumps(asyncio.run(load(given.url, given.requests, given.at_a_time)), indent=1))

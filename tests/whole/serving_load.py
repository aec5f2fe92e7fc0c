"""A bounded load on a server of this machine: requests at a time, some read slowly, some go away.

python -m tests.whole.serving_load http://127.0.0.1:8000 [--requests 400] [--at-a-time 16]

With `--model MODEL`, the one that is served, the same sentences and seeds are drawn afterwards in
this process, as many at once as the server's batches held on average, and made PNGs; the share is
the server's images a second over these, both in turn, `--rounds` times.
"""

import argparse
import asyncio
import base64
import io
import json
import re
import statistics
import time

import httpx
from PIL import Image

from lafite_shifted.generation import to_pil
from lafite_shifted.io.png import write_png
from lafite_shifted.pipeline import TextToImage

ABORTED, SLOW = 20, 25  # every 20th request goes away, every 25th is read slowly


def sentence(number: int) -> str:
    """Of a request."""
    return f"a red thing {number % 7}"


async def one(client: httpx.AsyncClient, number: int) -> float | None:
    """Seconds of a request whose answer belongs to it; None where it was aborted."""
    body = {"prompt": sentence(number), "seed": number, "num_images": 1}
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
    """p50 and p95 in ms, alone and under load; requests a second, and images a batch."""
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        alone = [await one(client, number) for number in range(1, 19)]
        room = asyncio.Semaphore(at_a_time)
        images, batches = await counted(client)

        async def limited(number: int) -> float | None:
            async with room:
                return await one(client, number)

        begun = time.perf_counter()
        found = await asyncio.gather(*(limited(number) for number in range(requests)))
        seconds = time.perf_counter() - begun
        images_after, batches_after = await counted(client)
    single = sorted(s for s in alone if s is not None)
    times = sorted(s for s in found if s is not None)
    return {
        "requests": requests,
        "answered_and_timed": len(times),
        "p50_alone_ms": 1000 * statistics.median(single),
        "p50_ms": 1000 * statistics.median(times),
        "p95_ms": 1000 * times[int(0.95 * len(times))],
        "requests_per_second": requests / seconds,
        "images_per_second": (images_after - images) / seconds,
        "images_a_batch": (images_after - images) / (batches_after - batches),
    }


async def counted(client: httpx.AsyncClient) -> tuple[float, float]:
    """Images and batches that the server has made."""
    text = (await client.get("/metrics")).text
    names = ("lafite_batch_images_sum", "lafite_batch_images_count")
    images, batches = (float(re.findall(rf"^{name} (\S+)$", text, re.M)[0]) for name in names)
    return images, batches


def alone(model: TextToImage, requests: int, batch: int) -> float:
    """Images a second of the same work in this process."""
    begun = 0.0
    starts = range(0, requests, batch)
    for first in (0, 0, *starts):  # two batches to warm up
        numbers = range(first, first + batch)
        prompts, seeds = [sentence(number) for number in numbers], [[n] for n in numbers]
        for _, seed, image in model.stream(prompts, seeds, batch=batch):
            write_png(io.BytesIO(), to_pil(image), {"seed": str(seed)})
        begun = begun or time.perf_counter()
    return (len(starts) + 1) * batch / (time.perf_counter() - begun)


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--at-a-time", type=int, default=16)
    parser.add_argument("--model")
    parser.add_argument("--rounds", type=int, default=5, help="With --model, in turn.")
    given = parser.parse_args()
    if not given.model:
        print(json.dumps(asyncio.run(load(given.url, given.requests, given.at_a_time)), indent=1))
        return
    model, shares = TextToImage.from_pretrained(given.model), list[float]()
    for _ in range(given.rounds):
        told = asyncio.run(load(given.url, given.requests, given.at_a_time))
        batch = max(1, round(told["images_a_batch"]))
        told["images_per_second_alone"] = alone(model, given.requests, batch)
        shares.append(told["images_per_second"] / told["images_per_second_alone"])
        print(json.dumps(told | {"share": shares[-1]}))
    print(f"share, median of {given.rounds} rounds: {statistics.median(shares):.2f}")


if __name__ == "__main__":
    main()

"""The JSON endpoints: what they answer, and what they refuse and why."""

import base64
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient
from PIL import Image

from lafite_shifted.cli.serve import _decode
from lafite_shifted.editing.guidance import GuidanceConfig
from lafite_shifted.editing.projection import ProjectionConfig
from lafite_shifted.pipeline import TextToImage
from lafite_shifted.serving.app import create_app
from lafite_shifted.serving.batcher import Batcher, PromptWork, QueueFullError, StoppedError
from lafite_shifted.serving.limits import Limits

LIMITS = Limits(upload_bytes=20_000, upload_megapixels=0.1, queue=8, batch=8, images=8)


@pytest.fixture(scope="module")
def model(model_folder: Path) -> TextToImage:
    return TextToImage.from_pretrained(model_folder, device="cpu", dtype="float32")


@pytest.fixture(scope="module")
def client(model: TextToImage):
    with TestClient(create_app(model, _decode(LIMITS.upload_megapixels), LIMITS)) as client:
        yield client


def encoded(size: tuple[int, int] = (40, 30), colour: str = "red") -> str:
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()


def opened(image: dict) -> Image.Image:
    found = Image.open(io.BytesIO(base64.b64decode(image["png"])))
    found.load()
    return found


def levels(images) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images]).astype(int)


def test_generated_images_are_those_of_python(client: TestClient, model: TextToImage):
    body = {"prompt": "a cat", "num_images": 3, "seed": 5, "truncation": 0.7, "steps": 2}
    answer = client.post("/v1/generate", json=body)
    assert answer.status_code == 200, answer.text
    images = [opened(image) for image in answer.json()["images"]]
    from lafite_shifted.prior.samplers import SamplerConfig

    expected = model("a cat", num_images=3, seed=5, truncation=0.7, sampling=SamplerConfig(2))
    assert np.abs(levels(images) - levels(expected)).max() <= 1
    for number, image in enumerate(images):
        assert (image.info["prompt"], image.info["seed"]) == ("a cat", str(5 + number))
        assert image.info["model"] == model.hash
        assert image.info["Software"] == "lafite-shifted"


def test_images_come_one_a_line(client: TestClient):
    body = {"mix": {"a cat": 0.7, "a dog": 0.3}, "num_images": 3}
    whole = client.post("/v1/generate", json=body).json()["images"]
    lines = client.post("/v1/generate", json=body | {"stream": True}).text.splitlines()
    images = [json.loads(line) for line in lines]
    assert [image["metadata"] for image in images] == [image["metadata"] for image in whole]
    assert np.abs(levels(map(opened, images)) - levels(map(opened, whole))).max() <= 1


def test_edits_are_those_of_python(client: TestClient, model: TextToImage):
    image = Image.new("RGB", (40, 30), "red")
    made = {
        "variations": model.variations(image, seed=[1, 2], spread=0.2).latents,
        "interpolate": model.interpolate(image, "a cat", steps=3, seed=1, seed_b=2).latents,
        "edit": model.edit(image, "an apple", "a cat", strength=[0.0, 0.5], seed=3).latents,
    }
    bodies = {
        "variations": {"image": encoded(), "num_images": 2, "seed": 1, "spread": 0.2},
        "interpolate": {
            "a": {"image": encoded(), "seed": 1},
            "b": {"prompt": "a cat", "seed": 2},
            "num_images": 3,
        },
        "edit": {"image": encoded(), "source": "an apple", "target": "a cat"}
        | {"strengths": [0.0, 0.5], "seed": 3},
    }
    for kind, body in bodies.items():
        answer = client.post(f"/v1/{kind}", json=body)
        assert answer.status_code == 200, answer.text
        found = levels(map(opened, answer.json()["images"]))
        assert np.abs(found - levels(model.render_latents(made[kind]))).max() <= 1


def test_mixed_guided_and_projected_images_are_those_of_python(
    client: TestClient, model: TextToImage
):
    image, config = Image.new("RGB", (40, 30), "red"), GuidanceConfig(3, 2, radius=0.4)
    projected = model.project(image, steps=3, config=ProjectionConfig(seed=4))
    guided = model.guide("a cat", seed=[6, 7], config=config)
    ends = {"a": {"image": encoded(), "seed": 1}, "b": {"prompt": "a cat", "seed": 2}}
    asked = {
        "style-mix": (
            {**ends, "layers": [2, 1, 2]},
            model.style_mix(image, "a cat", layers=[1, 2], seed=1, seed_b=2).latents,
        ),
        "guide": (
            {"prompt": "a cat", "num_images": 2, "seed": 6, "candidates": 3}
            | {"steps": 2, "radius": 0.4},
            guided.latents,
        ),
        "project": ({"image": encoded(), "steps": 3, "seed": 4}, projected.latents),
        "edit": (
            {"image": encoded(), "source": "an apple", "target": "a cat", "seed": 4}
            | {"strengths": [0.5], "project_steps": 3},
            model.edit(projected.latents, "an apple", "a cat", strength=[0.5], seed=4).latents,
        ),
    }
    answers = {}
    for kind, (body, expected) in asked.items():
        answer = client.post(f"/v1/{kind}", json=body)
        assert answer.status_code == 200, answer.text
        answers[kind] = answer.json()["images"]
        found = levels(map(opened, answers[kind]))
        assert np.abs(found - levels(model.render_latents(expected))).max() <= 1, kind
    (told,) = answers["project"]
    assert told["metadata"]["psnr"] == f"{projected.metrics()['psnr']:.1f} dB"
    for image, cosine in zip(answers["guide"], guided.of_end, strict=True):
        assert float(image["metadata"]["cosine"]) == pytest.approx(float(cosine), abs=2e-3)
    assert answers["style-mix"][0]["metadata"]["layers"] == "1,2"


@pytest.mark.parametrize(
    ("stops", "seeds", "places"), [(["a cat", "a dog", "a hen"], [5], 3), (["a cat"], [1, 2], 2)]
)
def test_a_walk_is_an_animation(
    stops: list[str], seeds: list[int], places: int, client: TestClient, model: TextToImage
):
    body = {"stops": stops, "seeds": seeds, "frames": 4, "fps": 10}
    answer = client.post("/v1/walk", json=body)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["frames"] == 4 * places
    film = Image.open(io.BytesIO(base64.b64decode(told["webp"])))
    expected = list(model.walk(stops, seeds=seeds, frames=4))
    assert film.n_frames == len(expected)
    for number, frame in enumerate(expected):
        film.seek(number)
        shown = np.asarray(film.convert("RGB").resize(frame.size, Image.Resampling.NEAREST))
        assert np.abs(shown.astype(int) - np.asarray(frame)).mean() < 12  # lossy


def test_simultaneous_requests_share_batches_and_keep_their_images(
    client: TestClient, model: TextToImage
):
    def ask(number: int) -> tuple[int, dict]:
        body = {"prompt": f"thing {number % 5}", "seed": number, "num_images": 1 + number % 3}
        while (answer := client.post("/v1/generate", json=body)).status_code == 429:
            assert answer.headers["Retry-After"] == "1"
        return number, answer.json()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(24)))
    for number, answer in answers:
        images = [opened(image) for image in answer["images"]]
        assert len(images) == 1 + number % 3
        assert images[0].info["seed"] == str(number)
        expected = model(f"thing {number % 5}", seed=number, num_images=len(images))
        assert np.abs(levels(images) - levels(expected)).max() <= 1
    text = client.get("/metrics").text
    batches = int(text.split("lafite_batch_images_count ")[1].split()[0])
    images = int(text.split("\nlafite_images_total ")[1].split()[0])
    assert batches < images


def test_one_bad_request_of_a_batch_fails_alone(model: TextToImage):
    from lafite_shifted.errors import InputError
    from lafite_shifted.generation import Generation
    from lafite_shifted.prior.samplers import SamplerConfig
    from lafite_shifted.prompts import Prompt

    batcher = Batcher(model, Limits(window_ms=200))
    bad = Generation(sampling=SamplerConfig(10**6))
    good = batcher.submit(PromptWork(Prompt.of("a cat"), [1], Generation()))
    refused = batcher.submit(PromptWork(Prompt.of("a cat"), [1], bad))
    assert len(good.result()) == 1
    with pytest.raises(InputError, match="sampling steps"):
        refused.result()
    batcher.close()
    assert not batcher.is_alive


def test_a_full_queue_is_told_and_cancelled_work_is_not_done(model: TextToImage):
    started, go = threading.Event(), threading.Event()

    def slow(model: TextToImage):
        started.set()
        go.wait()
        return model.latents("a cat")

    batcher = Batcher(model, Limits(queue=2, batch=1))
    first = batcher.submit(slow)
    started.wait()
    waiting = [batcher.submit(slow) for _ in range(2)]
    with pytest.raises(QueueFullError):
        batcher.submit(slow)
    assert waiting[0].cancel()
    go.set()
    assert len(first.result()) == len(waiting[1].result()) == 1
    batcher.close()


def test_long_work_ends_at_its_next_step_when_the_server_stops(model: TextToImage):
    begun = threading.Event()
    batcher = Batcher(model, LIMITS)

    def step() -> None:
        begun.set()
        batcher.check_open()

    config = GuidanceConfig(best_of=1, steps=100_000)
    long = batcher.submit(lambda model: model.guide("a", config=config, on_step=step).latents)
    assert begun.wait(timeout=60)
    batcher.close()
    with pytest.raises(StoppedError):
        long.result(timeout=0)


# --- refusals


REFUSED = [
    ("generate", {}, "one of the two"),
    ("generate", {"prompt": "a", "mix": {"b": 1}}, "one of the two"),
    ("generate", {"prompt": "  "}, "A sentence is empty"),
    ("generate", {"prompt": "x" * 501}, "501 characters, the limit is 500"),
    ("generate", {"prompt": "a", "num_images": 9}, "the limit of a request is 8"),
    ("generate", {"prompt": "a", "num_images": 0}, "greater than or equal to 1"),
    ("generate", {"prompt": "a", "truncation": 99}, "less than or equal to 10"),
    ("generate", {"prompt": "a", "steps": 65}, "the limit is 64"),
    ("generate", {"prompt": "a", "path": "/etc/passwd"}, "Extra inputs"),
    ("generate", {"mix": {"a": -1.0}}, "mix nothing"),
    ("generate", {"mix": {f"a{n}": 1.0 for n in range(9)}}, "9 sentences"),
    ("generate", {"prompt": "a", "negative": "b", "use_prior": False}, "not used"),
    ("variations", {"image": "???"}, "not base64"),
    ("variations", {"image": base64.b64encode(b"no image").decode()}, "not an image"),
    ("variations", {"image": base64.b64encode(b"x" * 20_001).decode()}, "the limit is 20000"),
    ("variations", {"image": encoded((400, 400))}, "megapixels"),
    ("interpolate", {"a": {}, "b": {"prompt": "a"}}, "one of the two"),
    ("interpolate", {"a": {"prompt": "x"}, "b": {"prompt": "a"}, "num_images": 1}, "equal to 2"),
    ("edit", {"image": encoded(), "source": "a", "target": "a"}, "mean the same"),
    ("edit", {"image": encoded(), "source": "a", "target": "b", "strengths": [2.0]}, "equal to 1"),
    (
        "edit",
        {"image": encoded(), "source": "a", "target": "b", "project_steps": 401},
        "401 gradient steps in all: the limit of a request is 400",
    ),
    ("style-mix", {"a": {"prompt": "a"}, "b": {"prompt": "b"}, "layers": [99]}, "no layer 99"),
    ("style-mix", {"a": {"prompt": "a"}, "b": {"prompt": "b"}, "layers": []}, "at least 1"),
    ("guide", {"prompt": "a", "num_images": 8, "steps": 51}, "408 gradient steps in all"),
    ("guide", {"prompt": "a", "num_images": 8, "candidates": 17}, "136 candidates in all"),
    ("guide", {"prompt": "a", "radius": 0}, "greater than 0"),
    ("project", {"image": encoded(), "steps": 401}, "401 gradient steps in all"),
    ("walk", {"stops": ["a"]}, "two stops at least"),
    ("walk", {"stops": ["a"] * 9}, "9 sentences"),
    ("walk", {"stops": ["a", "b"], "frames": 121}, "242 frames in all"),
]


@pytest.mark.parametrize(("kind", "body", "expected"), REFUSED)
def test_refusals_say_why(kind: str, body: dict, expected: str, client: TestClient):
    answer = client.post(f"/v1/{kind}", json=body)
    assert answer.status_code == 422
    assert expected in answer.text


@pytest.mark.parametrize("content", [b"{", b"", b"[]", b"\xff", b'{"prompt": 3}', b"9" * 5000])
def test_bodies_that_are_no_request_are_refused(content: bytes, client: TestClient):
    headers = {"Content-Type": "application/json"}
    answer = client.post("/v1/generate", content=content, headers=headers)
    assert answer.status_code in (400, 422)
    assert answer.json()["detail"]


@pytest.mark.parametrize(
    ("content", "place"),
    [
        (b'{"prompt": "a", "guidance": NaN}', "guidance"),
        (b'{"prompt": "a", "truncation": Infinity}', "truncation"),
        (b'{"prompt": "\\ud800"}', "prompt"),
        (b'{"prompt": "a", "\\ud800": 1}', "body"),
    ],
)
def test_what_json_cannot_answer_is_refused(content: bytes, place: str, client: TestClient):
    headers = {"Content-Type": "application/json"}
    answer = client.post("/v1/generate", content=content, headers=headers)
    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][-1] == place


def test_a_refusal_does_not_send_an_upload_back(client: TestClient):
    body = {"image": encoded(), "source": ["x" * 5000], "target": "b"}
    answer = client.post("/v1/edit", json=body)
    assert answer.status_code == 422
    assert len(answer.content) < 500


@pytest.mark.parametrize("kind", [None, "application/x-www-form-urlencoded", "text/plain"])
def test_a_body_that_is_not_sent_as_json_is_told_so(kind: str | None, client: TestClient):
    headers = {"Content-Type": kind} if kind else {}
    answer = client.post("/v1/generate", content=b'{"prompt": "a"}', headers=headers)
    assert answer.status_code == 422
    assert "Content-Type: application/json" in answer.json()["detail"]


def test_a_bug_is_counted_as_one(model: TextToImage, monkeypatch: pytest.MonkeyPatch):
    app = create_app(model, _decode(1), LIMITS)
    with TestClient(app, raise_server_exceptions=False) as client:
        monkeypatch.setattr("lafite_shifted.serving.server.SamplerConfig", None)
        assert client.post("/v1/generate", json={"prompt": "a"}).status_code == 500
        metrics = client.get("/metrics").text
    assert 'lafite_requests_total{path="/v1/generate",status="500"} 1' in metrics


# --- what an image says of how it was made


SETTINGS = {
    "generate": ({"prompt": "a", "steps": 2}, {"prompt", "seed", "steps", "guidance"}),
    "variations": ({"image": "IMAGE"}, {"seed", "spread"}),
    "interpolate": (
        {"a": {"prompt": "a"}, "b": {"image": "IMAGE", "seed": 3}},
        {"step", "from", "from_seed", "to", "to_seed"},
    ),
    "edit": (
        {"image": "IMAGE", "source": "a", "target": "b"},
        {"from", "to", "strength", "seed", "project_steps"},
    ),
    "style-mix": (
        {"a": {"prompt": "a"}, "b": {"prompt": "b"}, "layers": [1]},
        {"layers", "coarse", "coarse_seed", "fine", "fine_seed"},
    ),
    "guide": (
        {"prompt": "a", "candidates": 1, "steps": 1},
        {"prompt", "seed", "candidates", "steps", "radius", "cosine_before", "cosine"},
    ),
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_an_image_says_what_it_was_made_from(kind: str, client: TestClient, model: TextToImage):
    body, expected = SETTINGS[kind]
    text = json.dumps(body).replace("IMAGE", encoded())
    answer = client.post(f"/v1/{kind}", json=json.loads(text)).json()
    first = answer["images"][0]
    assert first["metadata"].keys() == expected | {"truncation", "model"}
    assert opened(first).info.items() >= first["metadata"].items()
    assert first["metadata"]["model"] == model.hash


def test_a_body_that_is_too_long_is_cut_off(client: TestClient):
    answer = client.post("/v1/generate", content=b"x" * (LIMITS.body_bytes + 1))
    assert answer.status_code == 422
    assert "longer than" in answer.text


# --- beside images


def test_health_metrics_limits_and_pages(client: TestClient, model: TextToImage):
    assert client.get("/healthz").json() == {"status": "ok"}
    limits = client.get("/v1/limits").json()
    assert (limits["model"], limits["resolution"]) == (model.hash, 16)
    assert limits["limits"]["window_ms"] == LIMITS.window_ms
    told = client.get("/openapi.json").json()
    assert "4 ms" in told["info"]["description"]
    assert set(told["paths"]["/v1/generate"]["post"]["responses"]) >= {"200", "422", "429"}
    for path, kind in (
        ("/", "html"),
        ("/api", "html"),
        ("/page.js", "javascript"),
        ("/page.css", "css"),
    ):
        answer = client.get(path)
        assert answer.status_code == 200
        assert kind in answer.headers["Content-Type"]
        assert "http:" not in answer.text.replace("http://HOST", "")  # nothing from elsewhere
        assert "https:" not in answer.text
    for path in ("/../setup.py", "/page/../app.py", "/%2e%2e/setup.py", "/static/x"):
        assert client.get(path).status_code == 404
    metrics = client.get("/metrics")
    assert metrics.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert 'lafite_requests_total{path="/healthz",status="200"}' in metrics.text
    assert 'path="other"' in metrics.text


def test_every_control_of_the_page_has_a_label():
    import re
    from importlib import resources

    page = (resources.files("lafite_shifted.serving") / "page" / "index.html").read_text()
    without = re.sub(r"<label.*?</label>", "", page, flags=re.DOTALL)
    assert "<input" not in without
    assert "<textarea" not in without
    assert page.count('role="tab"') == page.count('role="tabpanel"') == 8
    assert 'role="status"' in page
    assert 'lang="en"' in page

"""The JSON endpoints: what they answer."""

import base64
import io
import json

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
from lafite_shifted.serving.hosts import Hosts
from lafite_shifted.serving.limits import Limits
from tests.lafite_shifted.serving.images import encoded, levels, opened


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
    told = answers["style-mix"][0]["metadata"]
    assert (told["a"], told["b"], told["layers_of_b"]) == ("an upload", "a cat", "1,2")
    of_a, none = (
        client.post(f"/v1/{kind}", json=body).json()["images"][0]
        for kind, body in (
            ("variations", {"image": encoded(), "seed": 1, "num_images": 1}),
            ("style-mix", {**ends, "layers": []}),
        )
    )
    assert np.abs(levels([opened(of_a)]) - levels([opened(none)])).max() <= 1


def test_seeds_may_be_a_list(client: TestClient):
    body = {"prompt": "a cat", "seeds": [9, 2]}
    images = client.post("/v1/generate", json=body).json()["images"]
    assert [image["metadata"]["seed"] for image in images] == ["9", "2"]
    alone = client.post("/v1/generate", json={"prompt": "a cat", "seed": 2, "num_images": 1})
    expected = levels(map(opened, alone.json()["images"]))
    assert np.abs(levels([opened(images[1])]) - expected).max() <= 1
    refused = client.post("/v1/generate", json={"prompt": "a cat", "seeds": list(range(9))})
    assert "9 images: the limit of a request is 8" in refused.text


def test_an_upload_has_the_forms_that_tools_give_it(client: TestClient):
    image = encoded()
    broken = "\n".join(image[start : start + 76] for start in range(0, len(image), 76)) + "\n"
    forms = (image, broken, f"data:image/png;base64,{image}")
    answers = [
        client.post("/v1/variations", json={"image": form, "num_images": 1}) for form in forms
    ]
    assert [answer.status_code for answer in answers] == [200] * 3
    assert len({answer.json()["images"][0]["png"] for answer in answers}) == 1


def test_a_projection_is_made_once_for_all_strengths(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
):
    from lafite_shifted.serving import edit_endpoints

    project, made = edit_endpoints._projected, []

    def counted(model, image, steps, seed, check):
        made.append((steps, seed))
        return project(model, image, steps, seed, check)

    monkeypatch.setattr(edit_endpoints, "_projected", counted)
    image = encoded(colour="blue")
    for steps, seed, strength in ((2, 0, 0.1), (2, 0, 0.2), (2, 1, 0.2), (2, 0, 0.3)):
        body = {"image": image, "source": "a", "target": "b", "strengths": [strength]}
        answer = client.post("/v1/edit", json=body | {"project_steps": steps, "seed": seed})
        assert answer.status_code == 200, answer.text
    assert made == [(2, 0), (2, 1)]


def test_what_a_request_leaves_out_fits_a_smaller_server(model: TextToImage):
    app = create_app(model, _decode(1), Limits(images=2), Hosts())
    ends = {"a": {"prompt": "a"}, "b": {"prompt": "b"}}
    bodies = {
        "generate": {"prompt": "a"},
        "variations": {"image": encoded()},
        "interpolate": ends,
        "edit": {"image": encoded(), "source": "a", "target": "b"},
        "guide": {"prompt": "a", "steps": 1, "candidates": 1},
    }
    with TestClient(app) as small:
        for kind, body in bodies.items():
            answer = small.post(f"/v1/{kind}", json=body)
            assert answer.status_code == 200, answer.text
            assert len(answer.json()["images"]) == 2
        assert "images 2," in small.get("/openapi.json").json()["info"]["description"]


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
        {"layers_of_b", "a", "a_seed", "b", "b_seed"},
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


# --- beside images


def test_health_metrics_limits_and_pages(client: TestClient, model: TextToImage, limits: Limits):
    assert client.get("/healthz").json() == {"status": "ok"}
    told = client.get("/v1/limits").json()
    assert (told["model"], told["resolution"]) == (model.hash, 16)
    assert told["limits"]["window_ms"] == limits.window_ms
    told = client.get("/openapi.json").json()
    assert "4 ms" in told["info"]["description"]
    assert set(told["paths"]["/v1/generate"]["post"]["responses"]) >= {"200", "422", "429"}
    for path, kind in (
        ("/", "html"),
        ("/api", "html"),
        ("/page.js", "javascript"),
        ("/images.js", "javascript"),
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

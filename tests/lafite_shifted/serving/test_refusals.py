"""What the JSON endpoints refuse, and why."""

import asyncio
import base64

import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

from lafite_shifted.cli.serve import _decode
from lafite_shifted.pipeline import TextToImage
from lafite_shifted.serving.app import create_app
from lafite_shifted.serving.hosts import Hosts
from lafite_shifted.serving.limits import Limits
from tests.lafite_shifted.serving.images import encoded

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
    ("generate", {"prompt": "a", "negative": "b", "guidance": 1.0}, "guidance 1 is none"),
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
    ("style-mix", {"a": {"prompt": "a"}, "b": {"prompt": "b"}, "layers": [-1]}, "equal to 0"),
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
    ("content", "why"),
    [
        (b'{"seed": ' + b"9" * 5000 + b"}", "4300 digits"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"prompt": "\xff"}', "can't decode byte 0xff"),
    ],
)
def test_json_that_cannot_be_read_is_told_why(content: bytes, why: str, client: TestClient):
    headers = {"Content-Type": "application/json"}
    answer = client.post("/v1/generate", content=content, headers=headers)
    assert answer.status_code == 400
    assert "not JSON that can be read" in answer.json()["detail"]
    assert why in answer.json()["detail"]


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


@pytest.mark.parametrize("given", [{"steps": 4}, {"guidance": 2.0}])
def test_what_the_prior_alone_takes_is_refused_without_it(given: dict, client: TestClient):
    body = {"prompt": "a cat", "use_prior": False, "num_images": 1}
    answer = client.post("/v1/generate", json=body | given)
    assert answer.status_code == 422
    assert "use_prior is false" in answer.json()["detail"]
    assert client.post("/v1/generate", json=body).status_code == 200


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


def test_a_bug_is_counted_as_one(
    model: TextToImage, limits: Limits, monkeypatch: pytest.MonkeyPatch
):
    app = create_app(model, _decode(1), limits, Hosts())
    with TestClient(app, raise_server_exceptions=False) as client:
        monkeypatch.setattr("lafite_shifted.serving.server.SamplerConfig", None)
        assert client.post("/v1/generate", json={"prompt": "a"}).status_code == 500
        metrics = client.get("/metrics").text
    assert 'lafite_requests_total{path="/v1/generate",status="500"} 1' in metrics


def test_a_body_that_is_too_long_is_cut_off(client: TestClient, limits: Limits):
    answer = client.post("/v1/generate", content=b"x" * (limits.body_bytes + 1))
    assert answer.status_code == 422
    assert "longer than" in answer.text


@pytest.mark.parametrize(
    ("length", "expected"), [(10**12, (422, "longer than")), (50, (408, "has come for 0.1 s"))]
)
def test_a_body_that_does_not_come_is_not_waited_for(
    length: int, expected: tuple[int, str], client: TestClient, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("lafite_shifted.serving.guard.PATIENCE_S", 0.1)
    sent: list[dict] = []

    async def ask() -> None:
        async def receive() -> dict:
            await asyncio.sleep(60)
            return {}

        async def send(message: dict) -> None:
            sent.append(message)

        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % length)]
        scope = {"type": "http", "method": "POST", "path": "/v1/generate", "headers": headers}
        await client.app(scope | {"query_string": b""}, receive, send)  # type: ignore[arg-type]

    asyncio.run(asyncio.wait_for(ask(), 30))
    assert sent[0]["status"] == expected[0]
    assert expected[1] in sent[1]["body"].decode()

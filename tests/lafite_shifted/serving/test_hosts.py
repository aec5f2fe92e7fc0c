"""Which names a server answers to, and which pages may send to it."""

import pytest

pytest.importorskip("fastapi")

from fastapi.testclient import TestClient

from lafite_shifted.cli.serve import _decode
from lafite_shifted.errors import InputError
from lafite_shifted.pipeline import TextToImage
from lafite_shifted.serving.app import create_app
from lafite_shifted.serving.hosts import Hosts
from lafite_shifted.serving.limits import Limits

LOCAL = Hosts.of("127.0.0.1", "127.0.0.1", ["Images.example.org", "[fe80::1]"])
OPEN = Hosts.of("0.0.0.0", "0.0.0.0", [])
NAMED = Hosts.of("0.0.0.0", "0.0.0.0", ["images.example.org"])


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LocalHost", "[fe80::1]"])
@pytest.mark.parametrize("port", ["", ":8000", ":"])
def test_a_server_on_loopback_answers_to_its_own_names(host: str, port: str):
    assert LOCAL.answers(host + port)
    assert NAMED.answers(host + port)


OTHERS = ["", "evil.test", "localhost.evil.test", "evil.test:127", "localhost@evil.test", "\xff"]
OTHERS += ["[::1", "::1", "a:b:c", "localhost:80:80", "127.0.0.1.evil.test", "example.org"]


@pytest.mark.parametrize("host", [*OTHERS, "10.0.0.1"])
def test_other_names_are_not_answered_on_loopback(host: str):
    assert not LOCAL.answers(host)
    assert OPEN.answers(host)


def test_elsewhere_every_name_is_answered_unless_some_are_allowed():
    assert NAMED.answers("images.example.org")
    assert not NAMED.answers("evil.test")
    # no page of another name can make a browser send an address
    assert NAMED.answers("10.0.0.1:8000")
    assert NAMED.answers("[fd00::7]:8000")
    assert Hosts.of("my-machine", "127.0.1.1", []).answers("my-machine:8000")
    assert Hosts.of("::1", "::1", []).answers("[::1]:8000")


@pytest.mark.parametrize("name", ["", "http://a", "a:80", "a/b", "*", "a b", "-a", "bücher.de"])
def test_what_is_no_host_cannot_be_allowed(name: str):
    with pytest.raises(InputError, match=r"--allow-host .*: this is no host\. Give a name"):
        Hosts.of("127.0.0.1", "127.0.0.1", [name])


@pytest.fixture(scope="module")
def local(model: TextToImage, limits: Limits):
    with TestClient(create_app(model, _decode(1), limits, LOCAL)) as client:
        yield client


@pytest.mark.parametrize("path", ["/", "/page.js", "/healthz", "/metrics", "/v1/limits", "/none"])
def test_a_request_for_another_host_is_told_what_to_do(path: str, local: TestClient):
    answer = local.get(path, headers={"Host": "evil.test:8000"})
    assert answer.status_code == 400
    assert answer.json() == {
        "detail": "This server does not answer as 'evil.test'. If it shall, start it with "
        "--allow-host evil.test."
    }
    headers = {"Host": "images.example.org"}
    assert local.get(path, headers=headers).status_code == (404 if path == "/none" else 200)


def test_refusals_are_counted_and_name_no_flag_that_would_not_do(local: TestClient):
    answer = local.get("/healthz", headers={"Host": "$(reboot)"})
    assert answer.status_code == 400
    assert answer.json()["detail"].endswith("start it with --allow-host NAME.")
    metrics = local.get("/metrics", headers={"Host": "localhost"}).text
    assert 'lafite_requests_total{path="other",status="400"}' in metrics


BODY = {"prompt": "a", "num_images": 1}
HOST = "localhost:8000"


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200),  # no browser
        ("http://localhost:8000", 200),
        ("https://localhost:8000", 200),  # behind a proxy that speaks TLS
        ("http://127.0.0.1:3000", 200),
        ("https://images.example.org", 200),
        ("https://evil.test", 403),
        ("http://localhost.evil.test:8000", 403),
        ("http://10.0.0.1", 403),
        ("http://[::1", 403),
        ("null", 403),
        ("", 403),
    ],
)
def test_a_page_of_another_server_may_not_send(origin: str | None, status: int, local: TestClient):
    headers = {"Host": HOST} | ({} if origin is None else {"Origin": origin})
    answer = local.post("/v1/generate", json=BODY, headers=headers)
    assert answer.status_code == status, answer.text
    if status == 403:
        assert "may not send this. If it may, start it with --allow-host" in answer.json()["detail"]
        assert local.get("/v1/limits", headers=headers).status_code == 200


def test_where_every_name_is_answered_a_page_is_the_server_s_own(client: TestClient):
    own = {"Host": "anything:8000", "Origin": "http://anything:8000"}
    assert client.post("/v1/generate", json=BODY, headers=own).status_code == 200
    other = own | {"Origin": "http://evil.test:8000"}
    answer = client.post("/v1/generate", json=BODY, headers=other)
    assert answer.status_code == 403
    assert answer.json()["detail"].endswith("start it with --allow-host evil.test.")

"""A Hub of one machine: the endpoints that huggingface_hub takes for `push` and for fetching a
model, over HTTP, in memory.
"""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_a_test"


@dataclass
class FakeHub:
    """Repositories: commits by branch and by id, each its files."""

    url: str = ""
    commits: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    branches: dict[str, dict[str, str]] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)  # large files by SHA-256
    requests: list[str] = field(default_factory=list)

    def create(self, repo: str) -> None:
        self.commits.setdefault(repo, {"0" * 40: {}})
        self.branches.setdefault(repo, {"main": "0" * 40})

    def commit(self, repo: str, branch: str, added: dict[str, bytes]) -> str:
        files = self.commits[repo][self.branches[repo][branch]] | added
        parts = [f"{name}:{hashlib.sha1(data).hexdigest()}" for name, data in files.items()]
        oid = hashlib.sha1("\n".join(parts).encode()).hexdigest()
        self.commits[repo][oid] = files
        self.branches[repo][branch] = oid
        return oid

    def find(self, repo: str, revision: str) -> str | None:
        oid = self.branches.get(repo, {}).get(revision, revision)
        return oid if oid in self.commits.get(repo, {}) else None


class Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        self._answer(head=False)

    def do_HEAD(self) -> None:
        self._answer(head=True)

    def do_PUT(self) -> None:
        self._note()
        oid = self.path.rsplit("/", 1)[1]
        content = self._body()
        assert hashlib.sha256(content).hexdigest() == oid
        self.hub.objects[oid] = content
        self._send(200, {})

    def do_POST(self) -> None:
        self._note()
        path, body = unquote(urlsplit(self.path).path), self._body()
        if path.startswith("/api/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._send(401, {"error": "Invalid username or password."})
        elif path == "/api/repos/create":
            row = json.loads(body)
            repo = (
                f"{row['organization']}/{row['name']}" if row.get("organization") else row["name"]
            )
            self.hub.create(repo)
            self._send(200, {"url": f"{self.hub.url}/{repo}", "id": repo})
        elif path == "/api/validate-yaml":
            self._send(200, {"errors": [], "warnings": []})
        elif path.endswith("/info/lfs/objects/batch"):
            rows = json.loads(body)["objects"]
            found = [
                {"oid": row["oid"], "size": row["size"], "actions":
                 {"upload": {"href": f"{self.hub.url}/lfs/{row['oid']}"}}}
                for row in rows
            ]  # fmt: skip
            self._send(200, {"transfer": "basic", "objects": found})
        else:
            self._post_to_repository(path.split("/"), body)

    def _post_to_repository(self, parts: list[str], body: bytes) -> None:
        repo, verb, branch = "/".join(parts[3:5]), parts[5], parts[6]
        if repo not in self.hub.commits:
            self._send(404, {"error": "Repository not found"})
        elif verb == "preupload":
            files = [
                {"path": row["path"], "shouldIgnore": False, "oid": None,
                 "uploadMode": "lfs" if row["path"].endswith(".safetensors") else "regular"}
                for row in json.loads(body)["files"]
            ]  # fmt: skip
            self._send(200, {"files": files})
        elif verb == "branch":
            self.hub.branches[repo].setdefault(branch, self.hub.branches[repo]["main"])
            self._send(200, {})
        elif verb == "commit":
            added = {}
            for line in body.decode().splitlines():
                row = json.loads(line)
                value = row["value"]
                if row["key"] == "file":
                    added[value["path"]] = base64.b64decode(value["content"])
                elif row["key"] == "lfsFile":
                    added[value["path"]] = self.hub.objects[value["oid"]]
            oid = self.hub.commit(repo, branch, added)
            url = f"{self.hub.url}/{repo}/commit/{oid}"
            self._send(200, {"success": True, "commitOid": oid, "commitUrl": url, "hookOutput": ""})
        else:
            self._send(404, {"error": f"no endpoint {verb}"})

    def _answer(self, *, head: bool) -> None:
        self._note()
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[:2] == ["api", "models"] and len(parts) > 5:
            repo, verb, revision = "/".join(parts[2:4]), parts[4], parts[5]
            oid = self.hub.find(repo, revision)
            files = self.hub.commits.get(repo, {}).get(oid or "", {})
            if oid is None:
                known = repo in self.hub.commits
                code = "RevisionNotFound" if known else "RepoNotFound"
                self._send(404, {"error": "not found"}, {"X-Error-Code": code})
            elif verb == "tree":
                rows = [
                    {"type": "file", "path": name, "size": len(data), "oid": _blob(data)}
                    for name, data in files.items()
                ]
                self._send(200, rows)
            else:
                siblings = [{"rfilename": name} for name in files]
                self._send(200, {"id": repo, "modelId": repo, "sha": oid, "siblings": siblings})
        elif len(parts) > 4 and parts[2] == "resolve":
            repo, revision, name = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
            oid = self.hub.find(repo, revision) or ""
            content = self.hub.commits.get(repo, {}).get(oid, {}).get(name)
            if content is None:
                self._send(404, {}, {"X-Error-Code": "EntryNotFound"})
                return
            headers = {"ETag": f'"{_blob(content)}"', "X-Repo-Commit": oid}
            self._send(200, content, headers, head=head)
        else:
            self._send(404, {"error": f"no endpoint {self.path}"})

    def _note(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            content = b""
            while size := int(self.rfile.readline(), 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _send(self, status: int, value, headers: dict | None = None, *, head: bool = False) -> None:
        content = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        kind = "application/octet-stream" if isinstance(value, bytes) else "application/json"
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if not head:
            self.wfile.write(content)


def _blob(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """One that answers on this machine."""
    hub = FakeHub()
    handler = type("OwnHandler", (Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()

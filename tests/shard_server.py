"""Tar shards as WebDataset has them, and a server on this machine that hands them out."""

import io
import tarfile
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler
from pathlib import Path


@dataclass
class Server:
    """A folder below a URL, and what was asked of it."""

    folder: Path
    url: str
    fetched: list[str] = field(default_factory=list)


class Handler(SimpleHTTPRequestHandler):
    """Names with `cut` break off in the middle."""

    def __init__(self, *args, server_record: Server, **kwargs):
        self.record = server_record
        super().__init__(*args, directory=str(server_record.folder), **kwargs)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self.record.fetched.append(self.path)
        if "cut" not in self.path:
            return super().do_GET()
        content = (self.record.folder / self.path[1:]).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2])
        return None


def write_shard(path: Path, images: list[Path], *, more: dict[str, bytes] | None = None) -> None:
    """Numbered images with captions, as WebDataset has them."""
    entries = dict(more or {})
    for number, image in enumerate(images):
        entries[f"{number:04d}.png"] = image.read_bytes()
        entries[f"{number:04d}.txt"] = f"the image {image.stem}".encode()
    with tarfile.open(path, "w") as archive:
        for name, content in entries.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))

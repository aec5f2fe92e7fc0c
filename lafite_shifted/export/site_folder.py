"""`export web`: a static site that runs a model in the visitor's browser: the page of `serve` on
another backend, the graphs of `export onnx` in float16, and onnxruntime-web.

    index.html, page.css, *.js    the page, its worker and its service worker
    model/                        manifest.json, tokenizer.json, the graphs
    runtime/                      onnxruntime-web, unless it comes from a CDN
"""

import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from importlib import resources
from pathlib import Path

from lafite_shifted.errors import InputError
from lafite_shifted.export.folder import check_free
from lafite_shifted.export.onnx_folder import OnnxExport
from lafite_shifted.io.files import atomic_directory, sha256_of, write_bytes

VERSION = "1.30.0"  # of onnxruntime-web
INTEGRITY = (  # its tarball, as the registry of npm lists it
    "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
)
CDN = f"https://cdn.jsdelivr.net/npm/onnxruntime-web@{VERSION}/dist/"
# WebAssembly alone, and with WebGPU: hashes of the files in that tarball, which browsers check,
# wherever the files come from
RUNTIME = {
    name: f"sha384-{digest}"
    for name, digest in {
        "ort.wasm.min.mjs": "SfFfy/pvthiOsgaw3KX0bV5TfQ6Iq+oY9KutMe4SxIuHH4cl+DCSD4rTsYOoG1tJ",
        "ort-wasm-simd-threaded.mjs": (
            "XcXA/MtAf0WpB8e023xQH9CM7RIjiugakT7x99DIwpFf7k56BIFFcAPerIF7FDad"
        ),
        "ort-wasm-simd-threaded.wasm": (
            "vjBJ1z7qrhkTyYsNqKeF6c7N+nOJSU94czEo+tvZcu8G75JparGq9kB+kTnEUNVM"
        ),
        "ort.webgpu.min.mjs": "FPQBMbud8ICuP0Ii+Gr95KWEX9pKHtUC3lacIp0aPI8WYluKvTsEGQ3AE2Ze3QlL",
        "ort-wasm-simd-threaded.asyncify.mjs": (
            "qViEcCGzsR/m8nlQwIsbYh7afN4thuraqFYDQY6huvmoLVoZq/eYawQ1wrv8nnhA"
        ),
        "ort-wasm-simd-threaded.asyncify.wasm": (
            "EPVDLTxuO663dkZO/pcKJF6vOyyfq/5z9FY1oksN0UWFX2ABH4wDDZQHeNoUleWR"
        ),
    }.items()
}
LICENCE = "README.md"  # names the licence, MIT


def runtime_files(source: str) -> dict[str, bytes]:
    """onnxruntime-web by names of its files: `source` is "npm", or the tarball that `npm pack`
    gives. InputError where it cannot be had, or is another one.
    """
    content = _packed() if source == "npm" else _read(Path(source))
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    if f"sha512-{digest}" != INTEGRITY:
        raise InputError(
            f"--runtime {source}: this is not onnxruntime-web {VERSION} as npm lists it. Fetch it "
            f"again with `npm pack onnxruntime-web@{VERSION}`."
        )
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        wanted = {f"package/dist/{name}": name for name in RUNTIME} | {
            f"package/{LICENCE}": LICENCE
        }
        members = [member for member in archive.getmembers() if member.name in wanted]
        opened = {wanted[member.name]: archive.extractfile(member) for member in members}
        return {name: file.read() for name, file in opened.items() if file is not None}


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(
            f"--runtime {path} is no file. Give npm, cdn, or the tarball of onnxruntime-web."
        )
    return path.read_bytes()


def _packed() -> bytes:
    """The tarball, by npm."""
    if shutil.which("npm") is None:
        raise InputError(
            "npm, which fetches onnxruntime-web, is not installed. Install Node.js, or give "
            "--runtime cdn: then visitors fetch it from jsdelivr.net."
        )
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", f"onnxruntime-web@{VERSION}", "--silent"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        found = list(Path(folder).glob("*.tgz"))
        if done.returncode or not found:
            reason = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
            raise InputError(
                f"npm has not fetched onnxruntime-web ({reason}). Check the network, or give "
                "--runtime cdn, or a tarball."
            )
        return found[0].read_bytes()


def write_site(out: Path, made: OnnxExport, runtime: dict[str, bytes] | None) -> dict[str, int]:
    """Write the site; `runtime` None: visitors fetch it from a CDN. Returns bytes of the page with
    its model, and of the runtime. InputError where `out` exists.
    """
    check_free(out)
    manifest = dict(made.manifest)
    manifest["runtime"] = CDN if runtime is None else "runtime/"
    manifest["runtime_integrity"] = RUNTIME
    for name, part in manifest["parts"].items():
        content = made.files[f"{name}.onnx"]
        part |= {"bytes": len(content), "sha256": sha256_of(content)}
    files = _page(elsewhere=runtime is None)
    files |= {f"model/{name}": content for name, content in made.files.items()}
    files["model/tokenizer.json"] = made.tokenizer
    files["model/manifest.json"] = json.dumps(manifest, ensure_ascii=False).encode()
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(name.encode() + sha256_of(content).encode())
    worker = files["service-worker.js"].replace(b"$VERSION", digest.hexdigest()[:16].encode())
    files["service-worker.js"] = worker
    size = sum(map(len, files.values()))
    files |= {f"runtime/{name}": content for name, content in (runtime or {}).items()}
    with atomic_directory(out) as folder:
        for name, content in files.items():
            write_bytes(folder / name, content)
    return {"page": size, "runtime": sum(map(len, (runtime or {}).values()))}


def _page(*, elsewhere: bool) -> dict[str, bytes]:
    """The page of `serve` with the backend of the site; a policy lets it fetch from its own place
    alone, and with `elsewhere` from the CDN.
    """
    package = resources.files("lafite_shifted")
    shared = package / "serving" / "page"
    names = ("index.html", "page.css", "page.js", "images.js")
    files = {name: (shared / name).read_bytes() for name in names}
    for file in (package / "export" / "site").iterdir():
        files[file.name] = file.read_bytes()
    also = " https://cdn.jsdelivr.net" if elsewhere else ""
    policy = (
        f"default-src 'self'; script-src 'self' 'wasm-unsafe-eval' blob:{also}; "
        f"connect-src 'self' blob:{also}; img-src 'self' data: blob:"
    )
    meta = f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    head = b'<meta charset="utf-8">\n'
    assert head in files["index.html"]
    files["index.html"] = files["index.html"].replace(head, head + meta.encode() + b"\n")
    return files

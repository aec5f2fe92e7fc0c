"""The files of `export web`, and what its JavaScript computes, in Node.js; tests/whole/test_site.py
has the site in a browser.
"""

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from lafite_shifted.encoders.clip import ClipEncoder
from lafite_shifted.export import site_folder
from lafite_shifted.export.onnx_folder import OnnxExport, Tried
from lafite_shifted.export.runner import philox
from lafite_shifted.export.site_folder import CDN, RUNTIME, write_site
from tests.commands import assert_refused, half_written, run_command
from tests.lafite_shifted.export.test_tokenizer import SENTENCES
from torch_utils.seeds import seed_of

SOURCES = Path(site_folder.__file__).parent / "site"
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="needs node")


@pytest.fixture(scope="module")
def made(exported: Path) -> OnnxExport:
    """What the command has before it writes a site."""
    manifest = json.loads((exported / "manifest.json").read_text(encoding="utf-8"))
    files = {path.name: path.read_bytes() for path in exported.glob("*.onnx")}
    tokenizer = (exported / "tokenizer.json").read_bytes()
    return OnnxExport(manifest, files, tokenizer, Tried(100.0, 0.0), {})


@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_site_is_whole(made: OnnxExport, tmp_path: Path, elsewhere: bool):
    out = tmp_path / "site"
    runtime = None if elsewhere else {name: b"x" for name in RUNTIME}
    sizes = write_site(out, made, runtime)
    names = {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_file()}
    page = (out / "index.html").read_text(encoding="utf-8")
    assert set(re.findall(r'(?:src|href)="([\w.]+)"', page)) <= names
    worker = (out / "service-worker.js").read_text(encoding="utf-8")
    shell = json.loads(re.search(r"SHELL = (\[[^;]*\])", worker)[1])  # type: ignore[index]
    assert {"index.html" if name == "./" else name for name in shell} <= names
    assert set(re.findall(r'src="([\w.]+)"', page)) <= set(shell)
    assert re.search(r'CACHE = "lafite-shifted-[0-9a-f]{16}"', worker)
    manifest = json.loads((out / "model" / "manifest.json").read_text(encoding="utf-8"))
    for part in manifest["parts"].values():
        content = (out / "model" / part["file"]).read_bytes()
        assert part["sha256"] == hashlib.sha256(content).hexdigest()
    assert manifest["runtime"] == (CDN if elsewhere else "runtime/")
    assert manifest["runtime_integrity"] == RUNTIME
    assert ("jsdelivr" in page) == elsewhere
    assert sizes["runtime"] == (0 if elsewhere else len(RUNTIME))
    assert ({name for name in names if name.startswith("runtime/")} == set()) == elsewhere
    assert half_written(out) == []


def test_no_script_names_another_place():
    for path in SOURCES.iterdir():
        assert re.findall(r"https?://", path.read_text(encoding="utf-8")) == [], path


def test_runtimes_that_cannot_be_had_are_refused(
    model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    words = ("export", "web", model_folder, "--out", tmp_path / "site", "--runtime")
    assert_refused(run_command(*words, tmp_path / "none.tgz"), "is no file")
    other = tmp_path / "other.tgz"
    other.write_bytes(b"something else")
    assert_refused(run_command(*words, other), "not onnxruntime-web")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert_refused(run_command(*words, "npm"), "npm", "--runtime cdn")
    assert not (tmp_path / "site").exists()


def node(program: str, given: object) -> object:
    """What a module prints as JSON, given JSON."""
    command = ["node", "--input-type=module", "-e", program]
    text = json.dumps(given)
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


READ = "import { readFileSync } from 'fs'; const given = JSON.parse(readFileSync(0, 'utf-8'));"
IMPORT = """const load = async (path) =>
  import('data:text/javascript,' + encodeURIComponent(readFileSync(path, 'utf-8')));"""


@needs_node
def test_javascript_philox_matches_numpy():
    path = json.dumps(str(SOURCES / "philox.js"))
    program = f"""{READ} {IMPORT} const {{ normal }} = await load({path});
    console.log(JSON.stringify(given.seeds.map((seed) => [...normal(seed, 37, given.key)])))"""
    seeds = [0, 1, 12345, 2**32 + 7, 2**52, -3]
    key = seed_of("z")
    found = node(program, {"seeds": seeds, "key": str(key)})
    np.testing.assert_allclose(found, philox(seeds, 37, key=key), rtol=0, atol=2e-6)


@needs_node
def test_javascript_tokenizer_matches_open_clip(exported: Path, clip: ClipEncoder):
    """But for entities, which the page resolves, and the names of special tokens."""
    texts = [text for text in SENTENCES if "&" not in text and "<end" not in text]
    path, file = (
        json.dumps(str(SOURCES / "tokenizer.js")),
        json.dumps(str(exported / "tokenizer.json")),
    )
    program = f"""{READ} {IMPORT} const {{ Tokenizer }} = await load({path});
    const tokenizer = new Tokenizer(JSON.parse(readFileSync({file}, 'utf-8')));
    console.log(JSON.stringify(given.map((text) => tokenizer.encode(text))))"""
    expected = clip.tokenizer(texts, context_length=clip.context_length).tolist()
    for text, one, other in zip(texts, node(program, texts), expected, strict=True):  # type: ignore[call-overload]
        assert one == other, text

"""Real captioned image sets, built from npm and Debian packages.

emoji    npm emoji-datasource-google (Noto drawings, Apache-2.0), @lobehub/fluent-emoji-3d
         (Fluent drawings, MIT), emojibase-data (CLDR names, MIT); in all styles also Noto's of
         before and Fluent's flat and modern ones, of packages with the same licences
twemoji  npm emoji-datasource-twitter (Twemoji, CC-BY 4.0, (c) Twitter, Inc. and other
         contributors): a style to adapt a model to that no part of it has seen
clipart  Debian openclipart-png and openclipart-svg (public domain)

Each becomes a folder of square PNGs on white, `metadata.jsonl` ({"file_name", "text", "tags",
"style"}), the held-out split beside it (`split.json`) and the packages' versions (`sources.json`).
"""

import html
import json
import re
import shutil
import subprocess
import tempfile
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from PIL import Image

from lafite_shifted.errors import InputError
from lafite_shifted.io.files import (
    atomic_directory,
    sha256_of,
    write_json,
    write_json_lines,
)
from training.data.decoding.decode import decode
from training.data.files.image_files import UnreadableImageError
from training.data.images import bad_image_rows
from training.data.split import is_held_out, normalised_name, split_key

# Pinned: what ships was made from these. The name of a style has a digit, or `split.py` knows it:
# it begins the names of files, where a telling word would decide the side of all of them.
NPM_PACKAGES = {
    "flat": "emoji-datasource-google@16.0.0",
    "3d": "@lobehub/fluent-emoji-3d@1.1.0",
    "noto3": "emoji-datasource-google@3.0.0",
    "noto7": "emoji-datasource-google@7.0.2",
    "fluent2d": "@lobehub/fluent-emoji-flat@1.1.0",
    "fluent25d": "@lobehub/fluent-emoji-modern@1.0.0",
    "twemoji": "emoji-datasource-twitter@16.0.0",
    "names": "emojibase-data@17.0.0",
}
DEBIAN_PACKAGES = ("openclipart-png", "openclipart-svg")  # apt offers the release's one version
MAX_MEGAPIXELS = 1000.0  # the largest clipart has 623
STYLES = {"emoji": ("flat", "3d"), "twemoji": ("twemoji",)}
MORE_STYLES = {"emoji": ("noto3", "noto7", "fluent2d", "fluent25d")}
NOTO_FOLDER = "img/google/64"
EMOJI_FOLDERS = {  # by style; others: assets
    **{"flat": NOTO_FOLDER, "noto3": NOTO_FOLDER, "noto7": NOTO_FOLDER},
    "twemoji": "img/twitter/64",
}
# fluent25d has 1f446svg
_EMOJI_FILE = re.compile(r"(?P<hexcode>[0-9a-f-]+?)(?:\.png|\.webp|\.?svg)", re.IGNORECASE)


@dataclass(frozen=True)
class Entry:
    """One image of a package before it is decoded."""

    stem: str
    path: Path
    text: str
    tags: list[str]
    style: str


@dataclass(frozen=True)
class Built:
    """What `build_dataset` wrote."""

    num_images: int
    num_held_out: int
    bad: list[tuple[str, str]]


def run_tool(*command: str, cwd: Path) -> None:
    """Run a program of npm or Debian; InputError if it is missing or fails."""
    if shutil.which(command[0]) is None:
        package = {"npm": "Node.js", "apt-get": "apt", "dpkg": "dpkg"}.get(command[0], command[0])
        raise InputError(
            f"`{command[0]}` is not installed. Install {package} and run the same command again."
        )
    result = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        last = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(
            f"`{' '.join(command)}` failed: {last}. Check the network and run the same command "
            "again."
        )


def _npm_package(name: str, work: Path) -> Path:
    folder = work / re.sub(r"\W", "-", name)
    folder.mkdir()
    run_tool("npm", "pack", name, cwd=folder)
    run_tool("tar", "xzf", next(folder.glob("*.tgz")).name, cwd=folder)
    return folder / "package"


def _codepoints(name: str) -> str:
    """Hexadecimal code points without the variation selector, which the packages use
    inconsistently.
    """
    return "-".join(part for part in name.lower().split("-") if part != "fe0f")


def _emoji_entries(work: Path, styles: Sequence[str]) -> Iterator[Entry]:
    names = {}
    for entry in json.loads(
        (_npm_package(NPM_PACKAGES["names"], work) / "en/data.json").read_text(encoding="utf-8")
    ):
        for variant in [entry, *entry.get("skins", [])]:
            names[_codepoints(variant["hexcode"])] = (variant["label"], entry.get("tags", []))
    for style in styles:
        folder = _npm_package(NPM_PACKAGES[style], work) / EMOJI_FOLDERS.get(style, "assets")
        for file in sorted(folder.iterdir()):
            found = _EMOJI_FILE.fullmatch(file.name)
            if found and (key := _codepoints(found["hexcode"])) in names:
                text, tags = names[key]
                yield Entry(f"{style}-{key}", file, text, tags, style)


def few_skin_tones(entries: Iterable[Entry], count: int) -> list[Entry]:
    """`entries` with at most `count` variants of skin tone of each drawing: the first by the hash
    of their names.
    """
    found, variants = list(entries), defaultdict[tuple[str, str], list[str]](list)
    for entry in found:
        if "skin tone" in entry.text:
            variants[entry.style, normalised_name(entry.text)].append(entry.stem)
    by_hash = (
        sorted(stems, key=lambda stem: sha256_of(stem.encode())) for stems in variants.values()
    )
    left_out = {stem for stems in by_hash for stem in stems[count:]}
    return [entry for entry in found if entry.stem not in left_out]


def _clipart_entries(work: Path) -> Iterator[Entry]:
    run_tool("apt-get", "download", *DEBIAN_PACKAGES, cwd=work)
    for package in work.glob("*.deb"):
        run_tool("dpkg", "-x", str(package), str(work / "root"), cwd=work)
    root = work / "root/usr/share/openclipart"
    drawings = {file.stem: file for file in root.glob("svg/**/*.svg")}
    for number, file in enumerate(sorted(root.glob("png/**/*.png"))):
        text, tags = _svg_title(drawings[file.stem]) if file.stem in drawings else ("", [])
        if text.lower() in ("", "open clip art library", "untitled"):
            text = re.sub(r"_?\d+$", "", file.stem).replace("_", " ")
        folders = list(file.relative_to(root / "png").parts[:-1])
        yield Entry(f"{number:05d}-{file.stem}", file, text, tags + folders, "clipart")


def _svg_title(path: Path) -> tuple[str, list[str]]:
    """Title and subjects from the Dublin Core block at the head of an SVG (many of them are not
    well-formed XML).
    """
    head = path.read_text(encoding="utf-8", errors="ignore")[:20000]
    title = re.search(r"<dc:title>\s*([^<]+?)\s*</dc:title>", head)
    subject = re.search(r"<dc:subject>(.*?)</dc:subject>", head, re.DOTALL)
    tags = re.findall(r"<rdf:li>\s*([^<]+?)\s*</rdf:li>", subject.group(1)) if subject else []
    return _clean(title.group(1)) if title else "", [_clean(tag) for tag in tags]


def _clean(text: str) -> str:
    """Without entities, and without the control characters that wrong encodings left."""
    return "".join(c for c in html.unescape(text) if unicodedata.category(c) != "Cc")


def _opened(path: Path, size: int) -> Image.Image:
    """The drawing, at least about `size` pixels wide, on white. Raises UnreadableImageError."""
    source = path
    if path.name.endswith("svg"):
        source = BytesIO(rasterised(path.read_text(encoding="utf-8"), 2 * size))
    return decode(source, max_megapixels=MAX_MEGAPIXELS, shrink_to=8 * size).image


def rasterised(svg: str, width: int) -> bytes:
    """A PNG of an SVG; UnreadableImageError for one that is none, InputError without resvg."""
    try:
        from resvg_py import svg_to_bytes
    except ImportError as error:
        raise InputError(
            f"Drawings in SVG need a package that is not installed ({error}). Install it: pip "
            "install 'lafite-shifted[starter]'."
        ) from error
    try:
        return bytes(svg_to_bytes(svg_string=svg, width=width, height=width))
    except ValueError as error:
        raise UnreadableImageError(f"not a readable SVG ({error})") from error


def _square_on_white(image: Image.Image, size: int) -> Image.Image:
    """The whole image, padded with white to a square, `size` pixels wide."""
    side = max(image.size)
    canvas = Image.new("RGB", (side, side), "white")
    canvas.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return canvas.resize((size, size), Image.Resampling.LANCZOS)


def check_unused(out: Path) -> None:
    """InputError unless `out` is new or empty."""
    if out.exists() and any(out.iterdir()):
        raise InputError(f"{out} is not empty. Choose another --out, or delete it first.")


def _entries(
    name: str, work: Path, styles: Sequence[str], skin_tones: int | None
) -> Iterable[Entry]:
    if name not in STYLES:
        return _clipart_entries(work)
    found = _emoji_entries(work, styles)
    return found if skin_tones is None else few_skin_tones(found, skin_tones)


def build_dataset(
    name: str,
    out: Path,
    *,
    size: int,
    raw: bool = False,
    skin_tones: int | None = None,
    all_styles: bool = False,
) -> Built:
    """Download the packages of `name` and write the set to the new folder `out`.

    `raw` copies the files as the packages hold them, broken and huge ones included; `skin_tones`
    variants of an emoji are taken at most, or all; `all_styles` has those of MORE_STYLES
    too. Raises InputError when a tool or the network is missing, or `out` is in use already;
    nothing half-written is left.
    """
    check_unused(out)
    rows: dict[str, dict] = {}
    bad: list[tuple[str, str]] = []
    held_out: list[str] = []
    styles = (*STYLES.get(name, ()), *(MORE_STYLES.get(name, ()) if all_styles else ()))
    with tempfile.TemporaryDirectory() as work, atomic_directory(out) as target:
        for entry in _entries(name, Path(work), styles, skin_tones):
            file_name = f"{entry.stem}{entry.path.suffix if raw else '.png'}"
            try:
                if raw:
                    shutil.copyfile(entry.path, target / file_name)
                else:
                    _square_on_white(_opened(entry.path, size), size).save(target / file_name)
            except UnreadableImageError as error:
                bad.append((entry.path.name, str(error)))
                continue
            rows[file_name] = {
                "file_name": file_name,
                "text": entry.text,
                "tags": entry.tags,
                "style": entry.style,
            }
            content = sha256_of((target / file_name).read_bytes())
            if is_held_out(split_key(file_name, caption=entry.text, content_sha256=content)):
                held_out.append(file_name)
        write_json_lines(target / "metadata.jsonl", list(rows.values()))
        write_json_lines(target / "report.jsonl", bad_image_rows(bad))
        write_json(target / "split.json", {"held_out": sorted(set(held_out))})
        debian = sorted(path.name for path in Path(work).glob("*.deb"))  # NAME_VERSION_all.deb
        npm = sorted(NPM_PACKAGES[part] for part in ("names", *styles))
        packages = debian if name == "clipart" else npm
        sources = {"packages": packages, "size": size, "raw": raw, "skin_tones": skin_tones}
        write_json(target / "sources.json", sources)
    return Built(num_images=len(rows), num_held_out=len(set(held_out)), bad=bad)

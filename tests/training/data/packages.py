"""What npm gives, with eight drawings."""

import json
from pathlib import Path

from PIL import Image

NAMES = [f"thing {word}" for word in ("ant", "bee", "cat", "dog", "eel", "fox", "gnu", "hen")]


def emoji_package(name: str, work: Path) -> Path:
    """What `npm pack` gives, with eight drawings in two styles."""
    package = work / name.replace("/", "-") / "package"
    if name.startswith("emojibase-data@"):
        entries = [
            {"hexcode": f"1F40{number}", "label": label, "tags": ["animal"]}
            for number, label in enumerate(NAMES)
        ]
        skin = {"hexcode": "1F400-1F3FB", "label": "thing ant: light skin tone"}
        entries[0]["skins"] = [skin]
        (package / "en").mkdir(parents=True)
        (package / "en" / "data.json").write_text(json.dumps(entries), encoding="utf-8")
    elif name.startswith("emoji-datasource-google@"):
        folder = package / "img" / "google" / "64"
        folder.mkdir(parents=True)
        for number in range(8):
            Image.new("RGBA", (64, 64), (number, 0, 0, 255)).save(folder / f"1f40{number}.png")
        Image.new("RGBA", (64, 64)).save(folder / "1f400-1f3fb.png")
        Image.new("RGBA", (64, 64)).save(folder / "ffff.png")  # no name for it
    elif name.startswith("emoji-datasource-twitter@"):
        folder = package / "img" / "twitter" / "64"
        folder.mkdir(parents=True)
        for number in range(8):
            colourful = Image.linear_gradient("L").resize((64, 64))
            bands = (colourful, colourful.rotate(90), Image.new("L", (64, 64), number))
            Image.merge("RGB", bands).save(folder / f"1f40{number}.png")
        Image.new("RGBA", (64, 64)).save(folder / "1f400-1f3fb.png")
        Image.new("RGBA", (64, 64)).save(folder / "ffff.png")  # no name for it
    elif name.startswith(("@lobehub/fluent-emoji-flat@", "@lobehub/fluent-emoji-modern@")):
        (package / "assets").mkdir(parents=True)
        dot = "." if "flat" in name else ""  # as they are named
        for number in range(8):
            shape = f'<rect x="8" y="8" width="16" height="16" fill="rgb({number},99,0)"/>'
            svg = f'<svg xmlns="http://www.w3.org/2000/svg" width="32" height="32">{shape}</svg>'
            (package / "assets" / f"1f40{number}{dot}svg").write_text(svg, encoding="utf-8")
        (package / "assets" / f"1f400-1f3fb{dot}svg").write_text("<svg>broken", encoding="utf-8")
    else:
        (package / "assets").mkdir(parents=True)
        for number in range(8):
            image = Image.new("RGBA", (160, 80), (0, number, 0, 255))
            image.save(package / "assets" / f"1f40{number}-fe0f.webp", lossless=True)
        (package / "assets" / "1f400-1f3fb.webp").write_bytes(b"broken")
    return package

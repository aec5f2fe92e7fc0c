"""Images in requests and answers of the JSON endpoints."""

import base64
import io

import numpy as np
from PIL import Image


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

"""An image that a user names on the command line, decoded as training images are."""

from pathlib import Path

from PIL import Image

from lafite_shifted.errors import InputError


def read_image_file(path: Path) -> Image.Image:
    """Upright sRGB on white; InputError says why it cannot be read."""
    from training.data.decoding.decode import PIXELS_FLAG, decode
    from training.data.files.image_files import UnreadableImageError

    if path.is_dir():
        raise InputError(f"{path} is a folder. Give one image.")
    try:
        return decode(path).image
    except UnreadableImageError as error:
        reason = str(error).removesuffix(PIXELS_FLAG)
        raise InputError(f"{path} cannot be used: {reason}. Give another image.") from error

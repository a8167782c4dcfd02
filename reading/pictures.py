"""Pictures opened as they are to be looked at: upright, in RGB, without transparency."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from reading.crops import SIDE, to_mnist
from utils.files import UserError

MAX_PIXELS = 50_000_000
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "HEIF", "AVIF", "MPO", "PPM", "JPEG2000")
PAGED = ("TIFF", "GIF", "PNG", "WEBP")  # what others hold beside their picture are previews
NO_PICTURES = {".pdf": "save its page as PNG or JPEG", ".svg": "export it as PNG"}
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # of EXIF's orientation tag


def open_picture(path: Path) -> Image.Image:
    """Return a picture as it is to be looked at: upright, RGB, without transparency.

    That is the first page of its file; its info["pages"] says how many there are.

    Raises:
        UserError: if there is no such file, it is no picture, damaged, or too large.
    """
    if path.suffix.lower() in NO_PICTURES:
        raise UserError(f"{path}: not a picture of pixels; {NO_PICTURES[path.suffix.lower()]}")
    if path.is_dir():
        raise UserError(f"{path}: is a folder; name the pictures in it")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    Image.init()  # so that it knows the formats that this Pillow can open
    try:
        if content[4:8] == b"ftyp":  # HEIC, under whatever name
            from pillow_heif import register_heif_opener

            register_heif_opener()
        formats = [name for name in FORMATS if name in Image.OPEN]
        with (
            warnings.catch_warnings(action="ignore"),
            Image.open(io.BytesIO(content), formats=formats) as image,
        ):
            pages = getattr(image, "n_frames", 1) if image.format in PAGED else 1
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            image.load()
            picture = _flatten(_set_upright(image))
            picture.info["pages"] = pages
            return picture
    except UnidentifiedImageError as error:
        raise UserError(f"{path}: not a picture, or damaged") from error
    except Image.DecompressionBombError as error:
        raise UserError(f"{path}: more than {MAX_PIXELS:,} pixels; make it smaller") from error
    except (MemoryError, ImportError):
        raise
    except Exception as error:  # a broken file makes Pillow raise almost anything
        reason = str(error).replace("\n", " ") or type(error).__name__
        raise UserError(f"{path}: not a picture, or damaged ({reason})") from error


def _set_upright(image: Image.Image) -> Image.Image:
    """Return an image turned as its EXIF orientation says, whatever its other tags."""
    try:
        turn = TURNS.get(image.getexif().get(0x0112, 1))
    except Exception:  # whatever a damaged block of tags makes Pillow raise
        turn = None
    return image if turn is None else image.transpose(turn)


def _flatten(image: Image.Image) -> Image.Image:
    """Return an image of any mode as RGB; transparent parts become paper for its ink."""
    if image.mode[0] in "IF":  # more than 8 bits: from the darkest to the brightest
        values = np.asarray(image, np.float32)
        span = max(np.ptp(values), 1e-9)
        image = Image.fromarray((255 * (values - values.min()) / span).astype(np.uint8))
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    image = image if image.mode == "RGBA" else image.convert("RGBA")
    small = np.asarray(image.resize((64, 64)).convert("LA"), np.float64)
    grey, opaque = small[..., 0], small[..., 1]
    bright_ink = (grey * opaque).sum() > 127 * opaque.sum() and opaque.min() < 128
    paper = Image.new("RGB", image.size, "black" if bright_ink else "white")
    paper.paste(image, mask=image.getchannel("A"))
    return paper


def is_mnist(picture: Image.Image) -> bool:
    """Return whether a picture is in MNIST's form: 28x28, bright ink as large and as central."""
    grey = np.asarray(picture.convert("L"), float) if picture.size == (SIDE, SIDE) else None
    if grey is None or not (grey > 127).any():
        return False
    if max(grey[0].max(), grey[-1].max(), grey[:, 0].max(), grey[:, -1].max()) > 32:
        return False
    return bool(np.abs(to_mnist(grey / 255 * (grey > 32)) - grey).mean() < 8)

"""One image file, to pixels: PNG, JPEG, BMP, GIF and WebP, decoded by Pillow."""

import io

import numpy as np
import PIL.Image
import PIL.ImageOps

from cnn_l1.errors import CnnL1Error

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp"})
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")


class BrokenImageError(CnnL1Error, ValueError):
    """An image file that cannot be decoded, in one line."""


def decode(content: bytes, grayscale: bool | None = None) -> np.ndarray:
    """The pixels of an image file, `(rows, columns, 1 or 3)` uint8, turned as EXIF says.

    Of a moving image the first frame. Transparency is left out: the colors below it stay.
    16 bits a pixel are scaled to 8, of which 65535 becomes 255.

    Args:
        content: The file's bytes.
        grayscale: Whether to one channel; else to three. If `None`, to one where all three
            channels are equal at every pixel.

    Raises:
        BrokenImageError: If it is no image, or is cut off.
    """
    try:
        # The formats alone that are promised: each decoder is code that reads foreign bytes.
        with PIL.Image.open(io.BytesIO(content), formats=FORMATS) as image:
            image.load()
            return _pixels(PIL.ImageOps.exif_transpose(image), grayscale)
    except Exception as error:  # Pillow raises many kinds, SyntaxError among them
        reason = " ".join(str(error).split()).removeprefix("cannot identify image file ")
        if isinstance(error, PIL.UnidentifiedImageError):
            reason = "no PNG, JPEG, BMP, GIF or WebP in it"
        raise BrokenImageError(reason[:200] or type(error).__name__) from None


def _pixels(image: PIL.Image.Image, grayscale: bool | None) -> np.ndarray:
    if image.mode.startswith("I"):
        # Pillow's own conversion would cut 16 bits off at 255.
        wide = np.asarray(image).astype("float64")
        gray = np.clip(np.round(wide / 257), 0, 255).astype("uint8")
        image = PIL.Image.fromarray(gray)
    elif image.mode in ("1", "LA", "La"):
        image = image.convert("L")
    elif image.mode not in ("L", "RGB"):
        # A palette's transparent color has a color too, which stays, as alpha is left out.
        image = image.convert("RGB")
    if image.mode == "RGB" and grayscale is None:
        pixels = np.asarray(image)
        if (pixels == pixels[..., :1]).all():
            return pixels[..., :1].copy()
    if image.mode == "RGB" and grayscale:
        image = image.convert("L")
    pixels = np.asarray(image)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return np.repeat(pixels, 3, axis=2) if grayscale is False and pixels.shape[2] == 1 else pixels


def decode_mask(content: bytes) -> np.ndarray:
    """The class numbers of a mask file, `(rows, columns)` int64: palette numbers, or gray values.

    Raises:
        BrokenImageError: If it is no image of class numbers.
    """
    try:
        with PIL.Image.open(io.BytesIO(content), formats=("PNG", "BMP", "GIF")) as image:
            image.load()
            turned = PIL.ImageOps.exif_transpose(image)
            mode, numbers = turned.mode, np.asarray(turned)
    except Exception as error:  # as above
        raise BrokenImageError(" ".join(str(error).split())[:200]) from None
    if mode not in ("1", "L", "P") and not mode.startswith("I"):
        raise BrokenImageError(f"mode {mode}, not one class number a pixel")
    return numbers.astype("int64")


def resize(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resized to (rows, columns), bilinear; a smaller image is averaged, not sampled."""
    if pixels.shape[:2] == tuple(size):
        return pixels
    image = PIL.Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    image = image.resize((size[1], size[0]), PIL.Image.Resampling.BILINEAR)
    return np.asarray(image).reshape(*size, pixels.shape[2])


def resize_mask(numbers: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resized to (rows, columns): each pixel takes the number of the nearest one."""
    if numbers.shape == tuple(size):
        return numbers
    image = PIL.Image.fromarray(numbers.astype("int32"))
    image = image.resize((size[1], size[0]), PIL.Image.Resampling.NEAREST)
    return np.asarray(image).astype("int64")

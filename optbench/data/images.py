"""Decode image files to bytes of grey or of red, green and blue; files that cannot be converted are refused by name.

Grey, colour, palette and bilevel images are converted without loss, 16-bit grey by v -> round(v / 257), which maps
0 .. 65535 to 0 .. 255, and CMYK as (255 - C)(255 - K) / 255 and so on, as is usual for ImageNet. An alpha channel is dropped
if all pixels are opaque. Transparent pixels have no colour, and floating-point and 32-bit images no range: such images are
refused.
"""

import io
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from optbench.data import extras
from optbench.errors import UserError

_DIRECT = ("1", "L", "P", "RGB", "RGBX", "CMYK", "YCbCr", "HSV")
_ALPHA = ("LA", "RGBA", "PA")
_SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")
_GREY = ("1", "L", "LA", *_SIXTEEN_BITS, "I")


@lru_cache(maxsize=1)
def image_module() -> Any:
    """Pillow's ``Image``; raises UserError if Pillow is not installed."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError(f"reading image files needs Pillow: {extras.remedy('images')}") from error
    # Images above the limit are refused below; Pillow only warns about images up to twice the limit.
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    return Image


def header(source: bytes | str | Path, shown: str) -> tuple[bool, tuple[int, int]]:
    """True if the image ``source``, a file or its content, is grey; and its (width, height). The image is not decoded.

    Raises UserError, naming it as ``shown``, if it is not an image or has a mode that cannot be converted.
    """
    try:
        with _open(source) as image:
            _check_mode(image)
            return image.mode in _GREY, image.size
    except Exception as error:  # damaged files raise almost any exception: OSError, SyntaxError, ValueError, zlib.error
        raise UserError(f"{shown}: is not an image that can be read: {_reason(error)}") from error


def decode(source: bytes | str | Path, shown: str, grey: bool = False) -> Any:
    """The image ``source``, a file or its content, decoded to Pillow's mode "L" if ``grey``, otherwise to "RGB".

    Raises UserError, naming it as ``shown``, if it cannot be decoded or converted.
    """
    try:
        with _open(source) as image:
            _check_mode(image)
            return _converted(image, "L" if grey else "RGB")
    except Exception as error:
        raise UserError(f"{shown}: cannot be decoded: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "its format is not recognized"  # Pillow's own message names an object in memory
    text = " ".join(str(error).split())[:200]
    return text if isinstance(error, _Refused) else f"{text} ({type(error).__name__})"


class _Refused(Exception):
    pass


def _open(source: bytes | str | Path) -> Any:
    module = image_module()
    image = module.open(io.BytesIO(source) if isinstance(source, bytes) else source)
    limit = module.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        image.close()
        raise _Refused(f"announces {image.width} x {image.height} pixels, more than the limit of {limit}")
    if image.format == "TIFF" and image.n_frames > 1:
        image.close()
        raise _Refused(f"has {image.n_frames} pages; accepted: one image a file")
    return image


def _check_mode(image: Any) -> None:
    # A 16-bit PNG is of mode I in older versions of Pillow; any other image of this mode may have any range.
    if image.mode not in (*_DIRECT, *_ALPHA, *_SIXTEEN_BITS) and not (image.mode == "I" and image.format == "PNG"):
        accepted = "grey of 8 or 16 bits, RGB, a palette, CMYK"
        raise _Refused(
            f"has the mode {image.mode}, which cannot be converted to bytes without loss; accepted: {accepted}"
        )


def _converted(image: Any, mode: str) -> Any:
    if image.mode in (*_SIXTEEN_BITS, "I"):
        values = np.asarray(image).astype(np.uint32)
        return image_module().fromarray(((values + 128) // 257).astype(np.uint8)).convert(mode)
    if image.mode in _ALPHA or "transparency" in image.info:
        shown = image.mode
        image = image.convert("RGBA")
        if image.getchannel("A").getextrema()[0] < 255:
            raise _Refused(
                f"has transparent pixels (mode {shown}), which have no colour; accepted: opaque images, such as those that "
                "`convert -background white -flatten` makes"
            )
        image = image.convert("RGB")
    return image.convert(mode)

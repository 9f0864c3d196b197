"""Which image files are read, how each mode becomes bytes, and what is refused by name."""

import io
import random
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from optbench.data import images
from optbench.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 3), dtype=np.uint8)


def saved(image, format="PNG", **options):
    out = io.BytesIO()
    image.save(out, format, **options)
    return out.getvalue()


def decoded(content, grey=False):
    return np.asarray(images.decode(content, "the image", grey))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_opaque_colour_is_kept(mode):
    image = Image.fromarray(PIXELS)
    if mode == "P":
        image = image.quantize(64)  # more colours than pixels
    content = saved(image if mode == "P" else image.convert(mode))
    assert images.header(content, "the image") == (False, (5, 6))
    np.testing.assert_array_equal(decoded(content), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["L", "LA"])
def test_opaque_grey_is_kept(mode):
    content = saved(Image.fromarray(PIXELS[..., 0]).convert(mode))
    assert images.header(content, "the image")[0]
    np.testing.assert_array_equal(decoded(content, grey=True), PIXELS[..., 0])


def test_sixteen_bits():
    values = np.array([[0, 128, 129, 257, 32767, 65535]], np.uint16)
    content = saved(Image.fromarray(values))
    expected = np.rint(values / 257).astype(np.uint8)
    np.testing.assert_array_equal(decoded(content, grey=True), expected)
    np.testing.assert_array_equal(decoded(content)[..., 1], expected)


def test_cmyk():
    content = saved(Image.new("CMYK", (2, 2), (255, 0, 51, 51)), "TIFF")
    assert decoded(content)[0, 0].tolist() == [0, 204, 163]  # (255 - C)(255 - K) / 255


def palette_with_a_hole():
    image = Image.fromarray(PIXELS).quantize(64)
    return saved(image, transparency=int(np.asarray(image)[0, 0]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (saved(Image.new("F", (4, 4), 0.5), "TIFF"), "has the mode F"),
        (saved(Image.new("I", (4, 4), 70000), "TIFF"), "has the mode I,"),
        (saved(Image.new("LAB", (4, 4)), "TIFF"), "has the mode LAB"),
        (saved(Image.new("RGBA", (4, 4), (1, 2, 3, 254))), r"has transparent pixels \(mode RGBA\)"),
        (saved(Image.new("LA", (4, 4), (1, 0))), r"has transparent pixels \(mode LA\)"),
        (palette_with_a_hole(), r"has transparent pixels \(mode P\)"),
    ],
)
def test_what_cannot_be_converted_is_refused_by_mode(content, message):
    with pytest.raises(UserError, match=f"^folder/a.png: .*{message}"):
        images.decode(content, "folder/a.png")


def announcing(width, height):
    """A PNG whose header announces more pixels than it has."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


@pytest.mark.parametrize("size", [(10000, 10000), (100000, 100000), (2**31 - 1, 2**31 - 1)])
def test_decompression_bombs_are_refused_before_they_are_decoded(size):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for read in (images.header, images.decode):
            with pytest.raises(UserError, match=r"^a\.png: .*(pixels|size)"):
                read(announcing(*size), "a.png")


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Pillow, about broken tags of TIFF files
def test_damaged_images_are_refused_by_name_whatever_pillow_raises():
    """Half of 600 images, each cut or with bytes changed, do not decode; all of those are one message."""
    draw = random.Random(0)
    whole = [saved(Image.fromarray(PIXELS), format) for format in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")]
    refused = 0
    for number in range(600):
        content = bytearray(whole[number % len(whole)])
        if number % 3 == 0:
            del content[draw.randrange(len(content)) :]
        else:
            for _ in range(draw.choice((1, 4, 40))):
                content[draw.randrange(len(content))] = draw.randrange(256)
        try:
            assert decoded(bytes(content)).ndim == 3
            continue
        except UserError as error:
            message = str(error)
        assert message.startswith("the image: ")
        assert "\n" not in message
        refused += 1
    assert refused > 200

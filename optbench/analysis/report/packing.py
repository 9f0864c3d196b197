"""Texts, compressed and written in characters, for an element of a page.

Base64 spends a third more characters than there are bytes; 13 bits in two digits of base 91 spend 23 %. The digits are the
printable characters of ASCII without those that HTML or a program could misread. plotly.js, most of a page, is compressed by
LZMA, which leaves 1.4 MB of it where gzip leaves 1.8; the data by gzip, which is ten times faster for those of a large sweep.
"""

import gzip
import lzma

import numpy as np

DIGITS = bytes(code for code in range(ord("!"), ord("~") + 1) if chr(code) not in "&<\\")
_BITS = 13  # 91 * 91 = 8281 >= 2^13
# Bytes that are written at a time, to save memory: their bits are a whole number of groups.
_BLOCK = 13 * 8192


# The properties that unpack.js expects; a window of 8 MiB holds the whole of plotly.js.
_LZMA = {"id": lzma.FILTER_LZMA1, "preset": 6, "lc": 3, "lp": 0, "pb": 2, "dict_size": 8 << 20}


def packed(text: str, method: str = "gzip") -> str:
    """``text`` as four words: "gzip" or "lzma", the numbers of bytes before and after, and the compressed bytes in digits.

    The high bits of a byte come first. unpack.js unpacks it.
    """
    content = text.encode()
    if method == "lzma":
        compressed = lzma.compress(content, format=lzma.FORMAT_RAW, filters=[_LZMA])
    else:
        # Without the time of writing, so that equal data give equal files.
        compressed = gzip.compress(content, 9, mtime=0)
    digits = b"".join(_digits(compressed[start : start + _BLOCK]) for start in range(0, len(compressed), _BLOCK))
    return f"{method} {len(content)} {len(compressed)} {digits.decode()}"


def _digits(content: bytes) -> bytes:
    bits = np.unpackbits(np.frombuffer(content, np.uint8))
    groups = np.pad(bits, (0, -len(bits) % _BITS)).reshape(-1, _BITS)
    values = groups @ (1 << np.arange(_BITS)[::-1])
    places = np.stack(np.divmod(values, len(DIGITS)), axis=1).ravel()
    digits: bytes = np.frombuffer(DIGITS, np.uint8)[places].tobytes()
    return digits

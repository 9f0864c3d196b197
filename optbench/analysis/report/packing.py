"""Texts, compressed and written in characters, for an element of a page.

Base64 spends a third more characters than there are bytes; 13 bits in two digits of base 91 spend 23 %, which is 150 kB of
plotly.js. The digits are the printable characters of ASCII without those that HTML or a program could misread.
"""

import gzip

import numpy as np

DIGITS = bytes(code for code in range(ord("!"), ord("~") + 1) if chr(code) not in "&<\\")
_BITS = 13  # 91 * 91 = 8281 >= 2^13
# Bytes that are written at a time, to save memory: their bits are a whole number of groups.
_BLOCK = 13 * 8192


def packed(text: str) -> str:
    """The number of compressed bytes, a space, and the bytes in digits, the high bits first. page.js unpacks it."""
    # Without the time of writing, so that equal data give equal files.
    content = gzip.compress(text.encode(), 9, mtime=0)
    digits = b"".join(_digits(content[start : start + _BLOCK]) for start in range(0, len(content), _BLOCK))
    return f"{len(content)} {digits.decode()}"


def _digits(content: bytes) -> bytes:
    bits = np.unpackbits(np.frombuffer(content, np.uint8))
    groups = np.pad(bits, (0, -len(bits) % _BITS)).reshape(-1, _BITS)
    values = groups @ (1 << np.arange(_BITS)[::-1])
    places = np.stack(np.divmod(values, len(DIGITS)), axis=1).ravel()
    digits: bytes = np.frombuffer(DIGITS, np.uint8)[places].tobytes()
    return digits

"""The reader of packed texts for tests, written apart from unpack.js and by their description in packing.py."""

import gzip
import lzma
import re
import string


def unpacked(page: str, identifier: str) -> str:
    """What is compressed in an element of a page."""
    content = re.search(rf'<script type="text/plain" id="{identifier}">(.*?)</script>', page, re.DOTALL)[1]
    method, size, count, digits = content.split(" ")
    order = sorted(set(string.printable) - set(string.whitespace) - set("&<\\"))
    assert len(order) == 91
    places = [order.index(digit) for digit in digits]
    bits = "".join(f"{91 * high + low:013b}" for high, low in zip(places[::2], places[1::2], strict=True))
    compressed = bytes(int(bits[8 * k : 8 * k + 8], 2) for k in range(int(count)))
    if method == "lzma":
        properties = {"id": lzma.FILTER_LZMA1, "lc": 3, "lp": 0, "pb": 2, "dict_size": 8 << 20}
        text = lzma.decompress(compressed, format=lzma.FORMAT_RAW, filters=[properties])
    else:
        assert method == "gzip"
        text = gzip.decompress(compressed)
    assert len(text) == int(size)
    return text.decode()

"""A Python file without the parts that cannot change a number: comments, docstrings, blank lines and import statements.

Planning reads some sixty files before it answers. Regular expressions are used, because parsing into syntax trees takes ten
times as long. The tests compare the result with Python's own tokenizer.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import lru_cache

_TOKEN = re.compile(
    r"""\#[^\n]*"""
    r'''|(?P<prefix>\b[A-Za-z]{1,2})?(?:"""[^"\\]*(?:(?:\\.|"(?!""))[^"\\]*)*"""'''
    r"""|'''[^'\\]*(?:(?:\\.|'(?!''))[^'\\]*)*'''"""
    r"""|"[^"\\\n]*(?:\\.[^"\\\n]*)*"|'[^'\\\n]*(?:\\.[^'\\\n]*)*')""",
    re.DOTALL,
)
_NAMES = r"(?:\([^)]*\)|(?:[^\n;\\]|\\\n)*)"
_IMPORT = re.compile(
    rf"(?:^[ \t]*|[:;][ \t]*)(?:from[ \t]+(?P<source>[.\w]+)[ \t]+import\b[ \t]*(?P<names>{_NAMES})"
    r"|import[ \t]+(?P<modules>[\w.,\\ \t\n]*?)(?=[ \t]*(?:;|$)))",
    re.MULTILINE,
)
_ALL = re.compile(r"^__all__[^=\n]*=[ \t]*[\[(][^\])]*[\])]", re.MULTILINE)
_USED = re.compile(r"(?<![\w.])[^\W\d]\w*(?:\.[^\W\d]\w*)*")


@dataclass(frozen=True)
class Import:
    """``name`` stands for ``attribute`` of ``module`` (None: for the module itself); a star binds all its names.

    module: with its leading dots if it is relative.
    """

    name: str
    module: str
    attribute: str | None


@dataclass(frozen=True)
class Source:
    """The content of a Python file.

    digest: a hash of its code without import statements and ``__all__``. imports: in the order of the file.
    used: every name in the code, with the attributes that follow it: "configuration.learning_rate".
    """

    digest: str
    imports: tuple[Import, ...]
    used: frozenset[str]


@lru_cache(maxsize=4096)
def read(content: bytes) -> Source:
    """The source with ``content``; a text whose strings cannot be delimited is hashed unchanged."""
    text = content.decode("utf-8", errors="surrogateescape").replace("\r\n", "\n")
    code, plain = _code(text)
    imports: list[Import] = []

    def take(match: re.Match[str]) -> str:
        imports.extend(_bindings(match))
        return "" if match[0].lstrip()[:1] not in ":;" else match[0]

    rest = _without_blank_lines(_ALL.sub("", _IMPORT.sub(take, code)))
    used = frozenset(_USED.findall(_ALL.sub("", _IMPORT.sub("", plain))))
    digest = hashlib.blake2b(rest.encode("utf-8", errors="surrogateescape"), digest_size=8).hexdigest()
    return Source(digest, tuple(imports), used)


def _code(text: str) -> tuple[str, str]:
    """``text`` without comments and docstrings, with line breaks in strings escaped; and the same with plain strings empty."""
    kept: list[str] = []
    plain: list[str] = []
    depth = end = 0
    line = ""  # the code of the current line so far
    for match in _TOKEN.finditer(text):
        between = text[end : match.start()]
        kept.append(between)
        plain.append(between)
        depth += sum(map(between.count, "([{")) - sum(map(between.count, ")]}"))
        head, newline, tail = between.rpartition("\n")
        line = tail if newline and not head.endswith("\\") else line + between
        end = match.end()
        if match[0].startswith("#"):
            continue
        prefix = (match["prefix"] or "").lower()
        if "f" in prefix or "t" in prefix:
            inner = match[0].replace("{{", "").replace("}}", "")
            if inner.count("{") != inner.count("}"):
                # Since Python 3.12 a string may hold its own quotes between braces, so that its end cannot be found here.
                return text, text
        statement = depth == 0 and not line.strip() and re.match(r"[ \t]*(?:#|\n|;|$)", text[end : end + 200])
        line += match[0]
        if statement and not {*prefix} & {*"fbt"}:
            continue
        kept.append(match[0].replace("\n", "\\n"))
        plain.append(kept[-1] if "f" in prefix or "t" in prefix else '""')
    kept.append(text[end:])
    plain.append(text[end:])
    return "".join(kept), "".join(plain)


def _without_blank_lines(code: str) -> str:
    return "\n".join(line for line in map(str.rstrip, code.split("\n")) if line)


def _bindings(match: re.Match[str]) -> list[Import]:
    if match["source"] is None:
        found = []
        for part in re.split(r"[,\s\\]*,[,\s\\]*", match["modules"].strip()):
            module, _, name = part.partition(" as ")
            if module.strip():
                # `import a.b` without "as" binds a.
                own = name.strip()
                first = module.strip().partition(".")[0]
                found.append(Import(own or first, module.strip() if own else first, None))
                if not own and first != module.strip():
                    found.append(Import("", module.strip(), None))
        return found
    found = []
    for part in match["names"].strip("() \t\n").replace("\\\n", " ").split(","):
        attribute, _, name = " ".join(part.split()).partition(" as ")
        if attribute:
            found.append(Import(name or attribute, match["source"], attribute))
    return found

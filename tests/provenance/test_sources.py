"""What the regular expressions read of a file, against Python's own tokenizer and syntax tree."""

import ast
import io
import tokenize
from pathlib import Path

import pytest

from optbench.provenance import sources
from optbench.provenance.sources import Import, read

PACKAGE = Path(sources.__file__).parents[1]
FILES = sorted(PACKAGE.rglob("*.py"))


def by_syntax_tree(content):
    found = set()
    for node in ast.walk(ast.parse(content)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.partition(".")[0]
                found.add(Import(alias.asname or first, alias.name if alias.asname else first, None))
                if not alias.asname and first != alias.name:
                    found.add(Import("", alias.name, None))
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            found |= {Import(alias.asname or alias.name, module, alias.name) for alias in node.names}
    return found


def significant_tokens(text):
    """All but comments, line breaks, indentation and strings that are a statement of their own."""
    found, line = [], []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in (tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER):
            continue
        if token.type == tokenize.NEWLINE:
            is_docstring = len(line) == 1 and line[0][0] in "\"'rR" and line[0][-1] in "\"'"
            found += [] if is_docstring else line
            line = []
        else:
            line.append(token.string)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_package_is_read_as_python_reads_it(path):
    content = path.read_bytes()
    assert {*read(content).imports} == by_syntax_tree(content)
    text = content.decode()
    code = sources._code(text)[0]
    # What is left is the same program, but for its docstrings.
    # Line breaks in strings are escaped there.
    tokens, expected = ([token.replace("\\n", "\n") for token in significant_tokens(part)] for part in (code, text))
    assert tokens == expected


BASE = b'''"""Doc."""
import os
from a import (
    b,  # why
    c as d,
)

__all__ = ["f"]


def f(x):
    """Says."""
    return d(x) + b.g(os.sep)
'''


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"# why", b"# because"),
        (b'"""Says."""', b'"""Says\n\n    # more, "at length".\n    """'),
        (b'"""Doc."""', b"'''Other.'''"),
        (b"\n\n\ndef", b"\n\n\n\n# a remark\ndef"),
        (b'__all__ = ["f"]', b'__all__ = ["f", "g"]'),
        (b"import os\n", b"import os\nfrom somewhere import unused\n"),
        (b"\n", b"\r\n"),
    ],
)
def test_what_computes_nothing_is_not_seen(old, new):
    assert old in BASE
    assert read(BASE.replace(old, new)).digest == read(BASE).digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"d(x)", b"d(x, 1)"),
        (b"os.sep", b'"# no comment"'),
        (b"    return", b"    x = 1\n    return"),
        (b"    return", b"    if x:\n        return"),
        (b"return d(x)", b'return """a\n\nb""" + d(x)'),
    ],
)
def test_what_computes_is_seen(old, new):
    assert old in BASE
    assert read(BASE.replace(old, new)).digest != read(BASE).digest


def test_blank_lines_and_marks_of_comments_in_strings_count():
    digests = {
        read(b"x = " + text).digest for text in (b'"""a\n\nb"""', b'"""a\nb"""', b'"a # b"', b'"a # c"', b"'a \\'# c'")
    }
    assert len(digests) == 5


def test_a_string_that_holds_its_own_quotes_is_hashed_with_its_comments():
    first, second = (read(b'x = f"{d["#%d"]}"\n' % number).digest for number in (1, 2))
    assert first != second


def test_names_in_strings_are_not_uses_but_those_in_formatted_strings_are():
    used = read(b'x = "a.b"; y = f"{c.d}"; z = self.e.f(g)\n').used
    assert "a.b" not in used
    assert {"c.d", "self.e.f", "g"} <= used


def test_the_digest_does_not_depend_on_the_python():
    assert read(BASE).digest == "d3ac445017f4db1e"

"""Tables for papers, as LaTeX with the rules of the package booktabs, with the names and numbers that the page shows."""

from typing import TYPE_CHECKING

from optbench.analysis.report.page import heading, writer

if TYPE_CHECKING:
    import pandas as pd

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "–": "--",
    "−": "$-$",
    "∞": r"$\infty$",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
}


def latex(frame: "pd.DataFrame") -> str:
    """The table as a tabular environment; numbers are aligned at the right. It needs ``\\usepackage{booktabs}``."""
    columns = "".join("r" if frame[name].dtype.kind in "iuf" else "l" for name in frame)
    writers = [writer(str(name), frame[name]) for name in frame]
    lines = [_line([heading(str(name)) for name in frame])]
    for row in frame.itertuples(index=False):
        lines.append(_line([write(value) for write, value in zip(writers, row, strict=True)]))
    head, *body = lines
    rules = [
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        head,
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(["% \\usepackage{booktabs}", *rules, ""])


def _line(texts: list[str]) -> str:
    return " & ".join("".join(_SPECIAL.get(letter, letter) for letter in text) for text in texts) + r" \\"

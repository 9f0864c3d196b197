"""Tables for papers: what LaTeX sets is what the page shows."""

import math

import pandas as pd
import pytest

from optbench.analysis.report.latex import latex


def test_a_table_has_the_rules_of_booktabs_and_the_names_of_the_page():
    frame = pd.DataFrame({
        "optimizer": ["kfac", "sgd"],
        "test_accuracy": [0.81234, math.nan],
        "steps": [120, 1_000_000],
        "loss": [-1.5, math.inf],
    })  # fmt: skip
    assert latex(frame).splitlines() == [
        "% \\usepackage{booktabs}",
        "\\begin{tabular}{lrrr}",
        "\\toprule",
        "optimizer & test accuracy & steps & loss \\\\",
        "\\midrule",
        "K-FAC & 81.23 \\% & 120 & -1.5 \\\\",
        "SGD & -- & 1,000,000 & $\\infty$ \\\\",
        "\\bottomrule",
        "\\end{tabular}",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [("50 % & $x_1$ #{}", r"50 \% \& \$x\_1\$ \#\{\}"), ("a\\b~c^2", r"a\textbackslash{}b\textasciitilde{}c\textasciicircum{}2"),
     ("−1 < 2", r"$-$1 \textless{} 2")],
)  # fmt: skip
def test_no_text_is_taken_for_a_command(text, expected):
    assert latex(pd.DataFrame({"a": [text]})).splitlines()[5] == f"{expected} \\\\"

"""A page as one self-contained HTML file, with its style, its program, plotly.js and its data.

It works from the disk without a network: a policy in its head forbids all requests. plotly.js and the data are compressed to less
than half of their size, and the browser unpacks them after it has shown the text.

A page is a list of blocks, which are plain data; page.html.j2 and blocks.html.j2 convert them to HTML and escape all text.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from itertools import accumulate, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from optbench.analysis.charts.chart import Chart
from optbench.analysis.claims import ESTIMANDS, PLACE
from optbench.analysis.names import is_of_methods, method
from optbench.analysis.report import packing

if TYPE_CHECKING:
    import pandas as pd
    from jinja2 import Environment

MOST_ROWS = 100
# With more labels, or longer categories, a figure of one panel takes the whole width of the page.
_MOST_LABELS, _LONGEST_CATEGORY = 5, 24
# The height of the figures of a page that are shown at once, in pixels; the others are drawn when they are opened.
_MOST_HEIGHT = 2000
# Significant digits of the numbers of a figure: all sixteen are a third of its compressed size.
_DIGITS = 7

# The kind of a block is the name of its macro in blocks.html.j2; the other keys are the inputs of that macro.
Block = dict[str, Any]


@dataclass
class Page:
    """The blocks of a page, in the order in which they are added, and the data of its charts and its table of runs."""

    title: str
    blocks: list[Block] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    charts: list[Chart] = field(default_factory=list)

    def heading(self, text: str) -> None:
        """Add a heading, which also appears in the table of contents."""
        anchor = "section-" + "-".join("".join(letter if letter.isalnum() else " " for letter in text.lower()).split())
        self._add("heading", text=text, anchor=anchor)

    def subheading(self, text: str) -> None:
        """Add a heading that does not appear in the table of contents."""
        self._add("subheading", text=text)

    def paragraph(self, text: str, style: str = "", address: str = "", link: str = "") -> None:
        """Add a paragraph, and at its end a link to ``address`` if there is one; ``style`` is one of the classes of page.css."""
        self._add("paragraph", text=text, style=style, address=address, link=link)

    def items(self, texts: Sequence[str]) -> None:
        """Add a list of sentences."""
        self._add("items", texts=list(texts))

    def facts(self, facts: Mapping[str, str]) -> None:
        """Add names and their values side by side; names with an empty value are left out."""
        self._add("facts", facts={name: text for name, text in facts.items() if text})

    def protocol(self, facts: Mapping[str, str]) -> None:
        """Add the protocol of the study in a box; names with an empty value are left out."""
        self._add("protocol", facts={name: text for name, text in facts.items() if text})

    def claims(self, table: "pd.DataFrame", file: str | None = None) -> None:
        """Add the claims of `optbench.analysis.claims.table`, and a link to the ``file`` with all columns.

        A claim that stands there several times is followed by the place of each, as far as the places differ.
        """
        rows = [
            {
                **{name: str(row[name]) for name in ("claim", "source", "outcome")},
                "place": place_of(row, table),
                "effect": effect(row),
                "estimand": str(row["kind"] or ""),
                "runs": f"{int(row['runs']):,}" if row["runs"] else "",
                "scale": str(row["scale"] or ""),
            }
            for row in ({str(name): value for name, value in each.items()} for each in table.to_dict("records"))
        ]
        estimands = {name: words for name, words in ESTIMANDS.items() if name in {row["estimand"] for row in rows}}
        self._add("claims", rows=rows, estimands=estimands, file=file or "")

    def code(self, text: str) -> None:
        """Add commands, to be copied."""
        self._add("code", text=text)

    def table(self, frame: "pd.DataFrame", file: str | None = None, title: str = "") -> None:
        """Add a table; for a long one only the first rows, and a link to the ``file`` with all rows.

        With a ``title`` it is folded, and opened by a click on its title.
        """
        shown = frame.head(MOST_ROWS)
        columns = [{"label": heading(str(name)), "number": shown[name].dtype.kind in "iufb"} for name in shown]
        written = [writer(str(name), shown[name]) for name in shown]
        rows = [
            [write(value) for value, write in zip(row, written, strict=True)] for row in shown.itertuples(index=False)
        ]
        more = f"The first {MOST_ROWS} of {len(frame):,} rows. " if len(frame) > MOST_ROWS else ""
        self._add("table", title=title, size=len(frame), columns=columns, rows=rows, more=more, file=file or "")

    def figure(self, chart: Chart, files: Sequence[str] = ()) -> None:
        """Add a figure with its heading and caption, and links to its ``files``."""
        self._add("figure", number=len(self.charts), files=list(files))
        self.charts.append(chart)

    def runs(self, data: Mapping[str, Any]) -> None:
        """Add the table of runs, which the page's program makes from ``data`` (`run_table.data`)."""
        self.data["runs"] = data
        self._add(
            "runs",
            where=unquote(data["files"]["folder"]) if data["files"] else "",
            commands=any(data.get("commands") or ()),
        )

    def _add(self, kind: str, **content: Any) -> None:
        self.blocks.append({"kind": kind, **content})

    @property
    def contents(self) -> list[tuple[str, str]]:
        """The anchors and the texts of the headings."""
        return [(block["anchor"], block["text"]) for block in self.blocks if block["kind"] == "heading"]

    @property
    def has_tables(self) -> bool:
        """True if the page has a table other than that of the runs."""
        return any(block["kind"] in ("table", "claims") for block in self.blocks)

    def body(self) -> str:
        """The HTML of the blocks only, for a notebook."""
        macros: Any = _templates().get_template("blocks.html.j2").module
        return str(macros.all(self.blocks, []))

    def html(self) -> str:
        """The whole file."""
        data, packed = dict(self.data), {}
        draws = bool(self.charts) or "curves" in data
        with ThreadPoolExecutor(1) as pool:
            # It takes two seconds, without the interpreter, while the figures are made.
            program = pool.submit(lambda: packing.packed(_plotly(), "lzma")) if draws else None
            drawn = [(chart.plotly(), chart.plotly(narrow=True)) for chart in self.charts]
        if drawn:
            data["figures"] = [
                {**_short(json.loads(wide.to_json())), "narrow": json.loads(narrow.to_json())["layout"]}
                for wide, narrow in drawn
            ]
        if data:
            packed["data"] = packing.packed(
                json.dumps(data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
            )
        if program:
            packed["plotly"] = program.result()
        folded = _folded([wide.layout.height or 0 for wide, _ in drawn])
        halves = _halves(self.blocks, self.charts, folded)
        figures = [
            {"chart": chart, "heights": _heights(*sizes), "half": number in halves, "folded": number in folded}
            for number, (chart, sizes) in enumerate(zip(self.charts, drawn, strict=True))
        ]
        return _templates().get_template("page.html.j2").render(page=self, packed=packed, figures=figures)


def _short(value: Any) -> Any:
    """``value`` of JSON with its fractions to `_DIGITS` significant digits, which is finer than a screen shows."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, list):
        return [_short(each) for each in value]
    return {key: _short(each) for key, each in value.items()} if isinstance(value, dict) else value


def place_of(row: Mapping[str, Any], table: "pd.DataFrame") -> str:
    """The method and the place of a claim in words, as far as other rows with the same claim have others; empty for a single one.

    Such as "at equal train loss; weight decay 0.001".
    """
    same = table[table["claim"] == row["claim"]]
    differing = [name for name in PLACE if same[name].nunique() > 1 and row[name]]
    words = {"matched_by": "at equal {}", "against": "against {}"}
    named = {name: method(row[name]) if name in ("method", "against") else row[name] for name in differing}
    return "; ".join(words.get(name, "{}").format(text) for name, text in named.items())


def effect(row: Mapping[str, Any]) -> str:
    """The estimate of a claim with its interval and its unit, such as "+0.96 points [−0.47, +2.38]"; empty without one."""
    if math.isnan(row["estimate"]):
        return ""
    signed = "+" if row["unit"] == "points" else ""
    fraction = row["unit"] == "fraction"

    def shown(value: float) -> str:
        return (f"{100 * value:{signed}.3g}" if fraction else f"{value:{signed}.3g}").replace("-", "\N{MINUS SIGN}")

    unit = " %" if fraction else f" {row['unit']}" if row["unit"] else ""
    bounds = f" [{shown(row['low'])}, {shown(row['high'])}]" if not math.isnan(row["low"] + row["high"]) else ""
    return f"{shown(row['estimate'])}{unit}{bounds}"


def heading(column: str) -> str:
    """The name of a column for a table."""
    return column.removeprefix("cell.").replace("_", " ")


def cell(value: Any) -> str:
    """A value for a table: four significant digits, or a dash if there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 100_000 else str(value)
    if isinstance(value, float):
        if math.isinf(value):
            return "∞" if value > 0 else "−∞"
        return str(int(value)) if value.is_integer() and abs(value) < 1e6 else f"{value:.4g}"
    return cell(value.item()) if hasattr(value, "item") else str(value)


def percent(value: Any) -> str:
    """A fraction as people write it: four significant digits and a percent sign."""
    written = cell(100 * value) if isinstance(value, float) else cell(value)
    return f"{written} %" if isinstance(value, float) and math.isfinite(value) else written


def is_fraction(column: str, values: "pd.Series") -> bool:
    """Return True for a column of accuracies or shares between -1 and 1, which is written in percent."""
    words = column.split("_")
    named = ("accuracy" in words or "share" in words) and words[-1] != "step"
    return named and values.dtype.kind == "f" and bool((values.dropna().abs() <= 1).all())


def writer(column: str, values: "pd.Series") -> Callable[[Any], str]:
    """The function that writes the values of a column of a table: titles of methods, percent, or four significant digits."""
    if is_of_methods(column):
        return lambda value: cell(method(value))
    return percent if is_fraction(column, values) else cell


def _folded(heights: Sequence[float]) -> set[int]:
    """The numbers of the figures that a click opens: those after `_MOST_HEIGHT`, but not the first one."""
    ends = accumulate(heights)
    return {number for number, end in enumerate(ends) if number and end > _MOST_HEIGHT}


def _halves(blocks: Sequence[Block], charts: Sequence[Chart], folded: Set[int]) -> set[int]:
    """The numbers of the figures that take half of the width of the page, two beside each other; of an odd one none is left."""
    found: set[int] = set()
    for is_figure, group in groupby(blocks, lambda block: block["kind"] == "figure" and block["number"] not in folded):
        own = [block["number"] for block in group if is_figure and _is_clear_in_half(charts[block["number"]])]
        found |= {*own[: len(own) // 2 * 2]}
    return found


def _is_clear_in_half(chart: Chart) -> bool:
    labels = {*chart.dashes(), *chart.labels()} - {""}
    few = len(labels) <= _MOST_LABELS and max(map(len, chart.categories), default=0) <= _LONGEST_CATEGORY
    return chart.surface is None and len(chart.panels) == 1 and few


def _heights(wide: Any, narrow: Any) -> str:
    """The heights of the figure, which are reserved in the page so that nothing moves when it is drawn."""
    sizes = {"wide": wide.layout.height, "narrow": narrow.layout.height}
    return ";".join(f"--{name}:{height:g}px" for name, height in sizes.items() if height)


@cache
def _templates() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    folder = Path(__file__).parent
    # With StrictUndefined a mistake in a template raises, instead of leaving an empty place.
    made = Environment(loader=FileSystemLoader(folder), autoescape=True, undefined=StrictUndefined)
    # The page's own style and programs; all other text is escaped.
    made.globals["own"] = lambda name: Markup((folder / name).read_text(encoding="utf-8"))
    return made


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    # Its last line names a map of the sources, which a browser's developer tools would request.
    return "\n".join(line for line in get_plotlyjs().splitlines() if not line.startswith("//# sourceMappingURL"))

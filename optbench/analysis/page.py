"""One HTML file that needs nothing else: its style, its program, plotly.js and its data are in it.

It works from the disk without a network: a policy in its head forbids it to fetch anything. plotly.js and the data are
compressed, to four tenths of the size, and the browser unpacks them when the text is already there to be read.
"""

import base64
import gzip
import html
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optbench.analysis.chart import Chart

if TYPE_CHECKING:
    import pandas as pd

_FOLDER = Path(__file__).parent
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"
MOST_ROWS = 60


@dataclass
class Page:
    """The parts of a page, in the order in which they are added, and the data that its program draws."""

    title: str
    parts: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    contents: list[tuple[str, str]] = field(default_factory=list)

    def heading(self, text: str) -> None:
        """A heading, which the table of contents names too."""
        anchor = "section-" + "-".join("".join(letter if letter.isalnum() else " " for letter in text.lower()).split())
        self.contents.append((anchor, text))
        self.parts.append(f'<h2 id="{anchor}">{html.escape(text)}</h2>')

    def paragraph(self, text: str, kind: str = "") -> None:
        """A paragraph; ``kind`` is one of the classes of page.css."""
        self.parts.append(f"<p{_class(kind)}>{html.escape(text)}</p>")

    def items(self, texts: Sequence[str]) -> None:
        """A list of sentences."""
        self.parts.append("<ul>" + "".join(f"<li>{html.escape(text)}</li>" for text in texts) + "</ul>")

    def facts(self, facts: Mapping[str, str]) -> None:
        """Names and what they stand for, side by side; ``facts`` without a text are left out."""
        rows = "".join(
            f"<dt>{html.escape(name)}</dt><dd>{html.escape(text)}</dd>" for name, text in facts.items() if text
        )
        self.parts.append(f"<dl>{rows}</dl>")

    def code(self, text: str) -> None:
        """A command, to be copied."""
        self.parts.append(f"<pre><code>{html.escape(text)}</code></pre>")

    def table(self, frame: "pd.DataFrame", file: str | None = None) -> None:
        """A table; of a long one the first rows, and where the others are."""
        shown = frame.head(MOST_ROWS)
        numeric = [shown[column].dtype.kind in "iufb" for column in shown]
        head = "".join(f"<th{_class('number' * is_number)}>{html.escape(heading(str(column)))}</th>"
                       for column, is_number in zip(shown, numeric, strict=True))  # fmt: skip
        body = "".join(
            "<tr>" + "".join(f"<td{_class('number' * is_number)}>{html.escape(cell(value))}</td>"
                             for value, is_number in zip(row, numeric, strict=True)) + "</tr>"
            for row in shown.itertuples(index=False)
        )  # fmt: skip
        self.parts.append(f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>')
        more = f"The first {MOST_ROWS} of {len(frame):,} rows. " if len(frame) > MOST_ROWS else ""
        link = f'<a href="{html.escape(file)}">{html.escape(Path(file).name)}</a>' if file else ""
        if more or link:
            self.parts.append(f'<p class="small">{more}{"All of it: " if link else ""}{link}</p>')

    def figure(self, chart: Chart, files: Sequence[str] = ()) -> None:
        """A figure with its heading and caption, and links to its ``files``."""
        number = len(self.data.setdefault("figures", []))
        wide, narrow = chart.plotly(), chart.plotly(narrow=True)
        entry: dict[str, Any] = json.loads(wide.to_json())
        entry["narrow"] = json.loads(narrow.to_json())["layout"]
        self.data["figures"].append(entry)
        # As high as it is going to be, so that nothing moves when it is drawn.
        heights = ";".join(
            f"--{name}:{figure.layout.height:g}px"
            for name, figure in (("wide", wide), ("narrow", narrow))
            if figure.layout.height
        )
        links = "".join(
            f' <a href="{html.escape(file)}">{html.escape(file.rpartition(".")[2].upper())}</a>' for file in files
        )
        self.parts.append(
            f'<figure id="{html.escape(chart.name)}"><h3>{html.escape(chart.title)}</h3>'
            f'<div class="plot" style="{heights}" data-figure="{number}" role="img" '
            f'aria-label="{html.escape(chart.title)}"></div>'
            f"<figcaption>{html.escape(chart.caption)}{links}</figcaption></figure>"
        )

    def html(self) -> str:
        """The whole file."""
        contents = "".join(f'<a href="#{anchor}">{html.escape(text)}</a>' for anchor, text in self.contents)
        return "\n".join(
            [
                "<!doctype html>",
                '<html lang="en">',
                "<head>",
                '<meta charset="utf-8">',
                f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
                '<meta name="viewport" content="width=device-width, initial-scale=1">',
                f"<title>{html.escape(self.title)}</title>",
                f"<style>{_read('page.css')}</style>",
                "</head>",
                "<body>",
                "<main>",
                f"<h1>{html.escape(self.title)}</h1>",
                f'<nav aria-label="Contents">{contents}</nav>' if len(self.contents) > 2 else "",
                *self.parts,
                "</main>",
                *(self._program() if self.data else []),
                "</body>",
                "</html>",
                "",
            ]
        )

    def _program(self) -> list[str]:
        """What draws the page, with the data that it draws; at its end, so that the text does not wait for it."""
        data = json.dumps(self.data, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        parts = [_packed("data", data)]
        if "figures" in self.data or "curves" in self.data:
            parts.append(_packed("plotly", _plotly()))
        parts.append(f"<script>{_read('page.js')}</script>")
        if "runs" in self.data:
            parts.append(f"<script>afterUnpacking(() => {{\n{_read('run_table.js')}}});</script>")
        return parts


def heading(column: str) -> str:
    """The name of a column as a table shows it."""
    return column.removeprefix("cell.").replace("_", " ")


def cell(value: Any) -> str:
    """A value as a table shows it: four significant digits, a dash where there is none."""
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


def _packed(identifier: str, text: str) -> str:
    """``text``, compressed, as an element of the page. No text can end it: base64 has no angle bracket."""
    # Without the time of writing: the same data are the same file.
    content = base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()
    return f'<script type="text/plain" id="{identifier}">{content}</script>'


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _read(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    # Its last line names a map of the sources, which a browser's tools would look for.
    return "\n".join(line for line in get_plotlyjs().splitlines() if not line.startswith("//# sourceMappingURL"))

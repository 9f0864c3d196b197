"""A table for narrow screens: it leaves out whole columns, and does not cut the text of all of them."""

from collections.abc import Collection, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

# The least width to which names are folded: most are shorter, and longer ones continue in the next line. If the columns
# that always stay do not fit even so, names are folded further, down to the second width.
_LEAST_FOLDED = 12
_LAST_RESORT = 5
_BORDERS = 3  # of each column, and one more of the table


class FittedTable:
    """Rows of text under ``columns``.

    left: the columns aligned at the left, such as names; the others are aligned at the right, such as numbers. folded: the
    columns whose cells may continue in a second line. first_to_go: the columns that are left out, in this order, if the
    table does not fit even with each word of a heading in a line of its own; columns that are not in it always stay.
    """

    def __init__(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[str]],
        left: Collection[str] = (),
        folded: Collection[str] = (),
        first_to_go: Sequence[str] = (),
    ) -> None:
        self._columns, self._rows = list(columns), rows
        self._left, self._folded, self._first_to_go = left, folded, first_to_go
        self._tall = False  # with headings of several lines

    def _heading(self, place: int) -> str:
        return self._columns[place].replace(" ", "\n" if self._tall else " ")

    def _width(self, place: int) -> int:
        heading = self._heading(place).split("\n")
        return max(len(text) for text in (*heading, *(row[place] for row in self._rows)))

    def _table_width(self, places: Sequence[int], folded: bool) -> int:
        widths = (
            min(self._width(place), _LEAST_FOLDED)
            if folded and self._columns[place] in self._folded
            else self._width(place)
            for place in places
        )
        return 1 + sum(width + _BORDERS for width in widths)

    @property
    def least_width(self) -> int:
        """The width of the table with all columns, and folded those that may be."""
        return self._table_width(range(len(self._columns)), folded=True)

    def render(self, width: int) -> list[RenderableType]:
        """The table for a screen of ``width`` characters, and a line that names the columns left out."""
        places = list(range(len(self._columns)))
        self._tall = self._table_width(places, folded=False) > width
        out: list[str] = []
        if self._tall:  # a column with only empty cells is left out first
            places = [place for place in places if any(row[place] for row in self._rows)]
        for column in self._first_to_go:
            if self._table_width(places, folded=False) <= width:
                break
            out.append(column)
            places.remove(self._columns.index(column))
        # Long names may be what takes the room: columns that fit once names are folded come back.
        if self._table_width(places, folded=False) > width:
            for column in reversed(list(out)):
                more = sorted([*places, self._columns.index(column)])
                if self._table_width(more, folded=True) > width:
                    break
                places = more
                out.remove(column)
        least = _LEAST_FOLDED if self._table_width(places, folded=True) <= width else _LAST_RESORT
        table = Table()
        for place in places:
            name = self._columns[place]
            table.add_column(
                self._heading(place),
                justify="left" if name in self._left else "right",
                overflow="fold",
                no_wrap=name not in self._folded,
                min_width=min(self._width(place), least) if name in self._folded else self._width(place),
            )
        for row in self._rows:
            table.add_row(*(row[place] for place in places))
        if not out:
            return [table]
        ordered = [column for column in self._columns if column in out]
        return [table, Text(f"no room here for: {', '.join(ordered)} (--json has all)", style="dim")]

"""The content of a chart, for either library that draws it: series of points, reference lines, axes, panels."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from optbench.analysis.charts.numbers import Floats, floats
from optbench.analysis.charts.styles import Style, look, looks_of, ordered, shaded

Kind = Literal["line", "curve", "points", "steps", "bars", "reference", "limit"]
Numbers = Iterable[float] | np.ndarray


@dataclass(frozen=True, kw_only=True)
class Series:
    """One series of a chart.

    label: its name in the legend; series of the same label have the same look in all panels.
    x: numbers, or words on an axis of categories. y: numbers; a value that is not finite leaves a gap.
    low, high: the ends of the interval of each y (not its distances from y), drawn as bars, or as a band.
    kind: "line" has markers, "curve" has none, "points" has only markers; "steps" keeps each value up to the next x; "bars"
        start at zero; "reference" is a grey dashed line, for laws and limits that were not measured; "limit" is such a line
        that keeps each value up to the next x.
    panel: the title of the panel in which it is drawn, for a chart with several.
    look: the number of its style, 0, 1, ...; None: that of its label (`optbench.analysis.charts.styles`).
    shade: of points in an order, such as that of time: from 0, light, to 1, dark, in place of a style of the label.
    marker: the number of the style whose marker it has, in place of that of its look, so that colours and markers say two things.
    hollow: open markers.
    texts: a text for each point, shown at the pointer.
    runs: of points that are runs, the run id of each, which a click on a page opens.
    """

    label: str
    x: Sequence[str] | Numbers
    y: Numbers
    low: Numbers | None = None
    high: Numbers | None = None
    kind: Kind = "line"
    band: bool = False
    panel: str | None = None
    look: int | None = None
    shade: float | None = None
    marker: int | None = None
    hollow: bool = False
    texts: Sequence[str] | None = None
    runs: Sequence[str] | None = None

    def __post_init__(self) -> None:
        for name in ("x", "y", "low", "high", "texts", "runs"):
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, list(value))
        lengths = {
            len(getattr(self, name))
            for name in ("x", "y", "low", "high", "texts", "runs")
            if getattr(self, name) is not None
        }
        if len(lengths) > 1:
            raise ValueError(
                f"series {self.label!r}: x, y, low, high, texts and runs are of different lengths {sorted(lengths)}"
            )
        if (self.low is None) != (self.high is None):
            raise ValueError(f"series {self.label!r}: low and high come together")

    @property
    def is_categorical(self) -> bool:
        """True if x is words."""
        return any(isinstance(value, str) for value in self.x)

    @property
    def is_reference(self) -> bool:
        """True for a law or a limit, drawn in grey."""
        return self.kind in ("reference", "limit")

    @property
    def values(self) -> Floats:
        """y as an array."""
        return floats(list(self.y))

    @property
    def interval(self) -> tuple[Floats, Floats] | None:
        """low and high as arrays; None if there is no interval."""
        if self.low is None or self.high is None:
            return None
        return floats(self.low), floats(self.high)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Reference:
    """A straight grey line across a panel, or across all (panel=None), at ``value`` of an axis."""

    value: float
    label: str = ""
    axis: Literal["x", "y"] = "y"
    panel: str | None = None


@dataclass(frozen=True)
class Values:
    """The axis of values of one panel: its label, in place of a title; logarithmic or in percent; and its range, by default that
    of the data."""

    label: str = ""
    log: bool = False
    percent: bool = False
    range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Surface:
    """A value on a plane: x (nx,), y (ny,), z (ny, nx). See `surface.levels`.

    mark: a point of it, drawn as a cross. range: the lowest and the highest value of its scale, equal for planes that are
    compared; None: those of z.
    """

    x: ArrayLike
    y: ArrayLike
    z: ArrayLike
    label: str = "Loss"
    mark: tuple[float, float] | None = (0.0, 0.0)
    range: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The axes and the content of a chart; for the fields see `optbench.analysis.charts.chart.Chart`."""

    x_label: str = ""
    y_label: str = ""
    log_x: bool = False
    log_y: bool = False
    percent_y: bool = False
    ticks_at_x: bool = False
    horizontal: bool = False
    share_y: bool = True
    columns: int = 2
    series: Sequence[Series] = ()
    references: Sequence[Reference] = ()
    values: Mapping[str, Values] = field(default_factory=dict)
    x_labels: Mapping[str, str] = field(default_factory=dict)
    surface: Surface | None = None

    def values_of(self, panel: str | None) -> Values:
        """The axis of values of a panel: its own, or that of the chart."""
        if panel is not None and panel in self.values:
            return self.values[panel]
        return Values(self.y_label, self.log_y, self.percent_y)

    def x_label_of(self, panel: str | None) -> str:
        """The label of the x axis of a panel: its own, or that of the chart."""
        return self.x_labels.get(panel, self.x_label) if panel is not None else self.x_label

    @property
    def panels(self) -> list[str | None]:
        """The titles of the panels, in the order in which the series name them."""
        return list(dict.fromkeys(series.panel for series in self.series)) or [None]

    @property
    def panel_columns(self) -> int:
        """The number of columns of panels: 3 in place of 2 where that saves a row, of three panels and of five."""
        count = len(self.panels)
        return 3 if count in (3, 5) and self.columns == 2 else min(self.columns, count)

    @property
    def categories(self) -> list[str]:
        """The words on the x axis, in the order in which the series name them; none if x is numbers."""
        if not any(series.is_categorical for series in self.series):
            return []
        return list(dict.fromkeys(str(value) for series in self.series for value in series.x))

    def positions(self, series: Series) -> Floats:
        """The x of a series as numbers. Series in one category are placed side by side, so that none hides another."""
        if not self.categories:
            return floats(series.x)  # type: ignore[arg-type]
        place = {word: float(index) for index, word in enumerate(self.categories)}
        labels = list(dict.fromkeys(other.label for other in self.series if not other.is_reference))
        width = self.bar_width
        shift = 0.0 if series.is_reference else (labels.index(series.label) - (len(labels) - 1) / 2) * width
        return floats([place[str(value)] + shift for value in series.x])

    @property
    def bar_width(self) -> float:
        """The width of a bar, and the distance of points in one category; categories are 1 apart."""
        labels = {series.label for series in self.series if not series.is_reference}
        return 0.8 / max(1, len(labels))

    def ticks(self) -> list[float]:
        """The values of x at which the series have points; a smooth curve has none, and a law is drawn between them."""
        drawn = (series for series in self.series if not series.is_reference and series.kind != "curve")
        values = {float(value) for series in drawn for value in series.x}
        return sorted(values)

    def decades(self, axis: Literal["x", "y"], panels: Iterable[str | None]) -> float:
        """The decades between the smallest and the largest positive number on an axis of these panels; 0 without any."""
        chosen = [series for series in self.series if series.panel in set(panels)]
        if axis == "x":
            parts = [self.positions(series) for series in chosen]
        else:
            parts = [values for series in chosen for values in (series.values, *(series.interval or ()))]
        found = np.concatenate(parts) if parts else np.array([])
        found = found[np.isfinite(found) & (found > 0)]
        return float(np.log10(found.max() / found.min())) if len(found) else 0.0

    def references_in(self, panel: str | None) -> "list[Reference]":
        """The straight lines across a panel."""
        return [reference for reference in self.references if reference.panel in (None, panel)]

    def dashes(self) -> dict[str, int]:
        """The number of the dash pattern of each reference label, equal in all panels."""
        labels = [series.label for series in self.series if series.is_reference]
        labels += [reference.label for reference in self.references]
        return {label: number for number, label in enumerate(dict.fromkeys(labels))}

    @property
    def has_values(self) -> bool:
        """True if there is anything to draw besides laws and limits."""
        drawn = (series.values for series in self.series if not series.is_reference)
        return self.surface is not None or any(np.isfinite(values).any() for values in drawn)

    @property
    def has_runs(self) -> bool:
        """True if a series says which runs its points are."""
        return any(series.runs is not None for series in self.series)

    def labels(self) -> list[str]:
        """The labels of the series that are not references."""
        return list(dict.fromkeys(series.label for series in self.series if not series.is_reference))

    def looks(self) -> dict[str, Style]:
        """The style of each label that is not a reference; batch sizes are points in an order, from light to dark.

        A label has the shade and the marker that a series of it names.
        """
        labels = self.labels()
        chosen = {series.label: series.look for series in self.series if series.look is not None}
        found = {label: look(number) for label, number in looks_of([labels], chosen).items()}
        found |= {label: shaded(share) for label, share in ordered(labels).items()}
        found |= {series.label: shaded(series.shade) for series in self.series if series.shade is not None}
        markers = {series.label: look(series.marker) for series in self.series if series.marker is not None}
        return found | {
            label: replace(found[label], marker=other.marker, symbol=other.symbol) for label, other in markers.items()
        }

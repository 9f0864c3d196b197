"""A figure that is described once and drawn twice: by matplotlib for the paper, by plotly for the page."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from optbench.analysis.charts.layout import Layout, Reference, Series, Surface, Values
from optbench.analysis.charts.styles import looks_of, ordered

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from matplotlib.figure import Figure

__all__ = ["Chart", "Reference", "Series", "Surface", "Values", "in_one_style"]


@dataclass(frozen=True, kw_only=True)
class Chart(Layout):
    """A figure.

        Chart(
            name="rate_against_batch",
            title="Optimal learning rate against batch",
            caption="The best of 8 trials at every batch; bars are 95 % bootstrap intervals over 3 seeds.",
            x_label="Batch size (examples)",
            y_label="Learning rate",
            log_x=True,
            log_y=True,
            ticks_at_x=True,
            series=[Series(label="sgd", x=[32, 64], y=[0.1, 0.2], low=[0.08, 0.15], high=[0.12, 0.25])],
            references=[Reference(0.5, "2/λ")],
        )

    name: of its files, figures/NAME.png and .pdf. title: its heading on the page. caption: the text below the figure, which
        describes its content and its intervals.
    x_label, y_label: of the axes, with units. log_x, log_y: logarithmic axes (a value that is not positive leaves a gap).
    percent_y: y is a fraction, and labelled in percent.
    ticks_at_x: the ticks are the values of x themselves, such as batch sizes.
    horizontal: categories are listed at the left, and values grow to the right: for many or long names.
    series: the data; ``Series.panel`` makes small multiples, in ``columns`` columns on a wide page, and share_y gives them
        the same range of y. references: straight lines across.
    values: the y axes of panels with their own axis, by the title of the panel, such as a loss above an accuracy.
    x_labels: the x labels of panels with their own axis, such as steps beside seconds; then no panels share x.
    surface: a value on a plane, in place of series.
    """

    name: str
    title: str
    caption: str = ""

    def matplotlib(self) -> "Figure":
        """The figure for a paper, without title and caption, as wide as a column or, with several panels, as a page."""
        from optbench.analysis.charts import chart_matplotlib

        return chart_matplotlib.draw(self)

    def plotly(self, narrow: bool = False) -> "go.Figure":
        """The figure for a page, with the page's width; ``narrow``: for a telephone, with its panels in one column."""
        from optbench.analysis.charts import chart_plotly

        return chart_plotly.draw(self, narrow)


def in_one_style(charts: Sequence[Chart]) -> list[Chart]:
    """The charts of one page, with the same look for the same label on all of them; batch sizes are shades in their order."""
    chosen = {series.label: series.look for chart in charts for series in chart.series if series.look is not None}
    labels = [chart.labels() for chart in charts]
    looks, shades = looks_of(labels, chosen), ordered(label for each in labels for label in each)

    def styled(series: Series) -> Series:
        shade = shades.get(series.label) if series.shade is None else series.shade
        return replace(series, look=looks.get(series.label), shade=shade)

    return [replace(chart, series=[styled(series) for series in chart.series]) for chart in charts]

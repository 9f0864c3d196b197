"""A figure that is described once and drawn twice: by matplotlib for the paper, by plotly for the page."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from optbench.analysis.layout import Layout, Reference, Series

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from matplotlib.figure import Figure

__all__ = ["Chart", "Reference", "Series"]


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

    name: of its files, figures/NAME.png and .pdf. title: its heading on the page. caption: what is drawn, and what the
        intervals are, below the figure.
    x_label, y_label: of the axes, with units. log_x, log_y: logarithmic axes (a value that is not positive leaves a gap).
    percent_y: y is a fraction, and labelled in percent.
    ticks_at_x: the ticks are the values of x themselves, such as batch sizes.
    horizontal: categories stand below each other at the left, and values grow to the right: for many or long names.
    series: what is drawn; ``Series.panel`` makes small multiples, in ``columns`` columns on a wide page, and share_y gives
        them the same range of y. references: straight lines across.
    """

    name: str
    title: str
    caption: str = ""
    drawn_by_matplotlib: "Callable[[], Figure] | None" = None
    drawn_by_plotly: "Callable[[], go.Figure] | None" = None

    @classmethod
    def custom(
        cls, name: str, title: str, caption: str, matplotlib: "Callable[[], Figure]", plotly: "Callable[[], go.Figure]"
    ) -> "Chart":
        """A figure that two functions of no arguments draw, such as those of `optbench.analysis.figures`."""
        return cls(name=name, title=title, caption=caption, drawn_by_matplotlib=matplotlib, drawn_by_plotly=plotly)

    def matplotlib(self) -> "Figure":
        """The figure for a paper, without title and caption: a column wide, or, with several panels, a page."""
        if self.drawn_by_matplotlib is not None:
            return self.drawn_by_matplotlib()
        from optbench.analysis import chart_matplotlib

        return chart_matplotlib.draw(self)

    def plotly(self, narrow: bool = False) -> "go.Figure":
        """The figure for a page, as wide as the page makes it; ``narrow``: for a telephone, with its panels in one column."""
        if self.drawn_by_plotly is not None:
            return self.drawn_by_plotly()
        from optbench.analysis import chart_plotly

        return chart_plotly.draw(self, narrow)

"""Figures: arrays in, a matplotlib figure out. ``pages`` holds plotly twins of those that a page needs.

Importing this package imports matplotlib, but neither pyplot nor plotly.
"""

from optbench.analysis.figures.probe_files import figure_for
from optbench.analysis.figures.style import save

__all__ = ["figure_for", "save"]

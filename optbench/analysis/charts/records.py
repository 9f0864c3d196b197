"""Convert charts to plain data for a file, and back, so that the charts of a page can be drawn again without the runs."""

import math
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from optbench.analysis.charts.chart import Chart, Reference, Series, Surface, Values

Record = dict[str, Any]


def to_record(chart: Chart) -> Record:
    """The chart as JSON data, without default values. Numbers that are not finite, which leave gaps, are null."""
    record = _changed(chart, ("series", "references", "values", "surface"))
    if chart.series:
        record["series"] = [_changed(series) for series in chart.series]
    if chart.references:
        record["references"] = [_changed(reference) for reference in chart.references]
    if chart.values:
        record["values"] = {panel: _changed(values) for panel, values in chart.values.items()}
    if chart.surface is not None:
        record["surface"] = _changed(chart.surface)
    return record


def from_record(record: Mapping[str, Any]) -> Chart:
    """The chart of a record; raises TypeError or ValueError for a record that `to_record` does not write."""
    parts: Record = {
        "series": [Series(**_numbers(series)) for series in record.get("series", ())],
        "references": [Reference(**reference) for reference in record.get("references", ())],
        "values": {panel: Values(**_tuples(values)) for panel, values in record.get("values", {}).items()},
    }
    if "surface" in record:
        parts["surface"] = Surface(**_tuples(_numbers(record["surface"])))
    return Chart(**{**record, **parts})


def _changed(part: Any, left_out: tuple[str, ...] = ()) -> Record:
    """The fields of a data class that differ from their defaults, as JSON data."""
    values = {field.name: (getattr(part, field.name), field.default) for field in fields(part)}
    return {
        name: _plain(value)
        for name, (value, default) in values.items()
        if name not in left_out and not (isinstance(value, type(default)) and value == default)
    }


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(one) for one in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        # Whole numbers as integers, which take a third of the text.
        return int(value) if value.is_integer() and abs(value) < 1e15 else value
    return value


def _numbers(record: Mapping[str, Any]) -> Record:
    """The record with NaN where lists of numbers have null."""
    lists = {name: record[name] for name in ("x", "y", "low", "high", "z") if record.get(name) is not None}
    return {**record, **{name: _with_nan(values) for name, values in lists.items()}}


def _with_nan(values: list[Any]) -> list[Any]:
    return [_with_nan(one) if isinstance(one, list) else math.nan if one is None else one for one in values]


def _tuples(record: Mapping[str, Any]) -> Record:
    return {name: tuple(value) if name in ("range", "mark") and value else value for name, value in record.items()}

"""Charts of where a search looked."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optbench.analysis.charts.chart import Chart, Series, Values
from optbench.analysis.names import is_of_methods, method
from optbench.sweep.search.method import Grid, Pick, Seen

RATE, BATCH, SEED = "optimizer.learning_rate", "batch", "seed"
MOST_PANELS = 6
_SHADES = 4
# Values that span more are drawn on a logarithmic axis.
_WIDE = 20.0
DIVERGED = "diverged"
PAUSED = "paused"


@dataclass(frozen=True)
class Looked:
    """The cells that a search has chosen, with the axes of its charts.

    over: the axis or the option along which it looked; None if there is none. law: the axis that makes the rows of a chart;
    None if there is none. apart: the other axes, which make panels. drawn: options that are no axes, with their
    distributions.
    """

    metric: str
    seen: Sequence[Seen]
    over: str | None
    law: str | None
    apart: tuple[str, ...]
    drawn: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(
        cls,
        metric: str,
        grids: Sequence[Grid],
        seen: Sequence[Seen],
        options: Mapping[str, Any],
        space: Mapping[str, Mapping[str, Any]],
    ) -> "Looked":
        """Find the axes of the charts, from the ``options`` of the search and from the values that it chose."""
        seen = [each for each in seen if each.state != "failed"]
        axes = {key: words for grid in grids for key, words in grid.axes.items()}
        values: dict[str, set[str]] = {}
        for each in seen:
            for key, word in each.pick.cell.items():
                values.setdefault(key, set()).add(word)
        drawn = {key: {**space, **_intervals(grids)}.get(key, {}) for key in values if key not in axes}
        lengths = {key: len(words) for key, words in values.items() if len(words) > 1 and _are_numbers(words)}
        over = _over(options, lengths)
        if over is not None:  # grids without this axis are not searched
            seen = [each for each in seen if over in each.pick.cell]
        others = [key for key, words in axes.items() if len(words) > 1 and key not in (over, SEED) and key in values]
        law = options.get("law") if options.get("law") in others else None
        law = law or (BATCH if BATCH in others else next((key for key in others if key in lengths), None))
        law = law or next(iter(others), None)
        return cls(metric, seen, over, law, tuple(key for key in others if key != law), drawn)

    def panel(self, pick: Pick) -> str:
        """The name of the independent search of a cell."""
        words = [
            f"{key.removeprefix('optimizer.')} {_named(key, pick.cell[key])}" for key in self.apart if key in pick.cell
        ]
        words = [word.removeprefix("optimizer ") for word in words]
        return ", ".join([pick.grid, *words] if pick.grid else words)

    @property
    def panels(self) -> list[str]:
        """The names of the independent searches."""
        return list(dict.fromkeys(self.panel(each.pick) for each in self.seen))

    def row(self, pick: Pick) -> str:
        """The condition of a cell, in a word."""
        return str(_named(self.law, pick.cell.get(self.law, "–"))) if self.law is not None else ""


def where(looked: Looked, answers: Callable[[Sequence[str]], list[Series]] = lambda panels: []) -> list[Chart]:
    """The cells that the search chose, shaded by the time at which they were chosen.

    answers: for the panels that are drawn, further series, such as the optimum of each condition.
    """
    if not looked.seen:
        return []
    if looked.law is None and len(looked.panels) == 1:
        names = list(looked.drawn) if len(looked.drawn) > 1 else [looked.over]
        return [_against_values(looked, [name for name in names if name is not None])]
    over = looked.over
    if over is None:
        return []
    shown = looked.panels[:MOST_PANELS]
    rows = sorted({looked.row(each.pick) for each in looked.seen}, key=_in_order)
    series = []
    for group, cells in _by_time(looked.seen):
        for panel in shown:
            own = [each for each in cells if looked.panel(each.pick) == panel]
            series.append(
                Series(
                    # A point without a value for each row puts the rows in order, whichever was looked at first.
                    x=[*rows, *(looked.row(each.pick) for each in own)],
                    y=[*(math.nan for _ in rows), *(float(each.pick.cell[over]) for each in own)],
                    kind="points",
                    panel=panel if len(shown) > 1 else None,
                    texts=[*("" for _ in rows), *map(text_of, own)],
                    **group,
                )
            )
    found = answers(shown)
    more = " The optimum of each row has its interval." if found else ""
    if len(looked.panels) > len(shown):
        more += f" The first {len(shown)} of {len(looked.panels)} searches."
    return [
        Chart(
            name="searched_cells",
            title="Cells that the search chose",
            caption="Every point is a run. Its shade says in which rounds it was chosen; open circles diverged, and open "
            f"diamonds are paused. Runs of one cell cover each other.{more}",
            horizontal=True,
            x_label=label_of(looked.law or ""),
            y_label=label_of(over),
            log_y=is_wide(float(each.pick.cell[over]) for each in looked.seen),
            series=[*series, *found],
        )
    ]


def _against_values(looked: Looked, names: Sequence[str]) -> Chart:
    """The results against each searched option, of a search of a single condition."""
    names = [name for name in names if _is_drawable(looked, name)] or list(names)[:1]
    percent = looked.metric.endswith("accuracy")
    results = [each.value for each in looked.seen if each.state != DIVERGED and each.value is not None]
    worst = min(results, default=0.0) if percent else max(results, default=1.0)
    values = Values(metric_label(looked.metric), not percent and is_wide(results), percent)
    seen = [each for each in looked.seen if each.state == DIVERGED or each.value is not None]
    labels = [_numbers(looked, name)[1] for name in names]
    series = []
    for name, panel in zip(names, labels, strict=True):
        number, _ = _numbers(looked, name)
        series += [
            Series(
                x=[number(each.pick) for each in cells],
                y=[worst if each.state == DIVERGED or each.value is None else each.value for each in cells],
                kind="points",
                panel=panel if len(names) > 1 else None,
                texts=[text_of(each) for each in cells],
                **group,
            )
            for group, cells in _by_time(seen)
        ]
    several = len(names) > 1
    return Chart(
        name="searched_cells",
        title="Cells that the search chose",
        caption="Every point is a run. Its shade says in which rounds it was chosen; open circles diverged, and stand at the "
        "worst result; open diamonds are paused, and stand at their last result.",
        x_label=labels[0] if labels else "",
        x_labels=dict(zip(labels, labels, strict=True)) if several else {},
        y_label=values.label,
        percent_y=values.percent,
        log_y=values.log,
        log_x=bool(names) and all(is_wide(_numbers(looked, name)[0](each.pick) for each in seen) for name in names),
        values=dict.fromkeys(labels, values) if several else {},
        series=series,
    )


def _is_drawable(looked: Looked, name: str) -> bool:
    """True for an option on a logarithmic scale: such options share a scale, and the others would be drawn at its edge."""
    return name == looked.over or str(looked.drawn.get(name, {}).get("distribution", "")).startswith("log_uniform")


def _numbers(looked: Looked, name: str) -> tuple[Callable[[Pick], float], str]:
    if looked.drawn.get(name, {}).get("distribution") == "log_uniform_complement":
        return (lambda pick: 1 - float(pick.cell[name])), f"1 − {label_of(name)}"
    return (lambda pick: float(pick.cell[name])), label_of(name)


def _over(options: Mapping[str, Any], lengths: Mapping[str, int]) -> str | None:
    given = options.get("over")
    if given in lengths:
        return str(given)
    if RATE in lengths:
        return RATE
    inner = {key: count for key, count in lengths.items() if key != SEED}
    if "pairs" not in options and inner:
        return max(inner, key=lambda key: inner[key])
    return SEED if SEED in lengths else None


def _intervals(grids: Sequence[Grid]) -> dict[str, Mapping[str, Any]]:
    return {key: distribution for grid in grids for key, distribution in grid.intervals.items()}


def _by_time(seen: Sequence[Seen]) -> list[tuple[dict[str, Any], list[Seen]]]:
    """(options of a series, cells) for groups of rounds, in their order, and at last for cells that were paused or diverged."""
    rounds = max((each.round for each in seen), default=0) + 1
    parts = min(_SHADES, rounds)
    groups: list[tuple[dict[str, Any], list[Seen]]] = []
    for part in range(parts):
        first, last = -(-part * rounds // parts), -(-(part + 1) * rounds // parts) - 1
        label = f"round {first + 1}" if first == last else f"rounds {first + 1}–{last + 1}"
        cells = [each for each in seen if first <= each.round <= last and each.state not in (DIVERGED, PAUSED)]
        groups.append(({"label": label, "shade": part / max(parts - 1, 1)}, cells))
    for state, style in ((PAUSED, {"look": 3}), (DIVERGED, {"shade": 1.0})):
        groups.append(({"label": state, "hollow": True, **style}, [each for each in seen if each.state == state]))
    return [group for group in groups if group[1]]


def text_of(each: Seen) -> str:
    """The text at the pointer: the result, the round and the seed."""
    value = DIVERGED if each.state == DIVERGED or each.value is None else f"{each.value:.4g}"
    seed = f", seed {each.pick.cell[SEED]}" if SEED in each.pick.cell else ""
    return f"{value} (round {each.round + 1}{seed})"


def _named(key: str | None, word: str) -> Any:
    """A value in a word; numbers in one way, however they are typed."""
    if math.isfinite(_number(word)):
        return f"{_number(word):g}"
    return method(word) if key is not None and is_of_methods(key) else word


def label_of(key: str) -> str:
    """A key of the command line, as the label of an axis."""
    words = key.removeprefix("optimizer.").replace("_", " ")
    return {"batch": "Batch size (examples)"}.get(key, words[:1].upper() + words[1:])


def metric_label(metric: str) -> str:
    """A result of a run, as the label of an axis."""
    return metric.replace("_", " ").capitalize()


def _are_numbers(words: set[str]) -> bool:
    return all(math.isfinite(_number(word)) for word in words)


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan


def _in_order(word: str) -> tuple[float, str]:
    value = _number(word)
    return (value, "") if math.isfinite(value) else (math.inf, word)


def is_wide(values: Iterable[float]) -> bool:
    """True for positive values that need a logarithmic axis."""
    numbers = list(values)
    return bool(numbers) and min(numbers) > 0 and max(numbers) / min(numbers) > _WIDE

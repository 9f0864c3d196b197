"""Draw the figures of a run's measurements, as pictures beside them."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optbench.store import RunDirectory
from optbench.store.files import write_atomically

if TYPE_CHECKING:
    from optbench.analysis.charts.chart import Chart

Rows = list[dict[str, Any]]


def draw(run: RunDirectory) -> tuple[list[Path], str | None]:
    """Draw the missing pictures; returns the pictures drawn, and a line about a problem, or None.

    A measurement NAME-STEP.npz becomes NAME-STEP.png. The measurements over the steps of the run (stability, noise scale and
    displacement) become NAME.png, drawn again at every call. Never raises for a figure.
    """
    measurements = run.measurements
    jobs: list[tuple[Path, Callable[[], Chart | None]]] = []
    for path in measurements.files():
        picture = path.with_suffix(".png")
        if not picture.exists():
            jobs.append((picture, lambda path=path: _of_file(path)))  # type: ignore[misc]
    rows = measurements.rows()
    for name, chart_of in _OVER_TRAINING.items():
        own = sorted((row for row in rows if row.get("probe") == name), key=lambda row: row["step"])
        if len(own) > 1:
            jobs.append((measurements.path / f"{name}.png", lambda chart_of=chart_of, own=own: chart_of(own)))  # type: ignore[misc]
    written, problem = [], None
    for picture, make in jobs:
        try:
            chart = make()
            if chart is not None:
                content = io.BytesIO()
                chart.matplotlib().savefig(content, dpi=200)
                write_atomically(picture, content.getvalue(), sync=False)
                written.append(picture)
        except Exception as error:  # of any type: the numbers exist anyway
            problem = f"{picture.name} was not drawn ({type(error).__name__}: {error})"
    return written, problem


def _of_file(path: Path) -> "Chart | None":
    from optbench.analysis.charts.probe_files import chart_for

    return chart_for(path)


def _values(rows: Rows, name: str) -> list[float]:
    return [float("nan") if (value := row["values"].get(name)) is None else float(value) for row in rows]


def _steps(rows: Rows) -> list[int]:
    return [row["step"] for row in rows]


def _stability(rows: Rows) -> "Chart":
    from optbench.analysis.charts.over_training import eigenvalues_over_training

    if any("preconditioned_top" in row["values"] for row in rows):
        eigenvalues = {
            "preconditioned": _values(rows, "preconditioned_top"),
            "not preconditioned": _values(rows, "top"),
        }
        thresholds = {"threshold of the optimizer": _values(rows, "threshold")}
    else:
        eigenvalues = {"largest eigenvalue": _values(rows, "top")}
        thresholds = {"2/η": _values(rows, "gradient_descent_threshold")}
        if _values(rows, "threshold") != thresholds["2/η"]:
            thresholds["threshold of the optimizer"] = _values(rows, "threshold")
    return eigenvalues_over_training(_steps(rows), eigenvalues, thresholds)


def _noise_scale(rows: Rows) -> "Chart":
    from optbench.analysis.charts.over_training import noise_scale

    return noise_scale(_steps(rows), {"noise scale": _values(rows, "simple")})


def _displacement(rows: Rows) -> "Chart":
    from optbench.analysis.charts.over_training import displacement

    found = {"from the start": _values(rows, "distance"), "length of the path": _values(rows, "path")}
    return displacement(_steps(rows), found)


_OVER_TRAINING: dict[str, "Callable[[Rows], Chart]"] = {
    "stability": _stability,
    "noise_scale": _noise_scale,
    "displacement": _displacement,
}

"""The content of a sweep's workspace in wandb: its runs grouped by grid point, and panels for the varied keys and results.

The panels use the names under which `optbench.trackers.wandb_mirror` mirrors a run: those of the configuration, of
history.jsonl and of summary.json. A panel exists only if some run of the sweep has its values.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optbench.store import RunDirectory

_MOST_RUNS = 100  # in one panel; wandb's own default is 10
# The curves over training, each with its axis.
_CURVES = (
    ("loss", "step"),
    ("train_loss", "epoch"),
    ("validation_loss", "epoch"),
    ("validation_loss", "seconds"),
    ("test_accuracy", "epoch"),
    ("gap_loss", "epoch"),
    ("learning_rate", "step"),
)
# Results of a run, drawn against the keys that the sweep varies.
_OUTCOMES = ("gap_loss", "gap_accuracy", "best_validation_loss", "test_accuracy", "steps_to_target", "learning_rate")
_LOGARITHMIC = {"loss", "train_loss", "validation_loss", "best_validation_loss", "learning_rate", "steps_to_target"}
_COLUMNS = ("test_accuracy", "test_loss", "gap_loss", "best_validation_loss")


@dataclass(frozen=True)
class Contents:
    """The values of a sweep on which its panels depend.

    values: for each key of the configuration that the sweep varies ("batch", "optimizer.name"), its values without
    repetition; seeds are repetitions of a grid point and are not among them.
    names: the names of summary.json under which some run has a number.
    probes: the names of the probes in any run. drawn: those of them whose measurements are mirrored as pictures.
    """

    values: Mapping[str, Sequence[Any]]
    names: frozenset[str]
    probes: Sequence[str] = ()
    drawn: frozenset[str] = frozenset()

    @classmethod
    def of(cls, cells: Iterable[Mapping[str, str]], runs: Iterable[RunDirectory]) -> "Contents":
        """Collect the contents of ``runs``, of a sweep with ``cells``: the place of each run in the grid."""
        cells = list(cells)
        keys = dict.fromkeys(key for cell in cells for key in cell)
        varied = [key.lstrip("+~") for key in keys if len({cell.get(key) for cell in cells}) > 1 and key != "seed"]
        values: dict[str, list[Any]] = {}
        names: set[str] = set()
        probes: dict[str, None] = {}
        for run in runs:
            config = run.config()
            probes |= dict.fromkeys(config.get("probe") or {})
            names |= {name for name, value in (run.summary() or {}).items() if _is_number(value)}
            for key, value in (_value(config, key) for key in varied):
                known = values.setdefault(key, [])
                if value is not None and value not in known:
                    known.append(value)
        varying = {key: known for key, known in values.items() if known}
        return cls(varying, frozenset(names), tuple(probes), _drawn(probes))


def build(entity: str, project: str, name: str, groups: Sequence[str], contents: Contents) -> Any:
    """The workspace called ``name``, of the runs in ``groups``, as a `wandb_workspaces.workspaces.Workspace`.

    Runs of one grid point, which differ in the seed, are grouped. The sections: curves by optimizer (or by the first other
    varied key that is not a number); outcomes against each varied number, the batch first; results against the learning
    rate; every probe's pictures and values. Contacts no network.
    """
    import wandb_workspaces.workspaces as ws

    batch_first = sorted((key for key in contents.values if _is_axis(contents, key)), key=lambda key: key != "batch")
    sections = [_curves(contents), *(_against(contents, key) for key in batch_first)]
    # The learning rate after scaling, which also varies if the sweep varies the trial or the batch.
    if contents.values and "learning_rate" in contents.names:
        sections.append(_against(contents, None))
    sections += [_probe(contents, probe) for probe in contents.probes]
    return ws.Workspace(
        entity=entity,
        project=project,
        name=name,
        sections=[section for section in sections if section.panels],
        settings=ws.WorkspaceSettings(x_axis="step", max_runs=_MOST_RUNS),
        runset_settings=ws.RunsetSettings(
            filters=[ws.Metric("Group").isin(list(groups))],
            groupby=[ws.Config(key) for key in contents.values],
            pinned_columns=[
                "summary:status",
                *(f"summary:{column}" for column in _COLUMNS if column in contents.names),
            ],
        ),
    )


def _curves(contents: Contents) -> Any:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    words = [key for key in contents.values if not _is_axis(contents, key) and key != "trial"]
    by = "optimizer.name" if "optimizer.name" in words else next(iter(words), "optimizer.name")
    # The loss of training batches is only in the history: the summary has train_loss, from the evaluation.
    names = contents.names | {"loss"}
    return ws.Section(
        name=f"Training by {by.removesuffix('.name')}: median and range of the runs",
        is_open=True,
        panels=[
            wr.LinePlot(
                title=f"{name} against {axis}",
                x=axis,
                y=[name],
                log_y=name in _LOGARITHMIC,
                groupby=wr.Config(by),
                groupby_aggfunc="median",
                groupby_rangefunc="minmax",
                max_runs_to_show=_MOST_RUNS,
            )
            for name, axis in _CURVES
            if name in names
        ],
    )


def _against(contents: Contents, key: str | None) -> Any:
    """Outcomes against the configuration's ``key``; None: against the learning rate after scaling."""
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    title = "learning_rate" if key is None else key
    return ws.Section(
        name=f"Against {title}",
        is_open=True,
        panels=[
            wr.ScatterPlot(
                title=f"{name} against {title}",
                x=wr.SummaryMetric("learning_rate") if key is None else wr.Config(key),
                y=wr.SummaryMetric(name),
                log_x=key is None or all(value > 0 for value in contents.values[key]),
                log_y=name in _LOGARITHMIC,
            )
            for name in _OUTCOMES
            if name in contents.names and name != title
        ],
    )


def _probe(contents: Contents, probe: str) -> Any:
    import wandb_workspaces.reports.v2 as wr
    import wandb_workspaces.workspaces as ws

    # The names of the probe "noise_scale" also begin with "noise_".
    longer = tuple(f"{other}_" for other in contents.probes if other.startswith(f"{probe}_"))
    names = sorted(
        name for name in contents.names if name.startswith(f"{probe}_") and not (longer and name.startswith(longer))
    )
    pictures = [wr.MediaBrowser(title=probe, media_keys=[f"{probe}_figure"], grid_x_axis="step", grid_y_axis="run")]
    return ws.Section(
        name=f"Probe {probe}",
        panels=[
            *(pictures if probe in contents.drawn else []),
            *(wr.LinePlot(title=name, x="step", y=[name], max_runs_to_show=_MOST_RUNS) for name in names),
        ],
    )


def _value(config: Mapping[str, Any], key: str) -> tuple[str, Any]:
    """The key in wandb for the configuration's ``key``, and its value; None if this run has none, or no single one."""
    value: Any = config
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    if isinstance(value, Mapping):
        return f"{key}.name", value.get("name")
    return key, None if isinstance(value, list) else value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_axis(contents: Contents, key: str) -> bool:
    """True if the values of ``key`` are numbers with a meaning; the number of a trial is only a name."""
    return key != "trial" and all(_is_number(value) for value in contents.values[key])


def _drawn(probes: Iterable[str]) -> frozenset[str]:
    if not any(True for _ in probes):
        return frozenset()
    from optbench.analysis.charts.probe_files import DRAWN

    return frozenset(probes) & DRAWN.keys()

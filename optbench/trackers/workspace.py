"""Make a sweep's workspace in wandb, if there is a login; `optbench.trackers.workspace_panels` defines its content."""

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from optbench.errors import UserError
from optbench.store import RunDirectory
from optbench.store.files import read_object, to_json, write_atomically
from optbench.sweep.plan import Plan
from optbench.trackers.base import options_of, tracker_class
from optbench.trackers.wandb_login import is_logged_in
from optbench.trackers.wandb_mirror import WandbMirror, resolve_mode
from optbench.trackers.workspace_panels import Contents, build

_INSTALL = "pip install 'optbench[workspaces]'"


def group_of(tracker: Mapping[str, Any], plan: Plan) -> str:
    """The wandb group of a run of ``plan``: the one in its configuration, or else the sweep's name."""
    return str(tracker.get("group") or plan.name)


def is_wandb(tracker: Mapping[str, Any]) -> bool:
    """True if runs with this choice of the group ``tracker`` are mirrored to wandb."""
    found = tracker_class(tracker)
    return found is not None and issubclass(found, WandbMirror)


def create(plan: Plan, runs: Iterable[tuple[RunDirectory, Mapping[str, Any]]]) -> list[str]:
    """Make the workspace of a sweep in every wandb project of its ``runs``; returns a line with the address of each.

    runs: each with its choice of the group tracker.

    A workspace listed in workspace.json of the sweep's folder was made before, and is left as it is, because somebody may
    have changed it. Raises UserError, with a remedy, if wandb cannot be used online here.
    """
    choices = [(run, tracker) for run, tracker in runs if is_wandb(tracker)]
    if not choices:
        raise UserError("no workspace: none of its runs that have ended names tracker=wandb")
    modes = {str(options_of(tracker).get("mode", "auto")) for _, tracker in choices}
    if not modes & {"auto", "online"}:
        raise UserError(f"no workspace: tracker.mode={', '.join(sorted(modes))} keeps its runs on this machine")
    again = f"then {plan.command('sync')}"
    if not is_logged_in():
        raise UserError(f"no workspace: no login to wandb was found; run `wandb login`, {again}")
    if modes & {"auto", "online"} == {"auto"} and resolve_mode("auto") != "online":
        raise UserError(f"no workspace: wandb is switched off here, or its server does not answer; go online, {again}")
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise UserError(f"no workspace: the wandb-workspaces package is not installed: {_INSTALL}, {again}")
    projects: dict[tuple[str, str], list[RunDirectory]] = {}
    groups: dict[tuple[str, str], set[str]] = {}
    for run, tracker in choices:
        options = options_of(tracker)
        place = (str(options.get("entity") or ""), str(options.get("project", "optbench")))
        projects.setdefault(place, []).append(run)
        groups.setdefault(place, set()).add(group_of(tracker, plan))
    cells = [entry.cell for entry in plan.entries()]
    return [_saved(plan, place, sorted(groups[place]), Contents.of(cells, found)) for place, found in projects.items()]


def _saved(plan: Plan, place: tuple[str, str], groups: Sequence[str], contents: Contents) -> str:
    record = plan.path / "workspace.json"
    known = read_object(record) if record.is_file() else {}
    key = "/".join(filter(None, place))
    if key in known:
        return f"workspace: {known[key]} (made before and left as it is; without {record} a new one is made)"
    import wandb

    try:
        entity = place[0] or wandb.Api().default_entity
        workspace = build(entity, place[1], plan.name, groups, contents)
        workspace.save()
        url = str(workspace.url)
    except Exception as error:  # of any type: wandb, its server and the network raise many
        raise UserError(f"no workspace in wandb's project {key}: {type(error).__name__}: {error}") from error
    write_atomically(record, to_json({**known, key: url}, indent=2))
    return f"workspace: {url}"

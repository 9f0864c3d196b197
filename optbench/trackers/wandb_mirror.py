"""Weights & Biases: one wandb run for each run, with the same id, and its files in the run directory."""

import hashlib
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from optbench.errors import UserError
from optbench.store import RunDirectory, StoreError
from optbench.store.files import read_object, refuse_link
from optbench.trackers.base import Tracker
from optbench.trackers.wandb_login import is_logged_in, server_answers, wished_mode

_AXES = ("step", "epoch", "samples", "seconds")
_ID_LENGTH = 128
_FALL_BACK_SECONDS = 30.0


class WandbMirror(Tracker):
    """Mirrors a run to wandb: row i of the history is wandb step i, and all metrics are drawn against "step".

    project, entity, group: the place of the run in wandb; null entity: the user's default one.
    tags: shown with the run, and usable as a filter.
    mode: "online"; "offline" (files in RUN_DIRECTORY/wandb, for `wandb leet` and `wandb sync`); "disabled"; or "auto":
        online if there is a login and the server answers, offline otherwise.
    finish_timeout: the seconds for which the run waits for the mirror at its end; used by `Mirror.finish`.

    A run that resumes after an interruption is mirrored again from its first row. Offline, the earlier segment is removed,
    because segments of one id overwrite each other when they are synced; online, the rows that the server has are skipped
    (a run that was repeated with different code must be deleted there first).
    """

    package = "wandb"
    install = "pip install wandb"

    def __init__(
        self,
        run: RunDirectory,
        project: str = "optbench",
        entity: str | None = None,
        group: str | None = None,
        tags: Sequence[str] = (),
        mode: str = "auto",
        finish_timeout: float = 60.0,
    ) -> None:
        self._path = run.path
        self._id = wandb_id(run.run_id)
        self._mode = resolve_mode(mode)
        self._run = self._open(
            may_fall_back=mode == "auto",
            project=project,
            entity=entity,
            group=group,
            tags=list(tags),
            id=self._id,
            name=run.run_id[:_ID_LENGTH],
            dir=str(run.path),
            config={**_without_info(run.config()), "environment": _environment(run)},
        )
        # Rows are a function of the configuration, so that the rows on the server equal those that would be sent again.
        self._first_row = self._run.starting_step if self._mode == "online" else 0
        for axis in _AXES:
            self._run.define_metric(axis, hidden=True)
        self._run.define_metric("event", hidden=True, summary="none")
        self._names = {*_AXES, "event"}

    def _open(self, may_fall_back: bool, **arguments: Any) -> Any:
        import wandb

        if self._mode != "disabled":
            self._remove_segments()
        if self._mode == "online":
            timeout = {"init_timeout": _FALL_BACK_SECONDS} if may_fall_back else {}
            try:
                return wandb.init(mode="online", resume="allow", settings=_settings(**timeout), **arguments)
            except wandb.Error as error:
                if not may_fall_back:
                    raise
                print(f"wandb: offline, because online failed: {error}", flush=True)
            # Otherwise the failed run would keep its id in use.
            wandb.teardown()
            self._remove_segments()
            self._mode = "offline"
        return wandb.init(settings=_settings(), **{**arguments, "mode": self._mode})

    def _remove_segments(self) -> None:
        refuse_link(self._path / "wandb")
        for file in (self._path / "wandb").glob("*run-*/run-*.wandb"):
            if file.name == f"run-{self._id}.wandb":
                shutil.rmtree(file.parent, ignore_errors=True)

    @classmethod
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Raise UserError for mode=online without a login or against the user's settings; print a line if these are unclear."""
        wished, why = wished_mode()
        if options.get("mode") == "online" and wished in ("offline", "disabled"):
            raise UserError(
                f"tracker.mode=online: {why}, so that nothing is sent; accepted: that wish taken back, or tracker.mode={wished}"
            )
        if options.get("mode", "auto") == "auto" and wished == "offline" and "no mode" in why:
            print(f"optbench: wandb: offline, because {why}", file=sys.stderr)
        if options.get("mode") == "online" and not is_logged_in():
            raise UserError(
                "tracker.mode=online: no login to wandb was found (WANDB_API_KEY, ~/.netrc or wandb's settings): "
                "run `wandb login`, or use tracker.mode=offline or tracker.mode=auto"
            )

    def log(self, index: int, row: Mapping[str, Any]) -> None:
        """Log the row as one wandb step, without nulls, which stand for NaN and infinity: no chart can show them."""
        if index < self._first_row:
            return
        for name in row:
            if name not in self._names:
                self._names.add(name)
                self._run.define_metric(name, step_metric="step")
        values = {name: value for name, value in row.items() if value is not None}
        if "probe_file" in values and self._mode != "disabled":
            values |= self._picture(str(values.pop("probe_file")), str(row["probe"]))
        self._run.log(values, step=index, commit=True)

    def _picture(self, file: str, probe: str) -> dict[str, Any]:
        """The figure of a probe's measurement; empty if it has none, or if it cannot be drawn."""
        try:
            from optbench.analysis.charts.probe_files import chart_for

            folder, _, name = file.rpartition("/")
            if folder != "probes":
                raise ValueError("is not in the folder probes")
            chart = chart_for(self._path / folder / name)
            if chart is None:
                return {}
            import io

            import wandb
            from PIL import Image

            picture = io.BytesIO()
            chart.matplotlib().savefig(picture, format="png", dpi=150)
            return {f"{probe}_figure": wandb.Image(Image.open(picture))}
        except Exception as error:  # of any type: the numbers are mirrored anyway
            print(f"wandb: no figure of {file}: {type(error).__name__}: {error}", flush=True)
            return {}

    def finish(self, summary: Mapping[str, Any], state: str) -> str:
        """Set the summary's scalars and end the wandb run, as failed unless the run is done, diverged or paused."""
        scalars = {name: value for name, value in summary.items() if not isinstance(value, list | dict)}
        self._run.summary.update({"status": state, **scalars})
        where = f"wandb, {self._mode}"
        if self._mode != "disabled":
            where += f": {self._run.url if self._mode == 'online' else self._run.settings.sync_dir}"
        # Divergence is an outcome of the experiment, and a pause the choice of a search, not a failure of the run.
        self._run.finish(exit_code=0 if state in ("done", "diverged", "paused") else 1)
        return where


def wandb_id(run_id: str) -> str:
    """``run_id`` in a form that wandb accepts: letters, digits, dot, dash and underscore, at most 128 of them.

    A changed id ends in a hash of the original, so that different runs keep different ids.
    """
    allowed = re.sub(r"[^A-Za-z0-9._-]", "-", run_id)
    if allowed == run_id and len(run_id) <= _ID_LENGTH:
        return run_id
    digest = hashlib.blake2b(run_id.encode(), digest_size=6).hexdigest()
    return f"{allowed[: _ID_LENGTH - len(digest) - 1]}-{digest}"


def resolve_mode(mode: str) -> str:
    """The wandb mode: never online if the user has chosen offline or disabled; auto: online if that can work.

    Prints the reason in one line if it is not online because of the user's choice outside of optbench.
    """
    if mode not in ("auto", "online"):
        return mode
    wished, why = wished_mode()
    if wished in ("offline", "disabled"):
        print(f"wandb: {wished}, because {why}", flush=True)
        return wished
    return "online" if mode == "online" or (is_logged_in() and server_answers()) else "offline"


def _settings(**more: Any) -> Any:
    """Settings that restrict wandb to logged values: no console, code, git, packages, machine data or system statistics."""
    import wandb

    wanted = {
        "console": "off",
        "quiet": True,
        "disable_code": True,
        "disable_git": True,
        "disable_job_creation": True,
        "save_code": False,
        "x_disable_meta": True,
        "x_disable_stats": True,
        "x_disable_machine_info": True,
        "x_save_requirements": False,
        "x_transaction_log_flush_interval": 5.0,  # so that `wandb leet` sees a running run
        **more,
    }
    known = {name for base in wandb.Settings.__mro__ for name in getattr(base, "__annotations__", {})}
    # The names that start with x_ differ between versions of wandb.
    return wandb.Settings(**{name: value for name, value in wanted.items() if name in known})


def _without_info(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration without the ``info`` of each choice, which describes options but is not one."""
    return {
        name: {key: value for key, value in choice.items() if key != "info"} if isinstance(choice, Mapping) else choice
        for name, choice in config.items()
    }


def _environment(run: RunDirectory) -> dict[str, Any]:
    """Versions and hardware; empty if the run has not written them."""
    try:
        return read_object(run.path / "environment.json")
    except (FileNotFoundError, StoreError):
        return {}

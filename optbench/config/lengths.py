"""Check that durations, such as a warm-up, fit into the run."""

from typing import Any

from optbench.config.derived import horizon
from optbench.config.durations import Horizon
from optbench.config.files import choices
from optbench.config.inheritance import read_choice
from optbench.config.run_config import Choice, RunConfig
from optbench.config.schema import Duration
from optbench.errors import UserError

_START = Duration(0, "steps")


def check_lengths(config: RunConfig, examples: int) -> None:
    """Raise UserError for a duration that is too long for the run; ``examples``: the size of the training set.

    These are a warm-up as long as the run, an average or local steps that would start after the end, and a schedule that the
    user has set to change the rate only after the end, so that it would change nothing.
    """
    run = horizon(config, examples)
    warmup = config.schedule.options.get("warmup", _START)
    if run.in_steps(warmup, stretch=True) >= run.steps:
        raise UserError(
            f"schedule.warmup={warmup.typed}: must be shorter than the run, which has {_length(run, warmup)}; "
            "accepted: less, such as 10%"
        )
    for choice in (config.averaging, config.communication):
        start = choice.options.get("start", _START)
        if run.in_steps(start) >= run.steps:
            raise UserError(
                f"{choice.group}.start={start.typed}: must be before the end, at {_length(run, start)}; accepted: less, such "
                "as 75%"
            )
    _check_events(config.schedule, run)


def _check_events(schedule: Choice, run: Horizon) -> None:
    option = schedule.info.get("changes_at")
    # The defaults are somebody else's, and for a quick look a run may be cut where nothing has happened yet.
    if option is None or schedule.options[option] == _default(schedule.name, option):
        return
    value = schedule.options[option]
    moments = value if isinstance(value, list) else [value]
    if moments and all(run.in_steps(moment, stretch=True) >= run.steps for moment in moments):
        shown = ",".join(moment.typed for moment in moments)
        shown = f"[{shown}]" if moments is value else shown
        raise UserError(
            f"schedule.{option}={shown}: the run ends before, at {_length(run, moments[0])}, so that "
            f"schedule={schedule.name} would change nothing; accepted: something earlier, such as 50% where it may be a "
            "part of the run, or schedule=constant"
        )


def _default(name: str, option: str) -> Any:
    if name not in choices("schedule"):
        return None
    return Choice.of("schedule", read_choice("schedule", name)).options[option]


def _length(run: Horizon, like: Duration) -> str:
    """The length of the run in steps, followed by the length in the unit of ``like``."""
    steps = f"{run.steps} step{'' if run.steps == 1 else 's'}"
    if like.unit == "epochs":
        return f"{run.epoch(run.steps) / run.stretch:.3g} epochs ({steps})"
    if like.unit == "samples":
        return f"{run.plan.first_sample(run.steps)} samples ({steps})"
    return steps

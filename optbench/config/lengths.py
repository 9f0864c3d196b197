"""Whether what is given as a length of training, such as a warm-up, fits into the run."""

from typing import Any

from optbench.config.derived import horizon
from optbench.config.files import Config, choices, read_choice
from optbench.errors import UserError
from optbench.horizon import Horizon
from optbench.schema import Duration

# The options by which a schedule says where something happens that does not happen at all in a shorter run.
_EVENTS = {"multistep": "milestones", "batch_growth": "milestones", "step": "every"}


def check_lengths(config: Config, examples: int) -> None:
    """Raise UserError for a duration that is too long for the run; ``examples``: the size of the training set.

    That is a warm-up as long as the run, an average that would start after it, and a schedule that the user has told to
    change something only after the end, so that it would not be that schedule at all.
    """
    run = horizon(config, examples)
    schedule, averaging = config["schedule"], config["averaging"]
    warmup = schedule.get("warmup", 0)
    if run.in_steps(warmup, stretch=True) >= run.steps:
        raise UserError(
            f"schedule.warmup={warmup}: must be shorter than the run, which has {_length(run, warmup)}; "
            "accepted: less, such as 10%"
        )
    start = averaging.get("start", 0)
    if run.in_steps(start) >= run.steps:
        raise UserError(
            f"averaging.start={start}: must be before the end, at {_length(run, start)}; accepted: less, such as 75%"
        )
    _check_events(schedule, run)


def _check_events(schedule: Config, run: Horizon) -> None:
    option = _EVENTS.get(schedule["name"])
    # The defaults are somebody else's, and for a quick look a run may be cut where nothing has happened yet.
    if option is None or schedule[option] == _default(schedule["name"], option):
        return
    value = schedule[option]
    moments = value if isinstance(value, list | tuple) else [value]
    if moments and all(run.in_steps(moment, stretch=True) >= run.steps for moment in moments):
        shown = f"[{','.join(map(str, moments))}]" if moments is value else value
        raise UserError(
            f"schedule.{option}={shown}: the run ends before, at {_length(run, moments[0])}, so that "
            f"schedule={schedule['name']} would change nothing; accepted: something earlier, such as 50% where it may be a "
            "part of the run, or schedule=constant"
        )


def _default(name: str, option: str) -> Any:
    return read_choice("schedule", name)[option] if name in choices("schedule") else None


def _length(run: Horizon, like: int | str) -> str:
    """The length of the run in steps, after that in the unit of the duration ``like``."""
    unit = Duration.parse(like).unit
    steps = f"{run.steps} step{'' if run.steps == 1 else 's'}"
    if unit == "epochs":
        return f"{run.epoch(run.steps) / run.stretch:.3g} epochs ({steps})"
    if unit == "samples":
        return f"{run.plan.first_sample(run.steps)} samples ({steps})"
    return steps

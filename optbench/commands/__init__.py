"""The commands beside training. None needs torch, but for doctor's look at the devices."""

from collections.abc import Callable, Sequence

from optbench.commands import choices, compare, doctor, logs, report, status, sweeps, sync
from optbench.commands.choices import group_names, key_defaults

__all__ = ["COMMANDS", "group_names", "key_defaults"]

COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "list": choices.list_choices,
    "status": status.status,
    "report": report.report,
    "compare": compare.compare,
    "retry": sweeps.retry,
    "cancel": sweeps.cancel,
    "logs": logs.logs,
    "doctor": doctor.doctor,
    "sync": sync.sync,
}

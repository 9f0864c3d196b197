"""The commands. Doctor needs torch, to look at the devices, and train, when it trains; the others never import it."""

from collections.abc import Callable, Sequence

from optbench.cli import (
    choices,
    compare,
    doctor,
    logs,
    merge,
    new,
    notes,
    pages,
    remove,
    report,
    status,
    sweeps,
    sync,
    usage,
    verify,
)
from optbench.cli.choices import group_names, key_defaults

__all__ = ["COMMANDS", "group_names", "key_defaults"]

COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "list": choices.list_choices,
    "new": new.new,
    "status": status.status,
    "report": report.report,
    "pages": pages.pages,
    "compare": compare.compare,
    "retry": sweeps.retry,
    "verify": verify.verify,
    "cancel": sweeps.cancel,
    "logs": logs.logs,
    "doctor": doctor.doctor,
    "sync": sync.sync,
    "du": usage.du,
    "merge": merge.merge,
    "note": notes.note,
    "prune": remove.prune,
    "rm": remove.rm,
    "tag": notes.tag,
}

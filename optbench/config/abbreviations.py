"""Suggest the full key for names that other programs use, such as lr, epochs and batch_size."""

from collections.abc import Iterable, Mapping
from contextlib import suppress

from optbench.config.files import GROUPS, LIST_GROUPS, MACHINE_KEYS, SCIENCE_KEYS, choices
from optbench.config.files import options as options_of
from optbench.config.inheritance import read_choice
from optbench.errors import UserError, nearest

# The names that other programs give to a key. Options are not listed: learning_rate is found as an option.
_ELSEWHERE = {
    "optimizer.learning_rate": ("lr", "rate", "step_size"),
    "optimizer.weight_decay": ("wd", "l2", "decay"),
    "optimizer.momentum": ("mom",),
    "budget.epochs": ("epoch", "max_epochs", "num_epochs", "n_epochs"),
    "budget.steps": ("step", "max_steps", "num_steps", "iters", "iterations"),
    "trainer.devices": ("gpu", "gpus", "num_gpus", "n_gpus", "ngpus", "ranks", "world_size"),
    "trainer.num_nodes": ("nodes",),
    "batch": ("bs", "batch_size", "batchsize", "global_batch_size"),
    "micro_batch": ("mbs", "microbatch", "micro_batch_size"),
    "optimizer": ("opt", "optim"),
    "model.checkpointing": ("gradient_checkpointing", "activation_checkpointing", "checkpoint_segments"),
    "model": ("arch", "architecture", "net", "network"),
    "dataset": ("data",),
    "schedule": ("sched", "scheduler", "lr_schedule", "lr_scheduler"),
    "dry_run": ("dryrun",),
}
_MOST_NAMED = 5


def full_keys(key: str, options: Mapping[str, Iterable[str]]) -> list[str]:
    """The full keys that ``key`` may stand for, such as ["budget.epochs"] for "epochs" or "budget.max_epochs".

    options: for every group, the options of the chosen choice; no other option is suggested.
    """
    group, _, name = key.rpartition(".")
    every = [f"{place}.{option}" for place, known in options.items() for option in known]
    found = [full for full in every if full.rpartition(".")[2] == name]
    found += [full for full, others in _ELSEWHERE.items() if name in others and full in (*every, *plain_keys())]
    return [full for full in dict.fromkeys(found) if group in ("", full.rpartition(".")[0])]


def unknown_key(key: str, options: Mapping[str, Iterable[str]]) -> str:
    """The error message for a ``key`` that is not on the front page; ``options`` as for `full_keys`."""
    if found := full_keys(key, options):
        return f"{key}: unknown key; did you mean {' or '.join(found)}?"
    if others := _others(key):
        return f"{key}: unknown key; no chosen choice has such an option; did you mean {' or '.join(others)}?"
    return f"{key}: unknown key; {nearest(key, plain_keys())}"


def _others(key: str) -> list[str]:
    """The groups whose choices have an option ``key``, such as ["optimizer.momentum with optimizer=lars, momentum"]."""
    found = []
    for group in GROUPS:
        having = []
        for name in choices(group):
            with suppress(UserError):  # a file that cannot be read suggests nothing
                having += [name] if key in options_of(read_choice(group, name)) else []
        if having:
            listed = ", ".join(having[:_MOST_NAMED]) + (", ..." if len(having) > _MOST_NAMED else "")
            found.append(f"{group}.{key} with {group}={listed}")
    return found


def plain_keys() -> list[str]:
    """All groups and keys of the front page."""
    return [*GROUPS, *LIST_GROUPS, *SCIENCE_KEYS, *MACHINE_KEYS]

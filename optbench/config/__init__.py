"""Configurations: composed by Hydra, checked against each choice's own schema, resolved, and named by a run id.

A configuration here is a plain nested mapping. Everything in it that can change the numbers is its *science*; the run id
is a readable slug and a hash of that and of nothing else, so the same science on other hardware has the same id.
"""

from optbench.config.composing import check_overrides, compose, explain, plain
from optbench.config.derived import batch_plan, epochs_asked_for, horizon, learning_rate, ranks, training_examples
from optbench.config.experiments import check_experiment
from optbench.config.files import (
    GROUPS,
    LIST_GROUPS,
    MACHINE_KEYS,
    SCIENCE_KEYS,
    Config,
    choices,
    conf_dir,
    front_page,
    options,
    read_choice,
)
from optbench.config.identity import run_id, science, to_yaml
from optbench.config.lengths import check_lengths
from optbench.config.resolving import resolve
from optbench.config.typed import check_budget, check_trials

__all__ = [
    "GROUPS",
    "LIST_GROUPS",
    "MACHINE_KEYS",
    "SCIENCE_KEYS",
    "Config",
    "batch_plan",
    "check_budget",
    "check_experiment",
    "check_lengths",
    "check_overrides",
    "check_trials",
    "choices",
    "compose",
    "conf_dir",
    "epochs_asked_for",
    "explain",
    "front_page",
    "horizon",
    "learning_rate",
    "options",
    "plain",
    "ranks",
    "read_choice",
    "resolve",
    "run_id",
    "science",
    "to_yaml",
    "training_examples",
]

"""Configurations: composed by Hydra, checked against each choice's own schema, resolved, and named by a run id.

A configuration here is a plain nested mapping. Everything in it that can change the numbers is its *science*; the run id
is a readable slug and a hash of that and of nothing else, so the same science on other hardware has the same id.
"""

from optbench.config import data_files
from optbench.config.chosen import Chosen
from optbench.config.commands import CommandWriter, command_of
from optbench.config.composing import check_overrides, compose, composed, explain, plain, refusals
from optbench.config.data_options import kind_of, target_of
from optbench.config.derived import (
    batch_plan,
    epochs_asked_for,
    evaluations,
    horizon,
    learning_rate,
    rungs,
    training_examples,
)
from optbench.config.experiments import check_experiment, with_choices_of_experiment
from optbench.config.files import (
    ASIDE_GROUPS,
    GROUPS,
    LIST_GROUPS,
    MACHINE_KEYS,
    MEASURING_GROUPS,
    SCIENCE_KEYS,
    Config,
    check_one_file,
    choices,
    file_of,
    front_page,
    is_fragment,
    is_free,
    name_of,
    optimizer_name,
    options,
    place_of,
    title,
    transforms_of,
    works_as,
)
from optbench.config.fitting import check_groups
from optbench.config.frozen import settle, thaw, thaw_to_measure
from optbench.config.geometric import with_geometric
from optbench.config.identity import run_id, science, setting
from optbench.config.inheritance import check_choice, read_choice
from optbench.config.lengths import check_lengths
from optbench.config.places import check_own, check_sweep_name, folder
from optbench.config.renamed import current_file, current_words
from optbench.config.resolving import apart, resolve
from optbench.config.run_config import Choice, Devices, RunConfig
from optbench.config.search_path import conf_dir, look_in, look_where_told, own_places, places, plugins
from optbench.config.shared_parts import SharedParts, distinct
from optbench.config.target_files import own_targets
from optbench.config.typed import check_budget, check_trials

__all__ = [
    "ASIDE_GROUPS",
    "GROUPS",
    "LIST_GROUPS",
    "MACHINE_KEYS",
    "MEASURING_GROUPS",
    "SCIENCE_KEYS",
    "Choice",
    "Chosen",
    "CommandWriter",
    "Config",
    "Devices",
    "RunConfig",
    "SharedParts",
    "apart",
    "batch_plan",
    "check_budget",
    "check_choice",
    "check_experiment",
    "check_groups",
    "check_lengths",
    "check_one_file",
    "check_overrides",
    "check_own",
    "check_sweep_name",
    "check_trials",
    "choices",
    "command_of",
    "compose",
    "composed",
    "conf_dir",
    "current_file",
    "current_words",
    "data_files",
    "distinct",
    "epochs_asked_for",
    "evaluations",
    "explain",
    "file_of",
    "folder",
    "front_page",
    "horizon",
    "is_fragment",
    "is_free",
    "kind_of",
    "learning_rate",
    "look_in",
    "look_where_told",
    "name_of",
    "optimizer_name",
    "options",
    "own_places",
    "own_targets",
    "place_of",
    "places",
    "plain",
    "plugins",
    "read_choice",
    "refusals",
    "resolve",
    "run_id",
    "rungs",
    "science",
    "setting",
    "settle",
    "target_of",
    "thaw",
    "thaw_to_measure",
    "title",
    "training_examples",
    "transforms_of",
    "with_choices_of_experiment",
    "with_geometric",
    "works_as",
]

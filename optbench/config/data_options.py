"""Facts about a dataset that depend on its options: its kind and targets, its name, and the paths of its files.

The file of a dataset that reads a user's own data states in its ``info``:

    kind_by, target_by   {OPTION: {VALUE: KIND}}: the kind of the examples or targets if an option has that value
    needed               {OPTION: WHAT}: options that must be given, and what they are
    own_files            {OPTION: [SUFFIX, ...]}: options that name the user's own files, or folders if there is no suffix
    named_by             the option that holds the name of the data in run ids and tables
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optbench.config.files import Config, choices, works_as
from optbench.data import folders
from optbench.errors import UserError

_TITLE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,59}")


def kind_of(dataset: Mapping[str, Any]) -> str:
    """The kind of the examples: image, sequence, tokens, table, noise or problem."""
    return _by_option(dataset, "kind")


def target_of(dataset: Mapping[str, Any]) -> str:
    """The kind of the targets: class, class_per_step, real, value or none."""
    return _by_option(dataset, "target")


def _by_option(dataset: Mapping[str, Any], fact: str) -> str:
    info = dataset["info"]
    for option, values in info.get(f"{fact}_by", {}).items():
        if dataset.get(option) in values:
            return str(values[dataset[option]])
    return str(info[fact])


def choose_task(config: Config) -> None:
    """Fill in ``dataset.task`` where it is not given: regression with a loss of real targets, otherwise classification."""
    dataset, model = config["dataset"], config["model"]
    if "task" in dataset["info"].get("target_by", {}) and dataset["task"] is None:
        regression = "real" in config["loss"]["info"].get("targets", ()) and not model["info"].get("reconstructs")
        dataset["task"] = "regression" if regression else "classification"


def check_needed(group: str, choice: Mapping[str, Any]) -> None:
    """Raise UserError for a required option of ``choice``, of ``group``, that is missing."""
    for option, what in choice["info"].get("needed", {}).items():
        if not choice[option]:
            shown = "null" if choice[option] is None else choice[option]
            raise UserError(f"{group}.{option}={shown}: must be given with {group}={choice['name']}: {what}")


def check_unused(dataset: Mapping[str, Any]) -> None:
    """Raise UserError for an augmentation of data other than images: it would change the run id and nothing else."""
    if kind_of(dataset) == "image" or dataset.get("augment", "none") == "none":
        return
    for option in ("crop", "flip", "cutout"):
        if value := dataset.get(option):
            raise UserError(
                f"dataset.{option}={str(value).lower()}: is for images, and dataset={dataset['name']} holds none{hint(dataset)}; "
                f"accepted: {'false' if value is True else 0}"
            )


def hint(dataset: Mapping[str, Any]) -> str:
    """The options that give ``dataset`` another kind of examples, in brackets; empty if there are none."""
    ways = []
    for option, values in dataset["info"].get("kind_by", {}).items():
        others = [str(value) for value, kind in values.items() if kind != kind_of(dataset)]
        if others:
            ways.append(
                f"of kind {' or '.join(sorted({*values.values()}))} with dataset.{option}={' or '.join(others)}"
            )
    return f" ({', '.join(ways)})" if ways else ""


# ---- the user's own files -------------------------------------------------------------------------------------------------


def settle_places(dataset: Config, data_dir: str | Path) -> None:
    """Make the paths of the user's own files absolute, and name the data.

    Workers, jobs and later commands may have another working folder. Raises UserError if a file or folder does not exist,
    or if the name is not valid.
    """
    _name(dataset)
    for option, suffixes in dataset["info"].get("own_files", {}).items():
        if dataset.get(option):
            dataset[option] = str(folders.own_place(dataset[option], data_dir, option, suffixes))


def _name(dataset: Config) -> None:
    option = dataset["info"].get("named_by")
    if option is None:
        return
    others = set(choices("dataset")) - {dataset["name"], works_as(dataset)}
    given = dataset[option]
    if given is None:
        inherited = works_as(dataset) != dataset["name"]  # then the user has a name for these data
        title = str(dataset["name"]) if inherited else _title(str(dataset["path"]))
        dataset[option] = f"{dataset['name']}_{title}" if title in others else title
    elif given in others:
        raise UserError(
            f"dataset.{option}={given}: is another dataset, dataset={given}, and their runs could not be told apart; accepted: "
            "another name"
        )
    elif not _TITLE.fullmatch(given):
        raise UserError(
            f"dataset.{option}={given}: is no plain name; accepted: at most 60 letters, digits, _, . and -, the first of them a "
            "letter, digit or _"
        )


def _title(path: str) -> str:
    """A name for the data at ``path``: the name of the folder, or of the file up to its first dot."""
    name = Path(path).name or Path(path).absolute().name
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "_", name.partition(".")[0]).strip("_.-")
    return plain[:60] or "data"


def moved(dataset: Config, data_dir: str | Path) -> Config:
    """``dataset`` with the paths of its own files changed to ``data_dir``, for files that have moved there.

    For frozen configurations: their fingerprint shows whether the data are the same.
    """
    changed = dict(dataset)
    for option in dataset["info"].get("own_files", {}):
        path = dataset.get(option)
        here = Path(data_dir).absolute() / Path(path).name if path else None
        if path and here is not None and not Path(path).exists() and here.exists():
            changed[option] = str(here)
    return changed

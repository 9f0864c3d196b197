"""Check the data of a run before it starts: can they be read here, how many are there, what is their fingerprint.

The fingerprint is stored in ``dataset.fingerprint`` and is part of the science, so that other data make another run. The
options that locate the data (``not_in_run_id`` in the dataset's file) are not part of it.
"""

from typing import Any

from optbench.config.data_options import moved, settle_places
from optbench.config.files import Config
from optbench.config.inheritance import choice_to_read
from optbench.data import extras, fingerprints
from optbench.errors import UserError


def check_installed(dataset: Config) -> None:
    """Raise UserError if a package that the dataset needs (``info.extra``) is not installed."""
    extra = dataset["info"].get("extra", "")
    missing = extras.lacking(extra)
    if missing:
        raise UserError(
            f"dataset={dataset['name']}: needs {', '.join(missing)}, not installed here; {extras.remedy(extra)}"
        )


def check_validation(dataset: Config) -> None:
    """Raise UserError if ``dataset.validation`` takes the whole training set; needs the size from the dataset's file."""
    info = dataset["info"]
    declared, own = info.get("size", {}).get("train"), info.get("size_from")
    if declared is None or own or dataset.get("validation") is None or info.get("files") == "image_folder":
        return
    # The declared size holds for the default validation set.
    default = choice_to_read("dataset", dataset["name"]).get("validation") or 0
    _check_validation(dataset["validation"], int(declared) + default, f"dataset={dataset['name']}")


def _check_validation(validation: int, examples: int, where: str) -> None:
    if validation >= examples:
        accepted = f"1 to {examples - 1}" if examples > 1 else "no value, as at least two are needed"
        raise UserError(
            f"dataset.validation={validation}: is taken from the {examples} training examples of {where}, of which some must "
            f"be left; accepted: {accepted}"
        )


def identified(dataset: Config, data_dir: str) -> Config:
    """``dataset`` with the ``fingerprint`` of its data, if they need one.

    The paths of the user's own files become absolute, and such data are given a name.

    Raises UserError if the data are missing or do not have the given fingerprint. With a given fingerprint
    (``+dataset.fingerprint=...``) the data may be missing; the run checks them when it starts.
    """
    dataset = dict(dataset)
    given = dataset.pop("fingerprint", None)
    if given is not None and not isinstance(given, str):
        raise UserError(f"dataset.fingerprint={given}: must be a fingerprint, such as h0123456789abcdef")
    try:
        settle_places(dataset, data_dir)
        found, files = fingerprints.fingerprint(dataset, data_dir)
    except UserError:
        if given is None:
            raise
        return {**dataset, "fingerprint": given}
    if given is not None and found != given:
        raise _differ(dataset, data_dir, given, found, files)
    if found is not None:
        dataset["fingerprint"] = found
    if files is not None and files.training is not None and dataset.get("validation") is not None:
        _check_validation(dataset["validation"], files.training, files.where)
    return dataset


def verify(config: Config) -> Config:
    """The dataset of ``config`` with its paths on this machine: own files that have moved are looked for in ``data_dir``.

    Raises UserError unless the data have the fingerprint with which ``config`` was planned.
    """
    dataset = moved(config["dataset"], config["data_dir"])
    planned = dataset.pop("fingerprint", None)
    if planned is not None:
        found, files = fingerprints.fingerprint(dataset, config["data_dir"])
        if found != planned:
            raise _differ(dataset, config["data_dir"], planned, found, files)
    return dataset


def _differ(dataset: Config, data_dir: str, planned: str, found: str | None, files: Any) -> UserError:
    where = data_dir if files is None else files.where
    return UserError(
        f"dataset={dataset['name']}: the data in {where} have the fingerprint {found or 'of official files'}, the run "
        f"was planned with {planned}; accepted: the data it was planned with, or the same command without "
        "dataset.fingerprint, which makes another run of what is there now"
    )

"""The choices that can be made, as their files state them: conf/GROUP/NAME.yaml and the front page conf/config.yaml."""

import copy
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

Config = dict[str, Any]

GROUPS = (
    "optimizer",
    "model",
    "dataset",
    "loss",
    "schedule",
    "momentum_schedule",
    "scaling",
    "init",
    "averaging",
    "budget",
    "trainer",
    "launcher",
    "tracker",
)
# Groups of which any number may be chosen, such as probe=[spectrum,noise_scale]; "none" is the choice of nothing. None
# of them changes what is computed in a run, so that none is in the run id.
LIST_GROUPS = ("probe",)
# The types of the keys on the front page, conf/config.yaml, that are not groups.
SCIENCE_KEYS = {
    "batch": "int >= 1",
    "base_batch": "int >= 1",
    "seed": "int >= 0",
    "trial": "int >= 0",
    "norm_batch": "int >= 1 or null",
    "clip_norm": "float > 0 or null",
    "precision": "one of fp64, fp32, tf32, bf16, fp16",
    "eval_every": "duration > 0",
    "evaluate_train": "int >= 1 or null",
    "divergence_factor": "float > 1 or null",
}
MACHINE_KEYS = {
    "micro_batch": "int >= 1 or null",
    "graphs": "int >= 1 or null",
    "compile": "bool",
    "log_every": "int >= 1",
    "checkpoint_every": "duration > 0 or null",
    "results_dir": "str",
    "data_dir": "str",
    "force": "bool",
    "retry": "one of none, failed, diverged, all",
    "sweep": "str or null",
    "scale": "str or null",
    "dry_run": "bool",
    "progress": "bool",
}
_FIXED = ("_target_", "name", "info")  # in every choice, and not options of it
_PACKAGE = Path(__file__).resolve().parents[1]


def conf_dir() -> Path:
    """The folder of choices: $OPTBENCH_CONF, or the checkout's conf/, or the one packaged in a wheel."""
    if "OPTBENCH_CONF" in os.environ:
        return Path(os.environ["OPTBENCH_CONF"]).resolve()
    checkout = _PACKAGE.parent / "conf"
    # An editable install may hold a stale packaged copy too, so the checkout comes first.
    return checkout if (checkout / "config.yaml").is_file() else _PACKAGE / "conf"


# What the files and folders below conf/ held when they were last read, for a sweep reads them once for each of its runs.
_READ: dict[Path, tuple[tuple[int, int, int], Any]] = {}
_CLOCK_NANOSECONDS = 2_000_000_000


def _unless_read(path: Path, read: Callable[[], Any]) -> Any:
    """What ``read()`` returns, or returned while ``path`` was as it is now; not to be changed by the caller."""
    try:
        status = path.stat()
    except OSError:
        return read()
    stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
    known = _READ.get(path)
    if known is not None and known[0] == stamp:
        return known[1]
    content = read()
    # What changed just now may change again at the same tick of the file system's clock.
    if time.time_ns() - status.st_mtime_ns > _CLOCK_NANOSECONDS:
        _READ[path] = (stamp, content)
    return content


def choices(group: str) -> dict[str, Path]:
    """The choices of ``group`` by name, each with its file."""
    folder = conf_dir() / group
    known = _unless_read(folder, lambda: {path.stem: path for path in sorted(folder.glob("*.yaml"))})
    return dict(known)


def read_choice(group: str, name: str) -> Config:
    """One choice as its file states it, not composed with anything."""
    return _read_yaml(conf_dir() / group / f"{name}.yaml")


def front_page() -> Config:
    """conf/config.yaml as it stands, not composed."""
    return _read_yaml(conf_dir() / "config.yaml")


def _read_yaml(path: Path) -> Config:
    # The parser in C, where PyYAML has it, takes milliseconds less a file.
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return copy.deepcopy(_unless_read(path, lambda: yaml.load(path.read_text(encoding="utf-8"), Loader=loader)))


def options(choice: Mapping[str, Any]) -> Config:
    """The options of a choice: all but its target, name and info (a name that is an option, as in the zoo, stays)."""
    typed = choice["info"]["schema"]
    return {name: value for name, value in choice.items() if name in typed or name not in _FIXED}

"""Hands runs that are frozen in their directories to the launcher that a configuration chose."""

from collections.abc import Mapping, Sequence
from typing import Any

from optbench.config import Config
from optbench.sweep import local, slurm
from optbench.sweep.plan import Plan


def check(launcher: Mapping[str, Any], configs: Sequence[Config]) -> None:
    """Raise UserError for what the launcher cannot do, before anything is written."""
    if launcher["name"] == "local":
        local.check(configs)
    else:
        slurm.check(launcher, configs)


def dispatch(plan: Plan, run_ids: Sequence[str], launcher: Mapping[str, Any]) -> int:
    """Start ``run_ids`` of ``plan``; returns the exit status of the command that did so."""
    configs = [plan.directory(run_id).config() for run_id in run_ids]
    if launcher["name"] == "local":
        return local.launch(plan, run_ids, configs, launcher)
    runs = list(zip(run_ids, configs, strict=True))
    if launcher["name"] == "slurm_debug":
        for path in slurm.write_scripts(plan, runs, launcher):
            print(f"{path}: written, not submitted")
        return 0
    for submission in slurm.submit(plan, runs, launcher):
        print(submission)
    print(plan.command("status"))
    return 0

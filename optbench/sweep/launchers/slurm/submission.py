"""Pack runs into jobs and jobs into arrays, and submit the arrays or only write their scripts."""

import contextlib
import hashlib
import io
import math
import os
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optbench.config import Config, works_as
from optbench.config.children import handed_on
from optbench.errors import UserError
from optbench.provenance import checkout
from optbench.store.files import refuse_link, reporting, write_atomically
from optbench.sweep.launchers.slurm.commands import check_answer, compressed, job_name, max_array_size
from optbench.sweep.launchers.slurm.job import Job
from optbench.sweep.launchers.slurm.resources import Resources, Rules
from optbench.sweep.plan import Plan

# Variables that a job must not inherit from a job that submits it, and those that locate the cluster, which it keeps.
_OF_A_JOB = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")
_OF_THE_CLUSTER = ("SLURM_CONF", "SLURM_CONF_SERVER", "SLURM_CLUSTERS")


class NothingQueued(UserError):
    """Raised if Slurm refused and no job is queued, so that no job needs the files that were written."""


@dataclass(frozen=True)
class Submission:
    """One array of jobs, or a single job.

    job_ids: as squeue shows them. runs: their number; of a search the number at a time. resources: of each job.
    """

    job_ids: tuple[str, ...]
    runs: int
    resources: Resources
    is_search: bool = False

    def __str__(self) -> str:
        jobs = f"{len(self.job_ids)} jobs" if len(self.job_ids) > 1 else "1 job"
        runs = f"{self.runs} runs" if self.runs > 1 else "1 run"
        if self.is_search:
            runs = f"a search, {runs} at a time,"
        return f"submitted {' '.join(compressed(self.job_ids))}: {runs} in {jobs} ({self.resources})"


@dataclass(frozen=True)
class _Array:
    """Jobs that are submitted together."""

    jobs: tuple[Job, ...]
    runs: int
    resources: Resources
    is_search: bool = False


def check(options: Mapping[str, Any], configs: Sequence[Config]) -> None:
    """Raise UserError for runs that cannot be submitted, before anything is written.

    The reasons are rules that cannot be read or are not valid for some run, and options that contradict each other or the
    run. No cluster is asked: a plan can be made without one.
    """
    rules = Rules(options)
    for config in configs:
        rules.of(config)
        for key in ("results_dir", "sweep"):
            if "%" in str(Path(config[key] or "").absolute()):
                raise UserError(
                    f"{key}={config[key]}: Slurm gives % in the paths of logs a meaning; accepted: a path without"
                )


def check_cluster(options: Mapping[str, Any]) -> None:
    """Raise UserError unless Slurm's commands are installed and its controller answers; launcher=slurm_debug needs neither."""
    if works_as(options) == "slurm_debug":
        return
    for command in ("sbatch", "srun"):
        if shutil.which(command) is None:
            raise UserError(
                f"launcher={options['name']}: no {command} on PATH; accepted: a host where Slurm's commands are, "
                "launcher=local, or launcher=slurm_debug, which writes the scripts"
            )
    check_answer(f"launcher={options['name']}")


def submit(plan: Plan, runs: Sequence[tuple[str, Config]], options: Mapping[str, Any]) -> list[Submission]:
    """Queue jobs that train ``runs``, pairs of a run id and its configuration, and record them in ``plan``.

    Returns as soon as they are queued. If sbatch refuses, raises UserError with its message; jobs that were queued before
    are recorded, and named in the message. If there are none, the error is `NothingQueued`, and the folder of jobs is
    restored.
    """
    return _submit(plan, _arrays(plan, runs, options), options)


def submit_search(plan: Plan, samples: Sequence[Config], options: Mapping[str, Any], most: int) -> list[Submission]:
    """Queue jobs whose workers choose their runs themselves, ``most`` at a time; otherwise as `submit`."""
    return _submit(plan, [_array_of_search(plan, samples, options, most)], options)


def write_search_scripts(plan: Plan, samples: Sequence[Config], options: Mapping[str, Any], most: int) -> list[Path]:
    """Write the sbatch scripts that `submit_search` would submit."""
    return _write_scripts(plan, [_array_of_search(plan, samples, options, most)], options)


def _submit(plan: Plan, arrays: Iterable[_Array], options: Mapping[str, Any]) -> list[Submission]:
    import submitit
    from submitit.core.utils import FailedSubmissionError

    before = _written(plan)
    folder = _folder(plan)
    root = _root(plan, options)
    submissions: list[Submission] = []
    for array in arrays:
        python = _python(array.resources)
        printed = io.StringIO()
        try:
            with _outside_of_jobs(), contextlib.redirect_stderr(printed), reporting("write", folder):
                timeouts = array.resources.max_timeouts
                executor = submitit.SlurmExecutor(folder, max_num_timeout=timeouts, python=python)
                executor.update_parameters(**_parameters(plan, array.resources, root))
                with executor.batch():
                    jobs = [executor.submit(job) for job in array.jobs]
        # submitit's own exceptions and those of subprocess, as far as they are RuntimeError or ValueError.
        except (RuntimeError, ValueError) as error:
            # A job whose id could not be read is queued nevertheless.
            if submissions or isinstance(error, FailedSubmissionError):
                raise UserError(_refusal(str(error), submissions)) from error
            _remove(_written(plan) - before)
            raise NothingQueued(_refusal(str(error), [])) from error
        submission = Submission(tuple(job.job_id for job in jobs), array.runs, array.resources, array.is_search)
        plan.note_job(kind="slurm", ids=list(submission.job_ids), runs=array.runs, folder=str(folder))
        submissions.append(submission)
    return submissions


def _written(plan: Plan) -> set[Path]:
    """The paths written for jobs: their folder, the copies of the code, and the entries of both."""
    folders = (plan.path / "jobs", plan.path / "code")
    return {path for folder in folders if folder.is_dir() for path in (folder, *folder.iterdir())}


def _remove(paths: Iterable[Path]) -> None:
    for path in paths:
        with reporting("remove", path):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _refusal(said: str, submissions: Sequence[Submission]) -> str:
    in_a_line = " ".join(line.strip().removeprefix("sbatch: ") for line in said.splitlines() if line.strip())
    before = [word for submission in submissions for word in compressed(submission.job_ids)]
    return f"sbatch: {in_a_line}" + (f" (queued before that: {' '.join(before)})" if before else "")


def write_scripts(plan: Plan, runs: Sequence[tuple[str, Config]], options: Mapping[str, Any]) -> list[Path]:
    """Write the sbatch scripts that `submit` would submit into the folder of ``plan``; works without Slurm."""
    return _write_scripts(plan, _arrays(plan, runs, options), options)


def _write_scripts(plan: Plan, arrays: Iterable[_Array], options: Mapping[str, Any]) -> list[Path]:
    from submitit.slurm.slurm import _make_sbatch_string

    folder = _folder(plan)
    root = _root(plan, options)
    with reporting("remove", folder):
        for path in folder.glob("debug_*.sh"):
            path.unlink()
    paths = []
    for number, array in enumerate(arrays):
        command = f"{_python(array.resources)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
        parameters = _parameters(plan, array.resources, root)
        if len(array.jobs) > 1:
            parameters["map_count"] = len(array.jobs)
        paths.append(folder / f"debug_{number}.sh")
        write_atomically(paths[-1], _make_sbatch_string(command=command, folder=folder, **parameters).encode())
    return paths


# ---- packing --------------------------------------------------------------------------------------------------------


def _arrays(plan: Plan, runs: Sequence[tuple[str, Config]], options: Mapping[str, Any]) -> Iterator[_Array]:
    groups = _by_resources(runs, options)
    largest = max(max_array_size(), 1)
    for resources, run_ids in groups.items():
        jobs = _jobs(plan, run_ids, resources, options["max_retries"])
        for start in range(0, len(jobs), largest):
            some = tuple(jobs[start : start + largest])
            share = len(run_ids) * (start + len(some)) // len(jobs) - len(run_ids) * start // len(jobs)
            yield _Array(some, share, resources)


def check_search(options: Mapping[str, Any], samples: Sequence[Config]) -> Resources:
    """The resources of the jobs of a search. Raises UserError unless all its cells ask for the same, and one rank."""
    rules = Rules(options)
    found = {rules.of(config): config for config in samples}
    if len(found) > 1:
        raise UserError(
            f"launcher={options['name']}: its rules ask for {len(found)} different resources ("
            f"{'; '.join(map(str, found))}), and any job of a search may train any cell; accepted: the same for all"
        )
    (resources,) = found
    if resources.ranks > 1:
        raise UserError(
            f"launcher={options['name']}: {resources.ranks} ranks a run; a search trains one rank a run; accepted: "
            "trainer.devices=1"
        )
    return resources


def _array_of_search(plan: Plan, samples: Sequence[Config], options: Mapping[str, Any], most: int) -> _Array:
    resources = check_search(options, samples)
    jobs = min(resources.max_jobs or most, math.ceil(most / resources.workers), max(max_array_size(), 1))
    common = _common(plan, resources, options["max_retries"])
    found = [
        Job(search=True, first=number * resources.workers, workers=resources.workers, **common)
        for number in range(jobs)
    ]
    return _Array(tuple(found), most, resources, is_search=True)


def packing(runs: Sequence[tuple[str, Config]], options: Mapping[str, Any]) -> list[tuple[Resources, int, int]]:
    """The jobs that `submit` would queue, by their resources: each with the number of jobs and of runs."""
    groups = _by_resources(runs, options)
    return [(resources, _count_jobs(len(run_ids), resources), len(run_ids)) for resources, run_ids in groups.items()]


def _by_resources(runs: Sequence[tuple[str, Config]], options: Mapping[str, Any]) -> dict[Resources, list[str]]:
    rules = Rules(options)
    groups: dict[Resources, list[str]] = {}
    for run_id, config in runs:
        groups.setdefault(rules.of(config), []).append(run_id)
    return groups


def _count_jobs(runs: int, resources: Resources) -> int:
    return min(resources.max_jobs or runs, math.ceil(runs / resources.runs_per_job))


def _jobs(plan: Plan, run_ids: Sequence[str], resources: Resources, max_retries: int) -> list[Job]:
    common = _common(plan, resources, max_retries)
    if resources.ranks > 1:
        return [Job(run=run_id, **common) for run_id in run_ids]
    content = "".join(f"{run_id}\n" for run_id in run_ids).encode()
    # The name depends on the content, because jobs of an earlier submission may still read their file.
    path = _folder(plan) / f"runs-{hashlib.sha256(content).hexdigest()[:12]}.txt"
    write_atomically(path, content)
    count = _count_jobs(len(run_ids), resources)
    limit = math.ceil(len(run_ids) / count)
    workers = min(resources.workers, limit)
    firsts = [number * len(run_ids) // count for number in range(count)]
    return [Job(runs=str(path), first=first, limit=limit, workers=workers, **common) for first in firsts]


def _common(plan: Plan, resources: Resources, max_retries: int) -> dict[str, Any]:
    return {
        "results_dir": str(plan.results_dir.absolute()),
        "name": plan.name,
        "cpus": resources.cpus,
        "gpus": resources.gpus,
        "max_retries": max_retries,
        "signal_delay": resources.signal_delay,
    }


# ---- the parameters for submitit ----------------------------------------------------------------------------------------


def _folder(plan: Plan) -> Path:
    folder = (plan.path / "jobs").absolute()
    refuse_link(folder)
    with reporting("create", folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _root(plan: Plan, options: Mapping[str, Any]) -> Path | None:
    """The copy of the code that jobs run, or None to run the code in its present place."""
    return checkout.snapshot(plan.path) if options["snapshot"] else None


def _python(resources: Resources) -> str:
    # -P keeps the folder of submission, which may be a checkout, out of the import path.
    return f"{resources.container} python3 -P" if resources.container else f"{shlex.quote(sys.executable)} -P"


def _parameters(plan: Plan, resources: Resources, root: Path | None) -> dict[str, Any]:
    # After the user's lines, because environment modules also set PYTHONPATH.
    place = shlex.quote(str(root or checkout.PACKAGE.parent))
    setup = [*resources.setup, f"export PYTHONPATH={place}${{PYTHONPATH:+:$PYTHONPATH}}"]
    # The script sets the variables itself, because a cluster may not pass on the environment of the submission.
    given_on = handed_on() | (checkout.copied_choices(root) if root is not None else {})
    setup += [f"export {variable}={shlex.quote(value)}" for variable, value in given_on.items()]
    # srun inherits neither of the two from sbatch.
    srun_args = [f"--cpus-per-task={resources.cpus}", "--open-mode=append"]
    if resources.ranks > 1:
        srun_args.append("--kill-on-bad-exit=1")
    given: dict[str, Any] = {
        "job_name": job_name(plan.name),
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "time": resources.minutes,
        "mem": f"{math.ceil(resources.memory * 1024)}M" if resources.memory else None,
        "nodes": resources.nodes,
        "ntasks_per_node": resources.tasks,
        "cpus_per_task": resources.cpus,
        "gpus_per_node": resources.gpus or None,
        "array_parallelism": resources.array_parallelism or sys.maxsize,
        "signal_delay_s": resources.signal_delay,
        "setup": setup,
        "srun_args": [*srun_args, *resources.srun_args],
        "stderr_to_stdout": True,
        "wckey": None,  # clusters with registered keys refuse submitit's default
        "additional_parameters": {"requeue": True, **dict(resources.extra)},
    }
    return given


@contextlib.contextmanager
def _outside_of_jobs() -> Iterator[None]:
    """Hide the variables that a Slurm job has set, in case this process runs in one."""
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name.startswith(_OF_A_JOB) and name not in _OF_THE_CLUSTER
    }
    try:
        yield
    finally:
        os.environ.update(hidden)

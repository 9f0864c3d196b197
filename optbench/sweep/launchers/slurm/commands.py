"""Ask Slurm's commands about jobs, and cancel jobs."""

import re
import subprocess
from collections.abc import Iterable, Sequence

from optbench.errors import UserError

# The default of Slurm's MaxArraySize.
_MAX_ARRAY_SIZE = 1001
_SECONDS = 10.0
# Without a configuration Slurm's commands search for one for a minute.
_ANSWER_SECONDS = 15.0
_FORGOTTEN = "Invalid job id"
# The number of job ids in one command line, whose length is limited.
_WORDS = 500


def max_array_size() -> int:
    """The largest number of jobs in an array: their indices, from 0, stay below MaxArraySize. 0: no arrays here."""
    try:
        done = subprocess.run(
            ["scontrol", "show", "config"], capture_output=True, text=True, timeout=_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return _MAX_ARRAY_SIZE
    match = re.search(r"^\s*MaxArraySize\s*=\s*(\d+)", done.stdout, re.MULTILINE)
    return int(match[1]) if match else _MAX_ARRAY_SIZE


def check_answer(where: str) -> None:
    """Raise UserError if Slurm's commands exist here, but no cluster answers; ``where`` begins the message."""
    try:
        done = subprocess.run(
            ["scontrol", "show", "config"], capture_output=True, text=True, timeout=_ANSWER_SECONDS, check=False
        )
        said = "" if done.returncode == 0 else " ".join(done.stderr.split()) or f"exit status {done.returncode}"
    except subprocess.TimeoutExpired:
        said = f"no answer within {_ANSWER_SECONDS:g} s"
    except OSError:
        return  # sbatch will report the problem
    if said:
        raise UserError(
            f"{where}: Slurm does not answer (scontrol: {said.removeprefix('scontrol: ')}); accepted: a host where its "
            "controller answers, launcher=local, or launcher=slurm_debug, which writes the scripts"
        )


def job_name(sweep: str) -> str:
    """The name of the jobs of a sweep."""
    return f"optbench-{sweep}"


def is_job_id(text: str) -> bool:
    """True if ``text`` is the id of a job or of a task of an array: 12 or 12_3."""
    return re.fullmatch(r"\d+(_\d+)?", text, re.ASCII) is not None


def queued(job_ids: Sequence[str]) -> dict[str, str] | None:
    """The states ("PENDING", "RUNNING", ...) of those of ``job_ids`` that have not ended.

    None if there is no squeue, or if it does not answer within ten seconds.
    """
    wanted = {job_id for job_id in job_ids if is_job_id(job_id)}
    if not wanted:
        return {}
    bases = ",".join(sorted({job_id.partition("_")[0] for job_id in wanted}))
    command = ["squeue", "--noheader", "--array", "--format=%i %T", f"--jobs={bases}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    # Asked for a single job that it has forgotten, squeue fails; asked for several, it shows those that it knows.
    if done.returncode and _FORGOTTEN not in done.stderr:
        return None
    pairs = (line.split() for line in done.stdout.splitlines())
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2 and pair[0] in wanted}


def cancel(job_ids: Sequence[str], name: str) -> None:
    """Cancel those of the jobs that have the name ``name``; jobs that have ended are skipped.

    The ids come from a file of possibly unknown origin, which may hold the ids of other jobs of this user; therefore the
    name is compared. Raises UserError if Slurm cannot be reached.
    """
    words = compressed(job_id for job_id in job_ids if is_job_id(job_id))
    for start in range(0, len(words), _WORDS):
        command = ["scancel", f"--name={name}", *words[start : start + _WORDS]]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=6 * _SECONDS, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError(
                f"scancel: {error}; accepted: a host where Slurm's commands are and its controller answers"
            ) from error
        complaints = [line.removeprefix("scancel: ") for line in done.stderr.splitlines() if _FORGOTTEN not in line]
        if done.returncode and complaints:
            raise UserError(f"scancel: {'; '.join(complaints)}")


def compressed(job_ids: Iterable[str]) -> list[str]:
    """Job ids with the indices of each array in one word, in the notation of scancel and squeue: 7_[0-3,5]."""
    arrays: dict[str, list[int]] = {}
    for job_id in job_ids:
        base, _, index = job_id.partition("_")
        arrays.setdefault(base, []).extend([int(index)] if index else [])
    return [f"{base}_[{_ranges(sorted(indices))}]" if indices else base for base, indices in arrays.items()]


def _ranges(indices: Sequence[int]) -> str:
    ranges: list[list[int]] = []
    for index in indices:
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in ranges)

"""The state of a run as bytes of a checkpoint, and back; loading cannot run code."""

import io
from pathlib import Path
from typing import Any

import torch

from optbench.store import RunDirectory
from optbench.store.checkpoints import CheckpointRefused, Seal, read

State = dict[str, Any]


def save(state: State, run: RunDirectory, seal: Seal) -> None:
    """Make ``state`` the last checkpoint of ``run``. Raises StoreError when the file system refuses."""
    # Into memory first: torch.save turns a disk that is full into an error that does not say so.
    content = io.BytesIO()
    torch.save(state, content)
    run.checkpoints.write(content.getbuffer(), seal)


def parse(path: Path, archive: bytes) -> State:
    """The state in ``archive``, the content of ``path``; raises `CheckpointRefused` where it is none of a run."""
    try:
        state = torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)
    except Exception as error:  # of whatever kind: it depends on where the file is damaged
        raise CheckpointRefused(path, f"cannot be read: {str(error).strip().splitlines()[0]}") from error
    if not (isinstance(state, dict) and {"task", "recorder"} <= state.keys()):
        raise CheckpointRefused(path, "holds no state of a run")
    return state


def load(path: Path, run_id: str) -> State:
    """The state in ``path``, verified to be whole and of the run ``run_id`` (the latter not for those of earlier versions).

    Raises FileNotFoundError; `CheckpointRefused`, with what can be done instead; and StoreError where it cannot be read.
    """
    try:
        return parse(path, read(path, run_id)[0])
    except CheckpointRefused as error:
        raise CheckpointRefused(
            path,
            f"{error.reason}; accepted instead: another file of {path.parent}, such as previous.ckpt, or the run again, "
            "by its command with force=true",
        ) from error

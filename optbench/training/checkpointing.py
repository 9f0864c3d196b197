"""Write the state of a run as a checkpoint, and read it back; loading cannot run code."""

import io
from pathlib import Path
from typing import Any

import torch

from optbench.store import RunDirectory
from optbench.store.checkpoints import CheckpointRefused, Seal, read

State = dict[str, Any]


def save(state: State, run: RunDirectory, seal: Seal) -> None:
    """Make ``state`` the last checkpoint of ``run``. Raises StoreError if the file system refuses."""
    # Saved to memory first, because the error of torch.save for a full disk does not name the cause.
    content = io.BytesIO()
    torch.save(state, content)
    run.checkpoints.write(content.getbuffer(), seal)


def parse(path: Path, archive: bytes) -> State:
    """The state in ``archive``, the content of ``path``; raises `CheckpointRefused` if it is not the state of a run."""
    try:
        state = torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)
    except Exception as error:  # the type depends on the place of the damage
        raise CheckpointRefused(path, f"cannot be read: {str(error).strip().splitlines()[0]}") from error
    if not (isinstance(state, dict) and {"task", "recorder"} <= state.keys()):
        raise CheckpointRefused(path, "holds no state of a run")
    return state


def load(path: Path, run_id: str) -> State:
    """The state in ``path``, verified to be intact and of the run ``run_id`` (checkpoints of earlier versions name no run).

    Raises FileNotFoundError; `CheckpointRefused`, with a remedy; and StoreError if it cannot be read.
    """
    try:
        return parse(path, read(path, run_id)[0])
    except CheckpointRefused as error:
        raise CheckpointRefused(
            path,
            f"{error.reason}; accepted instead: another file of {path.parent}, such as previous.ckpt, or the run again, "
            "by its command with force=true",
        ) from error

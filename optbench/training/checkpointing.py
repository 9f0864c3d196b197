"""Write the state of a run as a checkpoint, and read it back; loading cannot run code.

What the ranks of a run divide (`optbench.training.sharding`) is in a folder beside the archive, in the format of
torch.distributed.checkpoint: every rank writes its part, and reads the parts it needs, whichever ranks have written them.
The keys of that folder are the places of tensors in the state, as JSON.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from optbench.store import RunDirectory
from optbench.store.checkpoints import (
    CheckpointRefused,
    Seal,
    check_shards,
    digest,
    digest_of_file,
    read,
    shards_of,
)
from optbench.store.files import reporting, sync_file
from optbench.training.sharding.base import Place

State = dict[str, Any]
#: The place, shape and type of a divided tensor -> a new tensor for what is needed of it; None if nothing is.
Room = Callable[[Place, torch.Size, torch.dtype], Tensor | None]


def save(state: State, run: RunDirectory, seal: Seal) -> None:
    """Make ``state`` the last checkpoint of ``run``. Raises StoreError if the file system refuses."""
    # Saved to memory first, because the error of torch.save for a full disk does not name the cause.
    content = io.BytesIO()
    torch.save(state, content)
    run.checkpoints.write(content.getbuffer(), seal)


def write_shards(
    state: State, run: RunDirectory, step: int, is_part: Callable[[Place, Tensor], bool]
) -> tuple[str, str]:
    """Write what is divided of ``state`` into a new folder, and take it out of ``state``; all ranks call this together.

    Returns the folder's name and digest once all of it is on the disk. Raises StoreError if the file system refuses.
    """
    from optbench.training.sharding import files as shard_files

    given = [run.checkpoints.new_shards(step) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(given)
    (folder,) = given
    assert folder is not None
    parts: dict[str, Tensor] = {}
    _take_out(state, (), is_part, parts)
    shard_files.write(folder, parts)
    names = [f"__{dist.get_rank()}_*"] + ([shard_files.DESCRIPTION] if dist.get_rank() == 0 else [])
    with reporting("read", folder):
        own = {path.name: digest_of_file(path) for name in names for path in folder.glob(name)}
        sync_file(folder)
        sync_file(folder.parent)
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, own)
    return folder.name, digest({name: each for of_rank in gathered for name, each in of_rank.items()})


def _take_out(
    state: dict[Any, Any], place: Place, is_part: Callable[[Place, Tensor], bool], parts: dict[str, Tensor]
) -> None:
    for key, value in list(state.items()):
        if isinstance(value, Tensor) and is_part((*place, key), value):
            parts[json.dumps([*place, key])] = value
            del state[key]
        elif isinstance(value, dict):
            # A copy, because dictionaries may be those of an optimizer at work.
            state[key] = dict(value)
            _take_out(state[key], (*place, key), is_part, parts)


def parse(path: Path, archive: bytes) -> State:
    """The state in ``archive``, the content of ``path``; raises `CheckpointRefused` if it is not the state of a run."""
    try:
        state = torch.load(io.BytesIO(archive), map_location="cpu", weights_only=True)
    except Exception as error:  # the type depends on the place of the damage
        raise CheckpointRefused(path, f"cannot be read: {str(error).strip().splitlines()[0]}") from error
    if not (isinstance(state, dict) and {"task", "recorder"} <= state.keys()):
        raise CheckpointRefused(path, "holds no state of a run")
    return state


def final_weights(state: State) -> dict[str, torch.Tensor]:
    """The state dict of the model at the end of a run, with the weights that its optimizer offers for evaluation, if it does."""
    found: dict[str, torch.Tensor] = state.get("evaluation_model", state["task"]["model"])
    return found


def read_archive(path: Path, run_id: str) -> tuple[State, Seal | None]:
    """The state in ``path``, without what ranks have divided, and its seal; raises as `optbench.store.checkpoints.read`."""
    archive, seal = read(path, run_id)
    return parse(path, archive), seal


def read_shards(path: Path, state: State, seal: Seal | None, room: Room) -> None:
    """Read into ``state``, of the checkpoint ``path``, what is needed of its shards: that for which ``room`` gives a tensor.

    Raises `CheckpointRefused` if they cannot be read.
    """
    folder = shards_of(path, seal)
    if folder is None:
        return
    # Not at the top: few runs have shards, and torch.distributed.checkpoint takes a tenth of a second of every process.
    from optbench.training.sharding import files as shard_files

    try:
        wanted = shard_files.read(folder, lambda key, shape, dtype: room(tuple(json.loads(key)), shape, dtype))
    except Exception as error:  # the type depends on the place of the damage
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointRefused(path, f"stands on shards that cannot be read, {folder.name}: {first}") from error
    for key, tensor in wanted.items():
        *place, name = json.loads(key)
        inner = state["task"]
        for each in place:
            inner = inner.setdefault(each, {})
        inner[name] = tensor


def load(path: Path, run_id: str) -> State:
    """The whole state in ``path``, verified to be intact and of the run ``run_id`` (checkpoints of earlier versions name no run).

    Raises FileNotFoundError; `CheckpointRefused`, with a remedy; and StoreError if it cannot be read.
    """
    try:
        state, seal = read_archive(path, run_id)
        check_shards(path, seal)
        read_shards(path, state, seal, lambda place, shape, dtype: torch.empty(shape, dtype=dtype))
    except CheckpointRefused as error:
        raise CheckpointRefused(
            path,
            f"{error.reason}; accepted instead: another file of {path.parent}, such as previous.ckpt, or the run again, "
            "by its command with force=true",
        ) from error
    return state

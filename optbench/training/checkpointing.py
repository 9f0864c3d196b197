"""Write the state of a run as a checkpoint, and read it back; loading cannot run code.

What the ranks of a run divide (`optbench.training.sharding`) is in a folder beside the archive, in the format of
torch.distributed.checkpoint: every rank writes its part, and reads the parts it needs, whichever ranks have written them.
The keys of that folder are the places of tensors in the state, as JSON.
"""

import io
import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors
from torch.distributed.checkpoint.state_dict_saver import save as save_tensors

from optbench.store import RunDirectory, StoreError
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
_DESCRIPTION = ".metadata"  # the file in which torch.distributed.checkpoint describes a folder
#: The place, shape and type of a divided tensor -> a new tensor for what is needed of it; None if nothing is.
Room = Callable[[Place, torch.Size, torch.dtype], Tensor | None]
# What the description of a folder of shards may consist of; a pickle with anything else is not read.
_METADATA = {
    "torch.distributed.checkpoint.metadata": {
        "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties", "TensorStorageMetadata",
        "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch": {"Size", "bfloat16", "bool", "float16", "float32", "float64", "int16", "int32", "int64", "int8", "uint8"},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"Path", "PosixPath"},
}  # fmt: skip


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
    given = [run.checkpoints.new_shards(step) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(given)
    (folder,) = given
    assert folder is not None
    parts: dict[str, Tensor] = {}
    _take_out(state, (), is_part, parts)
    try:
        save_tensors(parts, storage_writer=FileSystemWriter(folder, sync_files=True))
    except CheckpointException as error:
        rank, (reason, _) = next(iter(error.failures.items()))
        raise StoreError(f"cannot write {folder}: rank {rank}: {reason}") from error
    names = [f"__{dist.get_rank()}_*"] + ([_DESCRIPTION] if dist.get_rank() == 0 else [])
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
    try:
        reader = _Reader(folder)
        wanted = {}
        for key, stored in reader.read_metadata().state_dict_metadata.items():
            if not isinstance(stored, TensorStorageMetadata):
                raise pickle.UnpicklingError(f"{key} is no tensor")
            tensor = room(tuple(json.loads(key)), stored.size, stored.properties.dtype)
            if tensor is not None:
                wanted[key] = tensor
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="torch.distributed is disabled")
            if wanted:
                load_tensors(wanted, storage_reader=reader, no_dist=True)
    except Exception as error:  # the type depends on the place of the damage
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CheckpointRefused(path, f"stands on shards that cannot be read, {folder.name}: {first}") from error
    for key, tensor in wanted.items():
        *place, name = json.loads(key)
        inner = state["task"]
        for each in place:
            inner = inner.setdefault(each, {})
        inner[name] = tensor


class _Reader(FileSystemReader):
    """Reads the description of a folder without running code in it, which torch's own reader would do."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / _DESCRIPTION).open("rb") as file:
            metadata = _Unpickler(file).load()
        if not isinstance(metadata, Metadata) or metadata.storage_meta is None:
            raise pickle.UnpicklingError("it describes no checkpoint")
        metadata.storage_meta.load_id = self.load_id
        return metadata


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _METADATA.get(module, ()):
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module, name)


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

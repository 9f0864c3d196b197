"""The files of shards, in the format of torch.distributed.checkpoint; reading them runs no code."""

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load as load_tensors
from torch.distributed.checkpoint.state_dict_saver import save as save_tensors

from optbench.store import StoreError

DESCRIPTION = ".metadata"  # the file in which torch.distributed.checkpoint describes a folder
# The classes that the description of a folder of shards may have; a pickle with any other is not read.
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


def write(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Write what this rank holds of ``tensors`` into ``folder``, synced; all ranks call this together.

    Raises StoreError, with the rank, if the file system refuses.
    """
    try:
        save_tensors(tensors, storage_writer=FileSystemWriter(folder, sync_files=True))
    except CheckpointException as error:
        rank, (reason, _) = next(iter(error.failures.items()))
        raise StoreError(f"cannot write {folder}: rank {rank}: {reason}") from error


def read(folder: Path, room: Callable[[str, torch.Size, torch.dtype], Tensor | None]) -> dict[str, Tensor]:
    """The tensors in ``folder``, by their keys, for which ``room`` gives a new one; without a process group.

    Raises errors of many types where the files are damaged.
    """
    reader = _Reader(folder)
    wanted = {}
    for key, stored in reader.read_metadata().state_dict_metadata.items():
        if not isinstance(stored, TensorStorageMetadata):
            raise pickle.UnpicklingError(f"{key} is no tensor")
        tensor = room(key, stored.size, stored.properties.dtype)
        if tensor is not None:
            wanted[key] = tensor
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")
        if wanted:
            load_tensors(wanted, storage_reader=reader, no_dist=True)
    return wanted


class _Reader(FileSystemReader):
    """Reads the description of a folder without running code in it, which torch's own reader would do."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / DESCRIPTION).open("rb") as file:
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

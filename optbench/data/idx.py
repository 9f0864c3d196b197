"""MNIST and Fashion-MNIST, in the IDX format of LeCun, Cortes and Burges (http://yann.lecun.com/exdb/mnist/).

An IDX file is two zero bytes, a byte for the type (8: unsigned byte), a byte for the number of dimensions, each
dimension as a big-endian 32-bit integer, and then the values in C order.
"""

import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from optbench.data.locate import RemoteFile, Source, locate, read
from optbench.data.raw import RawData, Split
from optbench.data.splits import image_classification
from optbench.errors import UserError

_UNSIGNED_BYTE = 8
_NAMES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def _files(*hashes: str) -> tuple[RemoteFile, ...]:
    return tuple(RemoteFile(name, md5, gzipped=True) for name, md5 in zip(_NAMES, hashes, strict=True))


FASHION_MNIST = Source(
    dataset="fashion_mnist",
    folders=("fashion-mnist", "fashion_mnist", "FashionMNIST/raw"),
    files=_files(
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
    files=_files(
        "6bbc9ace898e44ae57da46a324031adb",
        "a25bea736e30d166cdddb491f175f624",
        "2646ac647ad5339dbf082846283269ea",
        "27ae3e4e09519cfbb04c329615203637",
    ),
    url="https://ossci-datasets.s3.amazonaws.com/mnist/",
)
FASHION_MNIST_CLASSES = [
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
]


def parse(content: bytes, path: Path) -> Tensor:
    """The uint8 tensor that IDX ``content`` holds; raises UserError, naming ``path``, if it is none."""
    if len(content) < 4 or content[:3] != bytes([0, 0, _UNSIGNED_BYTE]):
        raise UserError(
            f"{path}: not an IDX file of unsigned bytes: it starts with {content[:4].hex(' ') or 'nothing'}"
        )
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise UserError(f"{path}: ends within its header")
    shape = struct.unpack(f">{content[3]}I", content[4:header])
    if len(content) - header != int(np.prod(shape)):
        raise UserError(f"{path}: holds {len(content) - header} values, but its header announces {shape}")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=header).reshape(shape).copy())


def _load(
    source: Source,
    class_names: list[str],
    statistics: tuple[tuple[float, ...], tuple[float, ...]],
    data_dir: str,
    validation: int,
    train_limit: int | None,
    check_hash: bool,
) -> RawData:
    paths = locate(source, data_dir, check_hash)
    arrays = [parse(read(file, paths[file.name], check_hash), paths[file.name]) for file in source.files]
    for images, labels, name in ((arrays[0], arrays[1], _NAMES[0]), (arrays[2], arrays[3], _NAMES[2])):
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
            shapes = f"images of shape {tuple(images.shape)} do not match labels of shape {tuple(labels.shape)}"
            raise UserError(f"{paths[name]}: {shapes}")
    train, test = (Split(arrays[i].unsqueeze(1), arrays[i + 1].long()) for i in (0, 2))
    return image_classification(train, test, class_names, validation, train_limit, statistics)


def fashion_mnist(
    data_dir: str, validation: int = 5000, train_limit: int | None = None, check_hash: bool = True
) -> RawData:
    """Fashion-MNIST (Xiao, Rasul & Vollgraf 2017, arXiv 1708.07747): 28 x 28 grey images of 10 kinds of clothing.

    The official training set has 60,000 images, the test set 10,000. Raises UserError if the files are not found,
    cannot be downloaded, or are not the official ones (``check_hash``).
    """
    statistics = ((0.2860,), (0.3530,))
    return _load(FASHION_MNIST, FASHION_MNIST_CLASSES, statistics, data_dir, validation, train_limit, check_hash)


def mnist(data_dir: str, validation: int = 5000, train_limit: int | None = None, check_hash: bool = True) -> RawData:
    """MNIST (LeCun, Bottou, Bengio & Haffner 1998): 28 x 28 grey images of handwritten digits, 60,000 and 10,000.

    Raises UserError as ``fashion_mnist`` does.
    """
    statistics = ((0.1307,), (0.3081,))
    return _load(MNIST, [str(digit) for digit in range(10)], statistics, data_dir, validation, train_limit, check_hash)

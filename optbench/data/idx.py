"""MNIST and Fashion-MNIST, in the IDX format of LeCun, Cortes and Burges (http://yann.lecun.com/exdb/mnist/).

An IDX file is two zero bytes, a byte for the type (8: unsigned byte), a byte for the number of dimensions, each
dimension as a big-endian 32-bit integer, and then the values in C order.
"""

import math
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from optbench.data.locate import Source, locate, read
from optbench.data.raw import RawData, Split
from optbench.data.sources import FASHION_MNIST, IDX_FILES, MNIST
from optbench.data.splits import image_classification
from optbench.errors import UserError

_UNSIGNED_BYTE = 8
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
    """The uint8 tensor in IDX ``content``; raises UserError, naming ``path``, if it holds none."""
    if len(content) < 4 or content[:3] != bytes([0, 0, _UNSIGNED_BYTE]):
        raise UserError(
            f"{path}: not an IDX file of unsigned bytes: it starts with {content[:4].hex(' ') or 'nothing'}"
        )
    if not 1 <= content[3] <= 4:
        raise UserError(f"{path}: announces {content[3]} dimensions; accepted: 1 to 4")
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise UserError(f"{path}: ends within its header")
    shape = struct.unpack(f">{content[3]}I", content[4:header])
    if len(content) - header != math.prod(shape):
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
    for images, labels, name in ((arrays[0], arrays[1], IDX_FILES[0]), (arrays[2], arrays[3], IDX_FILES[2])):
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

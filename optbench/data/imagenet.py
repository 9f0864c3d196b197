"""ImageNet (Russakovsky et al. 2015) and other images in one folder for each class, read from disk batch by batch.

``train/WNID/*.JPEG`` and ``val/WNID/*.JPEG``; the classes are the sorted WNIDs. Training images are cropped at random
as in Szegedy et al. (2015), arXiv 1409.4842, section 6, and mirrored; evaluation resizes the shorter side to 256 for
images of 224, and takes the centre.
"""

import math
from collections import OrderedDict
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optbench import randomness
from optbench.data import images
from optbench.data.folders import image_root, images_by_class
from optbench.data.raw import RawData, Split
from optbench.data.spec import DataSpec
from optbench.data.splits import limit_train, split_validation
from optbench.errors import UserError

_SCALE = (0.08, 1.0)  # the area of a training crop, relative to the image
_LOG_RATIO = math.log(4 / 3)  # the largest absolute logarithm of the ratio of its sides
_ATTEMPTS = 10
_DRAWS = 4 * _ATTEMPTS + 1  # for each image: area, ratio, top and left of each attempt, and one for mirroring
_EVALUATION_MARGIN = 256 / 224


class StreamingImages:
    """The images of one split of an image folder, decoded by a pool of threads when a batch needs them.

    folder: holds a folder for each split. split: its name, such as "train". size: the side of the images that batches
    hold. workers: threads (Pillow decodes outside the interpreter lock). Raises UserError if there are no images.

    Attributes: ``class_names`` (sorted), ``paths``, and ``targets`` (int64 (N,), an index into ``class_names``).
    """

    def __init__(self, folder: str | Path, split: str, size: int = 224, workers: int = 8) -> None:
        root = Path(folder) / split
        self.size, self.workers = size, workers
        by_class = images_by_class(root) if root.is_dir() else {}
        self.class_names = list(by_class)
        self.paths = [str(path) for files in by_class.values() for path in files]
        targets = [target for target, files in enumerate(by_class.values()) for _ in files]
        if not self.paths:
            raise UserError(f"{root}: no images in one folder a class, such as n01440764/NAME.JPEG")
        self.targets = torch.tensor(targets, dtype=torch.int64)
        self._pool: ThreadPoolExecutor | None = None
        self._pending: OrderedDict[tuple[Any, ...], list[Future[np.ndarray]]] = OrderedDict()

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, indices: Tensor) -> "StreamingImages":
        """The images at ``indices`` (int64), in that order."""
        part = StreamingImages.__new__(StreamingImages)
        part.size, part.workers, part.class_names = self.size, self.workers, self.class_names
        part.paths = [self.paths[index] for index in indices.tolist()]
        part.targets = self.targets[indices]
        part._pool, part._pending = None, OrderedDict()
        return part

    def train_batch(self, indices: list[int], draw_key: int, first_position: int) -> Tensor:
        """Randomly cropped and mirrored images, uint8 (n, 3, size, size).

        The draws of the image at ``indices[i]`` are a pure function of ``draw_key`` and its position in the global
        batch, ``first_position + i``.
        """
        futures = self._pending.pop((tuple(indices), draw_key, first_position), None)
        return _stack(futures or self._submit(indices, draw_key, first_position))

    def prefetch(self, indices: list[int], draw_key: int, first_position: int) -> None:
        """Start decoding the batch for a later call of ``train_batch`` with the same arguments."""
        name = (tuple(indices), draw_key, first_position)
        if name in self._pending:
            return
        while len(self._pending) >= 2:  # batches that nobody asks for must not fill the memory
            for future in self._pending.popitem(last=False)[1]:
                future.cancel()
        self._pending[name] = self._submit(indices, draw_key, first_position)

    def evaluation_batch(self, indices: list[int]) -> Tensor:
        """The centres of images whose shorter side was resized to ``size`` * 256 / 224, uint8 (n, 3, size, size)."""
        pool = self._threads()
        return _stack([pool.submit(centre, self.paths[index], self.size) for index in indices])

    def _submit(self, indices: list[int], draw_key: int, first_position: int) -> "list[Future[np.ndarray]]":
        positions = torch.arange(first_position, first_position + len(indices))
        counters = positions[:, None] * _DRAWS + torch.arange(_DRAWS)
        draws = randomness.uniform(draw_key, counters).tolist()
        pool = self._threads()
        return [
            pool.submit(random_crop, self.paths[index], self.size, row)
            for index, row in zip(indices, draws, strict=True)
        ]

    def _threads(self) -> ThreadPoolExecutor:
        # Made at the first use, so that the process can be forked before.
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="images")
        return self._pool


def _stack(futures: "list[Future[np.ndarray]]") -> Tensor:
    pixels = np.stack([future.result() for future in futures])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def _open(path: str) -> Any:
    return images.decode(path, path)


def crop_box(width: int, height: int, draws: list[float]) -> tuple[int, int, int, int]:
    """The (left, top, width, height) of a random crop, from uniform ``draws`` on [0, 1), four for each attempt.

    The area is uniform on [0.08, 1] of the image, and the logarithm of the ratio of the sides on [log 3/4, log 4/3]. If
    ten attempts do not fit, the result is the largest central crop whose ratio is within those bounds.
    """
    for attempt in range(_ATTEMPTS):
        area_draw, ratio_draw, top_draw, left_draw = draws[4 * attempt : 4 * attempt + 4]
        area = width * height * (_SCALE[0] + (_SCALE[1] - _SCALE[0]) * area_draw)
        ratio = math.exp(_LOG_RATIO * (2 * ratio_draw - 1))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left, top = int(left_draw * (width - crop_width + 1)), int(top_draw * (height - crop_height + 1))
            return left, top, crop_width, crop_height
    crop_width = min(width, round(height * 4 / 3))
    crop_height = min(height, round(width * 4 / 3))
    return (width - crop_width) // 2, (height - crop_height) // 2, crop_width, crop_height


def random_crop(path: str, size: int, draws: list[float]) -> np.ndarray:
    """A random crop of the image at ``path``, resized, and mirrored at random: uint8 (size, size, 3)."""
    image = _open(path)
    left, top, width, height = crop_box(image.width, image.height, draws)
    resampling = images.image_module().Resampling.BILINEAR
    image = image.crop((left, top, left + width, top + height)).resize((size, size), resampling)
    pixels = np.asarray(image)
    return pixels[:, ::-1] if draws[-1] < 0.5 else pixels


def centre(path: str, size: int) -> np.ndarray:
    """The centre of the image at ``path`` with its shorter side resized to size * 256 / 224: uint8 (size, size, 3)."""
    image = _open(path)
    shorter = round(size * _EVALUATION_MARGIN)
    width, height = image.size
    factor = shorter / min(width, height)
    resized = (shorter, int(height * factor)) if width <= height else (int(width * factor), shorter)
    image = image.resize(
        (max(resized[0], shorter), max(resized[1], shorter)), images.image_module().Resampling.BILINEAR
    )
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return np.asarray(image.crop((left, top, left + size, top + size)))


def load(
    data_dir: str, validation: int = 50000, train_limit: int | None = None, size: int = 224, workers: int = 8
) -> RawData:
    """ImageNet from its folders, ``val`` serving as the test set; inputs are ``StreamingImages``, not tensors.

    There is no download: the files are available at https://image-net.org after registration. Raises UserError if they
    are not found, or if the classes of the two splits differ.
    """
    folder = image_root(data_dir)
    official_train = StreamingImages(folder, "train", size, workers)
    test = StreamingImages(folder, "val", size, workers)
    if official_train.class_names != test.class_names:
        differing = sorted(set(official_train.class_names) ^ set(test.class_names))
        raise UserError(
            f"{folder}: train and val must have the same classes; only in one of them: {', '.join(differing[:5])}"
        )
    train, held_out = split_validation(Split(official_train, official_train.targets), validation)
    return RawData(
        train=limit_train(train, train_limit),
        validation=held_out,
        test=Split(test, test.targets),
        spec=DataSpec("image", (3, size, size), len(test.class_names)),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        class_names=test.class_names,
    )

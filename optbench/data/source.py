"""Batches from memory: the examples of a step and their augmentation, as pure functions of (seed, step).

A dataset is held as uint8 or int64 tensors on the training device; a batch is an index into it, and the augmentations run
on the whole batch at once. There are no workers and no iterator, so that no state can be lost.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from optbench import randomness
from optbench.data.order import EpochStream, SampleOrder
from optbench.data.raw import ExampleStream, RawData, Split
from optbench.errors import UserError


@dataclass(frozen=True)
class Augmentation:
    """The augmentation of a batch of training images, from the dataset's options.

    crop: random crops after padding by this many pixels (0: none), ``crop_padding`` "zeros" or "reflect". flip: mirror
    left and right with probability 1/2. cutout: zero a square of this side (DeVries & Taylor 2017; 0: none).
    """

    crop: int = 0
    crop_padding: str = "zeros"
    flip: bool = False
    cutout: int = 0

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Augmentation":
        """The augmentation in a dataset's ``options``; none if ``augment`` is "none" or the data are not images."""
        if options.get("augment", "none") == "none":
            return cls()
        return cls(**{name: options[name] for name in ("crop", "crop_padding", "flip", "cutout") if name in options})

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise UserError for crops or squares larger than images of ``shape`` (C, H, W)."""
        side = min(shape[1:], default=0)
        for name, size in (("crop", self.crop), ("cutout", self.cutout)):
            # A crop shifts an image by up to `size` pixels; reflection repeats all pixels except those at the edge.
            most = side - 1 if name == "crop" and self.crop_padding == "reflect" else side
            if size > most:
                raise UserError(
                    f"dataset.{name}={size}: the images have {side} pixels on a side; accepted: 0 to {most}"
                )

    def stock(self, images: Tensor) -> Tensor:
        """All training images (N, C, H, W) in the form that ``take`` needs: padded once, not batch by batch.

        They are padded before normalization, so that zeros are black, as usual.
        """
        if self.crop and self.crop_padding == "zeros":
            images = F.pad(images, (self.crop,) * 4)
        for axis in (2, 3) if self.crop and self.crop_padding == "reflect" else ():
            # 3 2 1 | 0 1 2 ... n-1 | n-2 n-3 n-4: torch's own reflection does not support bytes.
            place = torch.arange(-self.crop, images.shape[axis] + self.crop, device=images.device).abs()
            last = images.shape[axis] - 1
            images = images.index_select(axis, last - (last - place).abs())
        return images.contiguous()

    def take(self, stock: Tensor, index: Tensor, seed: int, step: int, first: int) -> Tensor:
        """The images ``index`` (n,) of ``stock``, cropped and mirrored; the first has position ``first`` in the global batch."""
        if not (self.crop or self.flip):
            return stock.index_select(0, index)
        channels, padded_height, padded_width = stock.shape[1:]
        height, width = padded_height - 2 * self.crop, padded_width - 2 * self.crop
        count, places = len(index), _places(len(index), first, channels, height, index.device)
        draws = randomness.keyed(randomness.key(seed, "crop and flip", step), places.draws)
        top, left = (draws[:2] * (2 * self.crop + 1)) >> 32
        # Each row of this view is a sequence of `width` pixels in memory, so that a crop is a selection of rows.
        windows = stock.view(-1).as_strided((stock.numel() - width + 1, width), (1, 1))
        plane = (index[:, None] * channels + places.channels) * padded_height
        corner = (plane + top[:, None]) * padded_width + left[:, None]
        starts = corner[:, :, None] + places.rows * padded_width
        images = windows.index_select(0, starts.view(-1)).view(count, channels, height, width)
        if self.flip:
            chosen = places.examples + count * (draws[2] >> 31)
            images = torch.cat([images, images.flip(-1)]).index_select(0, chosen)
        return images

    def cut_out(self, images: Tensor, seed: int, step: int, first: int) -> Tensor:
        """Zero a square of each normalized image (n, C, H, W); the first has position ``first`` in the global batch."""
        height, width = images.shape[2:]
        position = torch.arange(first, first + len(images), device=images.device)
        draw_key = randomness.key(seed, "cutout", step)
        # The centre is uniform over the image, so that part of the square may lie outside, as in the paper.
        top = randomness.integers(draw_key, 2 * position, height)[:, None] - self.cutout // 2
        left = randomness.integers(draw_key, 2 * position + 1, width)[:, None] - self.cutout // 2
        row, column = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
        in_rows, in_columns = (row >= top) & (row < top + self.cutout), (column >= left) & (column < left + self.cutout)
        # Of a mask that is broadcast, masked_fill would lose the order in memory.
        return images.clone().masked_fill_((in_rows[:, :, None] & in_columns[:, None, :])[:, None], 0.0)


class _Places(NamedTuple):
    """Tensors that are the same in every step, kept because the number of operations limits the speed of small batches."""

    draws: Tensor  # three draws for each example, still without their key
    examples: Tensor
    channels: Tensor
    rows: Tensor


@lru_cache(maxsize=4)
def _places(count: int, first: int, channels: int, height: int, device: torch.device) -> _Places:
    examples = torch.arange(count, device=device)
    position = 3 * (examples + first) + torch.arange(3, device=device)[:, None]
    return _Places(
        randomness.scattered(position),
        examples,
        torch.arange(channels, device=device),
        torch.arange(height, device=device),
    )


class BatchSource:
    """Training batches and evaluation batches of one dataset, on ``device``.

    reconstruct: the target of an image is the image itself, with values in [0, 1] and no normalization. order: of the samples;
    None: epochs of the whole training set. channels_last: images (N, C, H, W) lie in memory as (N, H, W, C), and so do the
    outputs of convolutions on them.
    """

    def __init__(
        self,
        raw: RawData,
        seed: int,
        device: torch.device | str = "cpu",
        augmentation: Augmentation | None = None,
        normalize: bool = True,
        reconstruct: bool = False,
        dtype: torch.dtype = torch.float32,
        order: SampleOrder | None = None,
        channels_last: bool = False,
    ) -> None:
        self.spec, self.seed = raw.spec, seed
        self._format = torch.channels_last if channels_last else torch.preserve_format
        self.augmentation = augmentation or Augmentation()
        if raw.spec.kind == "image":
            self.augmentation.check(raw.spec.shape)
        if reconstruct and isinstance(raw.train.inputs, Tensor) and raw.train.inputs.is_floating_point():
            _check_unit_interval(raw)
        self.reconstruct, self.dtype = reconstruct, dtype
        self._stream = raw.train.inputs if isinstance(raw.train.inputs, ExampleStream) else None
        train = raw.train if self._stream is None else self._stream.evaluation
        self.splits = {"train": train, "validation": raw.validation, "test": raw.test}
        self.examples = len(raw.train.inputs)
        self._scale, self._shift = self._affine(raw, normalize and not reconstruct)
        self._order = order or SampleOrder.shuffled(self.examples, seed)
        self._order_begins = 0  # the sample that is the first of the order
        self._weights: Tensor | None = None
        self.to(device)

    @property
    def nbytes(self) -> int:
        """The bytes of all examples that are in memory."""
        tensors = (data for split in self.splits.values() for data in (split.inputs, split.targets))
        return sum(data.nbytes for data in tensors if isinstance(data, Tensor))

    def to(self, device: torch.device | str) -> "BatchSource":
        """Move all examples to ``device``, on which batches are then made."""
        self.device = torch.device(device)
        self.splits = {
            name: Split(self._placed(split.inputs), self._placed(split.targets)) for name, split in self.splits.items()
        }
        if self._scale is not None and self._shift is not None:
            self._scale, self._shift = self._placed(self._scale), self._placed(self._shift)
        self._order.to(self.device)
        self._weights = self._placed(self._weights)
        self._stock: Tensor | None = None  # made for the first batch, when the device is known
        return self

    def restrict(self, indices: Tensor, weights: Tensor, first_sample: int, number: int) -> None:
        """From the sample ``first_sample`` on, draw from the examples ``indices`` (k,) alone, which have ``weights`` (k,).

        These samples count through epochs of the subset, each a permutation drawn for (seed, ``number`` of the subset, epoch).
        """
        self._order = SampleOrder([EpochStream(indices, self.seed, f"order of subset {number}")])
        self._order.to(self.device)
        self._order_begins = first_sample
        every = torch.zeros(self.examples, dtype=torch.float64)
        every[indices.cpu()] = weights.to("cpu", torch.float64)
        self._weights = self._placed(every)

    def weights(self, first_sample: int, size: int, rank: int = 0, world_size: int = 1) -> Tensor | None:
        """The weights (n,) of the examples of `batch`; None if they count alike, as nothing has restricted them."""
        if self._weights is None:
            return None
        share = size // world_size
        return self._weights.index_select(0, self._indices(first_sample, size, rank * share, share))

    def _indices(self, first_sample: int, size: int, offset: int, count: int) -> Tensor:
        return self._order.take(first_sample - self._order_begins, size, offset, count)

    def _placed(self, data: Any) -> Any:
        if not isinstance(data, Tensor):
            return data
        return data.to(self.device, self.dtype) if data.is_floating_point() else data.to(self.device)

    def _affine(self, raw: RawData, normalize: bool) -> tuple[Tensor | None, Tensor | None]:
        """(scale, shift): x -> x * scale + shift maps raw images to normalized ones, or bytes (0 .. 255) to [0, 1]."""
        if raw.spec.kind != "image":
            return None, None
        channels = raw.spec.shape[0]
        # In float64, so that only the results are rounded to the dtype of training.
        mean = torch.tensor(raw.mean if normalize and raw.mean else [0.0] * channels, dtype=torch.float64)
        std = torch.tensor(raw.std if normalize and raw.std else [1.0] * channels, dtype=torch.float64)
        std = std.where(std > 0, 1.0)  # a constant channel has no scale
        shape = (1, channels, 1, 1)
        images = raw.train.inputs
        unit = 1 if isinstance(images, Tensor) and images.is_floating_point() else 255
        scale, shift = 1 / (unit * std), -mean / std
        return scale.view(shape), shift.view(shape)

    def batch(
        self, step: int, first_sample: int, size: int, rank: int = 0, world_size: int = 1
    ) -> tuple[Tensor, Tensor]:
        """This rank's share of the batch of ``step``: the samples ``first_sample .. first_sample + size - 1``.

        Returns (inputs, targets) of the ``rank``-th of ``world_size`` equal, consecutive shares.
        """
        share = size // world_size
        offset = rank * share
        split = self.splits["train"]
        if self._stream is not None:
            inputs, targets = self._stream.train_batch(first_sample + offset, share, self.seed, self.dtype)
            return self._placed(inputs), self._placed(targets)
        index = self._indices(first_sample, size, offset, share)
        if hasattr(split.inputs, "train_batch"):
            draw_key = randomness.key(self.seed, "augmentation", step)
            images = split.inputs.train_batch(index.tolist(), draw_key, offset)
            upcoming = self._indices(first_sample + size, size, offset, share).tolist()
            split.inputs.prefetch(upcoming, randomness.key(self.seed, "augmentation", step + 1), offset)
            return self._prepare(images.to(self.device)), split.targets.index_select(0, index)
        if self.spec.kind != "image":
            return split.inputs.index_select(0, index), split.targets.index_select(0, index)
        augmentation = self.augmentation
        if self._stock is None:
            self._stock = augmentation.stock(split.inputs)
        inputs = self._prepare(augmentation.take(self._stock, index, self.seed, step, offset))
        if augmentation.cutout:
            inputs = augmentation.cut_out(inputs, self.seed, step, offset)
        if self.reconstruct:
            return inputs, inputs.flatten(1)
        return inputs, split.targets.index_select(0, index)

    def _prepare(self, inputs: Tensor) -> Tensor:
        if self._scale is None or self._shift is None:
            return inputs
        # In place on the copy made by the conversion, which is many times faster than addcmul with broadcasting.
        return inputs.to(self.dtype, copy=True, memory_format=self._format).mul_(self._scale).add_(self._shift)

    def evaluation(
        self, split: str, size: int, limit: int | None = None, rank: int = 0, world_size: int = 1
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches of up to ``size`` examples of ``split`` in order, not augmented: every ``world_size``-th from ``rank``.

        ``limit``: use only the first ``limit`` examples.
        """
        data = self.splits[split]
        count = self._evaluated(split, limit)
        for start in range(rank * size, count, size * world_size):
            stop = min(start + size, count)
            if hasattr(data.inputs, "evaluation_batch"):
                inputs = self._prepare(data.inputs.evaluation_batch(list(range(start, stop))).to(self.device))
            else:
                inputs = self._prepare(data.inputs[start:stop])
            yield inputs, inputs.flatten(1) if self.reconstruct else data.targets[start:stop]

    def evaluation_batches(self, split: str, size: int, limit: int | None, rank: int, world_size: int) -> int:
        """The number of batches that `evaluation` yields; rank 0 has the most."""
        return len(range(rank * size, self._evaluated(split, limit), size * world_size))

    def _evaluated(self, split: str, limit: int | None) -> int:
        examples = len(self.splits[split].inputs)
        if self._stream is not None:
            limit = None  # only all examples have the mean that they were made for
        return examples if limit is None else min(limit, examples)


def _check_unit_interval(raw: RawData) -> None:
    for name in ("train", "validation", "test"):
        low, high = (float(value) for value in getattr(raw, name).inputs.aminmax())
        if low < 0 or high > 1:
            raise UserError(
                f"model: an autoencoder reconstructs values in [0, 1], and the images of the {name} split have {low} to {high}; "
                "accepted: images of bytes, or floating-point values in [0, 1]"
            )

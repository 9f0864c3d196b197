"""The result of every dataset's load function: three splits of tensors, with their description."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from optbench.data.spec import DataSpec


class ImageStream(Protocol):
    """Images too many for memory, read from files when a batch needs them (see ``imagenet.StreamingImages``)."""

    def __len__(self) -> int: ...

    def subset(self, indices: Tensor) -> "ImageStream":
        """The images at ``indices`` (int64), in that order."""
        ...

    def train_batch(self, indices: list[int], draw_key: int, first_position: int) -> Tensor:
        """Augmented images, uint8 (n, C, H, W); the draws are a pure function of the key and the position."""
        ...

    def evaluation_batch(self, indices: list[int]) -> Tensor:
        """Images for evaluation, without augmentation, uint8 (n, C, H, W)."""
        ...

    def prefetch(self, indices: list[int], draw_key: int, first_position: int) -> None:
        """Start reading the images for the next call of ``train_batch``."""
        ...


@runtime_checkable
class ExampleStream(Protocol):
    """Training examples without end, each a pure function of the seed of the run and its number among all samples.

    evaluation: the examples on which the loss of the training set is evaluated.
    """

    evaluation: "Split"

    def __len__(self) -> int:
        """The number of samples that count as an epoch."""
        ...

    def train_batch(self, first: int, count: int, seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The inputs and targets of the samples ``first .. first + count - 1``, of ``dtype``, on the CPU."""
        ...


@dataclass
class Split:
    """Examples and their targets, tensors on the CPU.

    inputs: images uint8 (N, C, H, W), or of a floating-point type in a unit of their own; rows of tables of a floating-point
    type (N, F), already normalized; sequences float32 (N, T, F); tokens int64 (N, T); an ``ImageStream`` of N images; or, of
    training examples, an ``ExampleStream``, without targets.
    targets: int64 (N,); int64 (N, T), where -100 means no target; float32 (N, outputs), or (N, 0) where outputs are losses; or
    None.
    """

    inputs: Any
    targets: Any

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, indices: Tensor) -> "Split":
        """The examples at ``indices`` (int64), in that order."""
        inputs = self.inputs[indices] if isinstance(self.inputs, Tensor) else self.inputs.subset(indices)
        return Split(inputs, None if self.targets is None else self.targets[indices])


@dataclass
class RawData:
    """A dataset in its three splits.

    mean, std: of each channel of images (bytes are scaled to [0, 1]): the published constants if there are any, otherwise
    computed on the training split; None for other data.
    """

    train: Split
    validation: Split
    test: Split
    spec: DataSpec
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    class_names: list[str] | None = None

"""The one way in which validation examples and a smaller training set are chosen: fixed, whatever the run's seed."""

import torch
from torch import Tensor

from optbench.data.raw import RawData, Split
from optbench.data.spec import DataSpec
from optbench.errors import UserError


def fixed_permutation(length: int) -> Tensor:
    """A permutation of 0 .. length - 1 (int64) that never changes."""
    return torch.randperm(length, generator=torch.Generator().manual_seed(0))


def split_validation(official_train: Split, validation: int) -> tuple[Split, Split]:
    """Divide an official training set into (train, validation): the last ``validation`` of the fixed permutation.

    Both parts are in the order of the permutation, so that the first n training examples are a random subset. Raises
    UserError if nothing would be left to train on.
    """
    examples = len(official_train)
    if not 1 <= validation < examples:
        raise UserError(
            f"dataset.validation={validation}: must be in 1 .. {examples - 1}, there are {examples} examples"
        )
    order = fixed_permutation(examples)
    return official_train.take(order[:-validation]), official_train.take(order[-validation:])


def limit_train(train: Split, train_limit: int | None) -> Split:
    """The first ``train_limit`` examples, all of them if there are fewer or if it is None.

    ``train`` must be in random order already, as ``split_validation`` leaves it.
    """
    if train_limit is None or train_limit >= len(train):
        return train
    return train.take(torch.arange(train_limit))


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and (population) standard deviation of each channel of uint8 images (N, C, H, W), scaled to [0, 1]."""
    values = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in range(images.shape[1]):
        # From the histogram: exact, and without a floating-point copy of all images.
        frequency = torch.bincount(images[:, channel].flatten(), minlength=256).double()
        frequency /= frequency.sum()
        mean = (frequency * values).sum()
        means.append(mean.item())
        deviations.append((frequency * (values - mean) ** 2).sum().sqrt().item())
    return tuple(means), tuple(deviations)


def image_classification(
    official_train: Split,
    test: Split,
    class_names: list[str],
    validation: int,
    train_limit: int | None,
    statistics: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
) -> RawData:
    """Assemble an image classification set held in memory from its official training and test sets.

    ``statistics``: the published mean and standard deviation of the channels; None computes them on the training part.
    """
    train, held_out = split_validation(official_train, validation)
    mean, std = statistics or channel_statistics(train.inputs)
    spec = DataSpec("image", tuple(train.inputs.shape[1:]), len(class_names))
    return RawData(limit_train(train, train_limit), held_out, test, spec, mean, std, class_names)

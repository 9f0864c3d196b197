"""Choose validation examples and smaller training sets, always in the same way, independently of the run's seed."""

from collections.abc import Sequence

import torch
from torch import Tensor

from optbench.data.held_out import HeldOut, check_held_out
from optbench.data.raw import RawData, Split
from optbench.data.spec import DataSpec


def fixed_permutation(length: int) -> Tensor:
    """A permutation of 0 .. length - 1 (int64) that never changes."""
    return torch.randperm(length, generator=torch.Generator().manual_seed(0))


def split_validation(official_train: Split, validation: int) -> tuple[Split, Split]:
    """Divide an official training set into (train, validation): the last ``validation`` of the fixed permutation.

    Both parts are in the order of the permutation, so that the first n training examples are a random subset. Raises
    UserError if no training examples would be left.
    """
    examples = len(official_train)
    check_held_out(examples, validation)
    order = fixed_permutation(examples)
    return official_train.take(order[:-validation]), official_train.take(order[-validation:])


def divide(
    held_out: HeldOut, train: Split, test: Split | None = None, validation: Split | None = None
) -> tuple[Split, Split, Split]:
    """(train, validation, test) of data; the last two, if missing, are held out of the training examples.

    The training examples are in random order. Raises UserError as ``HeldOut.sizes`` does.
    """
    for_test, for_validation = held_out.sizes(len(train), test is not None, validation is not None)
    if test is None:
        train, test = split_validation(train, for_test)
    if validation is None:
        train, validation = split_validation(train, for_validation)
    else:
        train = train.take(fixed_permutation(len(train)))
    return train, validation, test


def standardized(parts: Sequence[Tensor]) -> list[Tensor]:
    """Standardize each of ``parts`` (N, F) by the column means and (population) standard deviations of the first.

    A column that is constant in the first is divided by 1.
    """
    training = parts[0].double()
    mean, std = training.mean(0), training.std(0, correction=0)
    std = std.where(std > 0, 1.0)
    return [((part.double() - mean) / std).to(part.dtype) for part in parts]


def limit_train(train: Split, train_limit: int | None) -> Split:
    """The first ``train_limit`` examples; all if there are fewer or if it is None.

    ``train`` must already be in random order, as ``split_validation`` returns it.
    """
    if train_limit is None or train_limit >= len(train):
        return train
    return train.take(torch.arange(train_limit))


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and (population) standard deviation of each channel of images (N, C, H, W).

    For uint8 images they refer to the values scaled to [0, 1], for floating-point images to the values themselves.
    """
    if images.is_floating_point():
        channels = [images[:, channel].double() for channel in range(images.shape[1])]
        return tuple(c.mean().item() for c in channels), tuple(c.std(correction=0).item() for c in channels)
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

"""The digits as rows of a table, divided anew by a seed, for questions about the division or about the drawing of batches."""

import numpy as np
import torch
from torch import Tensor

from optbench import randomness
from optbench.data.digits import FILE
from optbench.data.raw import RawData, Split
from optbench.data.spec import DataSpec
from optbench.data.splits import limit_train, split_validation

TEST_EXAMPLES = 629
_LEVELS = 16


class DrawnWithReplacement:
    """Samples that are examples drawn independently of each other, each a function of the seed of the run and its number.

    evaluation: all examples, of which as many samples count as an epoch.
    """

    def __init__(self, evaluation: Split) -> None:
        self.evaluation = evaluation

    def __len__(self) -> int:
        return len(self.evaluation)

    def train_batch(self, first: int, count: int, seed: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The inputs and targets of the samples ``first .. first + count - 1`` of the run with ``seed``, on the CPU."""
        places = torch.arange(first, first + count)
        index = randomness.integers(randomness.key(seed, "with replacement"), places, len(self.evaluation))
        return self.evaluation.inputs[index].to(dtype), self.evaluation.targets[index]


def load(
    data_dir: str,
    split_seed: int = 0,
    replacement: bool = False,
    validation: int = 144,
    train_limit: int | None = None,
) -> RawData:
    """The 1,797 digits of `optbench.data.digits` as rows of 64 pixels v/16, minus their mean over the training examples.

    split_seed: of a permutation, whose last 629 are the test set; the others are divided into training and validation examples.
    replacement: draw every training example independently of all others, in place of epochs. ``data_dir`` is not used.
    """
    with np.load(FILE, allow_pickle=False) as arrays:
        images, labels = arrays["images"], arrays["labels"]
    rows = torch.from_numpy(images.astype(np.float64) / _LEVELS).flatten(1)
    everything = Split(rows, torch.from_numpy(labels.astype(np.int64)))
    order = randomness.permutation(split_seed, "split", 0, len(everything))
    train, held_out = split_validation(everything.take(order[:-TEST_EXAMPLES]), validation)
    train = limit_train(train, train_limit)
    mean = train.inputs.mean(0)

    def centred(split: Split) -> Split:
        return Split((split.inputs - mean).float(), split.targets)

    given = centred(train)
    spec = DataSpec("table", (rows.shape[1],), 10)
    names = [str(digit) for digit in range(10)]
    drawn = Split(DrawnWithReplacement(given), None) if replacement else given
    return RawData(drawn, centred(held_out), centred(everything.take(order[-TEST_EXAMPLES:])), spec, class_names=names)

"""The 8 x 8 handwritten digits of the UCI repository, shipped with this package."""

from pathlib import Path

import numpy as np
import torch

from optbench.data.raw import RawData, Split
from optbench.data.splits import fixed_permutation, image_classification

FILE = Path(__file__).parent / "files" / "digits.npz"
TEST_EXAMPLES = 360
_LEVELS = 16  # the file holds the numbers, 0 .. 16, of black pixels in blocks of 4 x 4


def load(data_dir: str, validation: int = 144, train_limit: int | None = None) -> RawData:
    """Optical recognition of handwritten digits (Alpaydin & Kaynak 1998): 1,797 images of 8 x 8, 10 classes.

    ``data_dir`` is not used: the images are shipped. The last 360 of a fixed permutation are the test set, so that both
    sets have digits of the same writers. A value v of 0 .. 16 becomes the uint8 round(v * 255 / 16).
    """
    with np.load(FILE, allow_pickle=False) as arrays:
        values, labels = arrays["images"], arrays["labels"]
    images = torch.from_numpy(np.rint(values * (255 / _LEVELS)).astype(np.uint8)).unsqueeze(1)
    everything = Split(images, torch.from_numpy(labels.astype(np.int64)))
    order = fixed_permutation(len(everything))
    train, test = everything.take(order[:-TEST_EXAMPLES]), everything.take(order[-TEST_EXAMPLES:])
    return image_classification(train, test, [str(digit) for digit in range(10)], validation, train_limit)

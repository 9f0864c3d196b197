"""dataset=folder: the user's images, in a sub-folder for each class."""

import torch

from optbench.data import pixels
from optbench.data.folders import ClassFolders, class_folders, own_place
from optbench.data.held_out import HeldOut
from optbench.data.raw import RawData, Split
from optbench.data.spec import DataSpec
from optbench.data.splits import channel_statistics, divide, limit_train


def load(
    data_dir: str,
    path: str | None = None,
    title: str | None = None,
    resize: int | None = None,
    resize_by: str = "crop",
    test: int | None = None,
    validation: int | None = None,
    train_limit: int | None = None,
) -> RawData:
    """Read the images of the folder ``path`` into memory, in the layout that ``folders.class_folders`` describes.

    The classes are the names of the sub-folders, sorted. resize: make every image a square of this side; None demands that
    all have one size. resize_by: "crop" takes the largest square in the centre of an image first, "stretch" does not.
    test, validation: the number of examples taken from the training images if the folder has no such split; None takes
    10 %. Images are grey if all are, otherwise all become RGB (see ``images``). Mean and standard deviation of the
    channels are those of the training examples. title: only names the data. Raises UserError, naming the file, if it is
    not of this form or cannot be read.
    """
    found = class_folders(own_place(path, data_dir))
    held_out = HeldOut(test, validation)
    held_out.sizes(len(found.images("train")), "test" in found.splits, "validation" in found.splits)  # before decoding
    parts = {split: _encoded(found, split) for split in found.splits}
    form = pixels.common_form(list(parts.values()), resize)
    splits = {
        split: Split(pixels.decode(part, form, crop=resize_by == "crop"), _targets(found, split))
        for split, part in parts.items()
    }
    training, validating, testing = divide(held_out, splits["train"], splits.get("test"), splits.get("validation"))
    mean, std = channel_statistics(training.inputs)
    spec = DataSpec("image", tuple(training.inputs.shape[1:]), len(found.class_names))
    return RawData(limit_train(training, train_limit), validating, testing, spec, mean, std, found.class_names)


def _encoded(found: ClassFolders, split: str) -> pixels.Encoded:
    paths = found.images(split)
    return pixels.Encoded(paths, lambda index: str(paths[index]))


def _targets(found: ClassFolders, split: str) -> torch.Tensor:
    counts = torch.tensor([len(paths) for paths in found.splits[split].values()])
    return torch.arange(len(counts)).repeat_interleave(counts)

"""natpatch: colour patches of photographs; the class is the photograph. A toy problem, not a substitute for CIFAR.

32 x 32 crops of ten photographs that scikit-image and scikit-learn install as files; the class is the photograph.
Train, validation and test crops come from disjoint regions: every photograph is cut into cells, and each cell belongs
to one split.
"""

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from optbench import randomness
from optbench.data.extras import lacking, remedy
from optbench.data.raw import RawData, Split
from optbench.data.spec import DataSpec
from optbench.data.splits import channel_statistics, limit_train
from optbench.errors import UserError

SIDE = 32
CELL = 64  # crops lie within cells of this side
PHOTOGRAPHS = {
    "astronaut": ("skimage", "data/astronaut.png"),
    "cat": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "deep field": ("skimage", "data/hubble_deep_field.jpg"),
    "tissue": ("skimage", "data/ihc.png"),
    "motorcycle": ("skimage", "data/motorcycle_left.png"),
    "retina": ("skimage", "data/retina.jpg"),
    "rocket": ("skimage", "data/rocket.jpg"),
    "temple": ("sklearn", "datasets/images/china.jpg"),
    "flower": ("sklearn", "datasets/images/flower.jpg"),
}
_TEST_SHARE, _VALIDATION_SHARE = 0.2, 0.1  # shares of the cells of each photograph


def _photograph(package: str, name: str) -> Tensor:
    """The photograph ``name`` of an installed ``package``: uint8 (3, H, W)."""
    found = importlib.util.find_spec(package)  # does not import the package, which takes seconds
    folder = Path(found.origin).parent if found and found.origin else None
    if folder is None or not (folder / name).is_file():
        raise UserError(f"dataset=natpatch: {package}/{name} is not installed: {remedy('natpatch')}")
    from PIL import Image

    with Image.open(folder / name) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def cells(height: int, width: int, generator: torch.Generator) -> dict[str, Tensor]:
    """Divide the cells of a photograph at random among the splits: (top, left) corners (n, 2) by split."""
    rows, columns = torch.arange(height // CELL), torch.arange(width // CELL)
    corners = torch.cartesian_prod(rows, columns) * CELL
    corners = corners[torch.randperm(len(corners), generator=generator)]
    test = round(_TEST_SHARE * len(corners))
    validation = max(round(_VALIDATION_SHARE * len(corners)), 1)
    return {
        "test": corners[:test],
        "validation": corners[test : test + validation],
        "train": corners[test + validation :],
    }


def load(
    data_dir: str,
    examples: int = 10000,
    validation: int = 1000,
    train_limit: int | None = None,
    generation_seed: int = 0,
) -> RawData:
    """``examples`` training crops, ``validation`` crops and 2,000 test crops of the ten photographs, 3 x 32 x 32.

    Example i comes from photograph i mod 10, at a uniformly random place in a uniformly random cell of its split.
    ``data_dir`` is not used. Raises UserError if scikit-image, scikit-learn or Pillow is not installed.
    """
    if missing := lacking("natpatch"):  # checked before any photograph is read
        raise UserError(f"dataset=natpatch: {', '.join(missing)} is not installed: {remedy('natpatch')}")
    sizes = {"train": examples, "validation": validation, "test": 2000}
    crops = {name: torch.empty(size, 3, SIDE, SIDE, dtype=torch.uint8) for name, size in sizes.items()}
    for index, (package, name) in enumerate(PHOTOGRAPHS.values()):
        photograph = _photograph(package, name)
        generator = randomness.generator(generation_seed, f"natpatch/{name}")
        for split, corners in cells(photograph.shape[1], photograph.shape[2], generator).items():
            count = len(range(index, sizes[split], len(PHOTOGRAPHS)))
            corner = corners[torch.randint(len(corners), (count,), generator=generator)]
            corner = corner + torch.randint(CELL - SIDE + 1, (count, 2), generator=generator)
            rows, columns = (corner[:, axis, None] + torch.arange(SIDE) for axis in (0, 1))
            crops[split][index :: len(PHOTOGRAPHS)] = photograph[:, rows[:, :, None], columns[:, None, :]].transpose(
                0, 1
            )
    splits = {name: Split(images, torch.arange(len(images)) % len(PHOTOGRAPHS)) for name, images in crops.items()}
    mean, std = channel_statistics(crops["train"])
    spec = DataSpec("image", (3, SIDE, SIDE), len(PHOTOGRAPHS))
    train = limit_train(splits["train"], train_limit)
    return RawData(train, splits["validation"], splits["test"], spec, mean, std, list(PHOTOGRAPHS))

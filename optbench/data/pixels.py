"""Encoded images as one tensor of bytes: all of one size, all grey or all red, green and blue."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optbench.data import images
from optbench.errors import UserError
from optbench.system import memory


@dataclass(frozen=True)
class Encoded:
    """Images as files or as the content of files; ``shown(i)`` is the place of the i-th, for messages."""

    sources: Sequence[bytes | Path]
    shown: Callable[[int], str]


@dataclass(frozen=True)
class Form:
    """The common form of all images of a dataset: ``width`` and ``height`` in pixels, and grey or colour."""

    width: int
    height: int
    grey: bool


def common_form(parts: Sequence[Encoded], resize: int | None) -> Form:
    """Read the headers of all images. The form is grey if all are; its size is the common one, or a square of ``resize``.

    Raises UserError, naming examples, for images of several sizes without ``resize``, and for a file that is not an image.
    """
    grey = True
    places: dict[tuple[int, int], str] = {}
    for part in parts:
        for index, source in enumerate(part.sources):
            is_grey, size = images.header(source, part.shown(index))
            grey &= is_grey
            places.setdefault(size, part.shown(index))
    if resize is not None:
        return Form(resize, resize, grey)
    sizes = sorted(places)
    if len(sizes) > 1:
        examples = " and ".join(f"{size[0]} x {size[1]} ({places[size]})" for size in (sizes[0], sizes[-1]))
        raise UserError(
            f"dataset.resize=null: the images have {len(sizes)} sizes, such as {examples}; "
            "accepted: a side in pixels, such as dataset.resize=32"
        )
    width, height = sizes[0]
    return Form(width, height, grey)


def decode(part: Encoded, form: Form, crop: bool = False) -> Tensor:
    """The images as uint8 (N, C, H, W); images of another size than that of ``form`` are resampled bilinearly.

    crop: take only the largest square in the centre of such an image. Raises UserError, naming the image, if it cannot be
    decoded, and if the images do not fit into memory.
    """
    shape = (len(part.sources), form.height, form.width, 1 if form.grey else 3)
    memory.require(int(np.prod([float(side) for side in shape])), f"{shape[0]} images of {form.width} x {form.height}")
    pixels = np.empty(shape, np.uint8)
    for index, source in enumerate(part.sources):
        image = images.decode(source, part.shown(index), form.grey)
        if image.size != (form.width, form.height):
            image = _resized(image, form, crop)
        pixels[index] = np.asarray(image).reshape(shape[1:])
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()


def _resized(image: Any, form: Form, crop: bool) -> Any:
    if crop:
        side = min(image.size)
        left, top = (image.width - side) // 2, (image.height - side) // 2
        image = image.crop((left, top, left + side, top + side))
    return image.resize((form.width, form.height), images.image_module().Resampling.BILINEAR)

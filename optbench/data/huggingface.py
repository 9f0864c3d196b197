"""Image classification sets stored as the parquet shards of the Hugging Face hub: ``SPLIT-00000-of-00001.parquet``.

A row holds an image, as a struct of ``bytes`` (an encoded file) and ``path``, and an integer label; the names of the
classes are in the metadata of the schema.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optbench.data.locate import missing, places
from optbench.data.raw import RawData, Split
from optbench.data.splits import image_classification
from optbench.errors import UserError

_IMAGE_COLUMNS = ("img", "image")
_LABEL_COLUMNS = ("label", "fine_label", "labels")
_TEST_SPLITS = ("test", "validation", "valid", "val")
_GREY_MODES = ("1", "L", "LA")


def load(
    data_dir: str,
    path: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    resize: int | None = None,
    validation: int | None = None,
    train_limit: int | None = None,
) -> RawData:
    """Read the shards of a folder: ``train-*`` for training, ``test-*`` (or else ``validation-*``) for testing.

    path: the folder, absolute or in one of the places where data are looked for; shards may also lie one folder below
    it. image_column, label_column: None finds ``img`` or ``image``, and ``label``, ``fine_label`` or ``labels``.
    resize: make every image a square of this side; None demands that all have one size. validation: None takes 10 % of
    the training set. Images are grey if all are, otherwise all become RGB. Mean and standard deviation are computed on
    the training part. Raises UserError if the folder or a column is not found, or if the images or labels are not of
    this form.
    """
    if path is None:
        raise UserError("dataset.path=null: must be the folder of the parquet shards of an image classification set")
    looked_in = [Path(path)] if Path(path).is_absolute() else [Path(path).absolute(), *places((path,), data_dir)]
    folder = next((found for place in looked_in if (found := _folder_of_shards(place)) is not None), None)
    if folder is None:
        raise missing(
            f"dataset.path={path}", "train-*-of-*.parquet", looked_in, "put the parquet shards of the dataset there"
        )
    test_name = next((name for name in _TEST_SPLITS if _shards(folder, name)), None)
    if test_name is None:
        raise UserError(f"dataset.path={path}: {folder} has no test set: no test-*-of-*.parquet, nor validation-*")
    train_table = _read(folder, "train", image_column, label_column)
    test_table = _read(folder, test_name, image_column, label_column)
    grey = all(mode in _GREY_MODES for table in (train_table, test_table) for mode in table.modes)
    size = _common_size(train_table, test_table, resize)
    splits = [Split(_decode(table, size, grey, resize), table.labels) for table in (train_table, test_table)]
    classes = len(train_table.class_names) or int(max(split.targets.max() for split in splits)) + 1
    class_names = train_table.class_names or [str(index) for index in range(classes)]
    for table in (train_table, test_table):
        if table.labels.min() < 0 or table.labels.max() >= classes:
            raise UserError(f"{table.shown}: labels must be in 0 .. {classes - 1}; is this split unlabelled?")
    held_out = max(len(splits[0]) // 10, 1) if validation is None else validation
    return image_classification(splits[0], splits[1], class_names, held_out, train_limit)


@dataclass
class _Table:
    encoded: list[bytes]
    labels: Tensor
    class_names: list[str]
    modes: set[str]
    sizes: set[tuple[int, int]]
    shown: str


def _shards(folder: Path, split: str) -> list[Path]:
    return sorted(folder.glob(f"{split}-*-of-*.parquet"))


def _folder_of_shards(place: Path) -> Path | None:
    if not place.is_dir():
        return None
    below = sorted(child for child in place.iterdir() if child.is_dir())
    return next((folder for folder in (place, *below) if _shards(folder, "train")), None)


def _read(folder: Path, split: str, image_column: str | None, label_column: str | None) -> _Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = _shards(folder, split)
    _check_complete(paths)
    try:
        schema = pq.read_schema(paths[0])
        image = _column(schema.names, image_column, _IMAGE_COLUMNS, "image_column", paths[0])
        label = _column(schema.names, label_column, _LABEL_COLUMNS, "label_column", paths[0])
        table = pa.concat_tables([pq.read_table(path, columns=[image, label]) for path in paths])
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{folder}: cannot be read: {error}") from error
    shown = f"{folder}/{split}-*"
    encoded = [_bytes_of(value, shown, image) for value in table.column(image).to_pylist()]
    labels = table.column(label)
    if labels.null_count or not pa.types.is_integer(labels.type):
        raise UserError(
            f"dataset.label_column={label}: must hold integers without gaps in {shown}, but is {labels.type}"
        )
    targets = torch.from_numpy(labels.to_numpy().astype(np.int64))
    modes, sizes = _headers(encoded, shown)
    return _Table(encoded, targets, _class_names(schema, label), modes, sizes, shown)


def _check_complete(paths: Sequence[Path]) -> None:
    announced = int(paths[0].stem.rpartition("-of-")[2].partition("-")[0])
    if len(paths) != announced:
        raise UserError(f"{paths[0].parent}: {len(paths)} of the {announced} shards such as {paths[0].name} are there")


def _column(names: Sequence[str], chosen: str | None, usual: Sequence[str], option: str, path: Path) -> str:
    found = next((name for name in ([chosen] if chosen else usual) if name in names), None)
    if found is None:
        raise UserError(f"dataset.{option}={chosen or 'null'}: not a column of {path}; accepted: {', '.join(names)}")
    return found


def _bytes_of(value: Any, shown: str, column: str) -> bytes:
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise UserError(f"dataset.image_column={column}: must hold the bytes of an image in every row of {shown}")
    return content


def _class_names(schema: Any, label: str) -> list[str]:
    """The names in the metadata that the ``datasets`` library leaves in the schema; none if it left none."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return [str(name) for name in features[label]["names"]]
    except (KeyError, TypeError, ValueError):
        return []


# ---- images ---------------------------------------------------------------------------------------------------------


def image_module() -> Any:
    """Pillow's ``Image``; raises UserError if Pillow is not installed."""
    try:
        from PIL import Image
    except ImportError as error:
        raise UserError("reading image files needs Pillow: pip install 'optbench[images]'") from error
    return Image


def _headers(encoded: Sequence[bytes], shown: str) -> tuple[set[str], set[tuple[int, int]]]:
    image_class, modes, sizes = image_module(), set(), set()
    for row, content in enumerate(encoded):
        try:
            with image_class.open(io.BytesIO(content)) as image:
                modes.add(image.mode)
                sizes.add(image.size)
        except OSError as error:
            raise UserError(f"{shown}: row {row} is not an image: {error}") from error
    return modes, sizes


def _common_size(train: _Table, test: _Table, resize: int | None) -> tuple[int, int]:
    if resize is not None:
        return resize, resize
    sizes = sorted(train.sizes | test.sizes)
    if len(sizes) > 1:
        raise UserError(
            f"dataset.resize=null: the images have {len(sizes)} sizes, such as {sizes[0]} and {sizes[-1]}; "
            "accepted: a side in pixels, such as dataset.resize=32"
        )
    return sizes[0]


def _decode(table: _Table, size: tuple[int, int], grey: bool, resize: int | None) -> Tensor:
    image_class, (width, height) = image_module(), size
    pixels = np.empty((len(table.encoded), height, width, 1 if grey else 3), np.uint8)
    for row, content in enumerate(table.encoded):
        try:
            with image_class.open(io.BytesIO(content)) as image:
                image = image.convert("L" if grey else "RGB")
                if resize is not None and image.size != size:
                    image = image.resize(size, image_class.Resampling.BILINEAR)
                pixels[row] = np.asarray(image).reshape(pixels.shape[1:])
        except OSError as error:
            raise UserError(f"{table.shown}: row {row} cannot be decoded: {error}") from error
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()

"""Read the layout of a folder of data: classes with their images, parquet shards, or any files. Imports no torch.

Hidden files and files made by desktops (``.git``, ``.DS_Store``, ``__MACOSX``, ``Thumbs.db``) do not count as data.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from optbench.data.locate import missing, places
from optbench.errors import UserError
from optbench.system.home import at_home

IMAGE_SUFFIXES = (".jpeg", ".jpg", ".png")
IMAGE_FOLDERS = ("imagenet", "ILSVRC2012", "ImageNet")
OTHER_SUFFIXES = (
    ".bmp",
    ".pgm",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)  # additional formats that a user's folder may hold
VALIDATION_SPLITS = ("validation", "valid", "val")
TEST_SPLITS = ("test", *VALIDATION_SPLITS)
_LITTER = ("__MACOSX", "__pycache__", "Thumbs.db", "desktop.ini", "lost+found", "@eaDir", "$RECYCLE.BIN")


def is_hidden(name: str) -> bool:
    """True if a file or folder of this name does not count as data."""
    return name.startswith(".") or name in _LITTER


def files_below(folder: Path) -> Iterator[Path]:
    """Every file below ``folder`` that is not hidden, at any depth, in no particular order."""
    for root, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not is_hidden(name)]
        yield from (Path(root, name) for name in names if not is_hidden(name))


def own_place(path: str | None, data_dir: str | Path, option: str = "path", suffixes: Sequence[str] = ()) -> Path:
    """The absolute path of a user's data: ``path`` itself, or below a place where data are looked for.

    option: the dataset's option with the value ``path``. suffixes: the accepted suffixes of a file; none for a folder.
    Raises UserError if it does not exist, or is not such a file or folder.
    """
    wanted = f"a file that ends in {' or '.join(suffixes)}" if suffixes else "a folder"
    if not path:
        raise UserError(f"dataset.{option}=null: must be {wanted}")
    expanded = Path(at_home(path))
    looked_in = [expanded.absolute()]
    if not expanded.is_absolute():
        looked_in += [root / expanded for root in places((), data_dir)]
    found = next((place for place in looked_in if place.exists()), None)
    if found is None:
        raise missing(f"dataset.{option}={path}", wanted, list(dict.fromkeys(looked_in)), "put the data there")
    if suffixes and (not found.is_file() or not found.name.lower().endswith(tuple(suffixes))):
        raise UserError(f"dataset.{option}={path}: {found} is no such file; accepted: {wanted}")
    if not suffixes and not found.is_dir():
        raise UserError(f"dataset.{option}={path}: {found} is a file; accepted: {wanted}")
    return found


# ---- one folder a class ---------------------------------------------------------------------------------------------


def image_root(data_dir: str | Path) -> Path:
    """The folder that holds ``train`` and ``val``: the first among the places where data are looked for that has both.

    Raises UserError if none has.
    """
    looked_in = places(IMAGE_FOLDERS, data_dir)
    folder = next((place for place in looked_in if (place / "train").is_dir() and (place / "val").is_dir()), None)
    if folder is None:
        remedy = "register at https://image-net.org for the files, which cannot be downloaded without"
        raise missing("dataset=imagenet", "train/WNID/*.JPEG and val/WNID/*.JPEG", looked_in, remedy)
    return folder


def images_by_class(split: Path) -> dict[str, list[Path]]:
    """The images in each folder of ``split``, by the name of the folder, the class; both sorted by name."""
    classes = sorted(entry.name for entry in os.scandir(split) if entry.is_dir() and not is_hidden(entry.name))
    return {name: _images(split / name) for name in classes}


def _images(folder: Path) -> list[Path]:
    names = (entry.name for entry in os.scandir(folder))
    return [folder / name for name in sorted(names) if not is_hidden(name) and name.lower().endswith(IMAGE_SUFFIXES)]


@dataclass(frozen=True)
class ClassFolders:
    """The images of a user's folder, by split ("train", and "validation" and "test" if it has them) and class.

    names: the name of the folder of each split below ``root``, such as "val" for "test"; "" if the classes lie in ``root``.
    """

    root: Path
    splits: dict[str, dict[str, list[Path]]]
    names: dict[str, str]

    @property
    def class_names(self) -> list[str]:
        """The names of the sub-folders, sorted."""
        return list(self.splits["train"])

    def images(self, split: str) -> list[Path]:
        """The images of a split, class after class."""
        return [path for paths in self.splits[split].values() for path in paths]


def class_folders(root: Path) -> ClassFolders:
    """Read the layout of ``root``: a sub-folder for each class, or one such folder for each split.

    The splits are ``train``, ``test`` and ``validation`` (or ``valid`` or ``val``), in upper or lower case; without
    ``test``, the validation split is the test split, as in ImageNet. Raises UserError, with the place, for another layout,
    a single class, a class or split without images, files and folders that are not images, and classes that differ
    between splits.
    """
    names = _split_folders(root)
    splits = {split: _own_classes(root / name) for split, name in names.items()}
    train = splits["train"]
    for split, classes in splits.items():
        if classes.keys() != train.keys():
            differing = ", ".join(sorted(classes.keys() ^ train.keys())[:5])
            raise UserError(
                f"{root / names[split]}: must have the same classes as {root / names['train']}; only in one of them: {differing}"
            )
        if not any(classes.values()):
            raise UserError(
                f"{root / names[split]}: the {split} split is empty: no images in the folders of its classes"
            )
    for name, paths in train.items():
        if not paths:
            raise UserError(f"{root / names['train'] / name}: the class {name} has no images; accepted: one or more")
    return ClassFolders(root, splits, names)


def _split_folders(root: Path) -> dict[str, str]:
    """The name of the folder of each split below ``root``; "" for "train" if ``root`` itself holds the classes."""
    entries = _folders(root)
    found = [name for name in entries if name.lower() in ("train", *TEST_SPLITS) and _folders(root / name)]
    if not found:
        return {"train": ""}
    by_role: dict[str, list[str]] = {"train": [], "test": [], "validation": []}
    for name in found:
        by_role["validation" if name.lower() in VALIDATION_SPLITS else name.lower()].append(name)
    others = [name for name in entries if name not in found]
    problem = ""
    if not by_role["train"]:
        problem = f"has the split {found[0]} and no train"
    elif others:
        problem = f"has train, a split, and beside it {others[0]}, which is none"
    elif several := next((names for names in by_role.values() if len(names) > 1), None):
        problem = f"has {' and '.join(several)}, which are one split under several names"
    if problem:
        raise UserError(
            f"{root}: {problem}; accepted: a folder for each class, or the folders train, test and validation (any of the latter "
            "two) that hold them"
        )
    if not by_role["test"]:
        by_role["test"], by_role["validation"] = by_role["validation"], []
    return {role: names[0] for role, names in by_role.items() if names}


def _folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not is_hidden(entry.name))


def _own_classes(split: Path) -> dict[str, list[Path]]:
    names = _folders(split)
    if len(names) < 2:
        there = f"has one folder, {names[0]}, and so one class" if names else "has no folders, and so no classes"
        raise UserError(f"{split}: {there}; accepted: a folder of images for each of two classes or more")
    return {name: _own_images(split / name) for name in names}


def _own_images(folder: Path) -> list[Path]:
    suffixes = (*IMAGE_SUFFIXES, *OTHER_SUFFIXES)
    paths = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if is_hidden(entry.name):
            continue
        if entry.is_dir():
            raise UserError(f"{entry.path}: is a folder in that of a class; accepted: images")
        if not entry.name.lower().endswith(suffixes):
            raise UserError(f"{entry.path}: is no image by its name; accepted: {', '.join(sorted({*suffixes}))}")
        paths.append(Path(entry.path))
    return paths


# ---- parquet shards -------------------------------------------------------------------------------------------------


def shards(folder: Path, split: str) -> list[Path]:
    """The shards of ``split`` in ``folder``, sorted by name."""
    return sorted(folder.glob(f"{split}-*-of-*.parquet"))


def folder_of_shards(path: str | None, data_dir: str | Path) -> Path:
    """The folder of the training shards: ``path``, absolute or in a place where data are looked for, or a folder in it.

    Raises UserError if there is none.
    """
    if path is None:
        raise UserError("dataset.path=null: must be the folder of the parquet shards of an image classification set")
    if Path(at_home(path)).is_absolute():
        looked_in = [Path(at_home(path))]
    else:
        # data_dir itself is left out, because its other folders hold the shards of other data.
        roots = places((), data_dir)
        looked_in = [Path(path).absolute(), *(place for place in places((path,), data_dir) if place not in roots)]
    folder = next((found for place in looked_in if (found := _with_shards(place)) is not None), None)
    if folder is None:
        remedy = "put the parquet shards of the dataset there"
        raise missing(f"dataset.path={path}", "train-*-of-*.parquet", looked_in, remedy)
    return folder


def _with_shards(place: Path) -> Path | None:
    if not place.is_dir():
        return None
    below = sorted(child for child in place.iterdir() if child.is_dir() and not is_hidden(child.name))
    return next((folder for folder in (place, *below) if shards(folder, "train")), None)


def split_for_testing(folder: Path, chosen: str | None) -> str:
    """The split that serves as the test set: ``chosen``, or the first of ``TEST_SPLITS`` with shards in ``folder``.

    Raises UserError if there are none.
    """
    there = [name for name in TEST_SPLITS if shards(folder, name)]
    if chosen is not None and not shards(folder, chosen):
        accepted = ", ".join(there) or "none, there are only training shards"
        raise UserError(f"dataset.test_split={chosen}: {folder} has no {chosen}-*-of-*.parquet; accepted: {accepted}")
    if chosen is None and not there:
        raise UserError(f"{folder}: has no test set: no test-*-of-*.parquet, nor validation-*")
    return chosen or there[0]

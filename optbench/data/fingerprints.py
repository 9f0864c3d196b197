"""Fingerprints of data: they identify the content of a folder, independently of its place. Imports no torch.

A fingerprint is a hash of the names of the files, relative to their folder, of their sizes and of their bytes. Up to
``WHOLE`` bytes in ``WHOLE_FILES`` files, every byte counts. Beyond that, every name and every size counts, but only the bytes
of ``BLOCKS`` blocks at equal distances in the concatenation of all files, so that ImageNet takes seconds and not minutes. A
change that keeps the size of every file and lies outside these blocks is not detected.
"""

import hashlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from optbench.data import folders
from optbench.data.locate import md5_of, missing, places
from optbench.data.own_files import OWN_FILES
from optbench.data.sources import SOURCES, official_files
from optbench.errors import UserError
from optbench.system.file_cache import FileCache
from optbench.system.home import at_home

WHOLE, WHOLE_FILES = 1 << 30, 100_000  # bytes and files that are hashed in full
BLOCKS, BLOCK = 4096, 1 << 16
MOST_FILES = 5_000_000


@dataclass
class DataFiles:
    """The files that a dataset reads: ``paths`` by names that do not depend on their place.

    A name that ends with "/" is that of a folder. digests: hashes of the contents by name, if they are already known.
    where: the folder, for messages. training: the number of training examples, if it follows from the files alone.
    official: True for the official files of a data set, which need no fingerprint.
    """

    where: str
    paths: dict[str, Path] = field(default_factory=dict)
    training: int | None = None
    official: bool = False
    digests: dict[str, str] | None = None


# ---- which files ----------------------------------------------------------------------------------------------------


def files_of(dataset: Mapping[str, Any], data_dir: str | Path) -> DataFiles | None:
    """The files that ``dataset``, a choice with its options, reads; None for one that reads none.

    ``info.files`` of the choice names them: the name of a data set with official files, ``shards``, ``image_folder``, one
    of ``own_files.OWN_FILES``, or a list of files and folders below data_dir, in which ``{OPTION}`` stands for the value of
    an option. Without it they are all the files in data_dir, and those that an option names. Raises UserError if they do
    not exist.
    """
    info = dataset["info"]
    if info.get("download") == "none":
        return None
    declared = info.get("files")
    if isinstance(declared, str) and declared in SOURCES:
        return _of_source(declared, data_dir, bool(dataset.get("check_hash", True)))
    if declared == "shards":
        return _of_shards(dataset, data_dir)
    if declared == "image_folder":
        return _of_image_folder(data_dir)
    if isinstance(declared, str) and declared in OWN_FILES:
        return DataFiles(str(dataset.get("path")), OWN_FILES[declared](dataset, data_dir))
    if declared is None:
        return _undeclared(dataset, data_dir)
    if not isinstance(declared, list) or not all(isinstance(entry, str) for entry in declared):
        raise UserError(
            f"dataset={dataset['name']}: info.files={declared}: must be a list of files and folders in data_dir, or one of "
            f"{', '.join(SOURCES)}, shards, image_folder, {', '.join(OWN_FILES)}"
        )
    return _listed(dataset, declared, data_dir)


def _of_source(name: str, data_dir: str | Path, check_hash: bool) -> DataFiles | None:
    if check_hash:
        return None  # the loader checks them
    found = official_files(name, data_dir)
    if found is None:
        raise missing(
            f"dataset={name}",
            ", ".join(file.name for file in SOURCES[name].files),
            places(SOURCES[name].folders, data_dir),
            f"with dataset.check_hash=false the data are part of the run's name, so they must be there before it starts "
            f"(python -m optbench.data.fetch {name})",
        )
    # Digests of the decompressed content, because the same files may be compressed or not.
    digests = {file.name: _md5(path, path.name == f"{file.name}.gz") for file, path in found.items()}
    paths = {file.name: path for file, path in found.items()}
    official = all(digests[file.name] == file.md5 for file in found)
    return DataFiles(str(next(iter(paths.values())).parent), paths, official=official, digests=digests)


def _of_shards(dataset: Mapping[str, Any], data_dir: str | Path) -> DataFiles:
    folder = folders.folder_of_shards(dataset.get("path"), data_dir)
    test = folders.split_for_testing(folder, dataset.get("test_split"))
    files = DataFiles(
        str(folder), {path.name: path for name in ("train", test) for path in folders.shards(folder, name)}
    )
    if dataset.get("validation") is not None:
        files.training = _rows(folders.shards(folder, "train"))
    return files


def _rows(shards: list[Path]) -> int | None:
    import pyarrow.parquet as pq

    try:
        found: int = sum(pq.read_metadata(path).num_rows for path in shards)
        return found
    except Exception:  # damaged files raise almost any exception; the loader reports the problem
        return None


def _of_image_folder(data_dir: str | Path) -> DataFiles:
    root = folders.image_root(data_dir)
    files = DataFiles(str(root))
    for split in ("train", "val"):
        by_class = folders.images_by_class(root / split)
        for name, images in by_class.items():
            files.paths[f"{split}/{name}/"] = root / split / name  # a class without images also counts
            files.paths |= {f"{split}/{name}/{path.name}": path for path in images}
        if split == "train":
            files.training = sum(map(len, by_class.values()))
    return files


def _undeclared(dataset: Mapping[str, Any], data_dir: str | Path) -> DataFiles | None:
    """All files that a user's own function may read: the whole of data_dir, and each path among the options."""
    options = {name: value for name, value in dataset.items() if name not in ("_target_", "name", "info")}
    named = [f"{{{name}}}" for name, value in options.items() if isinstance(value, str) and _at(value, data_dir, True)]
    entries = (["."] if Path(at_home(data_dir)).is_dir() else []) + named
    return _listed(dataset, entries, data_dir) if entries else None


def _listed(dataset: Mapping[str, Any], entries: list[str], data_dir: str | Path) -> DataFiles | None:
    files = DataFiles(str(Path(at_home(data_dir)).absolute()))
    given = {name: value for name, value in dataset.items() if isinstance(value, str | int | float)}
    for number, entry in enumerate(entries):
        if any(f"{{{name}}}" in entry and value is None for name, value in dataset.items()):
            continue  # an option that is null names no file
        try:
            text = entry.format(**given)
        except (KeyError, IndexError, ValueError) as error:
            raise UserError(
                f"dataset={dataset['name']}: info.files: {entry!r} names no option of it ({error}); accepted: {{OPTION}}"
            ) from error
        found = _at(text, data_dir, "{" in entry)
        if not found:
            raise missing(f"dataset={dataset['name']}", text, [Path(at_home(data_dir)).absolute()], _REMEDY)
        for path in found:
            single = path.is_file()
            for file in [path] if single else folders.files_below(path):
                # A single file counts by its content, not by its name.
                name = "" if single else f"/{file.relative_to(path).as_posix()}"
                files.paths[f"{number}{name}"] = file
                if len(files.paths) > MOST_FILES:
                    raise UserError(
                        f"dataset={dataset['name']}: more than {MOST_FILES:,} files in {path}, all of which count as its "
                        f"data; accepted: info.files in conf/dataset/{dataset['name']}.yaml, a list of what it reads"
                    )
    return files


_REMEDY = "the data are part of the run's name, so they must be there before it starts"


def _at(text: str, data_dir: str | Path, is_option: bool) -> list[Path]:
    """The paths that ``text`` names: below data_dir, or ``text`` itself if it is absolute or the value of an option."""
    path = Path(at_home(text))
    candidates = [Path(at_home(data_dir)) / path, *([path] if is_option else [])]
    try:
        found = [candidate.resolve() for candidate in candidates if text and candidate.exists()]
    except (OSError, ValueError):  # too long for a path, or with characters that no path may have
        return []
    return list(dict.fromkeys(found))


# ---- the fingerprint ------------------------------------------------------------------------------------------------


def fingerprint(dataset: Mapping[str, Any], data_dir: str | Path) -> tuple[str | None, DataFiles | None]:
    """The fingerprint of the data that ``dataset`` reads, and the files that it covers.

    It is None for data that need none: generated or shipped data, and official files. Raises UserError if the files do not
    exist or cannot be read.
    """
    key = (str(data_dir), str(Path.cwd()), repr(dataset))
    if _KEPT is not None and key in _KEPT:
        return _KEPT[key]
    files = files_of(dataset, data_dir)
    found = None if files is None or files.official else _hash(files), files
    if _KEPT is not None:
        _KEPT[key] = found
    return found


_KEPT: dict[Any, tuple[str | None, DataFiles | None]] | None = None


@contextmanager
def kept() -> Iterator[None]:
    """Within this context, equal data are read only once: for the cells of a sweep, which are planned one after another."""
    global _KEPT
    outer, _KEPT = _KEPT, {} if _KEPT is None else _KEPT
    try:
        yield
    finally:
        _KEPT = outer


def _hash(files: DataFiles) -> str:
    names = sorted(files.paths)
    if files.digests is not None:
        return _named(hashlib.blake2b(repr(sorted(files.digests.items())).encode(), digest_size=8))
    try:
        sizes = [0 if name.endswith("/") else files.paths[name].stat().st_size for name in names]
        digest = hashlib.blake2b(digest_size=8)
        for name, size in zip(names, sizes, strict=True):
            digest.update(f"{name}\0{size}\0".encode("utf-8", "surrogateescape"))
        paths = [files.paths[name] for name in names]
        if sum(sizes) <= WHOLE and len(sizes) <= WHOLE_FILES:
            for path, size in zip(paths, sizes, strict=True):
                digest.update(_content(path) if size else b"")
        else:
            for block in _sample(paths, sizes):
                digest.update(block)
    except OSError as error:
        raise UserError(f"{error.filename or files.where}: cannot be read: {error.strerror or error}") from error
    return _named(digest)


def _named(digest: Any) -> str:
    # With a letter first, because hexadecimal digits alone may be read as a number, such as 12e4567890123456.
    return f"h{digest.hexdigest()}"


def _sample(paths: list[Path], sizes: list[int]) -> Iterable[bytes]:
    ends = list(accumulate(sizes))
    for number in range(BLOCKS):
        place = number * (ends[-1] - 1) // (BLOCKS - 1)  # from the first byte to the last
        index = bisect_right(ends, place)
        start = place - (ends[index] - sizes[index])
        with paths[index].open("rb") as stream:
            stream.seek(max(min(start, sizes[index] - BLOCK), 0))
            yield stream.read(BLOCK)


# The digests of files, valid while a file is unchanged since this process read it.
_DIGESTS: FileCache[str] = FileCache()


def _content(path: Path) -> bytes:
    def read() -> str:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()

    return _DIGESTS.get(path, read, "blake2b").encode()


def _md5(path: Path, gzipped: bool) -> str:
    try:
        return _DIGESTS.get(path, lambda: md5_of(path, gzipped), f"md5 {gzipped}")
    except Exception as error:  # damaged archives raise almost any exception
        raise UserError(f"{path}: cannot be read: {error}") from error

"""Find the files of a dataset, or download them from their official address; there is no other substitute."""

import contextlib
import gzip
import hashlib
import os
import tempfile
import urllib.request
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from optbench.data.extras import lacking
from optbench.errors import UserError
from optbench.system.home import at_home

NO_DOWNLOAD = (
    "digits",
    "text",
    "digits_table",
    "adding",
    "multiplication",
    "temporal_order_2",
    "temporal_order_3",
    "memorization",
    "curves",
    "natpatch",
    "quadratic",
    "rosenbrock",
    "nesterov_skokov",
    "beale",
    "beale_starts",
    "branin",
    "pl_sine",
    "star_convex",
    "saddle",
    "phase_retrieval",
    "matrix_completion",
    "matrix_factorization",
    "matrix_sensing",
    "tensor_decomposition",
    "deep_linear",
    "two_magnitudes",
)
SYSTEM_FOLDER = Path("/usr/share/datasets")  # the folder of Debian's dataset-* packages
TIMEOUT = 20.0  # seconds without a byte
_CHUNK = 1 << 20


@dataclass(frozen=True)
class RemoteFile:
    """One file of a dataset: its name, and the md5 of its content.

    gzipped: it is offered as NAME.gz, may be compressed or not on disk, and ``md5`` is that of the decompressed content
    (archives recompressed by others differ in their bytes).
    """

    name: str
    md5: str
    gzipped: bool = False


@dataclass(frozen=True)
class Source:
    """The possible places of the files of ``dataset``.

    folders: the names of the folder that may hold them; a download goes to the first. url: the official address without
    the file names.
    """

    dataset: str
    folders: tuple[str, ...]
    files: tuple[RemoteFile, ...]
    url: str


def places(folders: Sequence[str], data_dir: str | Path) -> list[Path]:
    """The folders to search, in order: ``data_dir``, $OPTBENCH_DATA, Debian's; each also with ``folders`` below it."""
    roots = [Path(data_dir)]
    if os.environ.get("OPTBENCH_DATA"):
        roots.append(Path(os.environ["OPTBENCH_DATA"]))
    found = [place for root in roots for place in (root, *(root / folder for folder in folders))]
    found += [SYSTEM_FOLDER / folder for folder in folders]
    return list(dict.fromkeys(Path(at_home(place)).absolute() for place in found))


def folder_for(source: Source, data_dir: str | Path) -> Path:
    """The folder for a download of ``source``. Raises UserError if ``data_dir`` begins with ~ of an unknown user."""
    expanded = at_home(data_dir)
    if expanded.startswith("~"):
        raise UserError(
            f"data_dir={data_dir}: there is no home folder of {Path(expanded).parts[0]} here; accepted: a folder"
        )
    return Path(expanded) / source.folders[0]


def files_in(place: Path, files: Sequence[RemoteFile]) -> dict[str, Path] | None:
    """The path of each of ``files`` in ``place`` by name, plain or gzipped; None unless all exist."""
    paths = {}
    for file in files:
        candidates = [place / file.name] + ([place / f"{file.name}.gz"] if file.gzipped else [])
        path = next((candidate for candidate in candidates if candidate.is_file()), None)
        if path is None:
            return None
        paths[file.name] = path
    return paths


def find(source: Source, data_dir: str | Path) -> dict[str, Path] | None:
    """The files of ``source`` in the first of the places that has them all; None if none has."""
    found = (files_in(place, source.files) for place in places(source.folders, data_dir))
    return next((paths for paths in found if paths is not None), None)


def locate(source: Source, data_dir: str | Path, check_hash: bool = True) -> dict[str, Path]:
    """The files of ``source`` by name, downloaded to ``data_dir`` if they are not found.

    Raises UserError if they are not found and cannot be downloaded, or if a download is not the official file.
    """
    found = find(source, data_dir)
    if found is not None:
        return found
    target = folder_for(source, data_dir)
    made = [folder for folder in (target, target.parent) if not folder.exists()]
    try:
        return download(source, target, check_hash)
    except (OSError, EOFError, zlib.error) as error:
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only an empty folder
        names = ", ".join(file.name + (".gz" if file.gzipped else "") for file in source.files)
        raise missing(
            f"dataset={source.dataset}",
            names,
            places(source.folders, data_dir),
            f"the download from {source.url} failed: {_few_words(error)}",
        ) from error


def missing(wanted: str, looked_for: str, looked_in: Sequence[Path], remedy: str) -> UserError:
    """The error for files that are not found: names the files, the places, a remedy, and datasets without a download."""
    return UserError(
        f"{wanted}: not found: {looked_for}; looked in {', '.join(map(str, looked_in))}; {remedy}; "
        f"datasets that need no download: {', '.join(without_download())}"
    )


def without_download() -> list[str]:
    """The datasets that work here without a download: those of ``NO_DOWNLOAD`` whose packages are installed."""
    return [name for name in NO_DOWNLOAD if not lacking(name)]  # an extra has the name of its dataset


def download(source: Source, folder: Path, check_hash: bool = True) -> dict[str, Path]:
    """Download the files of ``source`` into ``folder``, each to a temporary name first, and return their paths.

    Raises OSError (also for every failure of the network), and UserError for a file that is not the official one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.files:
        remote_name = file.name + (".gz" if file.gzipped else "")
        if not (folder / remote_name).is_file():
            _download_one(source.url + remote_name, folder / remote_name, file, check_hash)
    paths = files_in(folder, source.files)
    assert paths is not None
    return paths


def _download_one(url: str, path: Path, file: RemoteFile, check_hash: bool) -> None:
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as out, open_url(url) as response:
            for chunk in iter(lambda: response.read(_CHUNK), b""):
                out.write(chunk)
        if check_hash:
            verify(file, temporary, md5_of(temporary, file.gzipped), shown=url)
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def open_url(url: str) -> IO[bytes]:
    """Open ``url`` for reading; gives up after ``TIMEOUT`` seconds without a byte."""
    found: IO[bytes] = urllib.request.urlopen(url, timeout=TIMEOUT)
    return found


def _few_words(error: Exception) -> str:
    text = str(getattr(error, "reason", None) or error) or type(error).__name__
    return text if len(text) <= 120 else f"{text[:117]}..."


# ---- content --------------------------------------------------------------------------------------------------------


def md5_of(path: Path, gzipped: bool = False) -> str:
    """The md5 of a file, or of its decompressed content if it is gzipped."""
    digest = hashlib.md5(usedforsecurity=False)
    with gzip.open(path) if gzipped else path.open("rb") as stream:
        for chunk in _chunks(stream):  # type: ignore[arg-type]
            digest.update(chunk)
    return digest.hexdigest()


def _chunks(stream: IO[bytes]) -> Iterator[bytes]:
    return iter(lambda: stream.read(_CHUNK), b"")


def verify(file: RemoteFile, path: Path, found: str, shown: str | None = None) -> None:
    """Raise UserError unless ``found``, the md5 of ``path``, is the official one of ``file``."""
    if found != file.md5:
        what = "its decompressed content has md5" if file.gzipped else "its md5 is"
        raise UserError(
            f"{shown or path}: not the official {file.name}: {what} {found}, expected {file.md5}; remove the file, or "
            "set dataset.check_hash=false if it is meant to differ"
        )


def read(file: RemoteFile, path: Path, check_hash: bool = True) -> bytes:
    """The content of ``file`` at ``path``, decompressed if it is gzipped.

    Raises UserError if the content is not the official one, or is damaged.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.name == f"{file.name}.gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {_few_words(error)}") from error
    if check_hash:
        verify(file, path, hashlib.md5(content, usedforsecurity=False).hexdigest())
    return content

"""Fetch the files of a dataset into the data folder: ``python -m optbench.data.fetch NAME [--data-dir DIR]``."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from pathlib import Path

from optbench.data.extras import lacking, remedy
from optbench.data.locate import NO_DOWNLOAD, Source, download, files_in, find, folder_for, locate, md5_of, verify
from optbench.data.sources import LAYOUTS, SOURCES, unpacked
from optbench.errors import UserError

DEBIAN_PACKAGES = {"fashion_mnist": "dataset-fashion-mnist"}
_DEBIAN_TIMEOUT = 120


def fetch(name: str, data_dir: str | Path) -> str:
    """Bring the files of the dataset ``name`` into its folder below ``data_dir``; returns a sentence about the source.

    Tries, in order: the folder itself; the other places where data are looked for (the files are copied); Debian's package,
    if there is apt-get; the official address. Every file is checked by its hash. Raises UserError if none of these works,
    or if ``name`` has no files to fetch.
    """
    if name in NO_DOWNLOAD:
        if missing := lacking(name):
            raise UserError(f"fetch {name}: needs no download, but {', '.join(missing)}: {remedy(name)}")
        return f"{name} needs no download."
    if name not in SOURCES:
        raise UserError(f"fetch {name}: cannot be fetched; accepted: {', '.join(SOURCES)}")
    source = SOURCES[name]
    folder = folder_for(source, data_dir)
    if paths := files_in(folder, source.files):
        _verify_all(source, paths)
        return f"{name} was already in {folder}."
    if paths := find(source, data_dir):
        _verify_all(source, paths)
        _copy(paths, folder)
        return f"{name} was copied from {next(iter(paths.values())).parent} to {folder}."
    failures = []
    package = DEBIAN_PACKAGES.get(name)
    if package is not None:
        failure = _from_debian(package, source, folder)
        if failure is None:
            return f"{name} was unpacked from Debian's package {package} to {folder}."
        failures.append(failure)
    try:
        download(source, folder)
    except (OSError, EOFError, zlib.error) as error:
        failures.append(f"the download from {source.url} failed: {error}")
        raise UserError(f"fetch {name}: {'; '.join(failures)}") from error
    return f"{name} was downloaded from {source.url} to {folder}."


def require(name: str, data_dir: str | Path, check_hash: bool = True) -> None:
    """Find the official files of the dataset ``name``, or download them, without reading them; ignores other datasets.

    Raises UserError if neither works.
    """
    if name not in SOURCES:
        return
    layout = LAYOUTS.get(name)
    if layout is None or unpacked(layout, data_dir) is None:
        locate(SOURCES[name], data_dir, check_hash)


def _verify_all(source: Source, paths: dict[str, Path]) -> None:
    for file in source.files:
        path = paths[file.name]
        verify(file, path, md5_of(path, gzipped=path.name == f"{file.name}.gz"))


def _copy(paths: dict[str, Path], folder: Path) -> None:
    """Copy files into ``folder``, each under a temporary name first, so that no incomplete file appears."""
    folder.mkdir(parents=True, exist_ok=True)
    for path in paths.values():
        temporary = folder / f".{path.name}.{os.getpid()}"
        try:
            shutil.copyfile(path, temporary)
            temporary.replace(folder / path.name)
        finally:
            temporary.unlink(missing_ok=True)


def _from_debian(package: str, source: Source, folder: Path) -> str | None:
    """Unpack a Debian package without installing it (no root needed); returns None, or the reason of a failure."""
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        return "there is no apt-get"
    with tempfile.TemporaryDirectory() as scratch:
        try:
            try:
                _run(["apt-get", "download", package], scratch)
            except subprocess.SubprocessError:
                # A new machine has no package lists. Private lists need neither root nor the system's lists.
                private = [f"-oDir::State::Lists={scratch}/lists", f"-oDir::Cache={scratch}/cache"]
                for folder_of_apt in ("lists/partial", "cache/archives/partial"):
                    Path(scratch, folder_of_apt).mkdir(parents=True)
                if os.geteuid() == 0:
                    private.append("-oAPT::Sandbox::User=root")
                _run(["apt-get", *private, "update"], scratch)
                _run(["apt-get", *private, "download", package], scratch)
            (archive,) = Path(scratch).glob(f"{package}_*.deb")
            _run(["dpkg", "-x", str(archive), "unpacked"], scratch)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            return f"apt-get download {package} failed: {error}"
        for place in Path(scratch, "unpacked/usr/share/datasets").glob("*"):
            if paths := files_in(place, source.files):
                _verify_all(source, paths)
                _copy(paths, folder)
                return None
    return f"Debian's package {package} lacks {source.files[0].name}"


def _run(command: list[str], folder: str) -> None:
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=_DEBIAN_TIMEOUT)


def main(arguments: list[str] | None = None) -> int:
    """The command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m optbench.data.fetch", description="Fetch the files of a dataset.")
    parser.add_argument("name", help=f"one of {', '.join(SOURCES)}")
    parser.add_argument("--data-dir", default=os.environ.get("OPTBENCH_DATA", "data"), help="default: %(default)s")
    options = parser.parse_args(arguments)
    try:
        print(fetch(options.name, options.data_dir))
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

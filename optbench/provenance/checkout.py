"""The code that a sweep's jobs run: its fingerprint, the commit and the changes since, and a copy to run."""

import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from optbench import config as configuration
from optbench.config import search_path
from optbench.provenance.environment import git_commit
from optbench.store.files import StoreError, refuse_link, reporting, write_atomically

PACKAGE = Path(__file__).resolve().parents[1]
_DIFF_LIMIT = 10_000_000
_GIT_SECONDS = 20


def fingerprint() -> str:
    """A hash of the names and contents of the package's Python files and of all choices, independent of their place."""
    return _fingerprint(PACKAGE, configuration.conf_dir(), _own_choices())


def _fingerprint(package: Path, conf: Path, own: Mapping[str, Path]) -> str:
    digest = hashlib.blake2b(digest_size=8)
    for name, path in [*_files(package, conf), *own.items()]:
        content = path.read_bytes()
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _files(package: Path, conf: Path) -> Iterator[tuple[str, Path]]:
    for root, top, pattern in ((package, "optbench", "*.py"), (conf, "conf", "*.yaml")):
        for path in sorted(root.rglob(pattern)):
            yield f"{top}/{path.relative_to(root).as_posix()}", path


def _own_choices() -> dict[str, Path]:
    """The files of the user's own choices, by names such as own/0/optimizer/mine.yaml; 0 is the first of their places."""
    groups = (*configuration.GROUPS, *configuration.LIST_GROUPS, "experiment")
    return {
        f"own/{number}/{group}/{path.name}": path
        for number, place in enumerate(configuration.own_places())
        for group in groups
        for path in sorted((place.folder / group).glob("*.yaml"))
    }


def _copied() -> dict[str, Path]:
    """The files of `_own_choices` that a snapshot copies: all but those of installed packages, which come last."""
    places = range(len(search_path.folders_to_hand_on()))
    return {name: path for name, path in _own_choices().items() if int(name.split("/")[1]) in places}


def copied_choices(copy: Path) -> dict[str, str]:
    """The environment variable with the user's own choices in the ``copy`` made by `snapshot`; empty if there are none."""
    folders = [copy / "own" / str(number) for number in range(len(search_path.folders_to_hand_on()))]
    there = [str(folder) for folder in folders if folder.is_dir()]
    return {search_path.VARIABLE: os.pathsep.join(there)} if folders else {}


def record(plan_folder: str | Path) -> dict[str, Any]:
    """The entry of sweep.json about the code; in a git work tree also writes code.diff, the difference to the commit.

    fingerprint: the result of `fingerprint`.
    commit, changed: the commit of the work tree, and True if tracked files differ from it; None outside of a work tree.
    package: the folder of the package.
    code.diff names Python and YAML files that git does not track, without their content, and holds at most 10 MB.
    Raises StoreError if it cannot be written.
    """
    git = git_commit() or {"commit": None, "changed": None}
    path = Path(plan_folder) / "code.diff"
    difference = _difference() if git["commit"] else b""
    with reporting("write", path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if difference:
            write_atomically(path, difference)
        else:
            path.unlink(missing_ok=True)
    return {"fingerprint": fingerprint(), **git, "package": str(PACKAGE)}


def _difference() -> bytes:
    untracked = _git("ls-files", "--others", "--exclude-standard", "--", "*.py", "*.yaml").splitlines()
    lines = [b"# not tracked: " + name + b"\n" for name in untracked]
    content = b"".join(lines) + _git("diff", "--no-color", "--no-ext-diff", "HEAD")
    if len(content) > _DIFF_LIMIT:
        content = content[:_DIFF_LIMIT] + f"\n# cut here, at {_DIFF_LIMIT} bytes\n".encode()
    return content


def _git(*words: str) -> bytes:
    """The output of git in the work tree of the package, at most `_DIFF_LIMIT` + 1 bytes; empty if git fails."""
    command = ["git", "-C", str(PACKAGE.parent), *words]
    try:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            content = process.stdout.read(_DIFF_LIMIT + 1)
            process.stdout.close()  # git ends by itself once its output is closed
            process.wait(timeout=_GIT_SECONDS)
            return content
    except (OSError, subprocess.SubprocessError):
        return b""


def changed_since(information: Mapping[str, Any]) -> str | None:
    """A warning if this process runs other code than sweep.json recorded at submission; otherwise None."""
    recorded = information.get("code")
    recorded = recorded.get("fingerprint") if isinstance(recorded, Mapping) else None
    if recorded is None:
        return None
    now = fingerprint()
    if now == recorded:
        return None
    return (
        f"the code in {PACKAGE} has changed since the sweep was started (fingerprint {recorded} then, {now} now); "
        "these runs train with what it is now (launcher.snapshot=true keeps the code of the start)"
    )


def snapshot(plan_folder: str | Path) -> Path:
    """Copy the package, its sweeper plug-in and all choices to PLAN_FOLDER/code/FINGERPRINT, unless that exists.

    Returns that folder. To run the copy, put the folder first on PYTHONPATH, and `copied_choices` into the environment.
    Installed packages and the user's own code are not copied. Raises StoreError if it cannot be written.
    """
    folder = Path(plan_folder).absolute() / "code"
    target = folder / fingerprint()
    refuse_link(folder)
    if target.exists():
        _check_copy(target)
        return target
    temporary = folder / f".{os.getpid()}-{os.urandom(4).hex()}.tmp"
    conf, plugin = configuration.conf_dir(), PACKAGE.parent / "hydra_plugins" / "optbench_sweeper"
    no_caches = shutil.ignore_patterns("__pycache__", "*.pyc")
    with reporting("write", target):
        try:
            shutil.copytree(PACKAGE, temporary / "optbench", ignore=no_caches)
            # A wheel has conf inside the package; the copy has it in one place.
            shutil.rmtree(temporary / "optbench" / "conf", ignore_errors=True)
            shutil.copytree(conf, temporary / "conf")
            if plugin.is_dir():
                shutil.copytree(plugin, temporary / "hydra_plugins" / plugin.name, ignore=no_caches)
            own = _own_choices()
            for name, path in _copied().items():
                own[name] = temporary / name
                own[name].parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, own[name])
            # The name is the fingerprint of the copy, because the files may have been edited meanwhile.
            target = folder / _fingerprint(temporary / "optbench", temporary / "conf", own)
            try:
                temporary.rename(target)
            except OSError:
                if not target.is_dir():  # otherwise another process was faster
                    raise
                _check_copy(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def _check_copy(copy: Path) -> None:
    """Raise StoreError unless ``copy`` holds exactly what `snapshot` would copy, because jobs will run it.

    It lies in a results folder, which may come from somebody else. Compiled files are removed: Python may run them without
    checking their sources.
    """
    plugin = PACKAGE.parent / "hydra_plugins" / "optbench_sweeper"
    sources = {"optbench": PACKAGE, "conf": configuration.conf_dir(), f"hydra_plugins/{plugin.name}": plugin}
    expected = {
        f"{top}/{path.relative_to(root).as_posix()}": path
        for top, root in sources.items()
        for path in root.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".pyc"
    }
    expected = {name: path for name, path in expected.items() if not name.startswith("optbench/conf/")} | _copied()
    found = set()
    with reporting("read", copy):
        refuse_link(copy)
        for folder, folders, names in os.walk(copy):
            for name in [*folders, *names]:
                refuse_link(Path(folder) / name)
            if "__pycache__" in folders:
                shutil.rmtree(Path(folder) / "__pycache__")
                folders.remove("__pycache__")
            found |= {(Path(folder) / name).relative_to(copy).as_posix() for name in names}
        same = found == expected.keys() and all(
            (copy / name).read_bytes() == path.read_bytes() for name, path in expected.items()
        )
    if not same:
        raise StoreError(
            f"{copy} is not the copy of the package that it is named for; remove it, and a new one is made"
        )

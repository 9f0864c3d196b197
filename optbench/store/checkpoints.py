"""The checkpoints of a run: the last one and the one before it, each with a seal that names its run and proves it intact.

A checkpoint is a zip archive, as torch.save makes it; the seal is the archive's comment, so that torch.load and any zip
program read the file unchanged. The seal is JSON (run_id, step, and the size and digest of the history at that step)
between a mark and the SHA-256 of everything before it. Archives without a comment were written by earlier versions: their
parts are checked against the archive's own checksums, and their run is unknown.

What the ranks of a run divide among them is in a folder beside, such as step-120.dcp, which they write together before the
archive; the seal then holds its name and its digest. A folder that no checkpoint names is of a process that was killed.
"""

import hashlib
import io
import itertools
import json
import os
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from optbench.store.files import StoreError, read_bytes, refuse_link, reporting, sync_file, temporary_file

_MARK = b"optbench checkpoint "
_END_OF_ARCHIVE = b"PK\5\6"  # the record of 22 bytes, the last two of which are the length of the comment
_DIGITS = hashlib.sha256().digest_size * 2
_LONGEST_TAIL = 22 + (1 << 16)  # of an archive: the record, and the longest comment
_BLOCK = 1 << 20


class CheckpointRefused(StoreError):
    """The checkpoint ``path`` cannot be used. ``reason``: the predicate of a sentence about it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}")
        self.path, self.reason = path, reason


@dataclass(frozen=True)
class Seal:
    """The identity of a checkpoint, stored in it.

    run_id, step: the run, and the number of steps that it had taken.
    history_bytes, history_digest: the size of history.jsonl at that step, and its digest.
    shards, shards_digest: the folder of what the ranks divide, and its `digest`; None where they divide nothing.
    """

    run_id: str
    step: int
    history_bytes: int
    history_digest: str
    shards: str | None = None
    shards_digest: str | None = None


class Checkpoints:
    """The folder ``checkpoints`` of a run directory: last.ckpt, and while the run is not done previous.ckpt."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last = folder / "last.ckpt"
        self.previous = folder / "previous.ckpt"

    def write(self, archive: memoryview, seal: Seal) -> None:
        """Make ``archive``, a zip file without a comment, the last checkpoint; the earlier one becomes the previous.

        After a crash within, one of them is intact, under its old name or its new one. Raises `StoreError` if the file
        system refuses.
        """
        assert archive[-22:-18] == _END_OF_ARCHIVE, "not a zip archive without a comment"
        stated = {name: value for name, value in asdict(seal).items() if value is not None}
        said = _MARK + json.dumps(stated).encode()
        comment = said + b" "
        length = (len(comment) + _DIGITS).to_bytes(2, "little")
        digest = hashlib.sha256(archive[:-2])
        digest.update(length + comment)
        with reporting("write", self.last):
            if not self.folder.is_dir():
                self.folder.mkdir(parents=True, exist_ok=True)
                sync_file(self.folder.parent)
            tail = length + comment + digest.hexdigest().encode()
            with temporary_file(self.last, archive[:-2], tail) as temporary:
                if self.last.exists():
                    self.last.replace(self.previous)
                temporary.replace(self.last)
            sync_file(self.folder)
        self.remove_unused()

    def new_shards(self, step: int) -> Path:
        """The path of a folder that does not exist yet, for what ranks divide at ``step``; `remove_unused` knows its name."""
        with reporting("write", self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            names = (f"step-{step}{f'-{number}' if number else ''}.dcp" for number in itertools.count())
            return next(path for path in map(self.folder.joinpath, names) if not os.path.lexists(path))

    def remove_unused(self) -> None:
        """Remove the folders of shards to which neither checkpoint refers; all stay if a seal cannot be read."""
        with reporting("remove", self.folder):
            folders = [path for path in self.folder.glob("*.dcp") if path.is_dir() and not path.is_symlink()]
            if not folders:
                return
            seals = [_seal_at_the_end(path) for path in (self.last, self.previous) if path.exists()]
            if None in seals:
                return
            for path in folders:
                if path.name not in {seal.shards for seal in seals if seal is not None}:
                    shutil.rmtree(path)

    def set_aside(self, path: Path) -> None:
        """Rename a refused checkpoint to NAME.ckpt.refused, to make room for the next ones."""
        with reporting("rename", path):
            path.replace(path.with_name(f"{path.name}.refused"))

    def remove_previous(self) -> None:
        """Remove the checkpoint before the last, for a run that is done."""
        with reporting("remove", self.previous):
            self.previous.unlink(missing_ok=True)
        self.remove_unused()


def digest_of_file(path: Path) -> str:
    """The SHA-256 of the content of ``path``, which must not be a link. Raises OSError."""
    found = hashlib.sha256()
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        while block := file.read(_BLOCK):
            found.update(block)
    return found.hexdigest()


def digest(files: Mapping[str, str]) -> str:
    """The digest of a folder, from those of its ``files`` by name."""
    return hashlib.sha256("".join(f"{files[name]}  {name}\n" for name in sorted(files)).encode()).hexdigest()


def shards_of(path: Path, seal: Seal | None) -> Path | None:
    """The folder of shards of the checkpoint ``path`` with ``seal``; None if it has none."""
    return None if seal is None or seal.shards is None else path.with_name(Path(seal.shards).name)


def check_shards(path: Path, seal: Seal | None) -> None:
    """Raise `CheckpointRefused` unless the folder of shards of the checkpoint ``path`` is there, and is what was written.

    Raises `StoreError` if it cannot be read at the moment.
    """
    folder = shards_of(path, seal)
    if folder is None or seal is None:
        return
    refuse_link(folder)
    if not folder.is_dir():
        raise CheckpointRefused(path, f"stands on shards that are not there, {folder.name}")
    with reporting("read", folder):
        found = digest({each.name: digest_of_file(each) for each in sorted(folder.iterdir())})
    if found != seal.shards_digest:
        raise CheckpointRefused(path, f"stands on shards that are damaged, {folder.name}")


def read(path: Path, run_id: str) -> tuple[bytes, Seal | None]:
    """The archive in ``path``, and its seal, which is None for a checkpoint of an earlier version.

    Raises FileNotFoundError, `CheckpointRefused` for a file that is damaged or of another run than ``run_id``, and
    `StoreError` if it cannot be read.
    """
    try:
        with reporting("read", path):
            content = read_bytes(path)
    except StoreError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            raise FileNotFoundError(path) from error
        raise
    if not content:
        raise CheckpointRefused(path, "is empty")
    whole = content[-_DIGITS:] == hashlib.sha256(memoryview(content)[:-_DIGITS]).hexdigest().encode()
    if not whole:
        _check_unsealed(path, content)
        return content, None
    seal = _read_seal(path, content)
    if seal.run_id != run_id:
        raise CheckpointRefused(path, f"is the checkpoint of the run {seal.run_id}, not of {run_id}")
    return content, seal


def _read_seal(path: Path, content: bytes) -> Seal:
    said = content[content.rfind(_MARK) + len(_MARK) : -_DIGITS]
    try:
        return Seal(**json.loads(said))
    except (ValueError, TypeError) as error:
        raise CheckpointRefused(path, f"has a seal that cannot be read ({error})") from error


def _seal_at_the_end(path: Path) -> Seal | None:
    """The seal in the last bytes of ``path``, without a look at the rest; None for a checkpoint without one."""
    with path.open("rb") as file:
        file.seek(max(file.seek(0, os.SEEK_END) - _LONGEST_TAIL, 0))
        tail = file.read()
    try:
        return _read_seal(path, tail) if _MARK in tail else None
    except CheckpointRefused:
        return None


def _check_unsealed(path: Path, content: bytes) -> None:
    """Raise `CheckpointRefused` unless ``content`` is an intact zip archive that never had a seal."""
    # A damaged or cut seal still shows: the record before it holds the length of the comment.
    if content[-22:-18] != _END_OF_ARCHIVE or content[-2:] != b"\0\0":
        raise CheckpointRefused(path, "is damaged: it is cut, or not what was written")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            damaged = archive.testzip()
    except Exception as error:  # zipfile raises many types: struct.error, EOFError, NotImplementedError, ...
        raise CheckpointRefused(path, f"is damaged: {error}") from error
    if damaged is not None:
        raise CheckpointRefused(path, f"is damaged: {damaged} in it is not what was written")

"""The folder of what ranks divide, beside a checkpoint: its name, its digest, and when it is removed."""

import hashlib
import io
import zipfile

import pytest

from optbench.store import StoreError
from optbench.store.checkpoints import (
    CheckpointRefused,
    Checkpoints,
    Seal,
    check_shards,
    digest,
    digest_of_file,
    read,
    shards_of,
)


def archive():
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("state", b"plain values")
    return content.getbuffer()


def shards(checkpoints, step):
    folder = checkpoints.new_shards(step)
    folder.mkdir()
    for name in (".metadata", "__0_0.distcp"):
        (folder / name).write_bytes(f"{name} of {step}".encode())
    return folder


def write(checkpoints, step):
    folder = shards(checkpoints, step)
    files = {path.name: digest_of_file(path) for path in folder.iterdir()}
    checkpoints.write(archive(), Seal("run", step, 0, "", folder.name, digest(files)))
    return folder


def names(checkpoints):
    return {path.name for path in checkpoints.folder.iterdir()}


def test_folders_stay_as_long_as_a_checkpoint_names_them(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2, 3):
        write(checkpoints, step)
    assert names(checkpoints) == {"last.ckpt", "previous.ckpt", "step-2.dcp", "step-3.dcp"}
    abandoned = shards(checkpoints, 3)
    assert abandoned.name == "step-3-1.dcp"
    checkpoints.remove_unused()
    assert not abandoned.exists()
    checkpoints.remove_previous()
    assert names(checkpoints) == {"last.ckpt", "step-3.dcp"}
    checkpoints.write(archive(), Seal("run", 4, 0, ""))  # by one rank, which divides nothing
    checkpoints.write(archive(), Seal("run", 5, 0, ""))
    assert names(checkpoints) == {"last.ckpt", "previous.ckpt"}


def test_nothing_is_removed_where_a_seal_cannot_be_read(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2):
        write(checkpoints, step)
    checkpoints.last.write_bytes(checkpoints.last.read_bytes()[:40])
    checkpoints.remove_unused()
    assert {"step-1.dcp", "step-2.dcp"} <= names(checkpoints)


def test_a_seal_without_shards_is_that_of_earlier_versions(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.write(archive(), Seal("run", 1, 0, ""))
    assert b"shards" not in checkpoints.last.read_bytes()
    _, seal = read(checkpoints.last, "run")
    check_shards(checkpoints.last, seal)
    assert shards_of(checkpoints.last, seal) is None


def test_the_digest_is_that_of_sha256sum():
    files = {"b": hashlib.sha256(b"2").hexdigest(), "a": hashlib.sha256(b"1").hexdigest()}
    listed = f"{files['a']}  a\n{files['b']}  b\n"
    assert digest(files) == hashlib.sha256(listed.encode()).hexdigest()


def test_another_file_or_name_is_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    folder = write(checkpoints, 1)
    _, seal = read(checkpoints.last, "run")
    check_shards(checkpoints.last, seal)
    (folder / "__1_0.distcp").touch()
    with pytest.raises(CheckpointRefused, match=r"stands on shards that are damaged, step-1\.dcp"):
        check_shards(checkpoints.last, seal)
    (folder / "__1_0.distcp").unlink()
    (folder / "__0_0.distcp").rename(folder / "__0_1.distcp")
    with pytest.raises(CheckpointRefused, match="damaged"):
        check_shards(checkpoints.last, seal)


def test_links_are_refused(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    folder = write(checkpoints, 1)
    _, seal = read(checkpoints.last, "run")
    (folder / ".metadata").rename(tmp_path / "elsewhere")
    (folder / ".metadata").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match="symbolic link"):
        check_shards(checkpoints.last, seal)
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    with pytest.raises(StoreError, match="symbolic link"):
        check_shards(checkpoints.last, seal)

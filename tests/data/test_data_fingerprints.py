"""Fingerprints of data: the content counts and the place does not, and what of the content counts."""

import gzip
import os
import shutil

import pytest
from fixtures import idx_bytes, offline, random_images, write_idx, write_image_folder, write_parquet

from optbench.config import read_choice
from optbench.data import fingerprints
from optbench.data.locate import RemoteFile
from optbench.data.sources import SOURCES
from optbench.errors import UserError

NAMES = ["cat", "dog"]


def shards(folder, seed=0):
    for split, count in (("train", 20), ("test", 6)):
        write_parquet(folder, split, random_images(count, 4, 4, 3, seed=seed), [i % 2 for i in range(count)], NAMES)
    return folder


def of(name, data_dir, **options):
    return fingerprints.fingerprint({**read_choice("dataset", name), **options}, data_dir)[0]


def own(files=None, **options):
    """A dataset of somebody else's, whose file says that it reads ``files``, or nothing about that."""
    info = {"kind": "image", "target": "class"} | ({"files": files} if files is not None else {})
    return {"_target_": "theirs.load", "name": "theirs", "info": info, **options}


def test_the_place_of_a_folder_does_not_count(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    shards(data_dir / "toy")
    shutil.copytree(data_dir / "toy", tmp_path / "elsewhere" / "copied")
    monkeypatch.chdir(tmp_path)
    places = ["toy", str(data_dir / "toy"), "data/toy", "elsewhere/copied"]
    found = {of("huggingface", data_dir, path=path) for path in places}
    assert len(found) == 1
    assert found != {of("huggingface", data_dir, path=str(shards(tmp_path / "other", seed=1)))}


@pytest.mark.parametrize("change", ["byte", "name", "longer", "removed", "added"])
def test_whatever_is_in_the_files_counts(tmp_path, change):
    folder = tmp_path / "data"
    (folder / "below").mkdir(parents=True)
    for name in ("a.txt", "below/b.txt", "below/c.txt"):
        (folder / name).write_bytes(name.encode() * 100)
    before = fingerprints.fingerprint(own(["."]), folder)
    path = folder / "below" / "b.txt"
    if change == "byte":
        content = bytearray(path.read_bytes())
        content[500] ^= 1
        path.write_bytes(content)
    elif change == "name":
        path.rename(folder / "b.txt")
    elif change == "longer":
        path.write_bytes(path.read_bytes() + b"\0")
    elif change == "removed":
        path.unlink()
    else:
        (folder / "empty").touch()
    assert fingerprints.fingerprint(own(["."]), folder) != before


@pytest.mark.parametrize(
    "litter", [".DS_Store", ".git/HEAD", "__MACOSX/._a.txt", "Thumbs.db", "x/.ipynb_checkpoints/a"]
)
def test_what_desktops_leave_behind_does_not_count(tmp_path, litter):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.txt").write_text("data")
    before = fingerprints.fingerprint(own(), tmp_path)[0]
    (tmp_path / litter).parent.mkdir(exist_ok=True)
    (tmp_path / litter).write_text("litter")
    assert fingerprints.fingerprint(own(), tmp_path)[0] == before


def test_a_large_folder_counts_by_all_sizes_and_by_blocks(monkeypatch, tmp_path):
    monkeypatch.setattr(fingerprints, "WHOLE", 1000)
    monkeypatch.setattr(fingerprints, "BLOCKS", 5)
    monkeypatch.setattr(fingerprints, "BLOCK", 10)
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(bytes(1000))

    def with_byte(name, place, size=1000):
        content = bytearray(size)
        if place is not None:
            content[place] = 1
        (tmp_path / name).write_bytes(content)
        found = fingerprints.fingerprint(own(["."]), tmp_path)[0]
        (tmp_path / name).write_bytes(bytes(1000))
        return found

    # Blocks begin at 0, 499, 999, 1499 and 1999 of the 2,000 bytes, and lie within their file.
    unchanged = with_byte("a", None)
    for name, place in (("a", 0), ("a", 9), ("a", 499), ("a", 508), ("a", 999), ("b", 499), ("b", 999)):
        assert with_byte(name, place) != unchanged, (name, place)
    assert with_byte("a", 100) == unchanged  # as the module says
    assert with_byte("b", None, size=1001) != unchanged


def test_a_file_is_read_again_only_where_it_has_changed(monkeypatch, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("data")
    monkeypatch.setattr("optbench.system.file_cache.CLOCK_NANOSECONDS", 0)
    first = fingerprints.fingerprint(own(["a.txt"]), tmp_path)[0]
    with monkeypatch.context() as patch:
        patch.setattr(fingerprints.hashlib, "file_digest", lambda *_: pytest.fail("read again"))
        assert fingerprints.fingerprint(own(["a.txt"]), tmp_path)[0] == first
    path.write_text("longer data")
    assert fingerprints.fingerprint(own(["a.txt"]), tmp_path)[0] != first


def test_a_file_that_changes_within_a_tick_of_the_clock_is_read_again(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("data")
    first = fingerprints.fingerprint(own(["a.txt"]), tmp_path)[0]
    status = path.stat()
    path.write_text("DATA")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert fingerprints.fingerprint(own(["a.txt"]), tmp_path)[0] != first


def test_within_kept_a_folder_is_looked_at_once(monkeypatch, tmp_path):
    (tmp_path / "a.txt").write_text("data")
    looked = []
    monkeypatch.setattr(fingerprints, "_hash", lambda files: looked.append(files) or "0" * 16)
    with fingerprints.kept():
        for _ in range(3):
            fingerprints.fingerprint(own(["."]), tmp_path)
    assert len(looked) == 1
    fingerprints.fingerprint(own(["."]), tmp_path)
    assert len(looked) == 2


# ---- which files ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["digits", "text", "adding", "curves", "natpatch"])
def test_what_is_shipped_or_generated_has_none(tmp_path, name):
    (tmp_path / "a.txt").write_text("of something else")
    assert of(name, tmp_path) is None


def test_official_files_have_none(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    assert of("fashion_mnist", data_dir) is None  # whoever reads them checks them
    with pytest.raises(UserError, match=r"dataset=mnist: not found: .*must be there before it starts"):
        of("mnist", data_dir, check_hash=False)
    arrays = write_idx(data_dir / "mnist")
    unofficial = of("mnist", data_dir, check_hash=False)
    assert unofficial is not None
    # The same content, not compressed.
    for name, array in arrays.items():
        (data_dir / "mnist" / f"{name}.gz").unlink()
        (data_dir / "mnist" / name).write_bytes(idx_bytes(array))
    assert of("mnist", data_dir, check_hash=False) == unofficial
    monkeypatch.setitem(
        SOURCES,
        "mnist",
        type(SOURCES["mnist"])(
            "mnist",
            ("mnist",),
            tuple(
                RemoteFile(file.name, fingerprints.md5_of(data_dir / "mnist" / file.name), True)
                for file in SOURCES["mnist"].files
            ),
            "https://example.org/",
        ),
    )
    assert of("mnist", data_dir, check_hash=False) is None  # unchecked, but the official ones


def test_a_damaged_archive_is_named(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    write_idx(data_dir / "mnist")
    path = data_dir / "mnist" / "train-images-idx3-ubyte.gz"
    content = bytearray(path.read_bytes())
    content[200:220] = b"\xff" * 20
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz: cannot be read"):
        of("mnist", data_dir, check_hash=False)
    path.write_bytes(gzip.compress(b"")[:-4])
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte\.gz: cannot be read"):
        of("mnist", data_dir, check_hash=False)


def test_folders_of_images_count_by_class(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    pictures = random_images(4, 8, 8, 3)
    for split in ("train", "val"):
        write_image_folder(data_dir, split, {"a": [("0.png", pictures[0])], "b": [("1.png", pictures[1])]})
    before = of("imagenet", data_dir)
    (data_dir / "train" / "a" / "notes.txt").write_text("no image")
    assert of("imagenet", data_dir) == before
    (data_dir / "train" / "c").mkdir()
    assert of("imagenet", data_dir) != before  # one class more
    (data_dir / "train" / "c").rmdir()
    (data_dir / "train" / "a" / "0.png").rename(data_dir / "train" / "b" / "0.png")
    assert of("imagenet", data_dir) != before


def test_files_that_an_own_dataset_declares(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    (data_dir / "words.txt").write_text("words")
    (tmp_path / "copy.txt").write_text("words")
    (data_dir / "more").mkdir()
    (data_dir / "more" / "a").write_text("more")
    declared = own(["{file}", "more"], file="words.txt")
    found = fingerprints.fingerprint(declared, data_dir)[0]
    assert fingerprints.fingerprint({**declared, "file": str(tmp_path / "copy.txt")}, data_dir)[0] == found
    (data_dir / "other").write_text("of another dataset")
    assert fingerprints.fingerprint(declared, data_dir)[0] == found
    (data_dir / "more" / "a").write_text("MORE")
    assert fingerprints.fingerprint(declared, data_dir)[0] != found
    with pytest.raises(UserError, match=r"dataset=theirs: not found: absent\.txt.*must be there before it starts"):
        fingerprints.fingerprint({**declared, "file": "absent.txt"}, data_dir)
    with pytest.raises(UserError, match=r"info\.files: '\{fil\}' names no option"):
        fingerprints.fingerprint(own(["{fil}"], file="words.txt"), data_dir)
    assert fingerprints.fingerprint(own(["{file}"], file=None), data_dir)[0] is not None


def test_an_own_dataset_that_declares_nothing_has_all_that_it_may_read(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    (data_dir / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    dataset = own(file=str(tmp_path / "b"), kind="x" * 5000)
    found = fingerprints.fingerprint(dataset, data_dir)[0]
    (data_dir / "a").write_text("changed")
    second = fingerprints.fingerprint(dataset, data_dir)[0]
    (tmp_path / "b").write_text("changed too")
    assert len({found, second, fingerprints.fingerprint(dataset, data_dir)[0]}) == 3

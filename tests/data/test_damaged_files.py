"""Damaged files of every format: each reader reads them, or refuses them with one message that names the file."""

import random
import struct

import pytest
from fixtures import cifar_members, idx_bytes, offline, random_images, write_cifar, write_idx, write_parquet

from optbench.data import checks, cifar, huggingface, idx, ptb
from optbench.errors import UserError


def damaged(content, draw):
    """``content``, cut, overwritten in places, or nothing like it."""
    kind = draw.randrange(6)
    if kind == 0:
        return content[: draw.randrange(len(content))]
    if kind == 1:
        return draw.randbytes(draw.randrange(300))
    if kind == 2:
        return bytes(len(content))
    changed = bytearray(content)
    start = draw.choice((0, draw.randrange(len(content)), max(len(content) - 60, 0)))
    for place in range(start, min(start + draw.choice((1, 8, 50)), len(content))):
        changed[place] = draw.choice((0, 255, draw.randrange(256)))
    return bytes(changed)


def read_all(path, load, times, seed=0):
    """Damage ``path`` again and again; how often ``load`` refused it."""
    draw, whole, refused = random.Random(seed), path.read_bytes(), 0
    for _ in range(times):
        path.write_bytes(damaged(whole, draw))
        try:
            checks.check(load(), "damaged")
            continue
        except UserError as error:
            message = str(error)
        assert "\n" not in message
        refused += 1
    return refused


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx(monkeypatch, tmp_path, name, suffix):
    data_dir = offline(monkeypatch, tmp_path)
    write_idx(data_dir, suffix=suffix)
    load = lambda: idx.mnist(str(data_dir), validation=4, check_hash=False)  # noqa: E731
    assert read_all(data_dir / f"{name}{suffix}", load, 60) > 30


@pytest.mark.parametrize("how", ["archive", "folder"])
def test_cifar(monkeypatch, tmp_path, how):
    data_dir = offline(monkeypatch, tmp_path)
    members = cifar_members(10, examples=4)[0]
    if how == "archive":
        path = data_dir / "cifar-10-python.tar.gz"
        write_cifar(path, "cifar-10-batches-py", members)
    else:
        for name, content in members.items():
            (data_dir / name).write_bytes(content)
        path = data_dir / "data_batch_2"
    load = lambda: cifar.cifar10(str(data_dir), validation=4, check_hash=False)  # noqa: E731
    assert read_all(path, load, 60) > 20


def test_parquet(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    for split in ("train", "test"):
        write_parquet(data_dir / "toy", split, random_images(6, 4, 4, 3), [i % 2 for i in range(6)], ["cat", "dog"])
    path = data_dir / "toy" / "train-00000-of-00001.parquet"
    assert read_all(path, lambda: huggingface.load(str(data_dir), "toy"), 80) > 40


@pytest.mark.parametrize("shape", [(2**32 - 1,) * 3, (2**31, 2**31, 4), (2**32 - 1,) * 4, (0, 28, 28), (1,) * 200])
def test_an_idx_file_that_announces_more_than_it_holds(tmp_path, shape):
    header = struct.pack(">BBBB", 0, 0, 8, len(shape)) + struct.pack(f">{len(shape)}I", *shape)
    with pytest.raises(UserError, match=r"^file: (announces|holds 5 values)"):
        idx.parse(header + bytes(5), "file")


def test_a_pickle_that_announces_more_objects_than_it_holds():
    with pytest.raises(UserError, match="file: not a CIFAR file: announces 4294967295 objects"):
        cifar.unpickle(b"\x80\x02}r\xff\xff\xff\xff.", "file")


def test_a_member_of_an_archive_that_announces_more_than_there_may_be(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    members = cifar_members(10, examples=4)[0]
    write_cifar(data_dir / "cifar-10-python.tar.gz", "cifar-10-batches-py", members)
    monkeypatch.setattr(cifar, "_LARGEST", 1000)
    with pytest.raises(UserError, match=r"data_batch_1: announces \d+ bytes; accepted: at most 1000"):
        cifar.cifar10(str(data_dir), validation=4, check_hash=False)


def test_an_empty_text(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    for name in ("train", "valid", "test"):
        (data_dir / f"ptb.{name}.txt").write_text("" if name == "valid" else "a b c a b c\n" * 30)
    with pytest.raises(UserError, match="the validation part has 0 tokens; needs two"):
        ptb.load(str(data_dir), check_hash=False)


def test_an_empty_training_set(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    write_idx(data_dir, train=0, suffix="")
    assert (data_dir / "train-labels-idx1-ubyte").read_bytes() == idx_bytes(random_images(0))
    with pytest.raises(UserError, match="the training set has 0 examples"):
        idx.mnist(str(data_dir), check_hash=False)

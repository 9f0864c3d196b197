import pickle

import numpy as np
import pytest
from fixtures import cifar_members, offline, python2_pickle, write_cifar

from optbench.data import cifar
from optbench.data.spec import DataSpec
from optbench.data.splits import fixed_permutation
from optbench.errors import UserError

CASES = {10: (cifar.cifar10, cifar.CIFAR10), 100: (cifar.cifar100, cifar.CIFAR100)}


def write(data_dir, classes, how="archive", members=None):
    layout = CASES[classes][1]
    members = members or cifar_members(classes)[0]
    if how == "archive":
        write_cifar(data_dir / layout.archive.files[0].name, layout.folder, members)
    else:
        (data_dir / layout.folder).mkdir(parents=True)
        for name, content in members.items():
            (data_dir / layout.folder / name).write_bytes(content)


@pytest.mark.parametrize("classes", [10, 100])
@pytest.mark.parametrize("how", ["archive", "folder"])
def test_reads_what_python2_wrote(monkeypatch, tmp_path, classes, how):
    data_dir = offline(monkeypatch, tmp_path)
    write(data_dir, classes, how)
    _, arrays = cifar_members(classes)
    raw = CASES[classes][0](str(data_dir), validation=6, check_hash=False)
    assert raw.spec == DataSpec("image", (3, 32, 32), classes)
    assert raw.class_names == [f"class {i}" for i in range(classes)]
    names = [name for name in arrays if "test" not in name]
    order = fixed_permutation(20 * len(names)).numpy()
    pixels = np.concatenate([arrays[name][0] for name in names])[order]
    labels = np.concatenate([arrays[name][1] for name in names])[order]
    np.testing.assert_array_equal(np.concatenate((raw.train.targets, raw.validation.targets)), labels)
    for example in (0, 13):
        for channel, row, column in ((0, 0, 0), (1, 2, 3), (2, 31, 30)):
            flat = 1024 * channel + 32 * row + column  # planes of red, green, blue, each row by row
            assert raw.train.inputs[example, channel, row, column] == pixels[example, flat]
    test = arrays["test_batch" if classes == 10 else "test"]
    np.testing.assert_array_equal(raw.test.inputs.flatten(1).numpy(), test[0])
    assert raw.test.targets.tolist() == test[1]


def test_fixture_is_what_pickle_reads_as_python2():
    # The hand-made opcodes, held against the standard unpickler.
    members, arrays = cifar_members(10)
    batch = pickle.loads(members["test_batch"], encoding="bytes")
    np.testing.assert_array_equal(batch[b"data"], arrays["test_batch"][0])
    assert batch[b"labels"] == arrays["test_batch"][1]


def test_reads_what_python3_wrote():
    data = np.arange(6144, dtype=np.int64).astype(np.uint8).reshape(2, 3072)
    batch = cifar.unpickle(pickle.dumps({"labels": [1, 2], "data": data}, protocol=4), "file")
    assert batch["labels"] == [1, 2]
    np.testing.assert_array_equal(batch["data"], data)


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("how", ["archive", "folder"])
def test_a_pickle_that_runs_code_is_refused(monkeypatch, tmp_path, how):
    data_dir = offline(monkeypatch, tmp_path)
    trace = tmp_path / "trace"
    members, _ = cifar_members(10)
    members["data_batch_3"] = pickle.dumps({"data": Malicious(trace)}, protocol=2)
    write(data_dir, 10, how, members)
    with pytest.raises(
        UserError, match=r"data_batch_3: not a CIFAR file: refusing to load (_?io|__builtin__|builtins)\.open"
    ):
        cifar.cifar10(str(data_dir), validation=6, check_hash=False)
    assert not trace.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"cos\nsystem\n(S'true'\ntR.", r"refusing to load os\.system"),
        (b"cnumpy.core.multiarray\nscalar\n.", r"refusing to load numpy\.core\.multiarray\.scalar"),
        (b"garbage", "not a CIFAR file"),
        (b"", "not a CIFAR file"),
        (python2_pickle([1, 2]), "it holds a list, not a dict"),
    ],
)
def test_not_a_batch(content, message):
    with pytest.raises(UserError, match=f"^file: .*{message}"):
        cifar.unpickle(content, "file")


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ({"labels": [1]}, "`data` is not uint8"),
        ({"labels": [1], "data": np.zeros((1, 3071), np.uint8)}, "`data` is not uint8"),
        ({"labels": [1], "data": np.zeros((2, 3072), np.uint8)}, "`labels` is not a list of 2 classes"),
        ({"labels": [10], "data": np.zeros((1, 3072), np.uint8)}, r"must be in 0 \.\. 9"),
    ],
)
def test_wrong_contents(monkeypatch, tmp_path, batch, message):
    data_dir = offline(monkeypatch, tmp_path)
    members, _ = cifar_members(10)
    write(data_dir, 10, members=members | {"test_batch": python2_pickle(batch)})
    with pytest.raises(UserError, match=f"test_batch: not a CIFAR batch: .*{message}"):
        cifar.cifar10(str(data_dir), validation=6, check_hash=False)


@pytest.mark.parametrize(("how", "name"), [("archive", r"cifar-10-python\.tar\.gz"), ("folder", "data_batch_1")])
def test_files_that_are_not_official_are_refused(monkeypatch, tmp_path, how, name):
    data_dir = offline(monkeypatch, tmp_path)
    write(data_dir, 10, how)
    with pytest.raises(UserError, match=f"not the official {name}: its md5 is .*, expected c"):
        cifar.cifar10(str(data_dir), validation=6)


def test_incomplete_archive(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    members, _ = cifar_members(10)
    del members["data_batch_2"]
    write(data_dir, 10, members=members)
    with pytest.raises(UserError, match="lacks data_batch_2 in cifar-10-batches-py/"):
        cifar.cifar10(str(data_dir), validation=6, check_hash=False)


def test_damaged_archive(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    write(data_dir, 10)
    path = data_dir / "cifar-10-python.tar.gz"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"cifar-10-python\.tar\.gz: cannot be read"):
        cifar.cifar10(str(data_dir), validation=6, check_hash=False)


def test_missing(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    with pytest.raises(
        UserError, match=r"dataset=cifar100: not found: cifar-100-python.tar.gz; looked in .*cs\.toronto\.edu"
    ):
        cifar.cifar100(str(data_dir))

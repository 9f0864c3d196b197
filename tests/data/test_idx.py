import os
from pathlib import Path

import numpy as np
import pytest
import torch
from fixtures import idx_bytes, offline, write_idx

from optbench.data import idx, locate
from optbench.data.spec import DataSpec
from optbench.data.splits import fixed_permutation
from optbench.errors import UserError

LOADS = [(idx.fashion_mnist, "fashion-mnist"), (idx.mnist, "mnist")]


@pytest.mark.parametrize(("load", "folder"), LOADS)
@pytest.mark.parametrize("suffix", [".gz", ""])
def test_reads_the_format(monkeypatch, tmp_path, load, folder, suffix):
    data_dir = offline(monkeypatch, tmp_path)
    arrays = write_idx(data_dir / folder, suffix=suffix)
    raw = load(str(data_dir), validation=5, check_hash=False)
    assert raw.spec == DataSpec("image", (1, 28, 28), 10)
    assert len(raw.class_names) == 10
    order = fixed_permutation(40).numpy()
    images, labels = arrays["train-images-idx3-ubyte"], arrays["train-labels-idx1-ubyte"]
    for split, rows in ((raw.train, order[:35]), (raw.validation, order[35:])):
        assert split.inputs.dtype == torch.uint8
        np.testing.assert_array_equal(split.inputs[:, 0].numpy(), images[rows])
        assert split.targets.dtype == torch.int64
        np.testing.assert_array_equal(split.targets.numpy(), labels[rows])
    np.testing.assert_array_equal(raw.test.inputs[:, 0].numpy(), arrays["t10k-images-idx3-ubyte"])


def test_train_limit(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    write_idx(data_dir)
    whole, limited = (idx.mnist(str(data_dir), 5, limit, check_hash=False) for limit in (None, 7))
    assert len(limited.train) == 7
    assert torch.equal(limited.train.inputs, whole.train.inputs[:7])
    assert torch.equal(limited.validation.inputs, whole.validation.inputs)


def test_files_that_are_not_official_are_refused(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    write_idx(data_dir)
    with pytest.raises(UserError, match=r"not the official train-images-idx3-ubyte: .* expected f4a8712d7a06"):
        idx.fashion_mnist(str(data_dir), validation=5)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file of unsigned bytes: it starts with nothing"),
        (b"PNG!" + bytes(20), "not an IDX file of unsigned bytes: it starts with 50 4e 47 21"),
        (b"\x00\x00\x0d\x01" + bytes(8), "not an IDX file of unsigned bytes"),
        (b"\x00\x00\x08\x03" + bytes(8), "ends within its header"),
        (idx_bytes(np.zeros((2, 3), np.uint8))[:-1], r"holds 5 values, but its header announces \(2, 3\)"),
    ],
)
def test_not_idx(content, message):
    with pytest.raises(UserError, match=f"somewhere: {message}"):
        idx.parse(content, Path("somewhere"))


def test_images_and_labels_must_match(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    write_idx(data_dir, suffix="")
    (data_dir / "t10k-labels-idx1-ubyte").write_bytes(idx_bytes(np.zeros(9, np.uint8)))
    with pytest.raises(UserError, match=r"\(10, 28, 28\) do not match labels of shape \(9,\)"):
        idx.mnist(str(data_dir), 5, check_hash=False)


DATA_DIR = os.environ.get("OPTBENCH_DATA", str(Path(__file__).parents[2] / "data"))


@pytest.mark.skipif(locate.find(idx.FASHION_MNIST, DATA_DIR) is None, reason="Fashion-MNIST is not in the data folder")
def test_real_fashion_mnist():
    raw = idx.fashion_mnist(DATA_DIR)  # checks the hashes of the four files
    assert [len(split) for split in (raw.train, raw.validation, raw.test)] == [55000, 5000, 10000]
    together = torch.cat((raw.train.targets, raw.validation.targets))
    assert together.bincount().tolist() == [6000] * 10
    assert raw.test.targets.bincount().tolist() == [1000] * 10
    # The published constants are those of all 60,000 images, to four digits.
    counts = sum(split.inputs.flatten().bincount(minlength=256) for split in (raw.train, raw.validation)).numpy()
    mean = np.average(np.arange(256) / 255, weights=counts)
    variance = np.average((np.arange(256) / 255 - mean) ** 2, weights=counts)
    assert raw.mean[0] == pytest.approx(mean, abs=5e-5)
    assert raw.std[0] == pytest.approx(variance**0.5, abs=5e-5)

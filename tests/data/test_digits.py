import numpy as np
import pytest
import torch

from optbench.data import digits
from optbench.data.spec import DataSpec
from optbench.data.splits import fixed_permutation


def test_sizes():
    raw = digits.load("nowhere")
    assert [len(split) for split in (raw.train, raw.validation, raw.test)] == [1293, 144, 360]
    assert raw.spec == DataSpec("image", (1, 8, 8), 10)
    assert raw.train.inputs.dtype == torch.uint8
    together = torch.cat((raw.train.targets, raw.validation.targets, raw.test.targets))
    assert together.bincount().tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_same_as_scikit_learn():
    datasets = pytest.importorskip("sklearn.datasets")
    official = datasets.load_digits()
    raw = digits.load("nowhere")
    test = fixed_permutation(1797)[-360:].numpy()
    # 0 .. 16 to 0 .. 255: the nearest integer, halves (8 -> 127.5) to the even one.
    np.testing.assert_array_equal(
        raw.test.inputs[:, 0].numpy(),
        np.array([round(v * 15.9375) for v in range(17)])[official.images[test].astype(int)],
    )
    np.testing.assert_array_equal(raw.test.targets.numpy(), official.target[test])


def test_test_set_does_not_depend_on_options():
    one, other = digits.load("nowhere"), digits.load("nowhere", validation=500, train_limit=10)
    assert torch.equal(one.test.inputs, other.test.inputs)
    assert (len(other.train), len(other.validation)) == (10, 500)


def test_credit_and_licence_are_shipped():
    assert "CC BY 4.0" in digits.FILE.with_suffix(".txt").read_text()

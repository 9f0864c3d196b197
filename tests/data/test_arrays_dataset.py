"""dataset=arrays against NumPy by hand, and what it refuses by name."""

import numpy as np
import pytest
import torch

from optbench import randomness
from optbench.data import arrays, npz
from optbench.data.source import BatchSource
from optbench.data.spec import DataSpec
from optbench.data.splits import fixed_permutation
from optbench.errors import UserError


def write(tmp_path, name="mine.npz", **stored):
    np.savez(tmp_path / name, **stored)
    return tmp_path / name


def vectors(count=40, width=3, seed=0, dtype=np.float64):
    generator = np.random.default_rng(seed)
    return generator.normal(size=(count, width)).astype(dtype) * 7 + 3, generator.integers(0, 3, count)


def load(path, **options):
    return arrays.load("nowhere", str(path), **options)


def by_hand(count, test=None, validation=None):
    """The examples of (train, validation, test) by the permutations that never change."""
    test = test or max(count // 10, 1)
    first = fixed_permutation(count).numpy()
    validation = validation or max((count - test) // 10, 1)
    second = fixed_permutation(count - test).numpy()
    return first[:-test][second[:-validation]], first[:-test][second[-validation:]], first[-test:]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_vectors_are_normalized_by_the_training_examples(tmp_path, dtype):
    x, y = vectors(dtype=dtype)
    x[:, 1] = 5  # a column of one value is divided by 1
    raw = load(write(tmp_path, x=x, y=y))
    rows = by_hand(40)
    mean, std = x[rows[0]].astype(np.float64).mean(0), x[rows[0]].astype(np.float64).std(0)
    std[1] = 1
    for split, chosen in zip((raw.train, raw.validation, raw.test), rows, strict=True):
        assert split.inputs.numpy().dtype == dtype
        np.testing.assert_allclose(
            split.inputs.numpy(), (x[chosen] - mean) / std, atol=1e-6 if dtype == np.float32 else 1e-14
        )
        np.testing.assert_array_equal(split.targets.numpy(), y[chosen])
    assert raw.spec == DataSpec("table", (3,), 3)
    np.testing.assert_array_equal(load(tmp_path / "mine.npz", normalize=False).train.inputs.numpy(), x[rows[0]])


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("X_train", "Y_train", "X_test", "Y_test"),
        ("train_x", "train_y", "test_x", "test_y"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("train_images", "train_labels", "val_images", "val_labels"),
        ("x", "y", "x_test", "y_test"),
        ("features", "targets", "test-features", "test-targets"),
    ],
)
def test_the_usual_names_are_found(tmp_path, names):
    (x, y), (a, b) = vectors(), vectors(10, seed=1)
    path = write(
        tmp_path, **dict(zip(names, (x, y[:, None], a, b), strict=True)), class_names=np.array(["p", "q", "r"])
    )
    raw = load(path, normalize=False)
    assert [len(split) for split in (raw.train, raw.validation, raw.test)] == [36, 4, 10]
    np.testing.assert_array_equal(raw.test.inputs.numpy(), a)
    np.testing.assert_array_equal(raw.test.targets.numpy(), b)


def test_three_splits_of_its_own(tmp_path):
    parts = {f"{what}_{split}": values for split, seed in (("train", 0), ("val", 1), ("test", 2))
             for what, values in zip("xy", vectors(20 + seed, seed=seed), strict=True)}  # fmt: skip
    raw = load(write(tmp_path, **parts), normalize=False)
    np.testing.assert_array_equal(raw.train.inputs.numpy(), parts["x_train"][fixed_permutation(20).numpy()])
    np.testing.assert_array_equal(raw.validation.inputs.numpy(), parts["x_val"])
    np.testing.assert_array_equal(raw.test.targets.numpy(), parts["y_test"])


@pytest.mark.parametrize("layout", ["NHW", "NHWC", "NCHW"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float32])
def test_images_of_bytes_and_of_floating_point(tmp_path, layout, dtype):
    channels = 1 if layout == "NHW" else 3
    pixels = np.random.default_rng(0).integers(0, 256, (40, channels, 5, 4)).astype(dtype)
    if dtype == np.float32:
        pixels = pixels / np.float32(17) - 3
    stored = {"NHW": pixels[:, 0], "NHWC": pixels.transpose(0, 2, 3, 1), "NCHW": pixels}[layout]
    raw = load(write(tmp_path, x_train=stored, y_train=np.arange(40) % 2), layout=layout)
    assert raw.spec == DataSpec("image", (channels, 5, 4), 2)
    assert raw.train.inputs.dtype == (torch.float32 if dtype == np.float32 else torch.uint8)
    train = by_hand(40)[0]
    np.testing.assert_array_equal(raw.train.inputs.numpy(), pixels[train])
    # What a model gets, from a source in float64.
    source = BatchSource(raw, seed=0, dtype=torch.float64)
    values = pixels.astype(np.float64)
    mean, std = values[train].mean((0, 2, 3)), values[train].std((0, 2, 3))
    expected = (values[by_hand(40)[2]] - mean[:, None, None]) / std[:, None, None]
    for _ in range(2):  # and the second time the same
        [(inputs, _)] = source.evaluation("test", 100)
        np.testing.assert_allclose(inputs.numpy(), expected, atol=1e-12)
    index = randomness.permutation(0, "order", 0, source.examples)[:6]
    batch = (values[train][index.numpy()] - mean[:, None, None]) / std[:, None, None]
    np.testing.assert_allclose(source.batch(0, 0, 6)[0].numpy(), batch, atol=1e-12)


def test_integers_beyond_bytes_are_no_bytes(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 4096, (20, 4, 4)).astype(np.uint16)
    raw = load(write(tmp_path, x=pixels, y=np.arange(20) % 2), layout="NHW")
    assert raw.train.inputs.dtype == torch.float32
    np.testing.assert_array_equal(raw.test.inputs[:, 0].numpy(), pixels[by_hand(20)[2]])


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (np.array([7, 3, 3, 7] * 10, np.uint8), ["3", "7"]),
        (np.array(["no", "yes", "a", "yes"] * 10), ["a", "no", "yes"]),
        (np.array([b"u", b"v"] * 20), ["u", "v"]),
        (np.array([True, False] * 20), ["False", "True"]),
        (np.array([2.0, -1.0] * 20), ["-1", "2"]),
    ],
)
def test_labels_of_any_type_are_numbered_in_their_order(tmp_path, labels, names):
    raw = load(write(tmp_path, x=vectors()[0], y=labels))
    assert raw.class_names == names
    for split, rows in zip((raw.train, raw.validation, raw.test), by_hand(40), strict=True):
        texts = [
            value.decode() if isinstance(value, bytes) else str(value).removesuffix(".0")
            for value in labels[rows].tolist()
        ]
        assert [names[target] for target in split.targets.tolist()] == texts


@pytest.mark.parametrize("outputs", [None, 2])
def test_regression(tmp_path, outputs):
    x = vectors()[0]
    y = np.random.default_rng(1).normal(size=(40,) if outputs is None else (40, outputs)) * 1000 + 5
    raw = load(write(tmp_path, x=x, y=y), task="regression")
    assert raw.spec == DataSpec("table", (3,), outputs or 1, "real")
    train, _, test = by_hand(40)
    columns = y.reshape(40, -1)
    expected = (columns[test] - columns[train].mean(0)) / columns[train].std(0)
    np.testing.assert_allclose(raw.test.targets.numpy(), expected, atol=1e-13)
    plain = load(tmp_path / "mine.npz", task="regression", normalize_targets=False)
    np.testing.assert_array_equal(plain.test.targets.numpy(), columns[test])


def test_an_autoencoder_takes_floating_point_images_in_the_unit_interval_only(tmp_path):
    pixels = np.random.default_rng(0).random((20, 4, 4))
    raw = load(write(tmp_path, x=pixels, y=np.arange(20) % 2), layout="NHW")
    inputs, targets = BatchSource(raw, seed=0, reconstruct=True, dtype=torch.float64).batch(0, 0, 4)
    assert torch.equal(inputs.flatten(1), targets)
    raw = load(write(tmp_path, x=pixels * 2, y=np.arange(20) % 2), layout="NHW")
    with pytest.raises(UserError, match=r"reconstructs values in \[0, 1\], and the images of the \w+ split have "):
        BatchSource(raw, seed=0, reconstruct=True)


# ---- what is refused ------------------------------------------------------------------------------------------------------

X, Y = vectors()
WITH_NAN = X.copy()
WITH_NAN[5, 1] = np.nan
INFINITE = X.copy()
INFINITE[7, 2] = -np.inf


@pytest.mark.parametrize(
    ("stored", "options", "message"),
    [
        (
            {"x_train": X},
            {},
            r"mine\.npz: has no targets of the train split; its arrays: x_train; accepted: names such as",
        ),
        ({"a": X, "b": Y}, {}, r"has no inputs of the train split; its arrays: a, b"),
        ({"x_test": X, "y_test": Y}, {}, r"has no training split; its arrays: x_test, y_test"),
        ({"x": X, "x_train": X, "y": Y}, {}, r"x and x_train are both the inputs of the train split"),
        ({"x": X, "y": Y[:-1]}, {}, r"x has 40 examples and y has 39; must be as many"),
        ({"x": X[:0], "y": Y[:0]}, {}, r"x is empty"),
        ({"x": X, "y": Y, "x_test": X[:, :2], "y_test": Y}, {}, r"x_test has the shape \(40, 2\), and x has \(40, 3\)"),
        ({"x": X.astype(object), "y": Y}, {}, r"x holds Python objects, which are never loaded; accepted: integers"),
        ({"x": X, "y": Y.astype(object)}, {}, r"y holds Python objects, which are never loaded"),
        ({"x": X.astype(complex), "y": Y}, {}, r"x holds the type complex128"),
        ({"x": WITH_NAN, "y": Y}, {}, r"mine\.npz: x: row 5 has nan; accepted: finite numbers"),
        ({"x": INFINITE, "y": Y}, {}, r"x: row 7 has -inf"),
        (
            {"x": X, "y": np.eye(3)[Y]},
            {},
            r"y has the shape \(40, 3\); accepted: \(N,\) or \(N, 1\); of one-hot vectors",
        ),
        ({"x": X, "y": X[:, 0]}, {}, r"y: row 0: .* is no class; accepted: whole numbers.*dataset\.task=regression"),
        ({"x": X, "y": WITH_NAN[:, 1]}, {"task": "regression"}, r"y: row 5 has nan"),
        ({"x": X, "y": np.zeros(40, int)}, {}, r"y: row 0: all labels are 0; accepted: two classes or more"),
        ({"x": X, "y": Y, "x_test": X, "y_test": Y + 1}, {}, r"y_test: row \d+: the label 3 is not among .*: 0, 1, 2$"),
        (
            {"x": X, "y": Y, "x_test": X, "y_test": Y.astype(str)},
            {},
            r"y_test: row 0: .* is not of the type of the training",
        ),
        (
            {"x": X[:, :, None], "y": Y},
            {},
            r"shape \(40, 3, 1\), and dataset\.layout=vectors .*dataset\.layout=NHW for",
        ),
        (
            {"x": X, "y": Y},
            {"layout": "NHWC"},
            r"dataset\.layout=NHWC is for \(N, H, W, C\); accepted: dataset\.layout=vectors",
        ),
        ({"x": X, "y": Y}, {"test": 40}, r"dataset\.test=40: must be in 1 \.\. 39, there are 40 examples"),
        ({"x": X, "y": Y}, {"test": 10, "validation": 30}, r"dataset\.validation=30: must be in 1 \.\. 29"),
    ],
)
def test_what_is_refused_by_name(tmp_path, stored, options, message):
    path = write(tmp_path, **stored)
    with pytest.raises(UserError, match=message) as caught:
        load(path, **options)
    assert "\n" not in str(caught.value)


def test_hundreds_of_labels_that_hardly_repeat_are_no_classes(tmp_path):
    with pytest.raises(
        UserError, match=r"300 different labels in 300 examples are no classes; dataset\.task=regression"
    ):
        load(write(tmp_path, x=vectors(300)[0], y=np.arange(300)))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and no more", b"\x93NUMPY", b"\x80\x04pickle"])
def test_what_is_no_npz(tmp_path, content):
    (tmp_path / "mine.npz").write_bytes(content)
    with pytest.raises(UserError, match=r"mine\.npz: is no \.npz file that can be read: "):
        load(tmp_path / "mine.npz")


def test_a_damaged_array_is_named(tmp_path):
    path = write(tmp_path, x=np.tile(X, (1000, 1)), y=np.tile(Y, 1000))  # larger than what is read with its header
    content = bytearray(path.read_bytes())
    content[300_000:300_040] = b"\xff" * 40  # within the numbers of x
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"mine\.npz: x cannot be read: "):
        load(path)


def test_a_header_is_read_without_its_array(tmp_path):
    found = npz.inspect(write(tmp_path, x=X, y=Y), "vectors", False)
    assert found["train"].inputs == npz.Stored("x", (40, 3), np.dtype("float64"))
    assert found["train"].inputs.nbytes == X.nbytes


def test_other_files_are_refused_by_their_name(tmp_path):
    (tmp_path / "mine.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"mine\.npy is no such file; accepted: a file that ends in \.npz"):
        load(tmp_path / "mine.npy")

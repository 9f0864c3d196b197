import numpy as np
import pytest
from fixtures import offline, random_images, write_parquet

from optbench.data import huggingface
from optbench.data.spec import DataSpec
from optbench.data.splits import fixed_permutation
from optbench.errors import UserError

NAMES = ["cat", "dog", "fox"]


def write(folder, train, test, train_shards=1, test_split="test", **columns):
    labels = [[i % 3 for i in range(len(images))] for images in (train, test)]
    write_parquet(folder, "train", train, labels[0], NAMES, train_shards, **columns)
    write_parquet(folder, test_split, test, labels[1], NAMES, **columns)
    return labels


@pytest.mark.parametrize("below", ["toy", "toy/plain_text"])
@pytest.mark.parametrize(("image", "label"), [("img", "label"), ("image", "fine_label")])
def test_reads_shards(monkeypatch, tmp_path, below, image, label):
    data_dir = offline(monkeypatch, tmp_path)
    train, test = random_images(21, 6, 5, 3), random_images(6, 6, 5, 3, seed=1)
    labels = write(data_dir / below, train, test, train_shards=3, image=image, label=label)
    raw = huggingface.load(str(data_dir), path="toy")
    assert raw.spec == DataSpec("image", (3, 6, 5), 3)
    assert raw.class_names == NAMES
    assert [len(split) for split in (raw.train, raw.validation, raw.test)] == [19, 2, 6]
    order = fixed_permutation(21).numpy()
    np.testing.assert_array_equal(raw.train.inputs.numpy(), train.transpose(0, 3, 1, 2)[order[:-2]])
    np.testing.assert_array_equal(raw.validation.targets.numpy(), np.array(labels[0])[order[-2:]])
    np.testing.assert_array_equal(raw.test.inputs.numpy(), test.transpose(0, 3, 1, 2))
    np.testing.assert_allclose(raw.mean, (train[order[:-2]] / 255).mean(axis=(0, 1, 2)))
    np.testing.assert_allclose(raw.std, (train[order[:-2]] / 255).std(axis=(0, 1, 2)))


def test_absolute_path_and_options(monkeypatch, tmp_path):
    offline(monkeypatch, tmp_path)
    folder = tmp_path / "elsewhere"
    write(folder, random_images(20, 4, 4, 3), random_images(5, 4, 4, 3), image="picture", label="kind")
    raw = huggingface.load("data", str(folder), "picture", "kind", validation=8, train_limit=3)
    assert [len(split) for split in (raw.train, raw.validation, raw.test)] == [3, 8, 5]


def test_grey_images_have_one_channel(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    train, test = random_images(20, 4, 4), random_images(5, 4, 4)
    write(data_dir / "toy", train, test)
    raw = huggingface.load(str(data_dir), "toy")
    np.testing.assert_array_equal(raw.test.inputs[:, 0].numpy(), test)


def test_grey_among_colour_becomes_colour(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    train = random_images(20, 4, 4, 3)
    grey = random_images(5, 4, 4)
    write(data_dir / "toy", train, grey)
    raw = huggingface.load(str(data_dir), "toy")
    np.testing.assert_array_equal(raw.test.inputs.numpy(), np.repeat(grey[:, None], 3, axis=1))


def test_sizes_must_agree_unless_resized(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    train = [np.full((4 + i, 6, 3), 10 * i, np.uint8) for i in range(10)]
    write(data_dir / "toy", train, train[:3])
    with pytest.raises(UserError, match=r"dataset\.resize=null: the images have 10 sizes.*dataset\.resize=32"):
        huggingface.load(str(data_dir), "toy")
    raw = huggingface.load(str(data_dir), "toy", resize=8)
    assert raw.spec.shape == (3, 8, 8)
    # An image of one colour keeps it.
    assert raw.test.inputs[2].unique().tolist() == [20]


def test_validation_shards_serve_as_test(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    write(data_dir / "toy", random_images(20, 4, 4, 3), random_images(5, 4, 4, 3), test_split="validation")
    assert len(huggingface.load(str(data_dir), "toy").test) == 5


def test_missing_path(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    with pytest.raises(UserError, match=r"dataset\.path=null: must be the folder"):
        huggingface.load(str(data_dir))
    with pytest.raises(UserError) as caught:
        huggingface.load(str(data_dir), "toy")
    for part in ("dataset.path=toy", "train-*-of-*.parquet", str(data_dir / "toy"), "digits, text"):
        assert part in str(caught.value)


def test_wrong_column(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    write(data_dir / "toy", random_images(20, 4, 4, 3), random_images(5, 4, 4, 3), image="picture")
    with pytest.raises(UserError, match=r"dataset\.image_column=null: not a column of .*; accepted: picture, label"):
        huggingface.load(str(data_dir), "toy")
    with pytest.raises(UserError, match=r"dataset\.label_column=class: not a column"):
        huggingface.load(str(data_dir), "toy", "picture", "class")


def test_missing_shard(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    write(data_dir / "toy", random_images(20, 4, 4, 3), random_images(5, 4, 4, 3), train_shards=3)
    (data_dir / "toy" / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(UserError, match="2 of the 3 shards such as train-00000-of-00003"):
        huggingface.load(str(data_dir), "toy")


def test_unlabelled_test_set(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    write_parquet(data_dir / "toy", "train", random_images(20, 4, 4, 3), [i % 3 for i in range(20)], NAMES)
    write_parquet(data_dir / "toy", "test", random_images(5, 4, 4, 3), [-1] * 5, NAMES)
    with pytest.raises(UserError, match=r"labels must be in 0 \.\. 2; is this split unlabelled"):
        huggingface.load(str(data_dir), "toy")


def test_not_parquet(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    (data_dir / "toy").mkdir()
    for split in ("train", "test"):
        (data_dir / "toy" / f"{split}-00000-of-00001.parquet").write_bytes(
            b"version https://git-lfs.github.com/spec/v1"
        )
    with pytest.raises(UserError, match="toy: cannot be read"):
        huggingface.load(str(data_dir), "toy")

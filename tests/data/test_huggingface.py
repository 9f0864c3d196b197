import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from fixtures import offline, png, random_images, write_parquet

from optbench.data import huggingface
from optbench.data.source import BatchSource
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
    with pytest.raises(
        UserError, match=r"every label of test-.* is -1: this split is unlabelled.*accepted: shards with labels"
    ):
        huggingface.load(str(data_dir), "toy")


def test_not_parquet(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    (data_dir / "toy").mkdir()
    for split in ("train", "test"):
        (data_dir / "toy" / f"{split}-00000-of-00001.parquet").write_bytes(
            b"version https://git-lfs.github.com/spec/v1"
        )
    with pytest.raises(UserError, match=r"train-00000-of-00001\.parquet: cannot be read"):
        huggingface.load(str(data_dir), "toy")


def test_another_folder_is_never_taken_for_the_one_that_is_asked_for(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    write(data_dir / "others", random_images(20, 4, 4, 3), random_images(5, 4, 4, 3))
    with pytest.raises(UserError, match=r"dataset\.path=toy: not found"):
        huggingface.load(str(data_dir), "toy")


def test_shards_may_differ_in_what_is_not_needed(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    images = random_images(8, 4, 4, 3)
    write(data_dir / "toy", images, images)
    expected = huggingface.load(str(data_dir), "toy")
    encoded = [png(image) for image in images]
    columns = [
        {
            "label": pa.array([0, 1, 2, 0], pa.uint8()),
            "img": pa.array(encoded[:4], pa.large_binary()),
            "id": [0, 1, 2, 3],
        },
        {"img": [{"bytes": content} for content in encoded[4:]], "label": pa.array([1, 2, 0, 1], pa.int32())},
    ]
    (data_dir / "toy" / "train-00000-of-00001.parquet").unlink()
    for number, shard in enumerate(columns):
        pq.write_table(pa.table(shard), data_dir / "toy" / f"train-{number:05d}-of-00002.parquet")
    raw = huggingface.load(str(data_dir), "toy")
    assert torch.equal(raw.train.inputs, expected.train.inputs)
    assert torch.equal(raw.train.targets, expected.train.targets)
    assert raw.class_names == NAMES  # which the test split still names


def test_a_row_that_is_no_image_is_named_by_shard_and_row(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    write(data_dir / "toy", random_images(9, 4, 4, 3), random_images(3, 4, 4, 3), train_shards=3)
    path = data_dir / "toy" / "train-00001-of-00003.parquet"
    table = pq.read_table(path)
    rows = table.column("img").to_pylist()
    rows[2]["bytes"] = rows[2]["bytes"][:40]
    pq.write_table(table.set_column(0, table.schema.field("img"), pa.array(rows, table.schema.field("img").type)), path)
    with pytest.raises(UserError, match=r"train-00001-of-00003\.parquet: row 2: is not an image that can be read: "):
        huggingface.load(str(data_dir), "toy")


def test_splits_must_name_the_same_classes(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    images = random_images(9, 4, 4, 3)
    write_parquet(data_dir / "toy", "train", images, [i % 3 for i in range(9)], NAMES)
    write_parquet(data_dir / "toy", "test", images, [i % 3 for i in range(9)], ["cat", "fox", "dog"])
    with pytest.raises(UserError, match=r"test-00000.*calls class 1 'fox', but that is 'dog' in the training split"):
        huggingface.load(str(data_dir), "toy")


def test_an_empty_split_is_named(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    write(data_dir / "toy", random_images(9, 4, 4, 3), random_images(0, 4, 4, 3))
    with pytest.raises(UserError, match="toy: the test split is empty"):
        huggingface.load(str(data_dir), "toy")


def test_a_labelled_validation_split_may_be_tested_on(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    write(data_dir / "toy", random_images(20, 4, 4, 3), random_images(5, 4, 4, 3), test_split="validation")
    write_parquet(data_dir / "toy", "test", random_images(4, 4, 4, 3), [-1] * 4, NAMES)
    with pytest.raises(UserError, match=r"every label of test-\* is -1.*accepted: dataset\.test_split=validation"):
        huggingface.load(str(data_dir), "toy")
    assert len(huggingface.load(str(data_dir), "toy", test_split="validation").test) == 5
    with pytest.raises(UserError, match=r"dataset\.test_split=val: .* has no val-.*; accepted: test, validation"):
        huggingface.load(str(data_dir), "toy", test_split="val")


def test_sixteen_bits_become_eight_by_257(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    levels = np.arange(0, 65536, 4369, dtype=np.uint16).reshape(4, 4)  # multiples of 17 x 257
    write(data_dir / "toy", [levels] * 20, [levels] * 3)
    raw = huggingface.load(str(data_dir), "toy")
    assert raw.spec.shape == (1, 4, 4)
    assert raw.test.inputs[0].flatten().tolist() == list(range(0, 256, 17))


def test_a_channel_of_one_value_is_not_divided_by_zero(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    images = random_images(20, 4, 4, 3)
    images[..., 2] = 90
    write(data_dir / "toy", images, images)
    source = BatchSource(huggingface.load(str(data_dir), "toy"), seed=0)
    inputs = source.batch(0, 0, 8)[0]
    assert inputs.isfinite().all()
    assert inputs[:, 2].abs().max() < 1e-6

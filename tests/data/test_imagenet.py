import numpy as np
import pytest
import torch
from fixtures import offline, write_image_folder
from PIL import Image

from optbench.data import imagenet
from optbench.data.imagenet import StreamingImages, crop_box
from optbench.errors import UserError

WNIDS = ["n01440764", "n01443537", "n02084071"]


def gradient(height, width, level=0):
    """Red grows to the right, green downwards, blue is ``level``."""
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width).astype(np.uint8)
    pixels[..., 1] = np.linspace(0, 255, height).astype(np.uint8)[:, None]
    pixels[..., 2] = level
    return pixels


def write(root, train=4, test=2, extension="JPEG", wnids=WNIDS):
    for split, count in (("train", train), ("val", test)):
        images = {
            wnid: [(f"{wnid}_{i}.{extension}", gradient(40 + 4 * i, 60, 80 * c)) for i in range(count)]
            for c, wnid in enumerate(wnids)
        }
        write_image_folder(root, split, images)


def test_folder(tmp_path):
    write(tmp_path)
    images = StreamingImages(tmp_path, "train", size=32, workers=2)
    assert images.class_names == WNIDS
    assert images.targets.dtype == torch.int64
    assert images.targets.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert len(images) == len(images.paths) == 12
    assert images.paths[5].endswith("train/n01443537/n01443537_1.JPEG")
    batch = images.train_batch([0, 5, 11], draw_key=7, first_position=0)
    assert (batch.shape, batch.dtype) == ((3, 3, 32, 32), torch.uint8)
    # The blue of a picture tells its class, up to what JPEG loses.
    assert [round(float(image[2].float().mean()) / 80) for image in batch] == [0, 1, 2]


def test_subset(tmp_path):
    write(tmp_path)
    images = StreamingImages(tmp_path, "train", size=32, workers=2)
    part = images.subset(torch.tensor([9, 2]))
    assert part.paths == [images.paths[9], images.paths[2]]
    assert part.targets.tolist() == [2, 0]
    assert torch.equal(part.evaluation_batch([0]), images.evaluation_batch([9]))


def test_augmentation_depends_on_key_and_position_only(tmp_path):
    write(tmp_path)
    images = StreamingImages(tmp_path, "train", size=32, workers=3)
    indices = [3, 1, 4, 1, 5, 9]
    whole = images.train_batch(indices, 123, 10)
    parts = [images.train_batch(indices[:2], 123, 10), images.train_batch(indices[2:], 123, 12)]
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole[1], whole[3])  # the same picture at another position
    assert not torch.equal(whole, images.train_batch(indices, 124, 10))
    assert not torch.equal(whole, images.train_batch(indices, 123, 11))


def test_prefetch_changes_nothing(tmp_path):
    write(tmp_path)
    images = StreamingImages(tmp_path, "train", size=32, workers=2)
    expected = images.train_batch([0, 1, 2], 5, 8)
    images.prefetch([0, 1, 2], 5, 8)
    images.prefetch([0, 1, 2], 5, 8)
    assert len(images._pending) == 1
    assert torch.equal(images.train_batch([0, 1, 2], 5, 8), expected)
    assert len(images._pending) == 0
    for step in range(5):  # never asked for: only the last ones are kept
        images.prefetch([0, 1], step, 0)
    assert len(images._pending) == 2
    assert torch.equal(images.train_batch([0, 1, 2], 5, 8), expected)


def test_crop_box_by_hand():
    # A quarter of 100 x 100 with sides 1 : 1, in the middle of the 51 places from the top, at the left.
    first = [(0.25 - 0.08) / 0.92, 0.5, 0.5, 0.0]
    assert crop_box(100, 100, first + [0.0] * 37) == (0, 25, 50, 50)
    # Area 0.5 with ratio 4/3 at most: 141.4 x 106.1 pixels do not fit into 200 x 100, and the next attempt is taken.
    wide = [(0.75 - 0.08) / 0.92, 0.5, 0.0, 0.0]
    assert crop_box(200, 100, wide + first + [0.0] * 33) == (0, 15, 71, 71)
    # No crop of an area of 8 % or more with a ratio of 4 : 3 or less is only 10 pixels high: the centre of ratio 4 : 3.
    assert crop_box(1000, 10, [0.3] * 41) == (493, 0, 13, 10)
    assert crop_box(10, 1000, [0.3] * 41) == (0, 493, 10, 13)


def test_crop_box_distribution():
    draws = torch.rand(4000, 41, generator=torch.Generator().manual_seed(0)).tolist()
    boxes = [crop_box(400, 300, row) for row in draws]
    assert all(0 <= left <= 400 - w and 0 <= top <= 300 - h for left, top, w, h in boxes)
    areas = np.array([w * h / (400 * 300) for _, _, w, h in boxes])
    ratios = np.array([w / h for _, _, w, h in boxes])
    assert areas.min() > 0.075
    assert areas.max() > 0.95
    assert ratios.min() > 0.74
    assert ratios.max() < 1.35
    # Below half the area every ratio fits, so that the area is uniform there: as many in [.1, .3] as in [.3, .5].
    low, high = ((areas > 0.1) & (areas < 0.3)).sum(), ((areas > 0.3) & (areas < 0.5)).sum()
    assert abs(low - high) < 5 * np.sqrt(low + high)


def test_half_of_the_images_are_mirrored(tmp_path):
    write_image_folder(tmp_path, "train", {"n01440764": [("a.png", gradient(64, 64))]})
    images = StreamingImages(tmp_path, "train", size=16, workers=2)
    batch = images.train_batch([0] * 400, 99, 0).float()
    growth = (batch[:, 0, :, -1] - batch[:, 0, :, 0]).mean(dim=1)
    assert (growth.abs() > 10).all()
    assert abs(int((growth < 0).sum()) - 200) < 5 * 10  # five standard deviations of a fair coin
    assert (batch[:, 1, -1] > batch[:, 1, 0]).all()  # never upside down


def test_evaluation_takes_the_centre(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (256, 301, 3), dtype=np.uint8)
    write_image_folder(tmp_path, "val", {"n01440764": [("a.png", pixels)]})
    batch = StreamingImages(tmp_path, "val", size=224, workers=1).evaluation_batch([0])
    # The shorter side is 256 already, so that nothing is resized.
    np.testing.assert_array_equal(batch[0].permute(1, 2, 0).numpy(), pixels[16:240, 38:262])


def test_evaluation_resizes_the_shorter_side(tmp_path):
    pixels = gradient(512, 600)
    write_image_folder(tmp_path, "val", {"n01440764": [("a.png", pixels)]})
    batch = StreamingImages(tmp_path, "val", size=224, workers=1).evaluation_batch([0])
    resized = np.asarray(Image.fromarray(pixels).resize((300, 256), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(batch[0].permute(1, 2, 0).numpy(), resized[16:240, 38:262])


def test_other_colour_models_become_rgb(tmp_path):
    folder = tmp_path / "train" / "n01440764"
    folder.mkdir(parents=True)
    Image.new("L", (40, 40), 200).save(folder / "grey.JPEG")
    Image.new("CMYK", (40, 40)).save(folder / "cmyk.JPEG")
    batch = StreamingImages(tmp_path, "train", size=8, workers=1).evaluation_batch([1, 0])
    assert batch.shape == (2, 3, 8, 8)
    assert batch[0].unique().tolist() == [200]


def test_load(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    write(data_dir / "imagenet")
    raw = imagenet.load(str(data_dir), validation=3, train_limit=5, size=16, workers=2)
    assert [len(split) for split in (raw.train, raw.validation, raw.test)] == [5, 3, 6]
    assert raw.spec.shape == (3, 16, 16)
    assert raw.spec.outputs == 3
    assert raw.class_names == WNIDS
    assert not set(raw.train.inputs.paths) & set(raw.validation.inputs.paths)
    assert torch.equal(raw.train.targets, raw.train.inputs.targets)
    for path, target in zip(raw.train.inputs.paths, raw.train.targets.tolist(), strict=True):
        assert WNIDS[target] in path


def test_missing(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    with pytest.raises(UserError, match=r"dataset=imagenet: not found: train/WNID/\*\.JPEG .*image-net\.org"):
        imagenet.load(str(data_dir))


def test_classes_must_agree(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    write(data_dir)
    (data_dir / "val" / "n02084071").rename(data_dir / "val" / "n99999999")
    with pytest.raises(UserError, match="only in one of them: n02084071, n99999999"):
        imagenet.load(str(data_dir), validation=3)


def test_images_that_are_not_sorted_into_classes(tmp_path):
    (tmp_path / "val").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(UserError, match="val: no images in one folder a class"):
        StreamingImages(tmp_path, "val")


def test_damaged_image(tmp_path):
    write(tmp_path)
    path = tmp_path / "train" / WNIDS[0] / f"{WNIDS[0]}_0.JPEG"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match=r"n01440764_0\.JPEG: cannot be decoded"):
        StreamingImages(tmp_path, "train", size=16, workers=1).train_batch([0], 0, 0)


@pytest.mark.parametrize("name", [".ipynb_checkpoints", ".git", "__MACOSX"])
def test_hidden_folders_are_no_classes(tmp_path, name):
    write(tmp_path)
    (tmp_path / "train" / name).mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "train" / name / "a.png")
    assert StreamingImages(tmp_path, "train").class_names == WNIDS


def test_hidden_files_are_no_images(tmp_path):
    write(tmp_path)
    for name in ("._n01440764_0.JPEG", ".DS_Store", "Thumbs.db"):
        (tmp_path / "train" / WNIDS[0] / name).write_bytes(b"of the desktop")
    assert len(StreamingImages(tmp_path, "train")) == 12


def test_an_image_without_colour_is_named(tmp_path):
    write(tmp_path)
    path = tmp_path / "train" / WNIDS[0] / "0_transparent.png"
    Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(path)
    with pytest.raises(UserError, match=r"0_transparent\.png: .*has transparent pixels \(mode RGBA\)"):
        StreamingImages(tmp_path, "train", size=16, workers=1).train_batch([0], 0, 0)

"""dataset=folder against Pillow and NumPy by hand, and what it refuses by name."""

import io
import shutil

import numpy as np
import pytest
import torch
from fixtures import offline, png, random_images
from PIL import Image

from optbench.config import read_choice
from optbench.data import class_folder, fingerprints, images
from optbench.data.source import BatchSource
from optbench.data.spec import DataSpec
from optbench.data.splits import fixed_permutation
from optbench.errors import UserError


def write(folder, images_by_class):
    """One folder a class below ``folder``, each image as {name: pixels}."""
    for name, pictures in images_by_class.items():
        (folder / name).mkdir(parents=True)
        for file, pixels in pictures.items():
            Image.fromarray(pixels).save(folder / name / file)
    return folder


def flowers(folder, count=10, *shape, seed=0):
    pictures = random_images(3 * count, *(shape or (6, 5, 3)), seed=seed)
    names = ["iris", "lily", "rose"]
    return write(
        folder, {name: {f"{i:02}.png": pictures[3 * i + k] for i in range(count)} for k, name in enumerate(names)}
    )


def by_hand(folder):
    """(pixels, labels) of all images, opened one by one in the order of the names."""
    classes = sorted(path.name for path in folder.iterdir())
    paths = [path for name in classes for path in sorted((folder / name).iterdir())]
    pixels = np.stack([np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1) for path in paths])
    return pixels, np.array([classes.index(path.parent.name) for path in paths])


@pytest.fixture
def data_dir(monkeypatch, tmp_path):
    return offline(monkeypatch, tmp_path)


def load(folder, **options):
    return class_folder.load("nowhere", str(folder), **options)


def test_without_splits_ten_percent_are_held_out_for_each(tmp_path):
    pixels, labels = by_hand(flowers(tmp_path / "flowers"))
    raw = load(tmp_path / "flowers")
    assert raw.spec == DataSpec("image", (3, 6, 5), 3)
    assert raw.class_names == ["iris", "lily", "rose"]
    # The last 3 of 30 are for testing, and then the last 2 of 27 for validation, by the permutations that never change.
    first, second = fixed_permutation(30).numpy(), fixed_permutation(27).numpy()
    train, validation = first[:-3][second[:-2]], first[:-3][second[-2:]]
    for split, chosen in ((raw.train, train), (raw.validation, validation), (raw.test, first[-3:])):
        np.testing.assert_array_equal(split.inputs.numpy(), pixels[chosen])
        np.testing.assert_array_equal(split.targets.numpy(), labels[chosen])
    np.testing.assert_allclose(raw.mean, (pixels[train] / 255).mean((0, 2, 3)), rtol=1e-14)
    np.testing.assert_allclose(raw.std, (pixels[train] / 255).std((0, 2, 3)), rtol=1e-14)


@pytest.mark.parametrize("validation", ["validation", "valid", "val", "Val"])
def test_splits_of_its_own_are_taken(tmp_path, validation):
    root = tmp_path / "flowers"
    for seed, (name, count) in enumerate({"train": 10, "test": 4, validation: 3}.items()):
        flowers(root / name, count, seed=seed)
    raw = load(root)
    assert [len(split) for split in (raw.train, raw.validation, raw.test)] == [30, 9, 12]
    pixels, labels = by_hand(root / "train")
    order = fixed_permutation(30).numpy()  # so that the first n are a random subset
    np.testing.assert_array_equal(raw.train.inputs.numpy(), pixels[order])
    np.testing.assert_array_equal(raw.train.targets.numpy(), labels[order])
    np.testing.assert_array_equal(raw.validation.inputs.numpy(), by_hand(root / validation)[0])
    np.testing.assert_array_equal(raw.test.inputs.numpy(), by_hand(root / "test")[0])
    assert len(load(root, train_limit=4).train) == 4
    for split in ("test", "validation"):
        with pytest.raises(UserError, match=rf"dataset\.{split}=2: the data have a {split} split of their own"):
            load(root, **{split: 2})


def test_without_test_the_validation_split_is_the_test_split(tmp_path):
    flowers(tmp_path / "train")
    flowers(tmp_path / "val", 2, seed=1)
    raw = load(tmp_path, validation=5)
    assert [len(split) for split in (raw.train, raw.validation, raw.test)] == [25, 5, 6]
    np.testing.assert_array_equal(raw.test.inputs.numpy(), by_hand(tmp_path / "val")[0])


def test_a_channel_of_one_value_is_divided_by_one(tmp_path):
    pictures = random_images(20, 4, 4, 3)
    pictures[..., 1] = 90
    write(tmp_path, {name: {f"{i}.png": pictures[10 * k + i] for i in range(10)} for k, name in enumerate("ab")})
    source = BatchSource(load(tmp_path), seed=0)
    inputs = source.batch(0, 0, 8)[0]
    assert inputs.isfinite().all()
    assert inputs[:, 1].abs().max() < 1e-6


# ---- sizes ----------------------------------------------------------------------------------------------------------------


def test_several_sizes_are_refused_by_name_unless_resized(tmp_path):
    root = flowers(tmp_path / "flowers")
    Image.fromarray(random_images(1, 9, 8, 3)[0]).save(root / "lily" / "large.png")
    with pytest.raises(UserError) as caught:
        load(root)
    for part in (
        "dataset.resize=null",
        "2 sizes",
        "5 x 6",
        "8 x 9",
        str(root / "lily" / "large.png"),
        "dataset.resize=32",
    ):
        assert part in str(caught.value)
    assert load(root, resize=4).spec.shape == (3, 4, 4)


@pytest.mark.parametrize("how", ["crop", "stretch"])
def test_resizing_takes_the_centre_or_all(tmp_path, how):
    pictures = random_images(20, 12, 20, 3)
    root = write(tmp_path, {name: {f"{i}.png": pictures[10 * k + i] for i in range(10)} for k, name in enumerate("ab")})
    raw = load(root, resize=8, resize_by=how)
    order = fixed_permutation(20).numpy()[-2:]
    for found, number in zip(raw.test.inputs.numpy(), order, strict=True):
        image = Image.fromarray(pictures[number])
        image = image.crop((4, 0, 16, 12)) if how == "crop" else image  # the square of 12 in the middle of 20
        expected = np.asarray(image.resize((8, 8), Image.Resampling.BILINEAR))
        np.testing.assert_array_equal(found, expected.transpose(2, 0, 1))


def test_grey_images_have_one_channel_and_any_format_is_read(tmp_path):
    picture = random_images(1, 6, 6)[0]
    for name in "ab":
        write(tmp_path, {name: {f"x{suffix}": picture for suffix in (".png", ".bmp", ".tif", ".pgm", ".PNG")}})
    raw = load(tmp_path)
    assert raw.spec.shape == (1, 6, 6)
    assert all(torch.equal(image[0], torch.from_numpy(picture)) for image in raw.train.inputs)
    # One image in colour makes them all so.
    Image.fromarray(random_images(1, 6, 6, 3)[0]).save(tmp_path / "a" / "x.jpg")
    assert load(tmp_path).spec.shape == (3, 6, 6)


# ---- what is refused ------------------------------------------------------------------------------------------------------


def spoil(root, how):
    if how == "no classes":
        shutil.rmtree(root)
        root.mkdir()
        Image.fromarray(random_images(1, 4, 4)[0]).save(root / "a.png")
    elif how == "one class":
        shutil.rmtree(root / "iris")
        shutil.rmtree(root / "rose")
    elif how == "empty class":
        (root / "tulip").mkdir()
    elif how == "no image":
        (root / "iris" / "notes.txt").write_text("notes")
    elif how == "nested":
        (root / "iris" / "more").mkdir()
    elif how == "damaged":
        path = root / "iris" / "03.png"
        path.write_bytes(path.read_bytes()[:50])
    elif how == "truncated":
        path = root / "iris" / "03.png"
        path.write_bytes(path.read_bytes()[:-30])
    elif how == "text":
        (root / "iris" / "03.png").write_text("no image")
    elif how == "pages":
        pages = [Image.fromarray(page) for page in random_images(2, 6, 5, 3)]
        pages[0].save(root / "iris" / "99.tif", save_all=True, append_images=pages[1:])
    else:
        pixels = np.dstack([random_images(1, 6, 5, 3)[0], np.zeros((6, 5), np.uint8)])
        Image.fromarray(pixels, "RGBA").save(root / "iris" / "03.png")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no classes", r"flowers: has no folders, and so no classes; accepted: a folder of images for each of two"),
        ("one class", r"flowers: has one folder, lily, and so one class; accepted"),
        ("empty class", r"flowers/tulip: the class tulip has no images; accepted: one or more"),
        ("no image", r"flowers/iris/notes\.txt: is no image by its name; accepted: \.bmp, \.jpeg, \.jpg, "),
        ("nested", r"flowers/iris/more: is a folder in that of a class; accepted: images"),
        ("damaged", r"flowers/iris/03\.png: is not an image that can be read|flowers/iris/03\.png: cannot be decoded"),
        ("truncated", r"flowers/iris/03\.png: cannot be decoded: "),
        ("text", r"flowers/iris/03\.png: is not an image that can be read: its format is not recognized"),
        ("pages", r"flowers/iris/99\.tif: is not an image that can be read: has 2 pages; accepted: one image a file"),
        ("transparent", r"flowers/iris/03\.png: cannot be decoded: has transparent pixels"),
    ],
)
def test_what_is_refused_by_name(tmp_path, how, message):
    root = flowers(tmp_path / "flowers")
    spoil(root, how)
    with pytest.raises(UserError, match=message) as caught:
        load(root)
    assert "\n" not in str(caught.value)


def test_an_image_that_announces_too_many_pixels_is_refused(tmp_path, monkeypatch):
    root = flowers(tmp_path / "flowers")
    monkeypatch.setattr(images.image_module(), "MAX_IMAGE_PIXELS", 29)
    with pytest.raises(UserError, match=r"iris/00\.png: .*announces 5 x 6 pixels, more than the limit of 29"):
        load(root)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (["test"], r"has the split test and no train; accepted: a folder for each class, or"),
        (["train", "test", "more"], r"has train, a split, and beside it more, which is none"),
        (["train", "test", "val", "valid"], r"has val and valid, which are one split under several names"),
    ],
)
def test_layouts_that_are_refused(tmp_path, folders, message):
    for name in folders:
        flowers(tmp_path / name, 3)
    with pytest.raises(UserError, match=message):
        load(tmp_path)


def test_splits_must_have_the_same_classes(tmp_path):
    flowers(tmp_path / "train")
    flowers(tmp_path / "test", 3)
    (tmp_path / "test" / "rose").rename(tmp_path / "test" / "tulip")
    with pytest.raises(
        UserError, match=r"test: must have the same classes as .*train; only in one of them: rose, tulip"
    ):
        load(tmp_path)


def test_an_empty_split_is_refused(tmp_path):
    flowers(tmp_path / "train")
    for name in ("iris", "lily", "rose"):
        (tmp_path / "test" / name).mkdir(parents=True)
    with pytest.raises(UserError, match=r"test: the test split is empty: no images in the folders of its classes"):
        load(tmp_path)


def test_a_class_called_test_is_a_class(tmp_path):
    pictures = random_images(10, 4, 4)
    write(
        tmp_path,
        {"test": {f"{i}.png": picture for i, picture in enumerate(pictures)}, "control": {"0.png": pictures[0]}},
    )
    assert load(tmp_path).class_names == ["control", "test"]


def test_hidden_files_do_not_count(tmp_path):
    root = flowers(tmp_path / "flowers")
    dataset = {**read_choice("dataset", "folder"), "path": str(root)}
    before = fingerprints.fingerprint(dataset, tmp_path)[0]
    (root / ".git").mkdir()
    (root / "README.txt").write_text("about")
    for name in (".DS_Store", "Thumbs.db"):
        (root / "iris" / name).write_text("litter")
    assert load(root).class_names == ["iris", "lily", "rose"]
    assert fingerprints.fingerprint(dataset, tmp_path)[0] == before


def test_a_folder_that_is_not_there_is_named_with_the_places_looked_in(data_dir, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        class_folder.load(str(data_dir), "flowers")
    for part in (
        "dataset.path=flowers: not found",
        str(tmp_path / "flowers"),
        str(data_dir / "flowers"),
        "digits, text",
    ):
        assert part in str(caught.value)
    (tmp_path / "flowers").write_bytes(png(random_images(1, 4, 4)[0]))
    with pytest.raises(UserError, match=r"dataset\.path=flowers: .*flowers is a file; accepted: a folder"):
        class_folder.load(str(data_dir), "flowers")


def test_more_than_fits_into_memory_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    root = flowers(tmp_path / "flowers")
    monkeypatch.setattr("optbench.system.memory.of_this_machine", lambda: 1000)
    with pytest.raises(UserError, match=r"30 images of 5 x 6: needs at least 2.7 kB.*1 kB"):
        load(root)


def test_the_fingerprint_is_of_every_pixel_and_not_of_the_place(tmp_path):
    root = flowers(tmp_path / "flowers")

    def found(folder):
        return fingerprints.fingerprint({**read_choice("dataset", "folder"), "path": str(folder)}, tmp_path)[0]

    before = found(root)
    assert found(shutil.copytree(root, tmp_path / "copied")) == before
    path = root / "iris" / "00.png"
    pixels = np.asarray(Image.open(path)).copy()
    pixels[0, 0, 0] ^= 1
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())
    assert found(root) != before

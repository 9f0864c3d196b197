"""Batches from memory: which examples, in what order, over how many ranks; augmentation against loops over examples."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from optbench import randomness
from optbench.data.raw import RawData, Split
from optbench.data.source import Augmentation, BatchSource
from optbench.data.spec import DataSpec

MEAN, STD = (0.49, 0.48, 0.44), (0.24, 0.25, 0.26)
EVERYTHING = Augmentation(crop=2, crop_padding="zeros", flip=True, cutout=3)


def split_of(count, seed, channels=3, side=8):
    """Random images; the target of each is its number."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, channels, side, side), generator=generator, dtype=torch.uint8)
    return Split(images, torch.arange(count))


def raw_of(count=50, channels=3, mean=MEAN, std=STD):
    spec = DataSpec("image", (channels, 8, 8), count)
    return RawData(split_of(count, 0, channels), split_of(23, 1, channels), split_of(31, 2, channels), spec, mean, std)


def numbers(source, step, batch, **share):
    """The numbers of the examples that form a step."""
    return source.batch(step, step * batch, batch, **share)[1].tolist()


def assert_same(one, other):
    assert torch.equal(one[0], other[0])
    assert torch.equal(one[1], other[1])


# ---- pure functions of (seed, step) ---------------------------------------------------------------------------------


def test_batches_do_not_depend_on_the_order_of_calls():
    batch, steps = 16, 25  # 8 epochs
    source = BatchSource(raw_of(), seed=3, augmentation=EVERYTHING)
    forward = [source.batch(step, step * batch, batch) for step in range(steps)]
    again = BatchSource(raw_of(), seed=3, augmentation=EVERYTHING)
    for step in [24, 0, 12, 12, 3, 23, 1, *reversed(range(steps))]:
        assert_same(again.batch(step, step * batch, batch), forward[step])
    resumed = BatchSource(raw_of(), seed=3, augmentation=EVERYTHING)
    for step in range(11, steps):
        assert_same(resumed.batch(step, step * batch, batch), forward[step])


def test_torchs_generator_plays_no_part():
    source = BatchSource(raw_of(), seed=3, augmentation=EVERYTHING)
    first = source.batch(5, 80, 16)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert_same(source.batch(5, 80, 16), first)
    assert torch.equal(torch.get_rng_state(), state)


def test_seeds_and_steps_differ():
    one, other = (BatchSource(raw_of(), seed, augmentation=EVERYTHING) for seed in (0, 1))
    assert numbers(one, 0, 50) != numbers(other, 0, 50)
    assert numbers(one, 0, 50) != numbers(one, 1, 50)
    # The same examples are augmented otherwise at another step.
    assert not torch.equal(one.batch(0, 0, 50)[0], one.batch(7, 0, 50)[0])


def test_inputs_are_those_of_the_targets():
    raw = raw_of()
    inputs, targets = BatchSource(raw, seed=0).batch(2, 40, 20)
    expected = (raw.train.inputs[targets].double() / 255 - tensor(MEAN)) / tensor(STD)
    torch.testing.assert_close(inputs.double(), expected, rtol=1e-5, atol=1e-6)


def tensor(values):
    return torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1)


# ---- epochs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 7, 10, 16, 49, 50])
def test_every_example_appears_once_per_epoch(batch):
    """Also where the batch does not divide the epoch, so that some batches span two."""
    examples, epochs = 50, 4
    source = BatchSource(raw_of(), seed=1)
    steps = -(-examples * epochs // batch)
    batches = [numbers(source, step, batch) for step in range(steps)]
    assert all(len(examples_of_step) == batch for examples_of_step in batches)
    stream = list(itertools.chain(*batches))
    orders = [stream[start : start + examples] for start in range(0, examples * epochs, examples)]
    assert all(sorted(order) == list(range(examples)) for order in orders)
    assert len({tuple(order) for order in orders}) == epochs  # each in an order of its own


def test_the_stream_does_not_depend_on_the_batch():
    """Samples are the clock: the same examples come in the same order at every batch size."""
    streams = []
    for batch in (1, 6, 40):
        source = BatchSource(raw_of(), seed=1)
        streams.append(list(itertools.chain(*(numbers(source, step, batch) for step in range(120 // batch)))))
    assert streams[0] == streams[1] == streams[2]


def test_a_batch_larger_than_two_epochs():
    stream = numbers(BatchSource(raw_of(count=4), seed=0), 0, 11)
    assert sorted(stream[:4]) == sorted(stream[4:8]) == [0, 1, 2, 3]
    assert len(set(stream[8:])) == 3


# ---- ranks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("augmentation", [Augmentation(), EVERYTHING], ids=["plain", "augmented"])
def test_shares_of_the_ranks_are_the_batch(world_size, augmentation):
    whole = BatchSource(raw_of(), seed=2, augmentation=augmentation)
    ranks = [BatchSource(raw_of(), seed=2, augmentation=augmentation) for _ in range(world_size)]
    for step in (0, 2, 5):  # 40 to 60 and 100 to 120 of 50 examples an epoch
        shares = [source.batch(step, step * 20, 20, rank, world_size) for rank, source in enumerate(ranks)]
        assert_same([torch.cat(parts) for parts in zip(*shares, strict=True)], whole.batch(step, step * 20, 20))


@pytest.mark.parametrize("limit", [None, 1, 10, 23, 100])
@pytest.mark.parametrize(("world_size", "size"), [(1, 5), (1, 100), (2, 5), (3, 4), (4, 7), (4, 23)])
def test_evaluation_covers_every_example_once(world_size, size, limit):
    raw = raw_of()
    source = BatchSource(raw, seed=0, augmentation=EVERYTHING)
    batches = [
        batch for rank in range(world_size) for batch in source.evaluation("validation", size, limit, rank, world_size)
    ]
    count = min(limit or 23, 23)
    order = torch.cat([targets for _, targets in batches])
    assert sorted(order.tolist()) == list(range(count))
    assert all(len(inputs) == len(targets) <= size for inputs, targets in batches)
    # Not augmented: the normalized images themselves.
    expected = (raw.validation.inputs[order].double() / 255 - tensor(MEAN)) / tensor(STD)
    torch.testing.assert_close(torch.cat([inputs for inputs, _ in batches]).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("split", "count"), [("train", 50), ("validation", 23), ("test", 31)])
def test_evaluation_takes_the_split_that_it_is_asked_for(split, count):
    raw = raw_of()
    (batch,) = BatchSource(raw, seed=0, normalize=False).evaluation(split, 100)
    assert len(batch[0]) == count
    expected = {"train": raw.train, "validation": raw.validation, "test": raw.test}[split].inputs
    torch.testing.assert_close(batch[0], expected / 255)


# ---- values ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "std", "normalize", "expected"),
    [
        (MEAN, STD, True, lambda images: (images / 255 - tensor(MEAN)) / tensor(STD)),
        (MEAN, STD, False, lambda images: images / 255),
        (None, None, True, lambda images: images / 255),
    ],
)
def test_normalization(mean, std, normalize, expected):
    raw = raw_of(mean=mean, std=std)
    raw.train.inputs[:, :, 0, 0], raw.train.inputs[:, :, 1, 1] = 0, 255  # the ends of the range
    inputs, targets = BatchSource(raw, seed=0, normalize=normalize).batch(0, 0, 50)
    assert inputs.dtype == torch.float32
    torch.testing.assert_close(inputs.double(), expected(raw.train.inputs[targets].double()), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("augmentation", [Augmentation(), EVERYTHING], ids=["plain", "augmented"])
def test_reconstruct_makes_the_images_their_own_targets(augmentation):
    raw = raw_of()
    raw.train.inputs[0, 0, 0, :2] = torch.tensor([0, 255], dtype=torch.uint8)
    source = BatchSource(raw, seed=0, augmentation=augmentation, reconstruct=True)
    for inputs, targets in [source.batch(0, 0, 50), *source.evaluation("train", 20)]:
        assert torch.equal(targets, inputs.view(len(inputs), 3 * 8 * 8))
        assert inputs.min() >= 0
        assert inputs.max() <= 1
    images = torch.cat([inputs for inputs, _ in source.evaluation("train", 20)])
    torch.testing.assert_close(images, raw.train.inputs / 255)


def test_reconstruction_needs_no_targets():
    raw = raw_of()
    raw.train.targets = raw.validation.targets = raw.test.targets = None
    source = BatchSource(raw, seed=0, reconstruct=True)
    assert len(source.batch(0, 0, 10)[1]) == 10
    assert [len(targets) for _, targets in source.evaluation("test", 20)] == [20, 11]


@pytest.mark.parametrize(
    ("kind", "inputs", "targets"),
    [
        ("tokens", torch.arange(60).view(10, 6), torch.arange(60).view(10, 6) + 1),
        ("sequence", torch.arange(60.0).view(10, 3, 2), torch.arange(20.0).view(10, 2)),
    ],
)
def test_what_is_not_an_image_passes_unchanged(kind, inputs, targets):
    split = Split(inputs, targets)
    source = BatchSource(RawData(split, split, split, DataSpec(kind, tuple(inputs.shape[1:]), 2)), seed=0)
    found = source.batch(0, 0, 10)
    order = randomness.permutation(0, "order", 0, 10)
    assert_same(found, (inputs[order], targets[order]))
    assert found[0].dtype == inputs.dtype
    assert_same(next(source.evaluation("train", 10)), (inputs, targets))


def test_examples_are_in_the_type_of_training():
    raw = raw_of()
    inputs, targets = BatchSource(raw, seed=0, dtype=torch.float64).batch(0, 0, 50)
    assert (inputs.dtype, targets.dtype) == (torch.float64, torch.int64)
    expected = (raw.train.inputs[targets].double() / 255 - tensor(MEAN)) / tensor(STD)
    torch.testing.assert_close(inputs, expected, rtol=1e-13, atol=1e-14)
    split = Split(torch.rand(10, 3, 2), torch.rand(10, 2))
    source = BatchSource(RawData(split, split, split, DataSpec("sequence", (3, 2), 2, "real")), 0, dtype=torch.float64)
    assert {values.dtype for values in source.batch(0, 0, 10)} == {torch.float64}


def test_making_batches_leaves_the_images_as_they_are():
    raw = raw_of()
    kept = [split.inputs.clone() for split in (raw.train, raw.validation, raw.test)]
    source = BatchSource(raw, seed=0, augmentation=EVERYTHING)
    for step in range(3):
        source.batch(step, 50 * step, 50)
    for split in ("train", "validation", "test"):
        list(source.evaluation(split, 10))
    for images, split in zip(kept, (raw.train, raw.validation, raw.test), strict=True):
        assert torch.equal(split.inputs, images)


def test_a_source_that_moves_makes_the_same_batches():
    source = BatchSource(raw_of(), seed=0, augmentation=EVERYTHING)
    expected = source.batch(1, 30, 30)
    assert source.to("cpu") is source
    assert_same(source.batch(1, 30, 30), expected)
    assert source.to("meta").batch(1, 30, 30)[0].device.type == "meta"


# ---- augmentation ---------------------------------------------------------------------------------------------------


def bytes_of(*shape):
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def draw_of(seed, purpose, step, position, high):
    """One draw, by itself."""
    return int(randomness.integers(randomness.key(seed, purpose, step), torch.tensor(position), high))


def taken(augmentation, images, seed, step, first):
    """All of ``images``, cropped and mirrored as one batch."""
    return augmentation.take(augmentation.stock(images), torch.arange(len(images)), seed, step, first)


def cropped_and_flipped(image, pad, padding, flip, seed, step, position):
    """One image (C, H, W), pixel by pixel: the window at a random place of the padded image, then its mirror image."""
    channels, height, width = image.shape
    padded = np.zeros((channels, height + 2 * pad, width + 2 * pad), dtype=np.float32)
    for row in range(-pad, height + pad):
        for column in range(-pad, width + pad):
            inside = 0 <= row < height and 0 <= column < width
            if padding == "reflect":
                # The pixel that a mirror through the centre of the outermost pixels shows.
                source_row = -row if row < 0 else 2 * (height - 1) - row if row >= height else row
                source_column = -column if column < 0 else 2 * (width - 1) - column if column >= width else column
                padded[:, row + pad, column + pad] = image[:, source_row, source_column]
            elif inside:
                padded[:, row + pad, column + pad] = image[:, row, column]
    top = draw_of(seed, "crop and flip", step, 3 * position, 2 * pad + 1)
    left = draw_of(seed, "crop and flip", step, 3 * position + 1, 2 * pad + 1)
    window = padded[:, top : top + height, left : left + width]
    if flip and draw_of(seed, "crop and flip", step, 3 * position + 2, 2) == 1:
        window = window[:, :, ::-1]
    return window


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("pad", "padding"), [(0, "zeros"), (1, "zeros"), (4, "zeros"), (2, "reflect"), (4, "reflect")])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 6, 9)], ids=str)
def test_crop_and_flip_against_a_loop(pad, padding, flip, shape):
    images = bytes_of(20, *shape)
    kept = images.clone()
    found = taken(Augmentation(crop=pad, crop_padding=padding, flip=flip), images, 7, 11, 40)
    assert found.dtype == torch.uint8
    for number, image in enumerate(images.numpy()):
        expected = cropped_and_flipped(image, pad, padding, flip, 7, 11, 40 + number)
        np.testing.assert_array_equal(found[number].numpy(), expected)
    assert torch.equal(images, kept)


@pytest.mark.parametrize("channels", [1, 3])
def test_crops_do_not_depend_on_how_the_images_lie_in_memory(channels):
    """Images that were read with their channels last are a transposed view."""
    images = bytes_of(20, channels, 8, 8)
    other = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    for augmentation in (EVERYTHING, Augmentation(crop=2, crop_padding="reflect", flip=True)):
        expected = taken(augmentation, images, 7, 11, 0)
        assert torch.equal(taken(augmentation, other, 7, 11, 0), expected)


@pytest.mark.parametrize("side", [1, 3, 4, 20])
@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 6, 9)], ids=str)
def test_cutout_against_a_loop(side, shape):
    images = torch.rand(50, *shape, generator=torch.Generator().manual_seed(0)) + 1
    kept = images.clone()
    found = Augmentation(cutout=side).cut_out(images, 7, 11, 40)
    for number, image in enumerate(images.numpy()):
        middle_row = draw_of(7, "cutout", 11, 2 * (40 + number), shape[1])
        middle_column = draw_of(7, "cutout", 11, 2 * (40 + number) + 1, shape[2])
        expected = image.copy()
        for row in range(middle_row - side // 2, middle_row - side // 2 + side):
            for column in range(middle_column - side // 2, middle_column - side // 2 + side):
                if 0 <= row < shape[1] and 0 <= column < shape[2]:
                    expected[:, row, column] = 0
        np.testing.assert_array_equal(found[number].numpy(), expected)
    assert torch.equal(images, kept)


def test_a_batch_is_cropped_mirrored_normalized_and_cut_in_this_order():
    raw = raw_of()
    source = BatchSource(raw, seed=7, augmentation=EVERYTHING)
    found, _ = source.batch(11, 0, 20)
    images = raw.train.inputs[randomness.permutation(7, "order", 0, len(raw.train.inputs))[:20]].float().numpy()
    moved = [cropped_and_flipped(image, 2, "zeros", True, 7, 11, n).copy() for n, image in enumerate(images)]
    normalized = ((torch.tensor(np.stack(moved)).double() / 255 - tensor(MEAN)) / tensor(STD)).float()
    # What cutout does is checked above.
    torch.testing.assert_close(found, Augmentation(cutout=3).cut_out(normalized, 7, 11, 0), rtol=1e-5, atol=1e-5)


def test_zeros_are_black():
    """Images are padded before they are normalized, as in the usual chain of crop, conversion and normalization."""
    raw = raw_of()
    raw.train.inputs.fill_(255)
    inputs, _ = BatchSource(raw, seed=0, augmentation=Augmentation(crop=4)).batch(0, 0, 50)
    white, black = (1 - tensor(MEAN)) / tensor(STD), -tensor(MEAN) / tensor(STD)
    padding = inputs < 0
    assert padding.any()
    torch.testing.assert_close(inputs.double(), torch.where(padding, black, white), rtol=1e-5, atol=1e-5)


def test_flips_and_offsets_are_uniform():
    """Read off the images: every pixel of an image knows where it was."""
    count, pad, side = 4000, 2, 8
    ramp = (torch.arange(side * side, dtype=torch.float32) + 1).view(1, 1, side, side).expand(count, 1, side, side)
    found = taken(Augmentation(crop=pad, crop_padding="zeros", flip=True), ramp, 0, 0, 0)[:, 0]
    middle = found[:, pad + 1 : -pad, pad + 1 : -pad]  # never padding
    flipped = middle[:, 0, 0] > middle[:, 0, 1]
    assert stats.binomtest(int(flipped.sum()), count, 0.5).pvalue > 1e-5
    first = torch.where(flipped, found.flip(2)[:, 4, 4], found[:, 4, 4]).long() - 1
    places = (first // side) * side + first % side
    counts = np.bincount(places.numpy(), minlength=side * side)
    offsets = counts[counts > 0]
    assert len(offsets) == (2 * pad + 1) ** 2
    assert stats.chisquare(offsets).pvalue > 1e-5
    table = np.array(
        [np.bincount(places[flipped == side_of].numpy(), minlength=64)[counts > 0] for side_of in (False, True)]
    )
    assert stats.chi2_contingency(table).pvalue > 1e-5  # the flip says nothing of the offset


def test_the_place_of_a_cut_is_uniform():
    images = torch.ones(6000, 1, 5, 6)
    cut = Augmentation(cutout=1).cut_out(images, 0, 0, 0) == 0
    assert torch.equal(cut.sum((1, 2, 3)), torch.ones(6000, dtype=torch.int64))
    assert stats.chisquare(cut.sum((0, 1)).flatten().numpy()).pvalue > 1e-5


@pytest.mark.parametrize(
    ("dataset", "augmentation"),
    [
        ({}, Augmentation()),
        ({"augment": "none", "crop": 4, "flip": True, "cutout": 8}, Augmentation()),
        ({"augment": "standard", "crop": 4, "flip": True}, Augmentation(crop=4, flip=True)),
        (
            {
                "augment": "standard",
                "crop": 4,
                "crop_padding": "reflect",
                "flip": False,
                "cutout": 8,
                "normalize": True,
            },
            Augmentation(crop=4, crop_padding="reflect", cutout=8),
        ),
    ],
    ids=str,
)
def test_the_augmentation_of_a_datasets_options(dataset, augmentation):
    assert Augmentation.of(dataset) == augmentation


# ---- streams of images ----------------------------------------------------------------------------------------------


class Stream:
    """An image stream whose pixels say what it was asked for."""

    def __init__(self, count):
        self.count, self.prefetched = count, []

    def __len__(self):
        return self.count

    def train_batch(self, indices, draw_key, first_position):
        pixels = [(index, first_position + number, draw_key % 251) for number, index in enumerate(indices)]
        return torch.tensor(pixels, dtype=torch.uint8).view(-1, 3, 1, 1)

    def prefetch(self, indices, draw_key, first_position):
        self.prefetched.append((indices, draw_key, first_position))

    def evaluation_batch(self, indices):
        return torch.tensor([(index, 0, 0) for index in indices], dtype=torch.uint8).view(-1, 3, 1, 1)


def test_a_stream_is_asked_for_the_same_examples_and_told_what_comes_next():
    count, size = 50, 20
    split = Split(Stream(count), torch.arange(count))
    source = BatchSource(RawData(split, split, split, DataSpec("image", (3, 1, 1), count)), seed=4, normalize=False)
    memory = BatchSource(raw_of(), seed=4)
    for rank in range(2):
        inputs, targets = source.batch(2, 40, size, rank, 2)
        pixels = (inputs.view(10, 3) * 255).round().long()
        assert targets.tolist() == numbers(memory, 2, size, rank=rank, world_size=2)
        assert pixels[:, 0].tolist() == targets.tolist()
        assert pixels[:, 1].tolist() == list(range(10 * rank, 10 * rank + 10))
        assert set(pixels[:, 2].tolist()) == {randomness.key(4, "augmentation", 2) % 251}
        indices, draw_key, first = split.inputs.prefetched[-1]
        assert indices == numbers(memory, 3, size, rank=rank, world_size=2)
        assert (draw_key, first) == (randomness.key(4, "augmentation", 3), 10 * rank)
    read = torch.cat([inputs for inputs, _ in source.evaluation("test", 7)]).view(count, 3)[:, 0]
    torch.testing.assert_close(read * 255, torch.arange(50.0))


# ---- memory format --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augmentation", [Augmentation(), EVERYTHING])
def test_channels_last_changes_the_order_in_memory_alone(augmentation):
    plain, last = (
        BatchSource(raw_of(), seed=3, augmentation=augmentation, channels_last=channels_last)
        for channels_last in (False, True)
    )
    for one, other in (
        (plain.batch(2, 32, 16), last.batch(2, 32, 16)),
        (next(plain.evaluation("test", 10)), next(last.evaluation("test", 10))),
    ):
        assert_same(one, other)
        assert one[0].is_contiguous()
        assert other[0].stride() == (3 * 8 * 8, 1, 3 * 8, 3)

"""The order of samples in shards sorted by label: against loops over workers and epochs, and sets of examples."""

import itertools

import pytest
import torch

from optbench import randomness
from optbench.data.order import SampleOrder
from optbench.data.raw import RawData, Split
from optbench.data.source import Augmentation, BatchSource
from optbench.data.spec import DataSpec

LABELS = torch.tensor([3, 1, 0, 2, 1, 3, 0, 0, 2, 1, 2, 3, 0, 1, 2, 3, 1, 0, 3, 2, 2, 0])  # 22 examples


def shards_of(workers):
    """By hand: sorted by (label, index), of sizes that differ by at most one, the longer ones first."""
    order = sorted(range(len(LABELS)), key=lambda index: (int(LABELS[index]), index))
    short, longer = divmod(len(LABELS), workers)
    cuts = [0]
    for worker in range(workers):
        cuts.append(cuts[-1] + short + (worker < longer))
    return [order[start:stop] for start, stop in itertools.pairwise(cuts)]


def share(order, step, batch, worker, workers):
    size = batch // workers
    return order.take(step * batch, batch, worker * size, size).tolist()


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_every_example_of_a_shard_is_used_once_in_an_epoch_of_its_worker(workers):
    order, batch = SampleOrder.sorted_by_label(LABELS, workers, seed=5), 4 * workers
    for worker, shard in enumerate(shards_of(workers)):
        seen = [index for step in range(40) for index in share(order, step, batch, worker, workers)]
        epochs = [seen[start : start + len(shard)] for start in range(0, len(seen) - len(shard) + 1, len(shard))]
        assert len(epochs) > 5
        assert all(sorted(epoch) == sorted(shard) for epoch in epochs)
        assert len(set(map(tuple, epochs))) > len(epochs) / 2  # a new permutation each


def test_a_worker_sees_the_labels_of_its_shard_alone():
    labels = torch.arange(40) % 8
    order = SampleOrder.sorted_by_label(labels, 4, seed=0)
    for worker in range(4):
        seen = {int(labels[index]) for step in range(10) for index in share(order, step, 8, worker, 4)}
        assert seen == {2 * worker, 2 * worker + 1}


def test_the_draws_are_functions_of_the_seed_the_epoch_and_the_worker():
    order = SampleOrder.sorted_by_label(LABELS, 2, seed=7)
    for worker, shard in enumerate(shards_of(2)):
        for epoch in (3, 0, 2):  # 11 examples an epoch, here in one step each
            places = randomness.permutation(7, f"order of worker {worker}", epoch, 11)
            assert share(order, epoch, 22, worker, 2) == [shard[place] for place in places]


def test_any_part_of_a_batch_is_that_part_of_the_whole():
    whole = SampleOrder.sorted_by_label(LABELS, 4, seed=1)
    for step in range(9):
        batch = whole.take(12 * step, 12, 0, 12).tolist()
        again = SampleOrder.sorted_by_label(LABELS, 4, seed=1)
        for offset, count in ((9, 3), (0, 6), (6, 6), (2, 7)):
            assert again.take(12 * step, 12, offset, count).tolist() == batch[offset : offset + count]


def test_a_batch_that_grows_goes_on_where_each_worker_is():
    """Two steps of 8 and then one of 24: 4 workers have had 4 examples each, and take the next 6."""
    order = SampleOrder.sorted_by_label(LABELS, 4, seed=2)
    for worker in range(4):
        small = [index for step in range(10) for index in share(order, step, 8, worker, 4)]
        assert order.take(16, 24, 6 * worker, 6).tolist() == small[4:10]


def test_ranks_have_their_workers_examples_with_their_augmentation():
    images = torch.randint(0, 256, (22, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    split = Split(images, LABELS)
    raw = RawData(split, split, split, DataSpec("image", (3, 8, 8), 4))

    def source():
        augmentation = Augmentation(crop=2, flip=True)
        return BatchSource(raw, 3, augmentation=augmentation, order=SampleOrder.sorted_by_label(LABELS, 4, 3))

    for step in range(4):
        inputs, targets = source().batch(step, 8 * step, 8)
        for ranks in (2, 4):
            parts = [source().batch(step, 8 * step, 8, rank, ranks) for rank in range(ranks)]
            assert torch.equal(torch.cat([part[0] for part in parts]), inputs)
            assert torch.equal(torch.cat([part[1] for part in parts]), targets)

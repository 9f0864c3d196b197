import numpy as np
import pytest
import torch

from optbench.data.raw import Split
from optbench.data.splits import channel_statistics, fixed_permutation, limit_train, split_validation
from optbench.errors import UserError


def numbered(count):
    return Split(torch.arange(count).view(count, 1), torch.arange(count) * 10)


def test_permutation_never_changes():
    # The stored order: another one would move examples between training and validation of runs already made.
    assert fixed_permutation(10).tolist() == [4, 1, 7, 5, 3, 9, 0, 8, 6, 2]
    assert sorted(fixed_permutation(60000).tolist()) == list(range(60000))


def test_split_is_disjoint_complete_and_fixed():
    train, validation = split_validation(numbered(100), 30)
    assert (len(train), len(validation)) == (70, 30)
    assert sorted(train.inputs[:, 0].tolist() + validation.inputs[:, 0].tolist()) == list(range(100))
    assert torch.equal(train.targets, 10 * train.inputs[:, 0])
    torch.manual_seed(1)
    assert torch.equal(split_validation(numbered(100), 30)[1].inputs, validation.inputs)


@pytest.mark.parametrize("validation", [0, -1, 100, 101])
def test_validation_must_leave_something(validation):
    with pytest.raises(UserError, match=rf"dataset\.validation={validation}: must be in 1 \.\. 99"):
        split_validation(numbered(100), validation)


@pytest.mark.parametrize(("limit", "left"), [(None, 100), (1, 1), (40, 40), (100, 100), (1000, 100)])
def test_train_limit_is_a_prefix(limit, left):
    train = limit_train(numbered(100), limit)
    assert train.inputs[:, 0].tolist() == list(range(left))
    assert train.targets.tolist() == list(range(0, 10 * left, 10))


def test_take_without_targets():
    assert Split(torch.arange(5), None).take(torch.tensor([3, 1])).targets is None


def test_channel_statistics():
    images = np.random.default_rng(0).integers(0, 256, (50, 3, 7, 5), dtype=np.uint8)
    mean, std = channel_statistics(torch.from_numpy(images))
    np.testing.assert_allclose(mean, (images / 255).mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std(axis=(0, 2, 3)), rtol=1e-12)

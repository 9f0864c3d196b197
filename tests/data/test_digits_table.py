"""dataset=digits_table: every division has all digits once, and draws with replacement are independent and repeatable."""

import numpy as np
import pytest
import torch

from optbench.data import digits, digits_table
from optbench.data.source import BatchSource


def rows_of(raw, mean):
    parts = [raw.train, raw.validation, raw.test]
    return torch.cat([part.inputs for part in parts]) + mean, torch.cat([part.targets for part in parts])


def test_every_division_has_all_digits_once():
    with np.load(digits.FILE) as arrays:
        expected = torch.from_numpy(arrays["images"] / 16).flatten(1).float()
        labels = torch.from_numpy(arrays["labels"].astype(np.int64))
    found = {}
    for seed in (0, 1):
        raw = digits_table.load("nowhere", split_seed=seed)
        assert [len(split) for split in (raw.train, raw.validation, raw.test)] == [1024, 144, 629]
        assert raw.train.inputs.mean(0) == pytest.approx(torch.zeros(64), abs=1e-6)
        # The border pixel 0 is empty in all digits; the mean is found again from a row whose original is known.
        pixels, targets = rows_of(raw, expected.mean(0))
        together = torch.cat([pixels - pixels.mean(0), targets[:, None]], 1)
        original = torch.cat([expected - expected.mean(0), labels[:, None]], 1)
        for table in (together, original):
            table.mul_(4096).round_()
        assert sorted(map(tuple, together.tolist())) == sorted(map(tuple, original.tolist()))
        found[seed] = raw.test.targets
    assert not torch.equal(found[0], found[1])
    limited = digits_table.load("nowhere", train_limit=100)
    assert (len(limited.train), len(limited.test)) == (100, 629)
    assert limited.train.inputs.mean(0) == pytest.approx(torch.zeros(64), abs=1e-6)


def test_draws_with_replacement_are_uniform_independent_and_a_function_of_their_number():
    raw = digits_table.load("nowhere", train_limit=50, replacement=True)
    stream = raw.train.inputs
    inputs, targets = stream.train_batch(0, 20_000, 3, torch.float64)
    again, _ = stream.train_batch(19_990, 10, 3, torch.float64)
    assert torch.equal(again, inputs[-10:])
    assert not torch.equal(stream.train_batch(0, 10, 4, torch.float64)[0], inputs[:10])
    every = stream.evaluation.inputs.double()
    index = (inputs[:, None] == every).all(2).int().argmax(1)
    assert torch.equal(stream.evaluation.targets[index], targets)
    counts = index.bincount(minlength=50).double()
    # χ² of 49 degrees of freedom: mean 49, standard deviation 9.9.
    assert 15 < float(((counts - 400) ** 2 / 400).sum()) < 95
    # Within an epoch of 50 some come again, as they never do without replacement.
    assert 25 < len(index[:50].unique()) < 40


def test_a_source_of_drawn_examples_evaluates_all_of_them():
    raw = digits_table.load("nowhere", train_limit=50, replacement=True)
    source = BatchSource(raw, seed=0)
    assert source.examples == 50
    ((inputs, targets),) = source.evaluation("train", 100)
    assert (tuple(inputs.shape), len(targets)) == ((50, 64), 50)
    whole, _ = source.batch(2, 16, 8)
    halves = torch.cat([source.batch(2, 16, 8, rank, 2)[0] for rank in range(2)])
    assert torch.equal(whole, halves)

"""The counter-based draws against their distributions. Keys are fixed, so that nothing here fails by chance."""

import hashlib
import math

import numpy as np
import pytest
import torch
from scipy import stats

from optbench import randomness

COUNT = 100_000
KEYS = [
    randomness.key(seed, purpose, step) for seed, purpose, step in [(0, "crop", 0), (1, "dropout", 17), (2, "a", 9)]
]
# A p-value below this refutes a hypothesis, also one of the hundred that are tested here.
SIGNIFICANCE = 1e-5


def draws(key, count=COUNT, first=0, stride=1):
    return randomness.uniform(key, first + stride * torch.arange(count)).double().numpy()


def hash_by_hand(key, position):
    """The hash of the module docstring in Python's unbounded integers."""

    def mix(word):
        word = ((word >> 16) ^ word) * 0x45D9F3B % 2**32
        word = ((word >> 16) ^ word) * 0x45D9F3B % 2**32
        return (word >> 16) ^ word

    return mix(mix(position % 2**32) ^ key)


# ---- the hash -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, *KEYS])
def test_64_bit_arithmetic_never_overflows(key):
    positions = [0, 1, 2, 12345, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**40 + 17]
    expected = [hash_by_hand(key, position) for position in positions]
    assert randomness.bits(key, torch.tensor(positions)).tolist() == expected


def test_two_positions_never_share_their_bits():
    """For a fixed key the hash is a bijection of 32-bit words."""
    values = randomness.bits(KEYS[0], torch.arange(1_000_000))
    assert len(values.unique()) == 1_000_000
    assert values.min() >= 0
    assert values.max() < 2**32


def test_every_bit_is_one_half_of_the_time():
    values = randomness.bits(KEYS[1], torch.arange(COUNT))
    ones = torch.stack([(values >> bit) & 1 for bit in range(32)]).double().mean(1)
    # Five standard deviations of the mean of COUNT coin flips.
    assert (ones - 0.5).abs().max() < 5 * 0.5 / math.sqrt(COUNT)


def test_a_key_in_a_tensor_is_the_same_key():
    position = torch.arange(100)
    assert torch.equal(randomness.bits(torch.tensor(KEYS[0]), position), randomness.bits(KEYS[0], position))


# ---- uniformity -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(("first", "stride"), [(0, 1), (1, 2), (10**6, 1), (0, 784), (5, 65536)])
def test_uniform_is_uniform(key, first, stride):
    assert stats.kstest(draws(key, first=first, stride=stride), "uniform").pvalue > SIGNIFICANCE


def test_uniform_over_steps_at_one_position():
    """The draws of one example of the batch from step to step."""
    values = [float(randomness.uniform(randomness.key(0, "flip", step), torch.tensor(3))) for step in range(5000)]
    assert stats.kstest(values, "uniform").pvalue > SIGNIFICANCE


def test_uniform_never_reaches_one(monkeypatch):
    position = torch.tensor([0])
    for word, expected in [(0xFFFFFFFF, 1 - 2.0**-24), (0xFFFFFF00, 1 - 2.0**-24), (0xFF, 0.0), (0x80000000, 0.5)]:
        monkeypatch.setattr(randomness, "bits", lambda key, position, word=word: torch.full_like(position, word))
        assert float(randomness.uniform(0, position)) == expected
    assert randomness.uniform(0, position).dtype == torch.float32


@pytest.mark.parametrize("high", [1, 2, 3, 9, 28, 1000])
@pytest.mark.parametrize("key", KEYS)
def test_integers_are_uniform_on_their_range(key, high):
    values = randomness.integers(key, torch.arange(COUNT), high)
    counts = np.bincount(values.numpy(), minlength=high)
    assert values.min() >= 0
    assert len(counts) == high  # none is `high` or above
    if high > 1:
        assert stats.chisquare(counts).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("high", [1, 7, 2**31 - 1])
def test_integers_at_the_ends_of_the_hash(monkeypatch, high):
    for word in (0, 1, 2**31, 2**32 - 1):
        monkeypatch.setattr(randomness, "bits", lambda key, position, word=word: torch.full_like(position, word))
        assert int(randomness.integers(0, torch.tensor(0), high)) == math.floor(word / 2**32 * high)


# ---- independence ---------------------------------------------------------------------------------------------------


def assert_independent(one, other):
    """No correlation, of the values nor of their distances from the middle, and a uniform joint distribution."""
    bound = 5 / math.sqrt(len(one))
    assert abs(np.corrcoef(one, other)[0, 1]) < bound
    assert abs(np.corrcoef(np.abs(one - 0.5), np.abs(other - 0.5))[0, 1]) < bound
    joint, _, _ = np.histogram2d(one, other, bins=16, range=[[0, 1], [0, 1]])
    assert stats.chisquare(joint.ravel()).pvalue > SIGNIFICANCE


@pytest.mark.parametrize("lag", [1, 2, 3, 16, 32, 784, 1024, 3072])
@pytest.mark.parametrize("key", KEYS)
def test_neighbouring_positions_are_independent(key, lag):
    values = draws(key, COUNT + lag)
    assert_independent(values[:-lag], values[lag:])


@pytest.mark.parametrize(
    "other",
    [(0, "crop", 1), (0, "crop", 2), (1, "crop", 0), (0, "flip", 0), (0, "cutout", 0), (10, "crop", 0)],
    ids=str,
)
def test_draws_under_two_keys_are_independent(other):
    assert_independent(draws(randomness.key(0, "crop", 0)), draws(randomness.key(*other)))


def test_neighbouring_words_as_keys_are_independent():
    """A dropout layer's key is another's plus a constant, not a hash."""
    for difference in (1, 2**16, 0x9E3779B1):
        assert_independent(draws(KEYS[0]), draws((KEYS[0] + difference) & 0xFFFFFFFF))


# ---- pure functions of their arguments ------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", [1, 7, 64, 999])
def test_draws_do_not_depend_on_how_positions_are_divided(cut):
    position = torch.arange(1000)
    for draw in (randomness.uniform, lambda key, position: randomness.integers(key, position, 9)):
        parts = [draw(KEYS[0], part) for part in position.split(cut)]
        assert torch.equal(torch.cat(parts), draw(KEYS[0], position))
        assert torch.equal(draw(KEYS[0], position.view(10, 100).T), draw(KEYS[0], position).view(10, 100).T)
        assert torch.equal(draw(KEYS[0], position.flip(0)), draw(KEYS[0], position).flip(0))


def test_draws_leave_torchs_generator_alone():
    state = torch.get_rng_state()
    randomness.uniform(KEYS[0], torch.arange(10))
    randomness.generator(0, "weights")
    randomness.permutation(0, "order", 0, 100)
    assert torch.equal(torch.get_rng_state(), state)


def test_keys_differ_in_every_part_of_their_name():
    names = [
        (seed, purpose, step)
        for seed in (0, 1, 11)
        for purpose in ("crop", "flip", "1", "")
        for step in (0, 1, 11, 111, 10**6)
    ]
    keys = {randomness.key(*name) for name in names}
    assert len(keys) == len(names)
    assert all(0 <= key < 2**32 for key in keys)
    assert randomness.key(3, "crop") == randomness.key(3, "crop", 0)


def test_keys_never_change():
    """A run that is resumed by a later version must go on with the same draws."""
    assert randomness.key(0, "order", 0) == 0xE5F4EE68
    assert randomness.key(12, "crop", 345) == int(
        hashlib.blake2b(b"12/crop/345", digest_size=4).digest()[::-1].hex(), 16
    )


def test_generators_are_named_by_seed_purpose_and_step():
    def first(*name):
        return torch.rand(4, generator=randomness.generator(*name)).tolist()

    assert first(0, "init") == first(0, "init", 0)
    assert len({tuple(first(*name)) for name in [(0, "init"), (1, "init"), (0, "probe"), (0, "init", 1)]}) == 4


# ---- permutations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("length", [1, 2, 1000])
def test_a_permutation_is_one(length):
    order = randomness.permutation(0, "order", 3, length)
    assert order.dtype == torch.int64
    assert torch.equal(order.sort().values, torch.arange(length))
    assert torch.equal(order, randomness.permutation(0, "order", 3, length))


def test_permutations_differ_by_seed_purpose_and_epoch():
    orders = [
        randomness.permutation(*name, 100) for name in [(0, "order", 0), (0, "order", 1), (1, "order", 0), (0, "a", 0)]
    ]
    assert len({tuple(order.tolist()) for order in orders}) == len(orders)


def test_every_place_of_a_permutation_is_uniform():
    length, count = 8, 4000
    orders = torch.stack([randomness.permutation(5, "order", epoch, length) for epoch in range(count)])
    for place in range(length):
        assert stats.chisquare(np.bincount(orders[:, place].numpy(), minlength=length)).pvalue > SIGNIFICANCE
    # Successive epochs are independent: the same example is in the same place once in `length` times.
    same = (orders[1:] == orders[:-1]).double().mean()
    assert abs(same - 1 / length) < 5 * math.sqrt(1 / length / length / count)


def test_normal_draws_are_the_quantiles_of_uniform_ones():
    position = torch.arange(100_000)
    found = randomness.normal(11, position)
    assert found.dtype == torch.float64
    # Half a step of the uniform draws is added, so that 0 has a finite quantile.
    expected = stats.norm.ppf(randomness.uniform(11, position).double().numpy() + 2.0**-25)
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-12, atol=1e-12)
    assert stats.kstest(found.numpy(), "norm").pvalue > 1e-3
    zero = randomness.normal_of(torch.zeros(1))
    assert zero.item() == pytest.approx(-5.42, abs=0.01)

import math

import pytest
import torch
from torch.nn.functional import one_hot

from optbench.data import sequence_tasks
from optbench.data.sequence_tasks import adding, memorization, multiplication, temporal_order

LOADS = {
    "adding": lambda **options: adding("", length=20, **options),
    "multiplication": lambda **options: multiplication("", length=20, **options),
    "temporal_order_2": lambda **options: temporal_order("", bits=2, length=30, **options),
    "temporal_order_3": lambda **options: temporal_order("", bits=3, length=30, **options),
    "memorization": lambda **options: memorization("", length=10, **options),
}


@pytest.fixture(autouse=True)
def small_test_set(monkeypatch):
    monkeypatch.setattr(sequence_tasks, "TEST_EXAMPLES", 500)


def within_five_deviations(count, examples, probability):
    return abs(count - examples * probability) < 5 * (examples * probability * (1 - probability)) ** 0.5


@pytest.mark.parametrize("name", LOADS)
def test_generated_sets_are_fixed(name):
    load = LOADS[name]
    one, two = load(examples=300, validation=40), load(examples=300, validation=40)
    for split in ("train", "validation", "test"):
        assert torch.equal(getattr(one, split).inputs, getattr(two, split).inputs)
        assert torch.equal(getattr(one, split).targets, getattr(two, split).targets)
    assert [len(split) for split in (one.train, one.validation, one.test)] == [300, 40, 500]
    assert not torch.equal(one.validation.inputs, one.test.inputs[:40])
    # No split depends on how large another is; the seed changes all.
    other = load(examples=100, validation=70, generation_seed=0)
    assert torch.equal(one.test.inputs, other.test.inputs)
    assert not torch.equal(one.test.inputs, load(examples=300, validation=40, generation_seed=1).test.inputs)
    limited = load(examples=300, validation=40, train_limit=12)
    assert torch.equal(limited.train.inputs, one.train.inputs[:12])
    assert one.train.inputs.shape[1:] == one.spec.shape
    assert one.train.inputs.dtype == torch.float32


@pytest.mark.parametrize(
    ("load", "options", "combine"),
    [
        (adding, {}, lambda a, b: a + b),
        (adding, {"target": "half_sum"}, lambda a, b: (a + b) / 2),
        (multiplication, {}, lambda a, b: a * b),
    ],
)
def test_marked_numbers(load, options, combine):
    raw = load("", length=80, examples=2000, **options)
    assert (raw.spec.target, raw.spec.outputs, raw.spec.tolerance) == ("real", 1, 0.04)
    first, second, tops = set(), set(), 0
    for sequence, target in zip(raw.train.inputs.tolist(), raw.train.targets.tolist(), strict=True):
        marks = [mark for _, mark in sequence]
        marked = [step for step, mark in enumerate(marks, start=1) if mark == 1]
        assert len(marked) == 2
        assert (marks[0], marks[-1], marks.count(-1), marks.count(0)) == (-1, -1, 2, 76)
        first.add(marked[0])
        second.add(marked[1])
        numbers = [sequence[step - 1][0] for step in marked]
        tops += sum(number > 0.5 for number in numbers)
        assert abs(combine(*numbers) - target[0]) < 1e-6  # the oracle that reads the marks makes no error
    # T = 80: the first mark in 2 .. T/10, the second in T/10 + 1 .. T/2, and everywhere there.
    assert first == set(range(2, 9))
    assert second == set(range(9, 41))
    assert within_five_deviations(tops, 4000, 0.5)
    numbers = raw.train.inputs[..., 0]
    assert 0 <= numbers.min() < 0.001
    assert 0.999 < numbers.max() < 1
    assert abs(float(numbers.mean()) - 0.5) < 5 * (1 / 12 / numbers.numel()) ** 0.5


def test_distribution_of_the_targets():
    # How often a prediction of the mean is off by more than .04, from the distributions of a + b, (a + b) / 2 and a b.
    def below(z):  # P(a b < z)
        return z - z * math.log(z)

    for load, options, mean, missed in (
        (adding, {}, 1, (1 - 0.04) ** 2),
        (adding, {"target": "half_sum"}, 0.5, (1 - 0.08) ** 2),
        (multiplication, {}, 0.25, 1 - below(0.29) + below(0.21)),
    ):
        targets = load("", length=20, examples=20000, **options).train.targets
        assert within_five_deviations(int(((targets - mean).abs() > 0.04).sum()), 20000, missed)


INTERVALS = {2: [(10, 20), (50, 60)], 3: [(10, 20), (30, 40), (60, 70)]}


@pytest.mark.parametrize("bits", [2, 3])
def test_temporal_order(bits):
    raw = temporal_order("", bits=bits, length=100, examples=2000)
    assert (raw.spec.target, raw.spec.outputs) == ("class", 2**bits)
    steps = [set() for _ in range(bits)]
    assert torch.equal(raw.train.inputs.sum(dim=2), torch.ones(2000, 100))
    for sequence, target in zip(raw.train.inputs.argmax(dim=2).tolist(), raw.train.targets.tolist(), strict=True):
        symbols = [sequence_tasks.SYMBOLS[index] for index in sequence]
        relevant = [(step, symbol) for step, symbol in enumerate(symbols, start=1) if symbol in "XY"]
        assert len(relevant) == bits
        for seen, (step, _) in zip(steps, relevant, strict=True):
            seen.add(step)
        word = "".join(symbol for _, symbol in relevant)
        assert target == int(word.replace("X", "0").replace("Y", "1"), base=2)  # the oracle
        assert (symbols[0], symbols[-1]) == ("start", "cue")
        assert set(symbols[1:-1]) <= set("abcdXY")
    # T = 100: every step of every interval, both ends included, and no other.
    assert steps == [set(range(low, high + 1)) for low, high in INTERVALS[bits]]
    for count in raw.train.targets.bincount().tolist():
        assert within_five_deviations(count, 2000, 2.0**-bits)
    distractors = raw.train.inputs[:, 1:-1, :4].sum(dim=(0, 1)).tolist()
    for count in distractors:
        assert within_five_deviations(count, sum(distractors), 0.25)


@pytest.mark.parametrize(("symbols", "values"), [(5, 2), (10, 5)])
def test_memorization(symbols, values):
    length = 17
    raw = memorization("", length=length, symbols=symbols, values=values, examples=1000)
    steps = 2 * symbols + length
    assert (raw.spec.target, raw.spec.outputs, raw.spec.shape) == ("class_per_step", values, (steps, values + 2))
    blank, cue = values, values + 1
    for sequence, targets in zip(raw.train.inputs.argmax(dim=2).tolist(), raw.train.targets.tolist(), strict=True):
        shown = sequence[:symbols]
        assert all(0 <= value < values for value in shown)
        assert sequence[symbols:] == [blank] * (length - 1) + [cue] + [blank] * symbols
        # The oracle: from the step after the cue on, the symbols in order.
        assert targets == [-100] * (sequence.index(cue) + 1) + shown
    assert torch.equal(raw.train.inputs, one_hot(raw.train.inputs.argmax(dim=2), values + 2).float())
    for position in range(symbols):
        for count in raw.train.targets[:, position - symbols].bincount(minlength=values).tolist():
            assert within_five_deviations(count, 1000, 1 / values)

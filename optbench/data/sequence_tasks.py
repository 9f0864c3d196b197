"""Synthetic problems with long time lags: adding, multiplication, temporal order, memorization.

From Hochreiter & Schmidhuber (1997), Neural Computation 9(8), as used for optimizers by Martens & Sutskever (2011) and
by Sutskever, Martens, Dahl & Hinton (2013). The papers leave details open; the choices made here:

- a sequence has exactly ``length`` = T steps (in the papers the length varies by up to 10 %);
- steps are counted from 1; an interval of steps [aT, bT] is floor(aT) .. floor(bT), both included;
- the examples are a fixed set, not drawn anew at every step;
- inputs and targets are not centred.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from optbench import randomness
from optbench.data.raw import RawData, Split
from optbench.data.spec import DataSpec
from optbench.data.splits import limit_train
from optbench.system import memory

TEST_EXAMPLES = 10000
TOLERANCE = 0.04
NO_TARGET = -100

# The symbols of the temporal order problems, in the order of the one-hot features.
SYMBOLS = ("a", "b", "c", "d", "X", "Y", "start", "cue")
_DISTRACTORS, _X, _START, _CUE = 4, 4, 6, 7
# The intervals of the relevant symbols, in tenths of T.
_INTERVALS = {2: ((1, 2), (5, 6)), 3: ((1, 2), (3, 4), (6, 7))}

Generate = Callable[[int, Generator], Split]


def _raw_data(
    task: str,
    generate: Generate,
    spec: DataSpec,
    examples: int,
    validation: int,
    train_limit: int | None,
    generation_seed: int,
) -> RawData:
    """Generate the three splits, each from its own random stream, so that none depends on the size of another."""
    steps, features = spec.shape
    sequences = examples + validation + TEST_EXAMPLES
    what = f"dataset={task}, {sequences:,} sequences of {steps:,} steps with {features:,} features"
    memory.require(4 * sequences * steps * features, what)
    splits = {
        name: generate(count, randomness.generator(generation_seed, f"{task}/{name}"))
        for name, count in (("train", examples), ("validation", validation), ("test", TEST_EXAMPLES))
    }
    return RawData(limit_train(splits["train"], train_limit), splits["validation"], splits["test"], spec)


def _uniform_step(first: int, last: int, count: int, generator: Generator) -> Tensor:
    """``count`` steps uniform on first .. last, as indices (from 0)."""
    return torch.randint(first - 1, last, (count,), generator=generator)


# ---- adding and multiplication --------------------------------------------------------------------------------------


def _marked_numbers(length: int, count: int, generator: Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs (count, length, 2) and the two marked numbers (count,)."""
    numbers = torch.rand(count, length, generator=generator)
    marks = torch.zeros(count, length)
    marks[:, 0] = marks[:, -1] = -1.0
    tenth = max(length // 10, 2)  # the first step has another mark
    first = _uniform_step(2, tenth, count, generator)
    second = _uniform_step(tenth + 1, length // 2, count, generator)
    row = torch.arange(count)
    marks[row, first] = marks[row, second] = 1.0
    return torch.stack((numbers, marks), dim=2), numbers[row, first], numbers[row, second]


def adding(
    data_dir: str,
    length: int = 80,
    target: str = "sum",
    examples: int = 20000,
    validation: int = 2000,
    train_limit: int | None = None,
    generation_seed: int = 0,
) -> RawData:
    """The adding problem: the sum of the two marked numbers among ``length`` (at least 10).

    Features of a step: a number uniform on [0, 1), and a mark: 1 at the two steps to add, the first in 2 .. T/10, the
    second in T/10 + 1 .. T/2; -1 at the first and the last step; 0 elsewhere. Target (N, 1): the sum (``target`` "sum",
    Sutskever et al. 2013) or half of it ("half_sum"). A prediction within 0.04 is right. ``data_dir`` is not used.
    """
    factor = 0.5 if target == "half_sum" else 1.0

    def generate(count: int, generator: Generator) -> Split:
        inputs, first, second = _marked_numbers(length, count, generator)
        return Split(inputs, (factor * (first + second))[:, None])

    spec = DataSpec("sequence", (length, 2), 1, target="real", tolerance=TOLERANCE)
    return _raw_data("adding", generate, spec, examples, validation, train_limit, generation_seed)


def multiplication(
    data_dir: str,
    length: int = 80,
    examples: int = 20000,
    validation: int = 2000,
    train_limit: int | None = None,
    generation_seed: int = 0,
) -> RawData:
    """The multiplication problem: as ``adding``, with the product of the two marked numbers as the target."""

    def generate(count: int, generator: Generator) -> Split:
        inputs, first, second = _marked_numbers(length, count, generator)
        return Split(inputs, (first * second)[:, None])

    spec = DataSpec("sequence", (length, 2), 1, target="real", tolerance=TOLERANCE)
    return _raw_data("multiplication", generate, spec, examples, validation, train_limit, generation_seed)


# ---- temporal order -------------------------------------------------------------------------------------------------


def temporal_order(
    data_dir: str,
    bits: int = 2,
    length: int = 100,
    examples: int = 20000,
    validation: int = 2000,
    train_limit: int | None = None,
    generation_seed: int = 0,
) -> RawData:
    """The temporal order problem: find the order of the symbols X and Y among distractors (``length`` at least 20).

    A sequence begins with ``start`` and ends with ``cue``. All other steps are uniform over four distractors, except for X
    or Y (each with probability 1/2) at ``bits`` steps: for 2 bits one uniform in [.1T, .2T] and one in [.5T, .6T], for 3
    bits in [.1T, .2T], [.3T, .4T] and [.6T, .7T]. Features: one-hot over ``SYMBOLS`` (8). Class: the bits (X = 0, Y = 1)
    read as a binary number, the earliest first; 4 or 8 classes. ``data_dir`` is not used.
    """

    def generate(count: int, generator: Generator) -> Split:
        symbols = torch.randint(_DISTRACTORS, (count, length), generator=generator)
        symbols[:, 0], symbols[:, -1] = _START, _CUE
        targets = torch.zeros(count, dtype=torch.int64)
        for low, high in _INTERVALS[bits]:
            step = _uniform_step(low * length // 10, high * length // 10, count, generator)
            bit = torch.randint(2, (count,), generator=generator)
            symbols[torch.arange(count), step] = _X + bit
            targets = 2 * targets + bit
        return Split(F.one_hot(symbols, len(SYMBOLS)).float(), targets)

    spec = DataSpec("sequence", (length, len(SYMBOLS)), 2**bits)
    return _raw_data(f"temporal_order_{bits}", generate, spec, examples, validation, train_limit, generation_seed)


# ---- memorization ---------------------------------------------------------------------------------------------------


def memorization(
    data_dir: str,
    length: int = 200,
    symbols: int = 5,
    values: int = 2,
    examples: int = 10000,
    validation: int = 1000,
    train_limit: int | None = None,
    generation_seed: int = 0,
) -> RawData:
    """The noiseless memorization problem: recall ``symbols`` symbols, in order, ``length`` steps after they were shown.

    A sequence of 2 * symbols + length steps: the symbols, each uniform over ``values``; ``length`` steps, all blank except
    for a cue at the last; and the recall window of ``symbols`` blanks, at whose steps the symbols are the targets.
    Other steps have no target (-100). Features: one-hot over the values, blank, and cue. "5 bits" is 5 symbols of 2
    values, "20 bits" is 10 symbols of 5 values, as in Martens & Sutskever (2011). ``data_dir`` is not used.
    """
    blank, cue = values, values + 1
    steps = 2 * symbols + length

    def generate(count: int, generator: Generator) -> Split:
        shown = torch.randint(values, (count, symbols), generator=generator)
        sequence = torch.full((count, steps), blank)
        sequence[:, :symbols] = shown
        sequence[:, symbols + length - 1] = cue
        targets = torch.full((count, steps), NO_TARGET)
        targets[:, symbols + length :] = shown
        return Split(F.one_hot(sequence, values + 2).float(), targets)

    spec = DataSpec("sequence", (steps, values + 2), values, target="class_per_step")
    return _raw_data("memorization", generate, spec, examples, validation, train_limit, generation_seed)

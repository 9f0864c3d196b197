import lzma

import pytest
import torch

from optbench.data import text
from optbench.data.spec import DataSpec
from optbench.errors import UserError


@pytest.mark.parametrize(("tokens", "length", "count"), [(10, 3, 3), (9, 3, 2), (11, 5, 2), (10, 5, 1), (2, 1, 1)])
def test_windows(tokens, length, count):
    split = text.windows(torch.arange(tokens), length, "training")
    assert split.inputs.tolist() == [[length * i + j for j in range(length)] for i in range(count)]
    assert torch.equal(split.targets, split.inputs + 1)


def test_too_long_a_window():
    with pytest.raises(
        UserError, match=r"dataset\.sequence_length=10: the test part has 10 tokens; accepted: 1 \.\. 9"
    ):
        text.windows(torch.arange(10), 10, "test")


def test_jargon_file():
    raw = text.load("nowhere", sequence_length=50)
    whole = lzma.decompress(text.FILE.read_bytes()).decode()
    assert len(whole) == 1618757
    assert raw.class_names == sorted(set(whole))
    assert raw.spec == DataSpec("tokens", (50,), 155, target="class_per_step", vocabulary=155)
    assert [len(split) for split in (raw.train, raw.validation, raw.test)] == [29137, 1618, 1618]

    def decode(tokens):
        return "".join(raw.class_names[token] for token in tokens)

    validation, test = 1618757 * 90 // 100, 1618757 * 95 // 100
    assert decode(raw.validation.inputs[0]) == whole[validation : validation + 50]
    assert decode(raw.validation.targets[0]) == whole[validation + 1 : validation + 51]
    assert decode(raw.test.inputs.flatten()) == whole[test : test + 50 * 1618]
    # Every training window is a different one of the windows of the first 90 %, with its next characters.
    starts = {whole[i : i + 51] for i in range(0, 50 * 29137, 50)}
    found = {decode(raw.train.inputs[i]) + decode(raw.train.targets[i, -1:]) for i in range(0, 29137, 500)}
    assert found <= starts


def test_train_limit_is_a_fixed_subset():
    whole, limited = text.load("nowhere"), text.load("nowhere", train_limit=100)
    assert len(limited.train) == 100
    assert torch.equal(limited.train.inputs, whole.train.inputs[:100])
    assert torch.equal(limited.train.targets, whole.train.targets[:100])
    assert torch.equal(limited.test.inputs, whole.test.inputs)

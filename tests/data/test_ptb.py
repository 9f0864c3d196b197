import pytest
import torch
from fixtures import offline, write_ptb

from optbench.data import ptb
from optbench.data.spec import DataSpec
from optbench.errors import UserError

# Each line of the real files starts and ends with a blank.
TRAIN = " the cat saw the <unk> \n the dog ran \n" * 5
VALID = " the dog saw the cat \n"
TEST = " the cat ran \n the dog ran \n"


def test_words():
    assert ptb.words_of(VALID) == ["the", "dog", "saw", "the", "cat", "<eos>"]


def test_vocabulary_by_frequency():
    # the: 15, <eos>: 10, the others: 5 each.
    assert ptb.vocabulary_of(ptb.words_of(TRAIN)) == ["the", "<eos>", "<unk>", "cat", "dog", "ran", "saw"]


def test_load(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    write_ptb(data_dir / "ptb", TRAIN, VALID, TEST)
    raw = ptb.load(str(data_dir), sequence_length=2, check_hash=False)
    assert raw.spec == DataSpec("tokens", (2,), 7, target="class_per_step", vocabulary=7)
    words = [[raw.class_names[token] for token in window] for window in raw.validation.inputs]
    following = [[raw.class_names[token] for token in window] for window in raw.validation.targets]
    assert words == [["the", "dog"], ["saw", "the"]]
    assert following == [["dog", "saw"], ["the", "cat"]]
    assert [len(split) for split in (raw.train, raw.validation, raw.test)] == [24, 2, 3]
    assert raw.train.inputs.flatten().bincount().tolist() == [15, 9, 5, 5, 5, 4, 5]  # without the last ran <eos>


def test_unknown_word(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    write_ptb(data_dir, TRAIN, " the horse ran \n", TEST)
    with pytest.raises(UserError, match=r"ptb\.valid\.txt: the word 'horse' does not occur in .*ptb\.train\.txt"):
        ptb.load(str(data_dir), sequence_length=2, check_hash=False)


def test_files_that_are_not_official_are_refused(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    write_ptb(data_dir, TRAIN, VALID, TEST)
    with pytest.raises(UserError, match=r"not the official ptb\.train\.txt: .*, expected f26c4b92c5fd"):
        ptb.load(str(data_dir))


def test_train_limit_counts_windows(monkeypatch, tmp_path):
    data_dir = offline(monkeypatch, tmp_path)
    write_ptb(data_dir, TRAIN, VALID, TEST)
    whole, limited = (ptb.load(str(data_dir), 2, limit, check_hash=False) for limit in (None, 4))
    assert torch.equal(limited.train.inputs, whole.train.inputs[:4])

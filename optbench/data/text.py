"""Next-character prediction on the Jargon File, shipped with this package; windows of tokens for any language model."""

import lzma
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from optbench.data.raw import RawData, Split
from optbench.data.spec import DataSpec
from optbench.data.splits import fixed_permutation, limit_train
from optbench.errors import UserError

FILE = Path(__file__).parent / "files" / "jargon.txt.xz"


def windows(tokens: Tensor, sequence_length: int, where: str) -> Split:
    """Cut int64 ``tokens`` (L,) into windows (N, T) that do not overlap, T = ``sequence_length``; N = (L - 1) // T.

    The target of a token is the next token, so the targets are the same windows shifted by one token. The rest at the end
    is dropped. Raises UserError, naming the part ``where``, if there is not one window.
    """
    count = (len(tokens) - 1) // sequence_length
    if len(tokens) < 2:
        raise UserError(
            f"the {where} part has {len(tokens)} tokens; needs two, as the second is the target of the first"
        )
    if count < 1:
        raise UserError(
            f"dataset.sequence_length={sequence_length}: the {where} part has {len(tokens)} tokens; "
            f"accepted: 1 .. {len(tokens) - 1}"
        )
    used = count * sequence_length
    return Split(tokens[:used].view(count, -1), tokens[1 : used + 1].view(count, -1))


def language_model_data(
    parts: tuple[Tensor, Tensor, Tensor],
    vocabulary: list[str],
    sequence_length: int,
    train_limit: int | None,
) -> RawData:
    """Assemble the windows of the (train, validation, test) tokens; ``train_limit`` counts windows.

    The training windows are in the order of the fixed permutation, the others in that of the text.
    """
    train, validation, test = (
        windows(part, sequence_length, name)
        for part, name in zip(parts, ("training", "validation", "test"), strict=True)
    )
    train = train.take(fixed_permutation(len(train)))
    size = len(vocabulary)
    spec = DataSpec("tokens", (sequence_length,), size, target="class_per_step", vocabulary=size)
    return RawData(limit_train(train, train_limit), validation, test, spec, class_names=vocabulary)


def encode(text: str) -> tuple[list[str], Tensor]:
    """The distinct characters of ``text``, sorted, and the index among them of each of its characters (int64)."""
    # On an array of code points, numpy.unique is several times faster than a loop over the characters.
    codes, tokens = np.unique(np.frombuffer(text.encode("utf-32-le"), np.uint32), return_inverse=True)
    return [chr(code) for code in codes], torch.from_numpy(tokens.astype(np.int64))


def load(data_dir: str, sequence_length: int = 50, train_limit: int | None = None) -> RawData:
    """The Jargon File 4.4.7 (1.62 million characters, public domain), character by character.

    ``data_dir`` is not used: the text is shipped. The first 90 % of the text are for training, the next 5 % for
    validation, the last 5 % for testing. The vocabulary is every character of the whole text, sorted.
    """
    vocabulary, tokens = encode(lzma.decompress(FILE.read_bytes()).decode("utf-8"))
    first, second = len(tokens) * 90 // 100, len(tokens) * 95 // 100
    parts = (tokens[:first], tokens[first:second], tokens[second:])
    return language_model_data(parts, vocabulary, sequence_length, train_limit)

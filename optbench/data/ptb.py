"""Penn Treebank, word by word, as prepared by Mikolov et al. (2010).

``ptb.train.txt``, ``ptb.valid.txt`` and ``ptb.test.txt``: the 10,000 most frequent words, the rest already replaced by
<unk>; one sentence a line. The end of each line becomes the word <eos>, as in Zaremba, Sutskever & Vinyals (2014),
arXiv 1409.2329.
"""

from collections import Counter

import torch
from torch import Tensor

from optbench.data.locate import locate, read
from optbench.data.raw import RawData
from optbench.data.sources import PTB
from optbench.data.text import language_model_data
from optbench.errors import UserError

END_OF_SENTENCE = "<eos>"


def words_of(text: str) -> list[str]:
    """The words of ``text``, with <eos> at the end of each line."""
    return [word for line in text.splitlines() for word in (*line.split(), END_OF_SENTENCE)]


def vocabulary_of(words: list[str]) -> list[str]:
    """The distinct ``words``, the most frequent first, and in alphabetical order among equals."""
    return sorted(counts := Counter(words), key=lambda word: (-counts[word], word))


def load(data_dir: str, sequence_length: int = 35, train_limit: int | None = None, check_hash: bool = True) -> RawData:
    """Penn Treebank in windows of ``sequence_length`` words that do not overlap (35 as in Zaremba et al. 2014).

    Every window starts from an empty state, unlike in that paper, where a batch continues the one before it. The
    vocabulary is that of the training text. Raises UserError if the files are not found and cannot be downloaded, if
    they are not the official ones (``check_hash``), or if validation or test have a word that training lacks.
    """
    paths = locate(PTB, data_dir, check_hash)
    texts = [words_of(read(file, paths[file.name], check_hash).decode("utf-8", errors="replace")) for file in PTB.files]
    vocabulary = vocabulary_of(texts[0])
    index = {word: position for position, word in enumerate(vocabulary)}
    parts: list[Tensor] = []
    for file, words in zip(PTB.files, texts, strict=True):
        unknown = next((word for word in words if word not in index), None)
        if unknown is not None:
            raise UserError(f"{paths[file.name]}: the word {unknown!r} does not occur in {paths[PTB.files[0].name]}")
        parts.append(torch.tensor([index[word] for word in words], dtype=torch.int64))
    return language_model_data((parts[0], parts[1], parts[2]), vocabulary, sequence_length, train_limit)

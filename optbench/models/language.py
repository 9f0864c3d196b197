"""Recurrent language models over characters or words: embedding, recurrent layers, a linear layer to the vocabulary.

Zaremba, Sutskever & Vinyals 2014, "Recurrent neural network regularization", arXiv 1409.2329 (the word LSTMs and the places
of their dropout); Karpathy 2015, char-rnn (one-hot characters); Schneider, Balles & Hennig 2019, DeepOBS, arXiv 1903.05499
(the character LSTM on Tolstoi); Press & Wolf 2017, arXiv 1608.05859 (tied weights).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optbench.data.spec import DataSpec
from optbench.errors import UserError
from optbench.models.layers import Dropout
from optbench.models.recurrent import RecurrentStack


def vocabulary_of(data: DataSpec) -> int:
    """The number of distinct tokens of ``data``; raises UserError if it does not hold tokens."""
    if data.kind != "tokens" or data.vocabulary is None:
        raise UserError(f"model: a language model reads tokens, and the dataset's examples are of kind {data.kind}")
    return data.vocabulary


class RecurrentLanguageModel(nn.Module):
    """tokens (examples, steps), int64 -> logits of the next token (examples, steps, vocabulary).

    ``embedding`` is the width of the learned token vectors; 0 feeds one-hot vectors to the first layer instead. Dropout
    acts on the non-recurrent connections only (Zaremba et al. 2014): on the embedded tokens, between the layers
    (with ``dropout_between`` if that is not None) and before the readout; one-hot inputs are not dropped. ``tied``
    makes the readout share the embedding's matrix. ``initial_range`` draws every parameter, biases too, from U(-r, r)
    at construction, as Zaremba's program does; None keeps torch's defaults.

    The hidden state starts at zero in every example: it is not carried from one batch to the next, so that a step is a
    function of its batch alone.

    Raises UserError for a dataset that is not of tokens, and for tied weights of different shapes.
    """

    def __init__(
        self,
        data: DataSpec,
        cell: str = "lstm",
        embedding: int = 128,
        hidden: int = 128,
        layers: int = 2,
        dropout: float = 0.0,
        dropout_between: float | None = None,
        tied: bool = False,
        output_bias: bool = True,
        initial_range: float | None = None,
    ) -> None:
        super().__init__()
        self.vocabulary = vocabulary_of(data)
        if tied and embedding != hidden:
            raise UserError(
                f"model.tied=true: model.embedding={embedding} must equal model.hidden={hidden}, to share one matrix"
            )
        self.embedding = nn.Embedding(self.vocabulary, embedding) if embedding else None
        self.embedding_dropout = Dropout(dropout if embedding else 0.0)
        between = dropout if dropout_between is None else dropout_between
        self.stack = RecurrentStack(cell, embedding or self.vocabulary, hidden, layers, between)
        self.dropout = Dropout(dropout)
        self.readout = nn.Linear(hidden, self.vocabulary, bias=output_bias)
        if tied and self.embedding is not None:
            # The readout's matrix is kept, because the embedding's N(0, 1) would make the first logits huge.
            self.embedding.weight = self.readout.weight
        if initial_range is not None:
            with torch.no_grad():
                for parameter in self.parameters():
                    parameter.uniform_(-initial_range, initial_range)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits (examples, steps, vocabulary); those at step t depend on the tokens up to and including t."""
        if self.embedding is None:
            inputs = F.one_hot(tokens, self.vocabulary).to(self.readout.weight.dtype)
        else:
            inputs = self.embedding_dropout(self.embedding(tokens))
        outputs: Tensor = self.readout(self.dropout(self.stack(inputs)))
        return outputs

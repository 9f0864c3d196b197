"""Recurrent networks for classification and regression: plain RNN, GRU and LSTM, and their common stack.

Elman 1990, "Finding structure in time" (RNN); Cho et al. 2014, arXiv 1406.1078 (GRU); Hochreiter & Schmidhuber 1997,
"Long short-term memory" (LSTM); Le, Jaitly & Hinton 2015, arXiv 1504.00941 (the RNN of rectified linear units, IRNN).
The cells are torch's, so every gate has two bias vectors.
"""

from collections.abc import Sequence
from functools import partial

from torch import Tensor, nn

from optbench.data.spec import DataSpec
from optbench.errors import UserError
from optbench.models.checkpointing import Block, Chain
from optbench.models.layers import Dropout

CELLS = ("rnn", "gru", "lstm")
NONLINEARITIES = ("tanh", "relu")
READS = ("auto", "pixels", "rows")


class RecurrentStack(Chain):
    """``layers`` recurrent layers: inputs (examples, steps, features) -> top hidden states (examples, steps, hidden).

    The layers are separate torch modules with dropout between them, because the dropout inside torch's own stacks draws
    masks that depend on the division of the batch. The hidden states start at zero. ``nonlinearity`` ("tanh" or "relu") is
    that of the plain RNN cell. Raises UserError for an unknown cell, and for a nonlinearity that it does not have.

    cuDNN's recurrent kernels have no second derivative, and oneDNN's (float32 LSTM on the CPU) no forward-mode derivative. To
    get these, run the model under ``torch.backends.cudnn.flags(enabled=False)`` and
    ``torch.backends.mkldnn.flags(enabled=False)``.
    """

    def __init__(
        self, cell: str, features: int, hidden: int, layers: int, dropout: float, nonlinearity: str = "tanh"
    ) -> None:
        super().__init__()
        if cell not in CELLS:
            raise UserError(f"model.cell={cell}: must be one of {', '.join(CELLS)}")
        if nonlinearity not in NONLINEARITIES:
            raise UserError(f"model.nonlinearity={nonlinearity}: must be one of {', '.join(NONLINEARITIES)}")
        if cell != "rnn" and nonlinearity != "tanh":
            raise UserError(f"model.nonlinearity={nonlinearity}: only model.cell=rnn has a choice, not {cell}")
        widths = [features] + [hidden] * (layers - 1)
        self.layers = nn.ModuleList(_layer(cell, width, hidden, nonlinearity) for width in widths)
        self.dropouts = nn.ModuleList(Dropout(dropout) for _ in range(layers - 1))

    def forward(self, inputs: Tensor) -> Tensor:
        """The top layer's hidden state at every step, shape (examples, steps, hidden)."""
        return self.through(inputs)

    def chain(self) -> Sequence[Block]:
        """The layers, each with the dropout before it."""
        return [partial(self._after, number) for number in range(len(self.layers))]

    def _after(self, number: int, states: Tensor) -> Tensor:
        if number > 0:
            states = self.dropouts[number - 1](states)
        outputs: Tensor
        outputs, _ = self.layers[number](states)
        return outputs


def _layer(cell: str, features: int, hidden: int, nonlinearity: str) -> nn.RNNBase:
    if cell == "rnn":
        return nn.RNN(features, hidden, nonlinearity=nonlinearity, batch_first=True)
    found: nn.RNNBase = {"gru": nn.GRU, "lstm": nn.LSTM}[cell](features, hidden, batch_first=True)
    return found


class RecurrentNetwork(nn.Module):
    """A stack of recurrent layers and a linear readout, for images read as sequences and for sequences.

    Inputs are images (examples, channels, height, width) or sequences (examples, steps, features). An image is read as
    height*width pixels with one feature for each channel (``read="pixels"``) or as its rows, from top to bottom, with
    channels*width features (``read="rows"``); ``read="auto"`` takes the rows of an image, and a sequence unchanged.
    Outputs are (examples, outputs), read from the last hidden state, or for the target "class_per_step"
    (examples, steps, outputs). Dropout acts between the layers and before the readout.

    Raises UserError for tokens, for a dataset without targets, and for pixels or rows if the examples are not images.
    """

    def __init__(
        self,
        data: DataSpec,
        cell: str = "lstm",
        hidden: int = 128,
        layers: int = 1,
        nonlinearity: str = "tanh",
        dropout: float = 0.0,
        read: str = "auto",
    ) -> None:
        super().__init__()
        if data.target == "none":
            raise UserError("model: a recurrent network needs a dataset with targets, and this dataset has none")
        self.read = _reading(data, read)
        self.per_step = data.target == "class_per_step"
        self.stack = RecurrentStack(cell, _features(data, self.read), hidden, layers, dropout, nonlinearity)
        self.dropout = Dropout(dropout)
        self.readout = nn.Linear(hidden, data.outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Logits or values, shape (examples, outputs) or (examples, steps, outputs)."""
        if self.read == "pixels":
            inputs = inputs.flatten(2).transpose(1, 2)
        elif self.read == "rows":
            inputs = inputs.transpose(1, 2).flatten(2)
        states = self.stack(inputs)
        outputs: Tensor = self.readout(self.dropout(states if self.per_step else states[:, -1]))
        return outputs


def _reading(data: DataSpec, read: str) -> str:
    """The meaning of ``read`` for ``data``: "pixels", "rows" or "steps"."""
    if read not in READS:
        raise UserError(f"model.read={read}: must be one of {', '.join(READS)}")
    if data.kind == "image":
        return "rows" if read == "auto" else read
    if data.kind == "sequence":
        if read != "auto":
            raise UserError(f"model.read={read}: the dataset's examples are not images; accepted is auto")
        return "steps"
    raise UserError(
        f"model: a recurrent network reads images and sequences, and the dataset holds {data.kind}; "
        "for tokens there are language models, such as model=char_lstm"
    )


def _features(data: DataSpec, read: str) -> int:
    if read == "steps":
        return data.shape[1]
    channels, _, width = data.shape
    return channels if read == "pixels" else channels * width

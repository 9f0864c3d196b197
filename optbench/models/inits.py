"""Initial weights: functions ``f(model, generator, **options)`` that redraw a model's weights in place.

They act on linear, convolutional and recurrent layers; norms keep weight 1 and bias 0, embeddings keep their values (but a
readout tied to an embedding is drawn as a linear layer). The gates of a GRU or LSTM are blocks that are drawn separately.
Every draw is made on the CPU in float64 from ``generator``, so that the weights do not depend on the device, and those of a
float32 model are the rounded ones of a float64 model.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.conv import _ConvNd

from optbench.errors import UserError


@dataclass(frozen=True)
class _Weight:
    """A weight matrix (units, fan_in), one row for each unit, kept in a ``view`` of a parameter with the same entry order.

    fan_in: the number of weights into a unit. fan_out: the number of weights out of a source.
    """

    view: Tensor
    units: int
    fan_in: int
    fan_out: int
    role: str = "feedforward"  # or, in a recurrent layer, "input" or "recurrent"

    def assign(self, matrix: Tensor) -> None:
        self.view.copy_(matrix.reshape(self.view.shape))

    def normal(self, generator: Generator) -> Tensor:
        return torch.empty(self.units, self.fan_in, dtype=torch.float64).normal_(generator=generator)

    def uniform(self, generator: Generator) -> Tensor:
        """Uniform on [-1, 1)."""
        return torch.empty(self.units, self.fan_in, dtype=torch.float64).uniform_(-1, 1, generator=generator)


def _weights(model: nn.Module) -> Iterator[_Weight]:
    """Every weight matrix of ``model``, once, in the order of its modules."""
    seen: set[int] = set()
    for module in model.modules():
        for weight in _weights_of(module):
            if weight.view.data_ptr() not in seen:
                seen.add(weight.view.data_ptr())
                yield weight


def _weights_of(module: nn.Module) -> Iterator[_Weight]:
    if isinstance(module, nn.Linear):
        outputs, inputs = module.weight.shape
        yield _Weight(module.weight, outputs, inputs, outputs)
    elif isinstance(module, _ConvNd):
        # A unit is one output filter. In a grouped convolution it has inputs only from the channels of its own group.
        window, inputs, outputs = math.prod(module.kernel_size), module.in_channels, module.out_channels
        view: Tensor = module.weight
        if module.transposed:  # stored as (inputs, outputs / groups, *window)
            view = view.unflatten(0, (module.groups, -1)).transpose(1, 2)
        yield _Weight(view, outputs, inputs // module.groups * window, outputs // module.groups * window)
    elif isinstance(module, nn.RNNBase):
        for name, parameter in module.named_parameters(recurse=False):
            if name.startswith("weight"):
                role = "recurrent" if name.startswith("weight_hh") else "input"
                for gate in parameter.chunk(_gates(module)):
                    yield _Weight(gate, len(gate), gate.shape[1], len(gate), role)


def _gates(module: nn.RNNBase) -> int:
    return {"LSTM": 4, "GRU": 3}.get(module.mode, 1)


def _fill_biases(model: nn.Module, value: float = 0.0) -> None:
    """Set every unit's bias to ``value``; of the two biases of a recurrent unit in torch, the second is set to 0."""
    for module in model.modules():
        if isinstance(module, nn.Linear | _ConvNd) and module.bias is not None:
            module.bias.fill_(value)
        elif isinstance(module, nn.RNNBase):
            for name, parameter in module.named_parameters(recurse=False):
                if name.startswith("bias"):
                    parameter.fill_(value if name.startswith("bias_ih") else 0.0)


def _choose(key: str, value: str, accepted: tuple[str, ...]) -> str:
    if value not in accepted:
        raise UserError(f"init.{key}={value}: must be one of {', '.join(accepted)}")
    return value


def default(model: nn.Module, generator: Generator) -> None:
    """Keep the weights with which the model was constructed: torch's defaults unless its class sets others."""


@torch.no_grad()
def he(model: nn.Module, generator: Generator, mode: str = "fan_in", distribution: str = "normal") -> None:
    """Variance 2 / fan, for rectified linear units: N(0, 2 / fan) or U(-b, b) with b = sqrt(6 / fan); biases 0.

    ``mode`` is the fan: "fan_in" keeps the variance of the activations from layer to layer, "fan_out" that of the
    gradients. He et al. 2015, arXiv 1502.01852, eq. 10 and 14.
    """
    _choose("mode", mode, ("fan_in", "fan_out"))
    _choose("distribution", distribution, ("normal", "uniform"))
    for weight in _weights(model):
        _draw(weight, 2 / (weight.fan_in if mode == "fan_in" else weight.fan_out), distribution, generator)
    _fill_biases(model)


@torch.no_grad()
def xavier(model: nn.Module, generator: Generator, distribution: str = "uniform") -> None:
    """Variance 2 / (fan_in + fan_out): U(-b, b) with b = sqrt(6 / (fan_in + fan_out)), or normal; biases 0.

    Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward neural networks", eq. 12 and 16.
    """
    _choose("distribution", distribution, ("uniform", "normal"))
    for weight in _weights(model):
        _draw(weight, 2 / (weight.fan_in + weight.fan_out), distribution, generator)
    _fill_biases(model)


def _draw(weight: _Weight, variance: float, distribution: str, generator: Generator) -> None:
    if distribution == "normal":
        weight.assign(weight.normal(generator) * math.sqrt(variance))
    else:
        weight.assign(weight.uniform(generator) * math.sqrt(3 * variance))


@torch.no_grad()
def orthogonal(model: nn.Module, generator: Generator, gain: float = 1.0, forget_bias: float = 0.0) -> None:
    """Every weight matrix is ``gain`` times one with orthonormal rows, or columns if it is tall; biases 0.

    Saxe, McClelland & Ganguli 2014, arXiv 1312.6120. ``forget_bias`` is the bias of an LSTM's forget gates (Jozefowicz,
    Zaremba & Sutskever 2015, "An empirical exploration of recurrent network architectures", recommend 1).
    """
    for weight in _weights(model):
        matrix = torch.empty(weight.units, weight.fan_in, dtype=torch.float64)
        weight.assign(nn.init.orthogonal_(matrix, gain, generator=generator))
    _fill_biases(model)
    for module in model.modules():
        if isinstance(module, nn.LSTM):
            for name, parameter in module.named_parameters(recurse=False):
                if name.startswith("bias_ih"):
                    parameter.chunk(4)[1].fill_(forget_bias)  # torch's order of gates: input, forget, cell, output


@torch.no_grad()
def sparse(
    model: nn.Module, generator: Generator, connections: int = 15, scale: float = 1.0, bias: float = 0.0
) -> None:
    """Every unit gets exactly ``connections`` non-zero incoming weights, N(0, 1) * ``scale``, from random sources.

    A unit with fewer sources gets weights from all of them; a unit of a convolution is an output filter; in a recurrent
    layer the inputs and the hidden states are two sets of sources, and each gate is a unit. Biases are ``bias``.
    Martens 2010, "Deep learning via Hessian-free optimization". Sutskever et al. 2013 use scale 1 and bias 0 for
    sigmoid units, scale 0.25 and bias 0.5 for tanh.
    """
    for weight in _weights(model):
        weight.assign(_sparse_normal(weight, connections, generator) * scale)
    _fill_biases(model, bias)


def _sparse_normal(weight: _Weight, connections: int, generator: Generator) -> Tensor:
    values = weight.normal(generator)
    sources = weight.uniform(generator).topk(min(connections, weight.fan_in), dim=1).indices
    return torch.zeros_like(values).scatter(1, sources, values.gather(1, sources))


@torch.no_grad()
def esn(
    model: nn.Module,
    generator: Generator,
    connections: int = 15,
    spectral_radius: float = 1.1,
    input_scale: float = 0.001,
    output_scale: float = 0.1,
) -> None:
    """The echo-state initialization of recurrent networks; raises UserError for a model without recurrent weights.

    Recurrent weights: ``connections`` random ones per unit, rescaled to the given spectral radius, in each gate.
    From a layer's inputs: ``input_scale`` * N(0, 1), dense. Linear layers: ``output_scale`` * N(0, 1). Biases are 0.
    Sutskever, Martens, Dahl & Hinton 2013, "On the importance of initialization and momentum in deep learning":
    input_scale 0.001 for the addition and multiplication problems, 0.1 for memorization. They also set the output bias
    to the mean target and centre inputs and targets, which would need the data here.
    """
    _require_recurrent(model, nn.RNNBase, "esn", "model=rnn, irnn, gru, lstm and the recurrent language models")
    for weight in _weights(model):
        if weight.role == "recurrent":
            matrix = _sparse_normal(weight, connections, generator)
            weight.assign(matrix * (spectral_radius / torch.linalg.eigvals(matrix).abs().max()))
        else:
            scale = input_scale if weight.role == "input" else output_scale
            weight.assign(weight.normal(generator) * scale)
    _fill_biases(model)


@torch.no_grad()
def identity(model: nn.Module, generator: Generator, scale: float = 1.0, std: float = 0.001) -> None:
    """IRNN: recurrent weights ``scale`` * identity, all others N(0, ``std``^2), biases 0.

    Le, Jaitly & Hinton 2015, arXiv 1504.00941. Raises UserError for a model without a plain recurrent (RNN) layer: an
    identity makes no sense for the gates of a GRU or LSTM.
    """
    _require_recurrent(model, nn.RNN, "identity", "model=irnn, rnn and language models with model.cell=rnn")
    for weight in _weights(model):
        if weight.role == "recurrent":
            weight.assign(scale * torch.eye(weight.units, dtype=torch.float64))
        else:
            weight.assign(weight.normal(generator) * std)
    _fill_biases(model)


def _require_recurrent(model: nn.Module, layer: type[nn.RNNBase], name: str, fits: str) -> None:
    if not any(isinstance(module, layer) for module in model.modules()):
        raise UserError(f"init={name}: {type(model).__name__} has no such recurrent weights; it fits {fits}")

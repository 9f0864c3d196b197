"""Find the layers that get Kronecker factors, and arrange their inputs, outputs and parameters as rows and matrices.

A factored layer computes s = W a + b at every position of every example: once for a linear layer, at each location for a
convolution, at each step for the two matrices of a recurrent cell. With the bias as the last column of W and a 1 at the
end of a, the gradient of one example is the sum over its positions of g a^T, where g is the derivative of its loss in s.
Rows are tensors (groups, examples, positions, features); groups are those of a convolution, 1 for any other layer.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optbench.errors import UserError


@dataclass(eq=False)
class Layer:
    """The weight W and bias b of one affine map s = W a + b; ``input_size`` counts the 1 that multiplies the bias.

    location_average: the positions of an example are summed in the input factor and averaged in the output factor, as in
    KFC; else averaged in the input factor and summed in the output factor. The product of the two is the same.
    """

    name: str
    module: nn.Module
    weight: nn.Parameter
    bias: nn.Parameter | None
    groups: int = 1
    location_average: bool = False

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The weight, and the bias if there is one."""
        return [self.weight] if self.bias is None else [self.weight, self.bias]

    @property
    def input_size(self) -> int:
        """The size of the input factor of one group."""
        return self.weight[0].numel() + (self.bias is not None)

    @property
    def output_size(self) -> int:
        """The size of the output factor of one group."""
        return len(self.weight) // self.groups

    def matrix(self, tensors: Sequence[Tensor]) -> Tensor:
        """Tensors of the shapes of ``parameters`` as one matrix for each group: (groups, output_size, input_size)."""
        weight = tensors[0].reshape(self.groups, self.output_size, -1)
        if self.bias is None:
            return weight
        return torch.cat([weight, tensors[1].reshape(self.groups, self.output_size, 1)], dim=2)

    def tensors(self, matrix: Tensor) -> list[Tensor]:
        """The inverse of ``matrix``."""
        if self.bias is None:
            return [matrix.reshape(self.weight.shape)]
        return [matrix[..., :-1].reshape(self.weight.shape), matrix[..., -1].reshape(self.bias.shape)]

    def input_rows(self, inputs: Tensor, examples: int) -> Tensor:
        """The vectors a that W multiplies, without the 1 of the bias: (groups, examples, positions, features)."""
        return self._by_example(inputs, examples)

    def output_rows(self, gradients: Tensor, examples: int) -> Tensor:
        """Derivatives in the outputs as rows (groups, examples, positions, output_size)."""
        return self._by_example(gradients, examples)

    def _by_example(self, values: Tensor, examples: int) -> Tensor:
        # A model may have folded the positions into the first dimension: (examples * positions, features).
        if len(values) % examples:
            raise UserError(
                f"layer {self.name}: its inputs, of shape {tuple(values.shape)}, do not begin with the {examples} examples "
                "of the batch; Kronecker factors need the examples first"
            )
        return values.reshape(1, examples, -1, values.shape[-1])


class ConvolutionLayer(Layer):
    """A two-dimensional convolution: one position for each location of its output."""

    def input_rows(self, inputs: Tensor, examples: int) -> Tensor:
        """The patch under the kernel at every location, its features in the order (channel, row, column) of the weight."""
        module = self.module
        assert isinstance(module, nn.Conv2d)
        if len(inputs) != examples:
            raise UserError(f"layer {self.name}: {len(inputs)} images for {examples} examples")
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        # The module's own padding for string paddings and other modes: (left, right, top, bottom).
        before_and_after = module._reversed_padding_repeated_twice
        if any(before_and_after):
            inputs = F.pad(inputs, before_and_after, mode=mode)
        (kernel_rows, kernel_columns), (down, right) = module.kernel_size, module.dilation
        step_down, step_right = module.stride
        rows = (inputs.shape[2] - down * (kernel_rows - 1) - 1) // step_down + 1
        columns = (inputs.shape[3] - right * (kernel_columns - 1) - 1) // step_right + 1
        channels = inputs.shape[1] // self.groups
        example, channel, row, column = inputs.stride()
        # Locations come last in memory, so that they are copied in contiguous pieces; the rows are a view of the result.
        patches = inputs.as_strided(
            (self.groups, channels, kernel_rows, kernel_columns, examples, rows, columns),
            (channels * channel, channel, down * row, right * column, example, step_down * row, step_right * column),
            inputs.storage_offset(),
        )
        return patches.reshape(self.groups, -1, examples, rows * columns).permute(0, 2, 3, 1)

    def output_rows(self, gradients: Tensor, examples: int) -> Tensor:
        """Derivatives (examples, channels, rows, columns) as rows, one for each location."""
        return gradients.reshape(examples, self.groups, self.output_size, -1).permute(1, 0, 3, 2)


def find_layers(model: nn.Module, max_size: int | None = None) -> tuple[list[Layer], dict[str, str]]:
    """The layers of ``model`` that get factors, in the order of its modules; and its other parameters with the reasons.

    Linear layers, two-dimensional convolutions, and the input and recurrent matrices of nn.RNN, nn.LSTM and nn.GRU get
    factors. Left out are layers whose parameters are shared with another module (tied weights), layers with a factor larger
    than ``max_size``, and modules that replace the forward pass or the parameters of those types. A bias that is not trained
    is not part of its layer.
    """
    owners: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), []).append(name)
    found: list[Layer] = []
    reasons: dict[int, str] = {}
    for name, module in model.named_modules():
        own = [parameter for parameter in module.parameters(recurse=False) if parameter.requires_grad]
        layers, reason = _layers_of(name, module)
        for layer in layers:
            sharing = [owner for parameter in layer.parameters for owner in owners[id(parameter)] if owner != name]
            largest = max(layer.input_size, layer.output_size)
            if sharing:
                reason = f"its weight is shared by {name} and {', '.join(sorted(set(sharing)))}"
            elif max_size is not None and largest > max_size:
                reason = f"a factor of size {largest} is larger than {max_size}"
            else:
                found.append(layer)
        reasons |= {id(parameter): reason for parameter in own}
    factored = {id(parameter) for layer in found for parameter in layer.parameters}
    plain = {
        name: reasons[id(parameter)]
        for name, parameter in model.named_parameters()
        if parameter.requires_grad and id(parameter) not in factored
    }
    return found, plain


def _layers_of(name: str, module: nn.Module) -> tuple[list[Layer], str]:
    """The factored layers of one module, and the reason why its other parameters have no factors."""
    kind = type(module).__name__
    if isinstance(module, nn.RNNBase):
        if module.proj_size or (module.dropout and module.num_layers > 1):
            return [], f"{kind} with projections, or with dropout of its own, has no factors"
        return _recurrent_layers(name, module), f"{kind} has no factors for it"
    for base, layer in ((nn.Linear, Layer), (nn.Conv2d, ConvolutionLayer)):
        # Subclasses may compute something else, or are never called, such as the projection in MultiheadAttention.
        if type(module) is base:
            weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
            if weight is None:
                return [], f"the weight of {name} is computed from other parameters"
            if not weight.requires_grad:
                return [], f"the weight of {name} is not trained"
            bias = bias if bias is not None and bias.requires_grad else None
            if isinstance(module, nn.Conv2d):
                return [layer(name, module, weight, bias, module.groups, location_average=True)], ""
            return [layer(name, module, weight, bias)], ""
    return [], f"{kind} has no factors"


def _recurrent_layers(name: str, module: nn.RNNBase) -> list[Layer]:
    found = []
    for suffix in recurrent_suffixes(module):
        for part in ("ih", "hh"):
            weight = module._parameters[f"weight_{part}_{suffix}"]
            bias = module._parameters.get(f"bias_{part}_{suffix}")
            assert weight is not None
            if weight.requires_grad:
                bias = bias if bias is not None and bias.requires_grad else None
                found.append(Layer(f"{name}.{part}_{suffix}", module, weight, bias))
    return found


def recurrent_suffixes(module: nn.RNNBase) -> list[str]:
    """The suffixes of torch's parameter names for each layer and direction: l0, l0_reverse, l1, ..."""
    directions = ("", "_reverse") if module.bidirectional else ("",)
    return [f"l{number}{direction}" for number in range(module.num_layers) for direction in directions]

"""Estimates of the Kronecker factors from the inputs of each layer and the derivatives in its outputs.

With the inputs a_nr (a 1 at the end for the bias) of example n at position r, and the derivative g_nr in the outputs there
of the loss of example n, at targets that ``TARGETS`` lists, N examples and R positions, of a layer

    expand    A = 1/(N R) sum_nr a_nr a_nr^T,  G = 1/N sum_nr g_nr g_nr^T           linear layers, recurrent matrices
              A = 1/N     sum_nr a_nr a_nr^T,  G = 1/(N R) sum_nr g_nr g_nr^T       convolutions (KFC: Omega, Gamma)
    reduce    A = 1/N sum_n m_n m_n^T, m_n = 1/R sum_r a_nr,   G = 1/N sum_n (sum_r g_nr)(sum_r g_nr)^T

(with weights of examples, every term of G is multiplied by its weight, and A stays as it is, which is K-FAC's own assumption that
inputs and derivatives are independent)
and A x G approximates the layer's block 1/N sum_n E[vec(D_n) vec(D_n)^T], D_n = sum_r g_nr a_nr^T, of the Fisher matrix.
Sources: Martens & Grosse 2015 (arXiv 1503.05671) for R = 1; Grosse & Martens 2016 (arXiv 1602.01407), "KFC"; Martens, Ba &
Johnson 2018 (steps of recurrent networks taken as independent); Eschenhagen et al. 2023 (arXiv 2311.00636) for expand and
reduce. Where batch norm couples examples, the derivatives are those of the sum of the losses of a micro-batch's examples.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from optbench.errors import UserError
from optbench.objective.execution import Execution
from optbench.optimizers.kronecker.correlations import correlates, input_factor
from optbench.optimizers.kronecker.layers import Layer

APPROXIMATIONS = ("expand", "reduce")
# The largest number of elements laid out as rows, or held as per-example matrices, at a time. 8 MiB: blocks of 32 MiB are
# requested from the system at every call, which costs more than writing to them.
CHUNK = 2**21
# Symmetric products of matrices of at least MINIMUM columns are computed in bands of about BAND columns, at least three.
BAND, MINIMUM = 192, 64


class Factors:
    """The two factors of every layer, each (groups, size, size); and, if requested, those between neighbours.

    inputs, outputs: A and G of each layer. between_inputs, between_outputs: A_{i,i+1} and G_{i,i+1} of layers i and
    i + 1, each (size of i, size of i + 1). The tensors never change in place.
    """

    def __init__(
        self,
        inputs: list[Tensor],
        outputs: list[Tensor],
        between_inputs: Sequence[Tensor] = (),
        between_outputs: Sequence[Tensor] = (),
    ) -> None:
        self.inputs, self.outputs = inputs, outputs
        self.between_inputs, self.between_outputs = list(between_inputs), list(between_outputs)

    def lists(self) -> list[list[Tensor]]:
        """The four lists of tensors, in the order of the constructor."""
        return [self.inputs, self.outputs, self.between_inputs, self.between_outputs]

    def moved(self, towards: "Factors", weight: float) -> "Factors":
        """(1 - weight) of these and ``weight`` of the others: new tensors."""
        pairs = zip(self.lists(), towards.lists(), strict=True)
        return Factors(*(list(torch._foreach_lerp(mine, theirs, weight)) if mine else [] for mine, theirs in pairs))


class Collector:
    """Sums statistics of the layers over this rank's examples, one micro-batch after the other.

    ``inputs`` and ``gradients`` hold one tensor for each call of the layer: the layer's own inputs, and the derivatives in
    its outputs. Their first dimension is the examples, or (examples * positions).
    """

    def add_inputs(self, number: int, inputs: list[Tensor], examples: int) -> None:
        """Add the inputs of layer ``number``."""

    def add_gradients(self, number: int, inputs: list[Tensor], gradients: list[Tensor], examples: int) -> None:
        """Add one set of derivatives of layer ``number``; several sets for the same inputs are summed."""
        raise NotImplementedError


class FactorSums(Collector):
    """The sums for A and G of every layer.

    neighbours: also sum A_{i,i+1} = 1/N sum_n a_n a'_n^T between the inputs of layers i and i + 1, and likewise G_{i,i+1}.
    """

    def __init__(self, layers: Sequence[Layer], approximation: str = "expand", neighbours: bool = False) -> None:
        self.layers, self.approximation, self.neighbours = layers, approximation, neighbours
        self.positions = [1] * len(layers)
        self.inputs: list[Tensor | None] = [None] * len(layers)
        self.outputs: list[Tensor | None] = [None] * len(layers)
        self.between_inputs: list[Tensor | None] = [None] * (len(layers) - 1)
        self.between_outputs: list[Tensor | None] = [None] * (len(layers) - 1)
        self._previous: dict[str, tuple[int, Tensor]] = {}

    def add_inputs(self, number: int, inputs: list[Tensor], examples: int) -> None:
        """Add to the sum of a a^T, or of m m^T."""
        layer = self.layers[number]
        ones = layer.bias is not None
        if (
            self.approximation == "expand"
            and not self.neighbours
            and all(correlates(layer, images, examples) for images in inputs)
        ):
            self.positions[number] = sum(images[0, 0].numel() for images in inputs)
            for images in inputs:
                _add(self.inputs, number, input_factor(images, ones)[None])
            return
        # A convolution lays out one row of an image for each location, at most one for each pixel.
        numbers = layer.input_size * layer.groups * max(values[0, 0].numel() for values in inputs)
        sums: list[Tensor] = []
        for values, _, count in _together(inputs, [], examples, numbers):
            rows = [layer.input_rows(part, count) for part in values]
            self.positions[number] = sum(part.shape[2] for part in rows)
            if self.approximation == "expand":
                for part in rows:
                    self._add_gram(self.inputs, number, part.flatten(1, 2), ones)
            else:
                sums.append(torch.stack([part.sum(2) for part in rows]).sum(0))
        if sums:
            self._add_gram(self.inputs, number, torch.cat(sums, dim=1) / self.positions[number], ones)
        if self.neighbours:
            single = self._single(layer, inputs)
            self._add_between(self.between_inputs, "inputs", number, F.pad(single, (0, 1), value=1) if ones else single)

    def add_gradients(self, number: int, inputs: list[Tensor], gradients: list[Tensor], examples: int) -> None:
        """Add to the sum of g g^T, or of that of sums over positions."""
        layer = self.layers[number]
        rows = [layer.output_rows(values, examples) for values in gradients]
        if self.approximation == "expand":
            for values in rows:
                self._add_gram(self.outputs, number, values.flatten(1, 2))
        else:
            self._add_gram(self.outputs, number, torch.stack([values.sum(2) for values in rows]).sum(0))
        if self.neighbours:
            self._add_between(self.between_outputs, "outputs", number, self._single(layer, gradients))

    def _add_gram(self, sums: list[Tensor | None], number: int, rows: Tensor, ones: bool = False) -> None:
        total = sums[number]
        if total is None:
            size = rows.shape[-1] + ones
            total = sums[number] = rows.new_zeros(len(rows), size, size)
        add_gram(total, rows, ones)

    def _single(self, layer: Layer, values: list[Tensor]) -> Tensor:
        if len(values) != 1 or values[0].ndim != 2:
            raise UserError(
                f"layer {layer.name}: covariances between layers need layers that act once on every example"
            )
        return values[0]

    def _add_between(self, sums: list[Tensor | None], what: str, number: int, rows: Tensor) -> None:
        before = self._previous.get(what)
        if number and before is not None and before[0] == number - 1:
            _add(sums, number - 1, before[1].T @ rows)
        self._previous[what] = number, rows

    def means(self, execution: Execution, examples: int) -> Factors:
        """A and G over the global batch, of which this rank holds ``examples``; zeros for a layer that was not called.

        The sums are overwritten.
        """
        inputs, outputs = [], []
        for layer, positions, a, g in zip(self.layers, self.positions, self.inputs, self.outputs, strict=True):
            each = positions if self.approximation == "expand" else 1
            zeros = layer.weight.new_zeros
            a = zeros(layer.groups, layer.input_size, layer.input_size) if a is None else a
            g = zeros(layer.groups, layer.output_size, layer.output_size) if g is None else g
            inputs.append(mirror(a).div_(examples if layer.location_average else examples * each))
            outputs.append(mirror(g).div_(examples * each if layer.location_average else examples))
        between = [[total / examples for total in sums if total is not None] for sums in
                   (self.between_inputs, self.between_outputs)]  # fmt: skip
        return Factors(*execution.means_over_ranks([inputs, outputs, *between]))


class SecondMoments(Collector):
    """The second moments of every example's gradient in the eigenbases of A and G: E[(Q_G^T D_n Q_A)^2], elementwise.

    D_n = sum_r g_nr a_nr^T is summed over an example's positions before it is squared (George et al. 2018, arXiv
    1806.03884, section 4; for convolutions as in the authors' code). bases: Q_A and Q_G of each layer.
    """

    def __init__(self, layers: Sequence[Layer], bases: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.layers, self.bases = layers, bases
        self.sums: list[Tensor | None] = [None] * len(layers)

    def add_gradients(self, number: int, inputs: list[Tensor], gradients: list[Tensor], examples: int) -> None:
        """Add to the sum of (Q_G^T D_n Q_A)^2."""
        layer, (input_basis, output_basis) = self.layers[number], self.bases[number]
        a, g = layer.input_size, layer.output_size
        size = layer.groups * max(a, g)
        limit = max(layer.weight.numel(), size * max(values[0, 0].numel() for values in gradients))
        for before, after, count in _together(inputs, gradients, examples, limit):
            total: Tensor | float = 0.0
            for values, derivatives in zip(before, after, strict=True):
                rows = layer.input_rows(values, count)
                if layer.bias is not None:
                    rows = F.pad(rows, (0, 1), value=1)
                after_rows = layer.output_rows(derivatives, count)
                # Transform either the rows or the per-example gradients to the bases, whichever costs less.
                turns_rows = rows.shape[2] * (a * a + g * g) < a * g * (a + g)
                if turns_rows:
                    gradient = _turned(after_rows, output_basis).transpose(2, 3) @ _turned(rows, input_basis)
                else:
                    gradient = _turned(after_rows.transpose(2, 3) @ rows, input_basis).transpose(2, 3)
                    gradient = _turned(gradient, output_basis).transpose(2, 3)
                total = total + gradient
            assert isinstance(total, Tensor)
            _add(self.sums, number, total.square_().sum(1))

    def means(self, execution: Execution, examples: int) -> list[Tensor]:
        """The second moments of each layer over the global batch, (groups, output_size, input_size)."""
        found = []
        for layer, total in zip(self.layers, self.sums, strict=True):
            zeros = layer.weight.new_zeros(layer.groups, layer.output_size, layer.input_size)
            found.append(zeros if total is None else total / examples)
        return execution.means_over_ranks([found])[0]


def _turned(rows: Tensor, basis: Tensor) -> Tensor:
    """Rows (groups, examples, positions, size) times the basis (groups, size, size) of their group, as one product."""
    return (rows.flatten(1, 2) @ basis).view(rows.shape)


def add_gram(total: Tensor, rows: Tensor, ones: bool = False) -> None:
    """Add the sum over rows (groups, rows, features) of r r^T to ``total``; with ``ones``, each row gets a 1 at its end.

    The products are symmetric: the part below the diagonal is not updated, see ``mirror``.
    """
    features = rows.shape[-1]
    for matrix, group in zip(total, rows, strict=True):
        for first, last in _bands(features):
            matrix[:last, first:last].addmm_(group[:, :last].T, group[:, first:last])
    if ones:
        total[:, :features, features] += rows.sum(1)
        total[:, features, features] += rows.shape[1]


def mirror(matrices: Tensor) -> Tensor:
    """Copy the part above the diagonal of matrices (groups, size, size) to the part below, in place; returns them."""
    for first, last in _bands(matrices.shape[-1]):
        block = matrices[:, first:last, first:last]
        block.copy_(block.triu() + block.triu(1).mT)
        matrices[:, first:last, :first] = matrices[:, :first, first:last].mT
    return matrices


def _bands(size: int) -> list[tuple[int, int]]:
    count = max(3, size // BAND) if size >= MINIMUM else 1
    width = -(-size // count)
    return [(first, min(first + width, size)) for first in range(0, size, width)]


def _together(
    inputs: list[Tensor], gradients: list[Tensor], examples: int, numbers: int
) -> Iterator[tuple[list[Tensor], list[Tensor], int]]:
    """Pieces of consecutive examples of all calls of a layer; with ``numbers`` for each example they stay within CHUNK."""
    each = max(1, CHUNK // max(numbers, 1))
    for first in range(0, examples, each):
        count = min(each, examples - first)

        def chosen(values: Tensor, first: int = first, count: int = count) -> Tensor:
            share = len(values) // examples
            return values[first * share : (first + count) * share]

        yield [chosen(values) for values in inputs], [chosen(values) for values in gradients], count


def _add(sums: list[Tensor | None], number: int, value: Tensor) -> None:
    total = sums[number]
    sums[number] = value if total is None else total.add_(value)

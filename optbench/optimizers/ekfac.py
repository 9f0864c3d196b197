"""EKFAC: the eigenbases of K-FAC, with measured second moments of the gradients along them."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from optbench.objective import Objective
from optbench.optimizers.kfac import KFAC
from optbench.optimizers.kronecker.collecting import collect
from optbench.optimizers.kronecker.factors import placed_beside
from optbench.optimizers.kronecker.inverses import eigenbasis
from optbench.optimizers.kronecker.statistics import SecondMoments


def _without(signature: inspect.Signature, *names: str) -> inspect.Signature:
    return signature.replace(parameters=[each for each in signature.parameters.values() if each.name not in names])


_SIGNATURE = _without(inspect.signature(KFAC), "inverse", "placement")


class EKFAC(KFAC):
    """K-FAC (``KFAC``) with the diagonal in the Kronecker-factored eigenbasis that is closest to the Fisher matrix.

    With A = Q_A diag(d_A) Q_A^T and G = Q_G diag(d_G) Q_G^T, and the gradients D_n of single examples at the targets,

        S = E[(Q_G^T D_n Q_A)^2] elementwise,    U = Q_G [(Q_G^T D Q_A) / (S + λ)] Q_A^T,

    where K-FAC has d_G d_A^T in place of S. All else is as in ``KFAC``, including the arguments and their defaults, except
    inverse and placement, which are refused: there is one kind of inverse, on every rank. The bases are computed anew every
    ``inverse_period`` steps, and S with them, from the same batch; in between S is averaged like the factors. Every rank
    keeps all bases, because the statistics of its own examples need them; the ranks share the eigendecompositions.

    Source: George et al. 2018, "Fast approximate natural gradient descent in a Kronecker-factored eigenbasis", arXiv
    1806.03884, algorithm 1. Its damping is λ added to S, as here.
    """

    # The signature shown by help and used by the configuration.
    __signature__ = _SIGNATURE

    def __init__(self, *args: Any, **options: Any) -> None:
        try:
            arguments = _SIGNATURE.bind(*args, **options).arguments
        except TypeError as error:
            raise TypeError(f"{type(self).__name__}: {error}") from None
        super().__init__(**arguments)
        self.bases: list[tuple[Tensor, Tensor]] | None = None
        self.moments: list[Tensor] = []
        self.called: list[bool] = []
        self.averaged = 0  # the number of batches in the moments

    def _evaluate(self, objective: Objective) -> Tensor:
        renew = self._inversion_is_due() or self.bases is None
        if self.steps % self.factor_period:
            loss = objective()
        else:
            loss, found = self.factors.evaluate_and_update(objective, list if renew else lambda: [self._new_moments()])
            for moments in found:
                self.averaged += 1
                newest = moments.means(objective.execution, objective.examples)
                torch._foreach_lerp_(self.moments, newest, self.factors.newest_weight(self.averaged))
        if renew:
            self._renew(objective)
        return loss

    @torch.no_grad()
    def _renew(self, objective: Objective) -> None:
        """New bases from the running averages of the factors, and the moments of this batch in them."""
        current, placement = self.factors.current, self.factors.placement(objective.execution)
        assert current is not None
        parts: list[list[Tensor]] = []
        for number, pair in enumerate(zip(current.inputs, current.outputs, strict=True)):
            if placement.owns(number):
                parts.append([eigenbasis(each)[1] for each in pair])
            else:
                parts.append([torch.empty_like(each, memory_format=torch.contiguous_format) for each in pair])
        placement.share_in_column(parts)
        self.bases = [(a, g) for a, g in parts]
        self.called = [bool(each.any()) for each in current.inputs]

        def collected() -> SecondMoments:
            moments = self._new_moments()
            collect(objective, self.factors.layers, [moments], self.factors.targets, self.factors.key())
            return moments

        with torch.enable_grad():
            moments = objective.within_memory(collected)
        self.moments, self.averaged = moments.means(objective.execution, objective.examples), 1

    def _new_moments(self) -> SecondMoments:
        assert self.bases is not None
        return SecondMoments(self.factors.layers, self.bases)

    def _precondition(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        assert self.bases is not None
        found = list(gradients)
        everything = zip(self.factors.layers, self.factors.places, self.bases, self.moments, self.called, strict=True)
        for layer, places, (input_basis, output_basis), moments, called in everything:
            if called:
                matrix = layer.matrix([gradients[place] for place in places])
                turned = output_basis.mT @ matrix @ input_basis / (moments + self.damping)
                for place, tensor in zip(places, layer.tensors(output_basis @ turned @ input_basis.mT), strict=True):
                    found[place] = tensor
        return found

    def unsaved_bytes(self) -> int:
        """0: the bases are in the state."""
        return 0

    def _kronecker_state(self) -> dict[str, Any]:
        return {
            "steps": self.steps,
            "factors": self.factors.state_dict(),
            # Saved, not recomputed: the signs and the order of eigenvectors may differ on another machine.
            "bases": None if self.bases is None else [list(pair) for pair in self.bases],
            "moments": list(self.moments),
            "called": list(self.called),
            "averaged": self.averaged,
        }

    def _load_kronecker_state(self, state: dict[str, Any]) -> None:
        self.steps = state["steps"]
        self.factors.load_state_dict(state["factors"])
        weight, bases = self.parameters[0], state["bases"]
        self.bases = None if bases is None else [(a, g) for a, g in (placed_beside(weight, pair) for pair in bases)]
        # Copied, because the averages change in place.
        self.moments = placed_beside(weight, state["moments"], copy=True)
        self.called, self.averaged = list(state["called"]), state["averaged"]

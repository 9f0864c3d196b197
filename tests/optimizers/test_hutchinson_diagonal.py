"""The estimate of the Hessian's diagonal: its mean, and what its signs depend on."""

import torch
from golden import numbers
from torch import nn

from optbench.objective import Network, Objective
from optbench.optimizers.hutchinson import hessian_diagonal


class Quadratic(nn.Module):
    """½ θᵀ H θ for two tensors of two and one entries."""

    hessian = numbers([[2, 0.5, -1], [0.5, 3, 0.25], [-1, 0.25, 1]])

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Parameter(numbers([1, 2])), nn.Parameter(numbers([3]))

    def forward(self, inputs):
        point = torch.cat([self.first, self.second])
        return (0.5 * point @ self.hessian @ point).expand(len(inputs), 1)


def estimates(count, seed=0):
    model = Quadratic()
    objective = Objective(
        Network(model), lambda outputs, _: outputs.mean(), torch.zeros(1, 1, dtype=torch.float64), torch.zeros(1)
    )
    found = [hessian_diagonal(objective, seed, step) for step in range(count)]
    return torch.stack([torch.cat([each[id(model.first)], each[id(model.second)]]) for each in found])


def test_the_mean_is_the_diagonal():
    found = estimates(4000)
    # Each entry is H_ii plus signs times the entries of its row beside the diagonal.
    deviations = torch.sqrt(Quadratic.hessian.square().sum(1) - Quadratic.hessian.diagonal().square())
    torch.testing.assert_close(found.std(0), deviations, rtol=0.05, atol=0)
    assert ((found.mean(0) - Quadratic.hessian.diagonal()).abs() < 4 * deviations / 4000**0.5).all()


def test_signs_are_functions_of_seed_and_step():
    assert torch.equal(estimates(20), estimates(20))
    assert not torch.equal(estimates(20), estimates(20, seed=1))

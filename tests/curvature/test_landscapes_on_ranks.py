"""Surfaces, directions, maps and sharpness of a batch that is divided over two ranks are those of the whole batch."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from optbench.curvature.convexity import convexity_map
from optbench.curvature.directions import hessian_directions, random_direction
from optbench.curvature.lanczos import on_flat_vectors
from optbench.curvature.normalization import normalize
from optbench.curvature.sharpness import ball_sharpness, box_sharpness, loss_and_gradient, relative_scale
from optbench.curvature.surfaces import evaluation, grid
from optbench.objective import Network, Objective
from optbench.objective.execution import Execution
from tests.two_ranks import on_two_ranks


def landscape(rank, ranks):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    inputs, targets = torch.randn(24, 4, dtype=torch.float64), torch.randint(0, 3, (24,))
    share = slice(24 // ranks * rank, 24 // ranks * (rank + 1))
    execution = Execution(micro_batch=5, world_size=ranks, rank=rank)
    objective = Objective(Network(model), F.cross_entropy, inputs[share], targets[share], execution)
    parameters = objective.network.parameters
    generator = torch.Generator().manual_seed(4)
    first, second = (normalize(random_direction(parameters, generator), parameters) for _ in range(2))
    surface = grid(
        evaluation(model, lambda: {"loss": float(objective.loss())}), parameters, first, second, [-1.0, 0.0, 1.0], [0.5]
    )
    product = on_flat_vectors(objective.hvp, parameters)
    top, bottom = hessian_directions(product, parameters, 43, generator)
    ends = convexity_map(product, 43, parameters, first, second, [0.0, 1.0], [0.5], 43, generator)
    evaluate = loss_and_gradient(objective)
    return {
        "surface": surface.values["loss"],
        "eigenvalues": torch.tensor([top.value, bottom.value]),
        "top": torch.cat([part.flatten() for part in top.direction]),
        "ratio": ends.ratio,
        "sharpness": torch.tensor(
            [
                ball_sharpness(evaluate, parameters, 0.1, 4, relative_scale(parameters)).increase,
                box_sharpness(evaluate, parameters, dimensions=3).increase,
                box_sharpness(evaluate, parameters).increase,
            ]
        ),
    }


@pytest.mark.slow
def test_landscapes_of_two_ranks_are_those_of_one(tmp_path):
    expected = landscape(0, 1)
    for found in on_two_ranks(partial(landscape, ranks=2), tmp_path):
        for name, value in expected.items():
            torch.testing.assert_close(
                found[name], value, rtol=1e-6, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
            )

"""scaling=auto does what steps mean: linear where they are proportional to the gradient, sqrt where they do not grow with it."""

import math

import pytest
import torch
from built import build
from torch import nn

from optbench.config import choices, read_choice

# LARS gives the gradient itself to biases, and to all tensors at a norm of 0; everything else about it is relative.
FIRST_ORDER = [
    name for name in choices("optimizer") if read_choice("optimizer", name)["info"]["scaling"] in ("linear", "sqrt")
]
# Their matrix comes from the model's own outputs, or its Hessian, whatever the gradient.
OF_CURVATURE = {"kfac", "ekfac", "sophia"}
# Its factors are fitted step by step, and have not forgotten their beginning after twelve of them.
FITTED = {"psgd_kron"}
DEGREES = {"linear": 1.0, "sqrt": 0.0}


def moved(choice, scale):
    """The length of steps 7 to 12 along random gradients times ``scale`` take a small network, without weight decay.

    The first steps of RAdam are not yet divided by the gradient's size.
    """
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(16, 8, bias=False), nn.Linear(8, 4)).double()
    optimizer = build(choice, model, choice["learning_rate"])
    parameters = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    draws = torch.Generator().manual_seed(1)
    for step in range(12):
        if step == 6:
            before = [parameter.detach().clone() for parameter in parameters]
        for parameter in model.parameters():
            parameter.grad = scale * torch.randn(parameter.shape, generator=draws, dtype=parameter.dtype)
        optimizer.step(lambda: torch.tensor(1.0))
    return torch.cat([(p.detach() - start).reshape(-1) for p, start in zip(parameters, before, strict=True)])


def degree_of(choice):
    """d where the step along c g is c^d times that along g; both directions must be one."""
    small, large = moved(choice, 10.0), moved(choice, 20.0)
    assert small.norm() > 0
    torch.testing.assert_close(small / small.norm(), large / large.norm(), rtol=0, atol=0.02)
    return math.log2(float(large.norm() / small.norm()))


@pytest.mark.parametrize("name", sorted(set(FIRST_ORDER) - OF_CURVATURE))
def test_of_our_choices(name):
    choice = read_choice("optimizer", name)
    if "weight_decay" in choice:
        choice["weight_decay"] = 0.0
    # ASGD shrinks the weights by itself.
    choice |= {"lambd": 0.0} if "lambd" in choice else {}
    tolerance = 0.05 if name in FITTED else 0.02
    assert degree_of(choice) == pytest.approx(DEGREES[choice["info"]["scaling"]], abs=tolerance)


@pytest.mark.parametrize("name", sorted(set(read_choice("optimizer", "zoo")["info"]["scaling"]) - {"soap"}))
def test_of_the_zoo(name):
    pytest.importorskip("pytorch_optimizer")
    choice = read_choice("optimizer", "zoo") | {"name": name, "weight_decay": 0.0}
    assert degree_of(choice) == pytest.approx(DEGREES[choice["info"]["scaling"][name]], abs=0.02)


def test_the_steps_of_kfac_shrink_with_the_gradient_and_not_with_its_noise():
    """Its matrix is that of the mean over examples: two batches of the same examples, one twice as long, have one matrix."""
    from optbench.objective import Network, Objective
    from optbench.objective.losses import CrossEntropy
    from optbench.optimizers import EKFAC, KFAC

    for kind in (KFAC, EKFAC):
        ends = []
        for copies in (1, 2):
            torch.manual_seed(0)
            model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
            inputs = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
            targets = torch.arange(8) % 3
            optimizer = kind.from_model(model, targets="exact", kl_clip=None)
            for _ in range(3):
                optimizer.step(
                    Objective(Network(model), CrossEntropy(), inputs.repeat(copies, 1), targets.repeat(copies))
                )
            ends.append(torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()]))
        torch.testing.assert_close(ends[0], ends[1], rtol=1e-9, atol=1e-12)

import pytest
import torch
from torch import nn

from optbench.optimizers import Lion
from optbench.testing.formulas import lion


def test_follows_its_formula(problem, assert_close):
    lr, beta1, beta2, decay = 0.02, 0.8, 0.95, 0.1

    def update(name, w, g, memory, t):
        return lion(g, memory, t, lr, beta1, beta2) + lr * decay * w

    model = problem.model()
    problem.train(model, Lion(model.parameters(), lr=lr, betas=(beta1, beta2), weight_decay=decay), 10)
    assert_close(model, problem.solve(update, 10))


def test_agrees_with_pytorch_optimizer(problem):
    theirs = pytest.importorskip("pytorch_optimizer").Lion
    options = {"lr": 0.02, "betas": (0.7, 0.9), "weight_decay": 0.1}
    models = [problem.model(), problem.model()]
    problem.train(models[0], Lion(models[0].parameters(), **options), 10)
    problem.train(models[1], theirs(models[1].parameters(), weight_decouple=True, **options), 10)
    for mine, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)


def test_every_coordinate_moves_by_lr():
    parameter = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    parameter.grad = torch.tensor([1e-9, -3.0, 0.0, 100.0], dtype=torch.float64)
    Lion([parameter], lr=0.01).step()
    assert parameter.tolist() == [-0.01, 0.01, 0.0, -0.01]


@pytest.mark.parametrize("options", [{"lr": -1}, {"betas": (1.0, 0.9)}, {"weight_decay": -1.0}])
def test_refuses_what_makes_no_sense(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        Lion([nn.Parameter(torch.ones(1))], **options)

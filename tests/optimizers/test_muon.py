import math

import pytest
import torch
from torch import nn

from optbench.optimizers import Muon
from optbench.optimizers.muon import orthogonalize


def draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (1, 5), (5, 1)])
def test_orthogonalize_moves_singular_values_near_one_and_keeps_the_vectors(shape):
    left, values, right = torch.linalg.svd(draw(*shape), full_matrices=False)
    within = left.T @ orthogonalize(left @ torch.diag(values) @ right) @ right.T
    assert torch.linalg.norm(within - torch.diag(within.diagonal())) < 1e-10
    assert within.diagonal().min() > 0.68
    assert within.diagonal().max() < 1.21


def test_orthogonalize_applies_the_polynomial_to_each_singular_value():
    values = torch.tensor([3.0, 1.0, 0.2], dtype=torch.float64)
    expected = values / values.norm()
    for _ in range(3):
        expected = 3.4445 * expected - 4.7750 * expected**3 + 2.0315 * expected**5
    torch.testing.assert_close(orthogonalize(torch.diag(values), steps=3).diagonal(), expected)


def test_a_zero_gradient_stays_zero():
    assert (orthogonalize(torch.zeros(3, 2)) == 0).all()


def step_on(loss, weight, optimizer, steps):
    def closure():
        optimizer.zero_grad()
        value = loss(weight)
        value.backward()
        return value

    for _ in range(steps):
        optimizer.step(closure)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9 has no Muon")
@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
@pytest.mark.parametrize("adjustment", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("nesterov", [False, True])
def test_agrees_with_torch_on_matrices(shape, adjustment, nesterov, monkeypatch):
    # torch iterates in bfloat16; in the dtype of the gradient, as here, the two must agree to rounding.
    monkeypatch.setattr(torch.Tensor, "bfloat16", lambda self: self.clone())
    target = draw(*shape, seed=1)
    weights = [nn.Parameter(draw(*shape)) for _ in range(2)]
    options = {"lr": 0.05, "momentum": 0.9, "nesterov": nesterov, "weight_decay": 0.1}
    optimizers = [
        Muon([weights[0]], lr_adjustment=adjustment, **options),
        torch.optim.Muon([weights[1]], adjust_lr_fn=adjustment, **options),
    ]
    for weight, optimizer in zip(weights, optimizers, strict=True):
        step_on(lambda w: (w - target).square().sum() + w.sin().sum(), weight, optimizer, 10)
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-10, atol=1e-12)


def test_a_kernel_moves_like_its_matrix():
    kernel = nn.Parameter(draw(4, 3, 2, 2))
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
    target = draw(4, 12, seed=1)
    for weight in (kernel, matrix):
        step_on(lambda w: (w.flatten(1) - target).pow(4).sum(), weight, Muon([weight], lr=0.05), 5)
    torch.testing.assert_close(kernel.flatten(1), matrix, rtol=1e-12, atol=0)


def test_matched_steps_have_a_fifth_of_adams_root_mean_square():
    weight = nn.Parameter(torch.zeros(8, 32, dtype=torch.float64))
    weight.grad = draw(8, 32)
    Muon([weight], lr=1.0, momentum=0.0, weight_decay=0.0).step()
    # For singular values of 1 the norm of U is √8, and the step's root mean square 0.2 √32 √8 / √(8 · 32) = 0.2.
    assert weight.detach().square().mean().sqrt().item() == pytest.approx(0.2, rel=0.25)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(11, 6)
        self.hidden = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.kernel = nn.Conv1d(6, 4, 3)
        self.head = nn.Linear(4, 2)

    def forward(self, tokens):
        features = self.norm(torch.tanh(self.hidden(self.embedding(tokens))))
        return self.head(self.kernel(features.transpose(1, 2)).mean(-1))


def test_only_hidden_matrices_are_orthogonalized():
    model = Network()
    optimizer = Muon.from_model(model, lr=0.1, weight_decay=0.2, adamw_learning_rate_factor=0.5)
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = [({names[p] for p in group["params"]}, group) for group in optimizer.param_groups]
    assert [parameters for parameters, _ in groups] == [
        {"hidden.weight", "kernel.weight"},
        {"embedding.weight", "head.weight"},
        {"hidden.bias", "norm.weight", "norm.bias", "kernel.bias", "head.bias"},
    ]
    assert [group["lr"] for _, group in groups] == [0.1, 0.05, 0.05]
    assert [group["weight_decay"] for _, group in groups] == [0.2, 0.2, 0.0]
    assert ["momentum" in group for _, group in groups] == [True, False, False]
    assert ["betas" in group for _, group in groups] == [False, True, True]


def test_a_head_tied_to_the_embedding_is_not_orthogonalized():
    model = nn.Module()
    model.embedding, model.hidden, model.head = nn.Embedding(7, 4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False)
    model.head.weight = model.embedding.weight
    optimizer = Muon.from_model(model, lr=0.1)
    assert not any(p is model.embedding.weight for p in optimizer.param_groups[0]["params"] if p.ndim > 1)


def test_the_rest_takes_the_step_of_adamw():
    torch.manual_seed(0)
    models = [Network().double(), Network().double()]
    models[1].load_state_dict(models[0].state_dict())
    for model in models:
        for weight in (model.hidden.weight, model.kernel.weight):
            weight.requires_grad_(False)
    ours = Muon.from_model(models[0], lr=0.01, weight_decay=0.3)
    theirs = torch.optim.AdamW(
        [
            {"params": [models[1].embedding.weight]},
            {"params": [models[1].head.weight]},
            {"params": [p for p in models[1].parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=0.01,
        weight_decay=0.3,
    )
    tokens, labels = torch.arange(10).view(2, 5), torch.tensor([0, 1])
    for model, optimizer in zip(models, (ours, theirs), strict=True):
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(tokens), labels).backward()
            optimizer.step()
    for mine, expected in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-12)


def test_original_adjustment_scales_tall_matrices_only():
    for shape, scale in (((8, 2), 2.0), ((2, 8), 1.0)):
        weight = nn.Parameter(torch.zeros(*shape, dtype=torch.float64))
        weight.grad = draw(*shape)
        Muon([weight], lr=1.0, momentum=0.0, lr_adjustment="original").step()
        torch.testing.assert_close(weight.detach(), -scale * orthogonalize(weight.grad))
        assert scale == math.sqrt(max(1, shape[0] / shape[1]))


def test_refuses_vectors_and_values_that_make_no_sense():
    with pytest.raises(ValueError, match="orthogonalize=False"):
        Muon([nn.Parameter(torch.ones(3))])
    for options in ({"lr_adjustment": "none"}, {"newton_schulz_steps": 0}, {"momentum": 1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            Muon([nn.Parameter(torch.ones(3, 3))], **options)

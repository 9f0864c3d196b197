"""Quadratic problems: their spectrum, noise and expected loss against closed forms, and training on them against theory."""

import math

import pytest
import torch
from scipy import stats

from optbench import config
from optbench.data import normal_rows
from optbench.data.quadratic import eigenvalues_of, haar_rotation, load
from optbench.data.source import BatchSource
from optbench.errors import UserError
from optbench.models.quadratic import Quadratic
from optbench.objective.losses import SquaredError
from optbench.theory import LinearMethod, second_moment
from optbench.training import checkpointing, run

WORDS = ["dataset=quadratic", "model=quadratic", "tracker=none", "progress=false", "trainer.accelerator=cpu"]
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def spectrum(name, dimension=20, **options):
    given = {"eigenvalues": None, "exponent": 1.0, "condition": 100.0, "outliers": 3, "outlier_size": 10.0}
    generator = torch.Generator().manual_seed(0)
    return eigenvalues_of(name, dimension, **{**given, **options}, generator=generator)


def model_of(raw, weights=None):
    model = Quadratic(raw.spec).double()
    if weights is not None:
        model.weights.data = weights
    return model


# ---- the problem ------------------------------------------------------------------------------------------------------------


def test_spectra():
    torch.testing.assert_close(spectrum("power_law", 3, exponent=2.0), numbers(1, 1 / 4, 1 / 9), **EXACT)
    geometric = spectrum("geometric", 5, condition=16.0)
    torch.testing.assert_close(geometric, numbers(1, 0.5, 0.25, 0.125, 0.0625), **EXACT)
    torch.testing.assert_close(spectrum("list", eigenvalues=[3.0, 0.1]), numbers(3.0, 0.1), **EXACT)
    bulk = spectrum("bulk", 5, outliers=2)
    torch.testing.assert_close(bulk, numbers(10, 10, 1, 2 / 3, 1 / 3), **EXACT)
    deep = spectrum("deep", 100)
    assert ((deep > 0) & (deep < 1)).sum() == 90
    assert ((deep > 30) & (deep < 60)).sum() == 10
    assert all(spectrum(name, 1).tolist() == [1.0] for name in ("power_law", "geometric"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"spectrum": "list"}, "dataset.eigenvalues=null: must be given with dataset.spectrum=list"),
        ({"spectrum": "bulk", "dimension": 5, "outliers": 6}, "dataset.outliers=6: more than dataset.dimension=5"),
    ],
)
def test_spectra_that_cannot_be_made(options, message):
    with pytest.raises(UserError, match=message):
        load("", **options)


def test_rotations_are_uniform():
    generator = torch.Generator().manual_seed(1)
    drawn = torch.stack([haar_rotation(3, generator) for _ in range(2000)])
    torch.testing.assert_close(drawn @ drawn.mT, torch.eye(3).double().expand(2000, 3, 3), rtol=0, atol=1e-12)
    # An entry of a Haar rotation in three dimensions is uniform on [-1, 1]; without the signs of R the first would be negative.
    for entry in (drawn[:, 0, 0], drawn[:, 2, 1]):
        assert stats.kstest(entry.numpy(), stats.uniform(-1, 2).cdf).pvalue > 1e-3


@pytest.mark.parametrize("rotation", [None, 5])
@pytest.mark.parametrize("noise", ["none", "h", "h_squared", "constant", "multiplicative"])
def test_the_loss_of_every_split_is_exact(noise, rotation):
    raw = load("", dimension=6, noise=noise, noise_level=0.5, rotation_seed=rotation)
    theta = torch.linspace(-1, 2, 6).double()
    unrotated = theta if rotation is None else raw.spec.problem.rotation.T @ theta
    expected = 0.5 * sum(value**2 / (number + 1) for number, value in enumerate(unrotated.tolist()))
    source = BatchSource(raw, seed=0, dtype=torch.float64)
    model, loss = model_of(raw, theta), SquaredError()
    for split in ("train", "validation", "test"):
        [batch] = source.evaluation(split, 1000, limit=1)  # a limit would change the mean
        assert loss(model(batch[0]), batch[1]).item() == pytest.approx(expected, rel=1e-12)
    assert model_of(raw).weights.norm().item() == pytest.approx(math.sqrt(6), rel=1e-6)


@pytest.mark.parametrize("rotation", [None, 5])
@pytest.mark.parametrize("noise", ["none", "h", "h_squared", "constant", "multiplicative"])
def test_gradients_have_the_stated_mean_and_covariance(noise, rotation):
    raw = load("", spectrum="list", eigenvalues=[2.0, 0.5], noise=noise, noise_level=0.7, rotation_seed=rotation)
    problem, curvature = raw.spec.problem, numbers(2.0, 0.5)
    turn = torch.eye(2).double() if rotation is None else problem.rotation
    hessian, theta = turn @ torch.diag(curvature) @ turn.T, numbers(0.3, -1.2)
    model, count = model_of(raw, theta.clone()), 200_000
    inputs, targets = BatchSource(raw, seed=3, dtype=torch.float64).batch(0, 0, count)

    def example_loss(weights, row, target):
        outputs = torch.func.functional_call(model, {"weights": weights}, (row[None],))
        return SquaredError()(outputs, target[None])

    gradients = torch.vmap(torch.func.grad(example_loss), (None, 0, 0))(theta, inputs, targets)
    mean = hessian @ theta
    if noise == "multiplicative":
        # x (xᵀθ - σ ε) with x normal of covariance H: E (xᵀθ)² x xᵀ = H θᵀHθ + 2 Hθθᵀ H.
        covariance = hessian * (0.49 + theta @ mean) + torch.outer(mean, mean)
    else:
        own = {"none": 0 * curvature, "h": curvature, "h_squared": curvature**2, "constant": torch.ones(2).double()}[
            noise
        ]
        covariance = 0.49 * turn @ torch.diag(own) @ turn.T
    error = (covariance.diagonal() / count).sqrt()
    assert ((gradients.mean(0) - mean).abs() <= 5 * error + 1e-12).all()
    torch.testing.assert_close(
        gradients.T.cov(), covariance, rtol=0.03, atol=0.02 * covariance.abs().max().item() + 1e-12
    )


def test_examples_are_functions_of_the_seed_and_their_number(monkeypatch):
    monkeypatch.setattr(normal_rows, "_BLOCK", 40)  # five rows at a time
    raw = load("", dimension=7, noise="multiplicative", examples=10)
    source = BatchSource(raw, seed=2, dtype=torch.float64)
    whole = source.batch(3, 24, 12)
    shares = [source.batch(3, 24, 12, rank, 3) for rank in range(3)]
    for place in (0, 1):
        assert torch.equal(torch.cat([share[place] for share in shares]), whole[place])
        assert torch.equal(source.batch(9, 30, 6)[place], whole[place][6:])
    assert not torch.equal(BatchSource(raw, seed=4, dtype=torch.float64).batch(3, 24, 12)[0], whole[0])
    rows = source.batch(0, 0, 50)[0]  # five epochs
    assert len(rows.unique(dim=0)) == 50


# ---- training on it -----------------------------------------------------------------------------------------------------------

GOLDEN = {
    "sgd": (["optimizer=sgd", "optimizer.learning_rate=0.5"], (0.083333, 0.067570, 0.186878)),
    "momentum": (
        ["optimizer=momentum", "optimizer.learning_rate=0.3", "optimizer.momentum=0.9"],
        (0.406778, 0.391675, 0.372742),
    ),
    "nesterov": (
        ["optimizer=nesterov", "optimizer.learning_rate=0.3", "optimizer.momentum=0.8"],
        (0.146518, 0.162787, 0.181964),
    ),
    "ema": (
        [
            "optimizer=sgd",
            "optimizer.learning_rate=0.5",
            "averaging=ema",
            "averaging.decay=0.9",
            "averaging.warmup=false",
        ],
        (0.011836, 0.028045, 0.256171),
    ),
}


@pytest.mark.parametrize("precision", ["fp32", "fp64"])
@pytest.mark.parametrize("method", GOLDEN)
def test_ten_thousand_replicas_in_one_run_meet_the_theory(tmp_path, method, precision):
    words, golden = GOLDEN[method]
    problem = ["dataset.spectrum=list", "dataset.eigenvalues=[1,0.3,0.05]", "dataset.replicas=10000"]
    budget = ["batch=4", "budget.steps=40", "optimizer.weight_decay=0", f"precision={precision}", "scaling=none"]
    outcome = run.execute(config.compose([*WORDS, *problem, *budget, *words, f"results_dir={tmp_path}"]))
    assert outcome.state == "done", outcome.why
    state = checkpointing.load(outcome.directory.checkpoint, outcome.directory.run_id)["task"]
    weights = state["model"]["weights"]
    if method == "ema":
        [weights] = [value for name, value in _tensors(state["average"]) if name.endswith("weights")]
    squares = weights.double().view(3, 10_000) ** 2
    for found, expected in zip(squares, golden, strict=True):
        assert abs(found.mean() - expected) <= 4 * found.std() / 100
    risk = 0.5 * (numbers(1, 0.3, 0.05) @ (state["model"]["weights"].double().view(3, -1) ** 2).sum(1))
    assert outcome.summary["test_loss"] == pytest.approx(risk.item(), rel=1e-5)


def _tensors(state, prefix=""):
    if isinstance(state, torch.Tensor):
        yield prefix, state
    elif isinstance(state, dict):
        for name, value in state.items():
            yield from _tensors(value, f"{prefix}.{name}")


def test_the_golden_numbers_are_those_of_the_theory():
    for number, curvature in enumerate((1.0, 0.3, 0.05)):
        methods = {
            "sgd": LinearMethod.sgd(0.5, curvature),
            "momentum": LinearMethod.momentum(0.3, 0.9, curvature),
            "nesterov": LinearMethod.nesterov(0.3, 0.8, curvature),
            "ema": LinearMethod.averaged(0.5, 0.9, curvature),
        }
        for name, method in methods.items():
            assert second_moment(method, curvature / 4, 40) == pytest.approx(GOLDEN[name][1][number], abs=1e-6)


def test_multiplicative_noise_follows_its_recursion(tmp_path):
    """E θ² of least squares by SGD, s ← s (1 - 2αh + α²(1 + 1/B) h²) + α²/B h Σ h s + α² σ² h / B, over seeds."""
    curvature, batch, rate, steps = numbers(1.0, 0.5, 0.2, 0.1), 2, 0.4, 30
    moments = torch.ones(4).double()
    for _ in range(steps):
        others = (curvature * moments).sum()
        kept = 1 - 2 * rate * curvature + rate**2 * (1 + 1 / batch) * curvature**2
        moments = moments * kept + rate**2 / batch * curvature * (others + 0.09)
    torch.testing.assert_close(moments, numbers(0.019527, 0.016427, 0.024745, 0.109169), rtol=0, atol=1e-6)
    raw = load("", spectrum="list", eigenvalues=curvature.tolist(), noise="multiplicative", noise_level=0.3)
    weights = torch.ones(4000, 4).double()
    sources = [BatchSource(raw, seed, dtype=torch.float64) for seed in range(len(weights))]
    for step in range(steps):
        rows, targets = map(
            torch.stack, zip(*(source.batch(step, batch * step, batch) for source in sources), strict=True)
        )
        errors = torch.einsum("snd,sd->sn", rows, weights) - targets[..., 0]
        weights -= rate * torch.einsum("sn,snd->sd", errors, rows) / batch
    squares = weights**2
    assert ((squares.mean(0) - moments).abs() <= 4 * squares.std(0) / math.sqrt(len(weights))).all()


NEWTON = {
    "hessian_free": ["optimizer.damping=1e-12", "optimizer.cg_tolerance=0", "optimizer.preconditioner=none"],
    "damped_newton": ["optimizer.damping_ladder=[1e-12]"],
    "saddle_free": ["optimizer.damping_ladder=[1e-12]"],
    "lm": [
        "optimizer.damping=1e-12", "optimizer.damping_low=1e-14", "optimizer.damping_matrix=identity",
        "optimizer.momentum_share=null",
    ],
}  # fmt: skip
# The number of products with the Hessian: as many as it has distinct eigenvalues.
DIMENSION = {"hessian_free": "cg_iterations", "damped_newton": "krylov_dimension", "saddle_free": "krylov_dimension"}


@pytest.mark.parametrize("method", NEWTON)
def test_newton_types_need_one_step_and_krylov_spaces_the_distinct_eigenvalues(tmp_path, method):
    problem = ["dataset.spectrum=list", "dataset.eigenvalues=[3,0.7,0.05]", "dataset.replicas=2", "dataset.noise=none"]
    words = [*WORDS, *problem, "dataset.rotation_seed=1", "batch=2", "budget.steps=1", "precision=fp64"]
    words += [f"optimizer={method}", *NEWTON[method], f"results_dir={tmp_path}"]
    for products in (3, 2) if method in DIMENSION else (None,):
        krylov = [] if products is None else [f"optimizer.{DIMENSION[method]}={products}"]
        outcome = run.execute(config.compose([*words, *krylov]))
        assert outcome.state == "done", outcome.why
        loss = outcome.summary["test_loss"]
        assert loss > 1e-4 if products == 2 else loss < 1e-12

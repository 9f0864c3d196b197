"""The probe of loss profiles, against gradient descent that is written out on a function whose derivatives torch computes."""

import numpy as np
import pytest
import torch

from optbench import config
from optbench.data.problems import two_magnitudes
from optbench.errors import UserError
from optbench.training import run

RATE, STEPS = 0.2, 12
WORDS = [
    "model=problem", "dataset=two_magnitudes", "dataset.start_distance=0.1", "batch=1",
    "optimizer=sgd", f"optimizer.learning_rate={RATE}",
    f"budget.steps={STEPS}", "precision=fp64", "eval_every=100%", "tracker=none", "progress=false",
    "trainer.accelerator=cpu", "probe=profile", "probe.profile.top=2", "probe.profile.tolerance=0",
]  # fmt: skip


def measured(folder, *words):
    outcome = run.execute(config.compose([*WORDS, *words, f"results_dir={folder}"]))
    assert outcome.state == "done", outcome.why
    (row,) = outcome.directory.measurements.rows()
    return row["values"], outcome.directory.measurements.arrays(row["file"])


@pytest.fixture(scope="module")
def path():
    """The function, and the weights after each step of gradient descent."""
    function = two_magnitudes.load("", start_distance=0.1).spec.problem
    points = [function.start]
    for _ in range(STEPS):
        points.append(points[-1] - RATE * torch.func.grad(function)(points[-1]))
    return function, points


@pytest.mark.parametrize("centre", ["weights", "midpoint"])
def test_eigenvalue_and_profiles_are_those_at_the_centre(tmp_path, path, centre):
    """Catches λ₁ at the weights taken for λ₁ at the midpoint, and the step before last taken for the last."""
    function, points = path
    values, arrays = measured(tmp_path, f"probe.profile.centre={centre}")
    last = points[-1] - points[-2]
    at = points[-1] if centre == "weights" else (points[-1] + points[-2]) / 2
    eigenvalues, vectors = torch.linalg.eigh(torch.func.hessian(function)(at))
    assert values["top"] == pytest.approx(float(eigenvalues[-1]), rel=1e-9)
    assert arrays["eigenvalues"].tolist() == pytest.approx(eigenvalues[[-1, -2]].tolist(), rel=1e-6)
    assert values["loss"] == pytest.approx(float(function(at)), rel=1e-9)
    assert values["norm"] == pytest.approx(float(at.norm()), rel=1e-12)
    assert values["step"] == pytest.approx(float(last.norm()), rel=1e-9)
    assert values["cosine"] == pytest.approx(float((vectors[:, -1] @ last).abs() / last.norm()), rel=1e-6)
    assert arrays["directions"].tolist() == ["top", "top", "oscillation", "random", "random"]
    for number, direction in [(0, vectors[:, -1]), (1, vectors[:, -2]), (2, last / last.norm())]:
        for r, ahead, behind in zip(arrays["radii"], arrays["ahead"][number], arrays["behind"][number], strict=True):
            both = [float(function(at + sign * r * direction) - function(at)) for sign in (1, -1)]
            assert sorted([ahead, behind]) == pytest.approx(sorted(both), rel=1e-6, abs=1e-12)
    assert arrays["radii"][[0, -1]].tolist() == pytest.approx([1e-5 * float(at.norm()), float(at.norm())])
    assert arrays["curvatures"][0][0] == pytest.approx(values["top"], rel=1e-3)
    nearest = np.abs(arrays["radii"] / at.norm().item() / 0.05 - 1).argmin()
    for kind, number in (("top", 0), ("oscillation", 2)):
        assert values[f"{kind}_exponent"] == pytest.approx(arrays["exponents"][number][nearest], rel=1e-12)
    assert values["random_exponent"] == pytest.approx(arrays["exponents"][3:, nearest].mean(), rel=1e-12)
    assert "normalized_exponent" not in values  # weights of one axis have no filters


def test_the_secant_of_the_last_step_is_that_of_the_gradient(tmp_path, path):
    function, points = path
    values, _ = measured(tmp_path)
    last = points[-1] - points[-2]
    rise = torch.func.grad(function)(points[-1]) - torch.func.grad(function)(points[-2])
    assert values["secant"] == pytest.approx(float(rise @ last / last.square().sum()), rel=1e-8)


def test_there_is_no_last_step_before_the_first(tmp_path):
    values, arrays = measured(tmp_path, "probe.profile.start=true", "probe.profile.end=false")
    assert values.keys() == {"loss", "norm", "top", "top_exponent", "random_exponent"}
    assert "oscillation" not in arrays["directions"].tolist()


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("probe.profile.closest=2", r"probe\.profile\.closest=2, farthest=1\.0: accepted is a closest below"),
        ("probe.profile.top=70", r"probe\.profile\.steps=60: accepted is at least probe\.profile\.top=70"),
    ],
)
def test_options_that_cannot_work_are_refused_before_the_run(tmp_path, word, message):
    with pytest.raises(UserError, match=message):
        measured(tmp_path, word)
    assert not list(tmp_path.rglob("history.jsonl"))

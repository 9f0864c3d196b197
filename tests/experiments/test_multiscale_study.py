"""The study of the multiscale structure: its grid, the balance of a cycle, and an analysis of runs that are known."""

import importlib.util
import math
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from optbench.__main__ import main
from optbench.analysis.studies import analysis_of, folder_of
from optbench.theory import pseudo_huber_cycle, quartic_cycle

RATE, DECAY = 0.25, 96  # 2/η = 8


def script(name):
    folder = folder_of("multiscale")
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
    specification = importlib.util.spec_from_file_location(f"multiscale_{name}", folder / f"{name}.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("scale", "runs"), [("smoke", 4), ("laptop", 24), ("full", 54)])
def test_every_scale_expands_to_its_runs(scale, runs, tmp_path, capsys):
    words = ["experiment=multiscale", f"scale={scale}", "dry_run=true", f"results_dir={tmp_path}", "tracker=none"]
    assert main(["-m", *words]) == 0
    assert f"{runs} runs: {runs} new" in capsys.readouterr().out


def test_the_balance_of_a_profile_is_the_amplitude_of_its_cycle():
    """Catches the rate taken for half of it, and k(r) = 2 g/r² taken for g'(r)/r."""
    balance = script("analysis").balance
    r = np.logspace(-4, 1, 400)
    huber = (1.0 / 0.01) / np.sqrt(1 + r**2 / 0.01)
    assert balance(r, huber * 0.05 / 2) == pytest.approx(pseudo_huber_cycle([(1.0, 0.1)], 0.05).amplitude, rel=1e-3)
    quartic = 1 - 0.3 * r**2
    assert balance(r, quartic * 2.5 / 2) == pytest.approx(quartic_cycle(1.0, -0.3, 2.5).amplitude, rel=1e-3)
    assert math.isnan(balance(r, quartic * 1.9 / 2))  # stable at the minimum
    assert math.isnan(balance(r, np.full(400, 1.2)))  # a quadratic never comes into balance
    assert balance(np.array([1e-5, *r]), np.array([math.nan, *huber]) * 0.025) == pytest.approx(0.2291288, rel=1e-3)


def test_the_profiles_of_two_magnitudes_are_those_of_the_problem():
    found = script("two_magnitudes").profiles(range(1))
    kept = pd.read_csv(folder_of("multiscale") / "two_magnitudes.csv")
    assert kept["seed"].unique().tolist() == [0, 1, 2]
    kept = kept[kept["seed"] == 0]
    for column in ("radius", "rise", "exponent", "curvature"):
        assert kept[column].to_numpy() == pytest.approx(found[column].to_numpy(), rel=1e-5, nan_ok=True)


# ---- an analysis of known runs ------------------------------------------------------------------------------------------


def profile_of(half_step, curvature=8.8, radius=0.1, norm=2.0):
    """The measurement of a loss that is a pseudo-Huber loss along the sharp directions and a quadratic along the others."""
    r = np.logspace(-5, 0, 41) * norm
    x = (r / radius) ** 2
    g = curvature * radius**2 * x / (np.sqrt(1 + x) + 1)
    sharp, flat = curvature / np.sqrt(1 + x), np.full(41, 0.1)
    exponents = sharp * r**2 / g
    kinds = ["top", "oscillation", "random", "normalized"]
    arrays = {
        "radii": r,
        "directions": np.array(kinds),
        "exponents": np.array([exponents, exponents, np.full(41, 2.0), np.full(41, 2.0)]),
        "curvatures": np.array([2 * g / r**2, 2 * g / r**2, flat, flat]),
    }
    values = {"norm": norm, "step": 2 * half_step, "top": 8.2, "secant": 8.0, "cosine": 0.5, "loss": 0.9}
    return SimpleNamespace(step=DECAY, values=values, arrays=lambda: arrays)


def study_of(*, ratio=1.02, drop=0.2, half_step=0.1, seeds=(0, 1, 2), diverges=False):
    runs, measured, rows = [], {}, []
    for seed in seeds:
        for schedule in ("constant", "multistep"):
            name = f"{schedule}-{seed}"
            run = {"run_id": name, "status": "done", "model": "mlp", "seed": seed, "base_learning_rate": RATE}
            runs.append(run | {"config.schedule.name": schedule, "setting": schedule})
            for step in range(1, 125):
                decayed = schedule == "multistep" and step > DECAY + 1
                loss = (1 - drop if decayed else 1.0) + (0.05 if step % 2 else -0.05)
                rows.append({"run_id": name, "event": "train", "step": step, "loss": loss})
            edges = [(0, 0.3), (49, 0.9), (62, ratio), (100, ratio)] if seed else [(0, 0.3), (62, 1.0), (100, 1.04)]
            measured[name, "stability"] = [SimpleNamespace(step=s, values={"ratio": value}) for s, value in edges]
            measured[name, "profile"] = [profile_of(half_step)]
    if diverges:
        lost = {"run_id": "lost", "status": "diverged", "model": "mlp", "seed": 0, "base_learning_rate": 9.0}
        runs.append(lost | {"config.schedule.name": "constant", "setting": "lost"})
    history = pd.DataFrame(rows, columns=["run_id", "event", "step", "loss"])
    return SimpleNamespace(
        name="multiscale",
        runs=pd.DataFrame(runs),
        histories=lambda columns: history,
        measurements=lambda run_id, probe: measured.get((run_id, probe), []),
    )


def analysed(**options):
    return analysis_of("multiscale")(study_of(**options))


def test_an_agreement_is_found_where_there_is_one():
    found = analysed(diverges=True)
    assert "second half of 3 of 3 runs" in found.answer
    assert "random ones, in 3 of 3 runs" in found.answer
    assert "within 20 steps in 3 of 3 runs" in found.answer
    edge, growth, decay = (found.tables[name] for name in ("edge", "growth", "decay"))
    # The value 0.9 at step 49 is of the first half.
    assert edge["smallest"].tolist() == pytest.approx([1.0, 1.02, 1.02])
    assert edge["largest"].tolist() == pytest.approx([1.04, 1.02, 1.02])
    assert edge["threshold"].tolist() == [8.0] * 3
    assert edge["midpoint"].tolist() == pytest.approx([8.2 / 8] * 3)
    assert decay["drop"].tolist() == pytest.approx([0.2] * 3)
    # The losses of the last two weights are 0.95 and 1.05 and that of their midpoint 0.9.
    assert decay["midpoint_drop"].tolist() == pytest.approx([0.1] * 3)
    amplitude = pseudo_huber_cycle([(8.8 * 0.1**2, 0.1)], RATE).amplitude / 2
    assert growth["balance"].tolist() == pytest.approx([amplitude] * 3, rel=0.02)
    assert growth["half_step"].tolist() == pytest.approx([0.05] * 3)
    assert growth["curvature"].tolist() == pytest.approx([1.1] * 3, rel=1e-6)
    assert growth["exponent_there"].tolist() == pytest.approx([1 + 0.5**0.5] * 3, abs=5e-3)
    # p = 1 + 1/√(1 + x²) with x = r/0.1, 1 at the distance 0.05; below 1.9 from x = 0.484 on, at the next distance of the grid.
    assert growth["top"].tolist() == pytest.approx([1 + 0.5**0.5] * 3, abs=0.01)
    assert growth["oscillation_below"].between(0.0242, 0.0242 * 10**0.125).all()
    assert growth["random_below"].isna().all()
    assert any(note.startswith("Exponent at 5%") and "in 0 of 3 runs" in note for note in found.notes)
    assert any(f"half the last step is {0.05 / amplitude:.2g}" in note for note in found.notes)
    assert any("diverges in 1 of 4 cases, at η = 9." in note for note in found.notes)
    for chart in found.charts:
        assert chart.matplotlib() is not None
        assert chart.plotly() is not None


def test_several_models_are_kept_apart():
    study = study_of()
    study.runs["model"] = np.where(study.runs["seed"] == 2, "vgg11", "mlp")
    found = analysis_of("multiscale")(study)
    labels = [series.label for series in found.charts[0].series]
    assert labels == ["mlp, η = 0.25", "vgg11, η = 0.25"]
    (note,) = [note for note in found.notes if note.startswith("λ₁ at the start")]
    assert "at mlp, η = 0.25" in note
    assert "0.30 at vgg11, η = 0.25" in note


def test_a_disagreement_is_found_where_there_is_one():
    found = analysed(ratio=1.06, drop=0.05)
    assert "second half of 1 of 3 runs" in found.answer
    assert "within 20 steps in 0 of 3 runs" in found.answer


def test_a_profile_whose_curvature_is_below_the_edge_has_no_balance():
    study = study_of()
    study.measurements = lambda run_id, probe, inner=study.measurements: (
        [profile_of(0.1, curvature=7.9)] if probe == "profile" else inner(run_id, probe)
    )
    found = analysis_of("multiscale")(study)
    assert found.tables["growth"]["balance"].isna().all()
    assert any(note.startswith("In no run has the profile along the oscillation") for note in found.notes)


def test_a_study_that_has_only_begun_has_no_answer():
    study = study_of()
    study.runs["status"] = "pending"
    assert "none is done" in analysis_of("multiscale")(study).answer
    assert "within 20 steps in 1 of 1 runs" in analysed(seeds=(0,)).answer

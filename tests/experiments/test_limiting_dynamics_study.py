"""The study of the limiting dynamics: its settings, and paths that keep to their prediction or do not."""

import importlib
import sys
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from optbench import config as configuration
from optbench.__main__ import main
from optbench.analysis.studies import analysis_of, studies
from optbench.analysis.study import Study
from optbench.theory import displacements, stationary_moments
from tests.experiments.made_runs import expanded

NAME = "limiting_dynamics"
CURVATURES, COPIES, TRACE = np.array([8.0, 2.0, 0.5, 0.1]), np.array([1.0, 1.0, 20.0, 100.0]), 30.0
DECAY = 0.01


# ---- the grid -----------------------------------------------------------------------------------------------------------


def configs_of(scale):
    _, expansion = expanded(NAME, scale)
    return [cell.config for cell in expansion.cells]


def hyperparameters(config):
    optimizer = config["optimizer"]
    return optimizer["learning_rate"], config["batch"], optimizer["momentum"], optimizer["weight_decay"]


@pytest.mark.parametrize(
    ("scale", "model", "base", "count", "runs"),
    [
        ("smoke", "mlp", (0.02, 64, 0.9, 0.02), 5, 11),
        ("laptop", "mlp", (0.02, 64, 0.9, 0.02), 9, 36),
    ],
)
def test_each_setting_differs_from_the_base_in_one_hyperparameter(scale, model, base, count, runs):
    configs = configs_of(scale)
    assert len(configs) == runs
    network = [config for config in configs if config["model"]["name"] == model]
    settings = {hyperparameters(config) for config in network}
    assert len(settings) == count
    assert base in settings
    assert all(sum(one != other for one, other in zip(setting, base, strict=True)) <= 1 for setting in settings)
    assert len({config["seed"] for config in network}) >= (2 if scale == "smoke" else 3)
    for config in configs:
        probe = config["probe"]["phase_space"]
        assert (probe["at"], probe["window"], probe["start"], probe["end"]) == (["60%"], "40%", False, True)


def test_the_full_scale_is_the_network_of_the_paper():
    """Read from its file: it can be expanded only where ImageNet is."""
    sweeper = configuration.read_choice("experiment", NAME)["hydra"]["sweeper"]
    assert (sweeper["scales"]["full"]["dataset"], sweeper["grids"]["resnet"]["model"]) == ("imagenet", "resnet18")


# ---- made-up runs -------------------------------------------------------------------------------------------------------


def script(name):
    """A module of the study, which finds those beside it as it does where it is run."""
    if str(studies()[NAME]) not in sys.path:
        sys.path.append(str(studies()[NAME]))
    return importlib.import_module(name)


def measurement(step, arrays, values=None):
    return SimpleNamespace(step=step, values=values or {}, arrays=lambda: arrays)


def made_up(rates, step=1.0, exponent=0.0, frequency=1.0, position=1.0, seeds=(1, 2, 3), sampled=False):
    """Runs that keep to their prediction, but for a factor of the squared step, of k^exponent in the displacement, of the
    frequency and of the variance of positions."""
    frame, measured = [], {}
    for rate in rates:
        for seed in seeds:
            run_id = f"r{rate:g}-{seed}"
            frame.append({"run_id": run_id, "status": "done", "model": "mlp", "seed": seed, "base_learning_rate": rate})
            frame[-1] |= {"batch": 32, "config.optimizer.momentum": 0.9, "config.optimizer.weight_decay": DECAY}
            k = np.arange(1, 2001)
            variances = TRACE / 32 * CURVATURES / (CURVATURES @ COPIES)
            squared = displacements(k, rate, 0.9, CURVATURES, variances, DECAY) @ COPIES * k**exponent
            speed = np.full(2000, step * TRACE / (32 * (1 - 0.9**2)))
            top = CURVATURES[:3]
            cycles = frequency * script("limiting_runs").resonance(rate, 0.9, top + DECAY)
            moments = stationary_moments(rate, 0.9, top, variances[:3], DECAY)
            angle = 2 * np.pi * np.outer(k, cycles) + seed
            x, v = (np.sqrt(2 * size) * wave(angle) for size, wave in (
                (position * moments.position, np.sin), (moments.velocity, np.cos)
            ))  # fmt: skip
            arrays = {"step": k + 500, "displacement_squared": squared, "velocity_squared": speed, "x": x, "v": v}
            first = measurement(500, arrays | {"eigenvalues": top})
            measured[run_id, "phase_space"] = [first, measurement(2500, arrays | {"eigenvalues": top})]
            measured[run_id, "gradient_statistics"] = [measurement(500, {}, {"trace": TRACE})]
            spectrum = {"values": np.append(CURVATURES, -0.2)[None], "dimension": np.array(221)}
            spectrum["weights"] = np.append(COPIES, 100.0)[None] / 221
            measured[run_id, "spectrum"] = [measurement(500, spectrum)]
            walks = {"in_epochs": k**0.4, "with_replacement": 3 * k**0.6}
            measured[run_id, "sampling"] = [measurement(0, walks)] if sampled else []
    return SimpleNamespace(
        name=NAME, runs=pd.DataFrame(frame), measurements=lambda run_id, probe: measured.get((run_id, probe), [])
    )


@pytest.mark.parametrize(("momentum", "rate"), [(0.9, 0.3), (0.9, 0.01), (0.5, 0.4), (0.97, 0.003)])
def test_the_resonance_is_the_largest_value_of_the_spectrum(momentum, rate):
    resonance = script("limiting_runs").resonance
    omega = np.linspace(1e-4, np.pi, 400_001)
    shift = np.exp(-1j * omega)
    spectrum = (2 - 2 * np.cos(omega)) / np.abs(1 - (1 + momentum - rate) * shift + momentum * shift**2) ** 2
    assert 2 * np.pi * resonance(0.1, momentum, 10 * rate) == pytest.approx(omega[spectrum.argmax()], abs=2e-5)


def table(findings, name):
    return findings.tables[name].set_index("case")


def test_runs_that_keep_to_their_prediction():
    findings = analysis_of(NAME)(made_up((0.01, 0.02, 0.02, 0.04)))
    names = ["base", "learning rate 0.01", "learning rate 0.04"]
    assert list(table(findings, "local_displacement").index) == names
    assert table(findings, "local_displacement")["local_ratio"].to_numpy() == pytest.approx(1.0)
    exponents = table(findings, "exponents")
    assert exponents["exponent"].to_numpy() == pytest.approx(exponents["exponent_predicted"].to_numpy())
    assert exponents.loc["learning rate 0.04", "exponent"] < exponents.loc["learning rate 0.01", "exponent"]
    assert table(findings, "displacements").to_numpy()[:, 1:] == pytest.approx(1.0)
    directions = table(findings, "single_directions")
    assert directions["frequency_ratio"].to_numpy() == pytest.approx(1.0, abs=0.01)
    assert directions["equipartition"].to_numpy() == pytest.approx(1.0, rel=0.02)
    assert directions["velocity_slope"].to_numpy() == pytest.approx(1.0, abs=0.05)
    assert "On the network, 3 of 3 settings have a mean squared step within 20%" in "\n".join(findings.notes)
    assert not any(note.startswith("Outside") for note in findings.notes)
    assert [(chart.matplotlib(), chart.plotly(), chart.plotly(narrow=True)) for chart in findings.charts]


def test_runs_that_do_not():
    """Each number is off by what was put into the runs, and is said to be."""
    study = made_up((0.01, 0.02, 0.02, 0.04), step=1.5, exponent=0.2, frequency=0.8, position=3.0)
    findings = analysis_of(NAME)(study)
    assert table(findings, "local_displacement")["local_ratio"].to_numpy() == pytest.approx(1.5)
    exponents = table(findings, "exponents")
    assert (exponents["exponent"] - exponents["exponent_predicted"]).to_numpy() == pytest.approx(0.2)
    assert table(findings, "displacements")["displacement_ratio_100"].to_numpy() == pytest.approx(100**0.2)
    directions = table(findings, "single_directions")
    assert directions["frequency_ratio"].to_numpy() == pytest.approx(0.8, abs=0.01)
    assert directions["equipartition"].to_numpy() == pytest.approx(3.0, rel=0.02)
    (outside,) = (note for note in findings.notes if note.startswith("Outside"))
    assert outside.count("step 1.50 [1.50, 1.50] times") == 3
    assert outside.count("frequency 0.80") == 3
    assert outside.count("exponent") == 3


def test_the_exponents_with_both_kinds_of_sampling():
    findings = analysis_of(NAME)(made_up((0.02,), sampled=True))
    found = table(findings, "sampling")
    assert found.loc["base", "sampling_in_epochs"] == pytest.approx(0.4)
    assert found.loc["base", "sampling_with_replacement"] == pytest.approx(0.6)
    expected = (
        "with replacement, and not in epochs, the exponent is 0.60 [0.60, 0.60] and not 0.40 [0.40, 0.40] at batch 32"
    )
    assert expected in "\n".join(findings.notes)
    assert "sampling" not in analysis_of(NAME)(made_up((0.02,))).tables


def test_batches_in_epochs_and_with_replacement():
    batches = script("sampling").batches
    stream = batches(10, 4, False, torch.Generator().manual_seed(0))
    drawn = torch.cat([next(stream) for _ in range(5)])
    assert [sorted(drawn[start : start + 10].tolist()) for start in (0, 10)] == [list(range(10))] * 2
    assert drawn[:10].tolist() != drawn[10:].tolist()
    independent = torch.cat([next(batches(10, 1000, True, torch.Generator().manual_seed(0)))])
    assert np.bincount(independent.numpy(), minlength=10).std() > 3  # 9.5 expected, 0 in epochs


def test_a_study_that_has_hardly_begun():
    study = made_up((0.02,), seeds=(1,))
    findings = analysis_of(NAME)(study)
    assert findings.answer.startswith("In 1 settings")
    study.runs["status"] = "pending"
    assert analysis_of(NAME)(study).answer.startswith("Not enough runs")
    study.runs["status"] = "done"
    without = SimpleNamespace(**vars(study) | {"measurements": lambda run_id, probe: []})
    assert analysis_of(NAME)(without).answer.startswith("Not enough runs")


@pytest.mark.slow
def test_the_study_from_its_runs_to_its_findings(tmp_path, monkeypatch):
    words = [f"experiment={NAME}", "scale=smoke", f"results_dir={tmp_path}", "progress=false"]
    assert main(["-m", *words, "launcher.workers=1", "trainer.accelerator=cpu"]) == 0
    module = script("sampling")
    monkeypatch.setattr(module, "STEPS", 60)
    monkeypatch.setattr(sys, "argv", ["sampling", "--results-dir", str(tmp_path)])
    module.main()
    findings = analysis_of(NAME)(Study.read(tmp_path, NAME, "smoke"))
    assert set(table(findings, "sampling").index) == {"base", "batch 256"}
    exact = table(findings, "local_displacement").loc["quadratic, exponent 2"]
    assert exact["local_ratio"] == pytest.approx(1.0, abs=0.1)
    assert {"base", "learning rate 0.04", "batch 256", "momentum 0.5"} <= set(table(findings, "exponents").index)
    assert [(chart.matplotlib(), chart.plotly()) for chart in findings.charts]

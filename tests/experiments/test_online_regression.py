"""The study of online gradient regression: its grid, and sentences about runs that are made up."""

import json
import math
import sys

import numpy as np
import pytest

from optbench.__main__ import main
from optbench.analysis.studies import analysis_of
from optbench.analysis.study import Study
from optbench.sweep.plan import Entry, Plan


def store(root, runs):
    """A sweep of runs: each a configuration, the losses of its evaluations by step, and more of its rows and its summary."""
    plan, entries = Plan(root, "online_regression"), []
    for number, (config, losses, rows, more) in enumerate(runs):
        directory = plan.directory(f"run-{number:04d}")
        directory.create(json.dumps(config))
        if losses is not None:
            for step, loss in losses.items():
                where = {"step": step, "samples": step, "seconds": 0.01 * step * more.get("pace", 1)}
                directory.append({"event": "train", **where, "loss": rows.get("loss", loss), **rows})
                directory.append({"event": "evaluation", **where, "validation_loss": loss, "test_loss": loss})
            names = {key: config[key]["name"] for key in ("optimizer", "model", "dataset")}
            rate, last = config["optimizer"]["learning_rate"], max(losses)
            summary = names | {"batch": config["batch"], "seed": config["seed"], "base_learning_rate": rate}
            summary |= {
                "learning_rate": rate,
                "steps": last,
                "validation_loss": losses[last],
                "test_loss": losses[last],
            }
            summary |= {"test_accuracy": 0.8, "seconds_training": 0.01 * last * more.get("pace", 1)}
            status = more.get("status", "done")
            directory.finish({"run_id": directory.run_id, **summary, **more, "status": status}, status)
        entries.append(Entry(directory.run_id, {"seed": str(config["seed"])}))
    plan.extend(entries, {"experiment": "online_regression", "scale": "smoke"})
    return Study.read(root, "online_regression")


def on_beale(optimizer, rate, seed, shift=0.0, **options):
    return {
        "optimizer": {"name": optimizer, "learning_rate": rate, "info": {}, **options},
        "model": {"name": "problem"},
        "dataset": {"name": "beale_starts", "shift": shift},
        "batch": 1,
        "seed": seed,
        "trial": 0,
    }


def on_digits(optimizer, rate, seed):
    return {
        "optimizer": {"name": optimizer, "learning_rate": rate, "info": {}},
        "model": {"name": "mlp"},
        "dataset": {"name": "digits"},
        "batch": 200,
        "seed": seed,
        "trial": 0,
    }


FULL = {"variant": "full", "dimension": 10, "curvature": "regression", "transport": False, "statistics": "from_zero"}
# What the regression says on the network: 100 times the noise, and the Hessian's eigenvalue in the summary.
SEEN = {"optimizer_curvature": 50.0, "optimizer_noise_floor": 0.5, "optimizer_significant": 0.25}


def made_up():
    """OGR at 0.0045; Adam best at 0.4 on the seeds that choose, and at 0.6 on the others; a network where OGR is worse."""
    runs = []
    for seed in range(5):
        wobble = 0.01 * seed
        chooses = seed < 2
        runs.append((on_beale("ogr", 1.0, seed, **FULL), {50: math.log(0.0045) + wobble}, {"loss": 9.0}, {}))
        far = on_beale("ogr", 1.0, seed, 4.0, **FULL)
        runs.append((far, {50: math.log(0.09) + wobble}, {"loss": 2e6 if seed == 4 else 9.0}, {}))
        exact = on_beale("ogr", 1.0, seed, **FULL | {"statistics": "exact"})
        runs.append((exact, {50: math.log(0.015) + wobble}, {"loss": 9.0}, {}))
        for rate, loss in ((0.2, 0.1), (0.4, 0.04 if chooses else 0.05), (0.6, 0.05 if chooses else 0.04)):
            runs.append((on_beale("adam", rate, seed), {50: math.log(loss) + wobble}, {"loss": 9.0}, {}))
        for rate, end in ((0.1, 0.4), (0.2, 0.5)):
            paths = {"momentum": end, "ogr": end + 0.05}
            for name, last in paths.items():
                losses = {step: last + (400 - step) / 1000 for step in range(40, 401, 40)}
                losses[400] += 0.001 * seed
                pace = 2 if name == "ogr" else 1
                rows = SEEN if name == "ogr" else {}
                runs.append((on_digits(name, rate, seed), losses, rows, {"pace": pace, "spectrum_top": 6.5}))
    return runs


def test_learning_rates_are_chosen_by_other_seeds_than_report(tmp_path):
    table = analysis_of("online_regression")(store(tmp_path, made_up())).tables["beale"].set_index("method")
    adam = table.loc["Adam, tuned"]
    assert adam["learning_rate"] == 0.4
    logs = np.log(0.05) + np.array([0.02, 0.03, 0.04])
    assert adam["geometric_mean"] == pytest.approx(math.exp(logs.mean()))
    # Student: 4.3026527 with two degrees of freedom.
    width = 4.3026527 * logs.std(ddof=1) / math.sqrt(3)
    assert adam["high"] == pytest.approx(math.exp(logs.mean() + width))
    assert adam["seeds"] == 3
    assert not adam["at_edge"]
    assert table.loc["Adam as in the notebook", "geometric_mean"] == pytest.approx(0.04 * math.exp(0.03))
    assert table.loc["full", "over_printed"] == pytest.approx(0.0045 * math.exp(0.03) / 0.00434)
    assert table.loc["full, shifted by 4", "with_diverged"] == pytest.approx(1 / 3)


def test_sentences_about_beales_function(tmp_path):
    findings = analysis_of("online_regression")(store(tmp_path, made_up()))
    words = " ".join(findings.notes)
    assert "full: 0.00464 [" in words
    assert "agrees within a factor of 1.2" in words
    assert "ends at 11.1 times the value of the full variant" in words
    assert (
        "the variant full ends at 0.0046 [0.0045, 0.0048] there and, with all starts moved, at 0.093 [0.09, 0.095] by 4."
        in words
    )
    assert "such a start: full, shifted by 4 33%" in words
    assert "which changes no other method, it ends at 0.093;" in findings.answer
    off = [
        (config, {50: losses[50] + 1} if config["optimizer"].get("statistics") == "from_zero" else losses, rows, more)
        for config, losses, rows, more in made_up()
    ]
    words = " ".join(analysis_of("online_regression")(store(tmp_path / "off", off)).notes)
    assert "does not agree within a factor of 1.2" in words


def test_a_run_without_a_number_counts_as_diverged(tmp_path):
    runs = [(on_beale("ogr", 1.0, seed, **FULL), {50: 0.0}, {}, {"status": "diverged"}) for seed in range(3)]
    table = analysis_of("online_regression")(store(tmp_path, runs)).tables["beale"]
    assert table["geometric_mean"].tolist() == pytest.approx([1e6])


def test_the_network_is_compared_at_equal_steps_and_at_equal_seconds(tmp_path):
    findings = analysis_of("online_regression")(store(tmp_path, made_up()))
    table = findings.tables["network"].set_index("optimizer")
    assert table["learning_rate"].tolist() == [0.1, 0.1]
    assert table.loc["momentum", "test_loss"] == pytest.approx(0.403)
    assert table.loc["ogr", "test_loss"] == pytest.approx(0.453)
    # In the 4 s that momentum takes for 400 steps OGR makes 200.
    assert table.loc["ogr", "loss_at_equal_seconds"] == pytest.approx(0.65)
    assert table.loc["momentum", "loss_at_equal_seconds"] == pytest.approx(0.403)
    difference = findings.tables["differences"].iloc[0]
    assert difference["difference"] == pytest.approx(0.05)
    words = " ".join(findings.notes)
    assert "by seed the test loss of OGR is higher than that of SGD with momentum, +0.0500" in words
    seen = findings.tables["curvatures"].iloc[0]
    assert [seen[name] for name in ("curvature", "noise_floor", "top_eigenvalue")] == [50, 0.5, 6.5]
    assert "25% of the curvatures exceed twice their noise" in words
    for chart in findings.charts:
        assert chart.matplotlib().axes, chart.name


@pytest.mark.parametrize("kept", [0, 1, 4, 12])
def test_a_sweep_that_has_hardly_begun(tmp_path, kept):
    runs = [run if place < kept else (run[0], None, {}, {}) for place, run in enumerate(made_up())]
    findings = analysis_of("online_regression")(store(tmp_path, runs))
    assert ("ot enough runs" in findings.answer) == (kept == 0)
    assert "nan" not in " ".join([findings.answer, *findings.notes]).split()
    for chart in findings.charts:
        assert chart.matplotlib().axes, chart.name


def test_names_of_settings_are_different():
    analysis_of("online_regression")
    name_of = sys.modules["beale_values"].name_of
    rows = []
    for variant, dimension in (("full", 10), ("subspace", 1), ("subspace", 2), ("diagonal", 10)):
        for curvature in ("regression", "correlation"):
            for statistics, transport in (("from_zero", False), ("from_zero", True), ("exact", True)):
                row = {"variant": variant, "dimension": dimension, "curvature": curvature}
                row |= {"statistics": statistics, "transport": transport}
                options = {f"config.optimizer.{key}": value for key, value in row.items()}
                rows.append({"optimizer": "ogr", **options, "config.dataset.shift": 0.0})
    assert len({name_of(row) for row in rows}) == len(rows)
    assert name_of({"optimizer": "momentum", "config.optimizer.momentum": 0.5}) == "momentum 0.5, tuned"


@pytest.mark.slow
def test_from_its_runs_to_its_findings(tmp_path):
    words = ["experiment=online_regression", "scale=smoke", f"results_dir={tmp_path}", "progress=false"]
    assert main(["-m", *words, "launcher.workers=1", "trainer.accelerator=cpu"]) == 0
    findings = analysis_of("online_regression")(Study.read(tmp_path, "online_regression", "smoke"))
    values = findings.tables["beale"].set_index("method")["geometric_mean"]
    assert values["full"] < values["Adam as in the notebook"] < values["momentum as in the notebook"]
    assert values["full, shifted by 4"] > 3 * values["full"]
    # Exact statistics do not know where the origin is.
    assert values["full, exact statistics, shifted by 4"] == pytest.approx(values["full, exact statistics"], rel=1e-6)
    assert set(findings.tables["network"]["optimizer"]) == {"momentum", "adam", "ogr"}
    assert np.isfinite(findings.tables["curvatures"]["top_eigenvalue"]).all()
    for chart in findings.charts:
        assert chart.matplotlib().axes, chart.name

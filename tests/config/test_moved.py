"""Runs, commands and files outlive a change of the names that they use: of targets, keys, options and choices."""

import json

import pandas as pd
import pytest

from optbench import moved
from optbench.__main__ import main
from optbench.config import compose, current_words, read_choice, run_id, thaw
from optbench.config.targets import imported
from optbench.errors import UserError
from optbench.moved import current_target, published_target
from optbench.store import RunDirectory, load, load_history
from optbench.sweep.expressions import Expression
from optbench.sweep.plan import Entry, Plan

SMALL = ["dataset=digits", "model=mlp", "tracker=none"]
# Words as they were published, and what they are now.
MOVED = {
    "norm_batch=null": "ghost_batch_size=null",
    "+norm_batch=32": "+ghost_batch_size=32",
    "graphs=3": "cached_graphs=3",
    "probe=extremes": "probe=eigenvalues",
    "probe=[trace,extremes]": "probe=[trace,eigenvalues]",
    "probe.extremes.steps=9": "probe.eigenvalues.steps=9",
    "probe.spectrum.probes=2": "probe.spectrum.vectors=2",
    "probe.batch_hessian.probes=2": "probe.batch_hessian.vectors=2",
}
EARLIER = [
    "norm_batch=32",
    "graphs=2",
    "probe=[extremes,spectrum]",
    "probe.extremes.steps=9",
    "probe.spectrum.probes=2",
]


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch):
    monkeypatch.setattr(moved, "_SAID", set())
    monkeypatch.delenv("OPTBENCH_CONF", raising=False)


def write(folder, name, content):
    path = folder / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


# ---- targets ----------------------------------------------------------------------------------------------------------------


def test_a_run_keeps_its_id_and_is_read_with_the_targets_of_now(tmp_path):
    config = compose(["dataset=digits", "averaging=ema"])
    assert config["loss"]["_target_"] == "optbench.objective.losses.CrossEntropy"
    first = {**config, "loss": {**config["loss"], "_target_": "optbench.losses.CrossEntropy"}}
    first["averaging"] = {**config["averaging"], "_target_": "optbench.averaging.ExponentialMovingAverage"}
    assert run_id(first) == run_id(config)
    directory = RunDirectory(tmp_path / "runs" / run_id(config))
    directory.create(first)
    assert directory.config() == config


@pytest.mark.parametrize("target", ["torch.optim.SGD", "optbench.optimizers.KFAC", None, 3, "losses", "my.losses.Mine"])
def test_what_has_not_moved_stays(target):
    assert current_target(target) == target == published_target(target)


@pytest.mark.parametrize(
    "first",
    [
        "optbench.averaging.ExponentialMovingAverage",
        "optbench.inits.xavier",
        "optbench.losses.CrossEntropy",
        "optbench.momentum_schedules.Sutskever",
        "optbench.probes.extremes.Extremes",
        "optbench.scaling.learning_rate",
    ],
)
def test_what_has_moved_is_found(first):
    now = current_target(first)
    assert published_target(now) == first
    assert callable(imported(now, "group"))


# ---- words ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("earlier", "now"), MOVED.items())
def test_an_earlier_word_is_read_as_the_one_of_now_and_said_once(earlier, now, capsys):
    assert current_words([earlier, "seed=1"]) == [now, "seed=1"]
    assert capsys.readouterr().err.count(" is now ") == 1
    assert current_words([earlier]) == [now]
    assert current_words([now]) == [now]
    assert capsys.readouterr().err == ""


def test_the_line_names_both_words(capsys):
    current_words(["norm_batch=3", "probe.extremes.steps=9"])
    said = ["optbench: norm_batch is now ghost_batch_size", "optbench: probe=extremes is now probe=eigenvalues"]
    assert capsys.readouterr().err.splitlines() == said


@pytest.mark.parametrize(
    "word", ["batch=64", "sweep=norm_batch", "model=extremes", "probe.trace.probes=3", "--norm_batch"]
)
def test_other_words_stay(word, capsys):
    assert current_words([word]) == [word]
    assert capsys.readouterr().err == ""


def test_the_earlier_word_is_the_same_run():
    now = compose([*SMALL, "ghost_batch_size=null"])
    assert compose([*SMALL, "norm_batch=null"]) == now
    # As the last version in which this was the word named it.
    assert run_id(now) == "sgd-mlp-digits-b128-s0-766bb530d6"
    assert run_id(now) != run_id(compose(SMALL))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["norm_batch=3", "ghost_batch_size=3"],
            "norm_batch and ghost_batch_size are both given: norm_batch is now ghost_batch_size; accepted: one of them, "
            "ghost_batch_size",
        ),
        (
            ["probe=spectrum", "probe.spectrum.vectors=3", "probe.spectrum.probes=3"],
            "probe.spectrum.probes and probe.spectrum.vectors are both given: probe.spectrum.probes is now "
            "probe.spectrum.vectors; accepted: one of them, probe.spectrum.vectors",
        ),
        (
            ["probe=[extremes,eigenvalues]"],
            "probe=[extremes,eigenvalues]: probe=extremes is now probe=eigenvalues; accepted: one of them",
        ),
    ],
)
def test_both_words_at_once_are_one_message(words, message, capsys):
    assert main([*SMALL, *words, "dry_run=true"]) == 2
    assert capsys.readouterr().err == f"optbench: {message}\n"


def test_an_expression_may_use_the_earlier_key(capsys):
    config = {"ghost_batch_size": 32, "probe": {"spectrum": {"vectors": 4}}}
    assert Expression.parse("norm_batch == 32 and probe.spectrum.probes == 4").holds(config)
    assert capsys.readouterr().err.count(" is now ") == 2


# ---- files of one's own -----------------------------------------------------------------------------------------------------

EXPERIMENT = """\
# @package _global_
# An experiment of one's own
defaults:
  - override /probe: [extremes, spectrum]
probe:
  extremes:
    steps: 9
  spectrum:
    probes: 2
graphs: 2
hydra:
  sweeper:
    params: {norm_batch: "null,32,64", dataset: digits, model: mlp, tracker: none, probe.extremes.largest: 1}
    exclude: ["norm_batch == 64"]
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.setenv("OPTBENCH_CONF", str(tmp_path / "conf"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "conf"


@pytest.mark.parametrize("way", ["OPTBENCH_CONF", "--config-dir", "hydra.searchpath"])
def test_an_experiment_may_use_earlier_names(way, own, monkeypatch, capsys):
    from optbench.cli.typed import read

    write(own, "experiment/mine", EXPERIMENT)
    if way != "OPTBENCH_CONF":
        monkeypatch.delenv("OPTBENCH_CONF")
    flags = {"--config-dir": ["--config-dir", str(own)], "hydra.searchpath": [f"hydra.searchpath=[file://{own}]"]}
    words = ["-m", "experiment=mine", "probe.extremes.smallest=2", *flags.get(way, [])]
    found = read(words).composed
    assert found.axes == {"ghost_batch_size": ["null", "32", "64"]}
    assert found.excluded == 1
    assert [cell.config["ghost_batch_size"] for cell in found.cells] == [None, 32]
    config = found.cells[0].config
    assert config["cached_graphs"] == 2
    assert "graphs" not in config
    options = config["probe"]["eigenvalues"]
    assert (options["steps"], options["largest"], options["smallest"]) == (9, 1, 2)
    assert config["probe"]["spectrum"]["vectors"] == 2
    said = sorted(capsys.readouterr().err.splitlines())
    assert [line.partition(" is now ")[0] for line in said] == [
        "optbench: graphs",
        "optbench: norm_batch",
        "optbench: probe.spectrum.probes",
        "optbench: probe=extremes",
    ]


def test_an_experiment_with_both_names_is_one_message(own, capsys):
    write(own, "experiment/mine", EXPERIMENT.replace("graphs: 2", "graphs: 2\ncached_graphs: 2"))
    assert main(["-m", "experiment=mine", "dry_run=true"]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(
        f"optbench: experiment=mine: {own}/experiment/mine.yaml: graphs and cached_graphs are both given"
    )


def test_a_choice_may_inherit_from_an_earlier_name_and_set_an_earlier_option(own):
    write(own, "probe/finer", "# @package probe.finer\ndefaults: [spectrum@_here_]\nprobes: 8\n")
    write(own, "probe/ends", "# @package probe.ends\ndefaults: [extremes@_here_]\nsteps: 7\n")
    chosen = compose([*SMALL, "probe=[finer,ends]"])["probe"]
    assert chosen["finer"]["vectors"] == 8
    assert "probes" not in chosen["finer"]
    assert (chosen["ends"]["steps"], chosen["ends"]["info"]["inherits"]) == (7, "eigenvalues")
    assert compose([*SMALL, "probe=finer", "probe.finer.probes=3"])["probe"]["finer"]["vectors"] == 3


@pytest.mark.parametrize("content", ["a: [", "defaults: [other@_here_]\nprobes: 3\n"])
def test_what_is_wrong_with_a_file_is_one_message_as_before(content, own):
    write(own, "probe/wrong", f"# @package probe.wrong\n{content}")
    write(own, "probe/other", "# @package probe.other\ndefaults: [wrong@_here_]\n")
    assert current_words(["probe.wrong.probes=3"]) == ["probe.wrong.probes=3"]
    with pytest.raises(UserError, match=r"probe=(wrong|other): .*(is not YAML|is no other choice of this group)"):
        read_choice("probe", "other")


def test_a_name_under_which_results_stand_is_no_name_for_a_choice_of_ones_own(own):
    write(own, "probe/extremes", "# @package probe.extremes\ndefaults: [trace@_here_]\n")
    with pytest.raises(UserError, match=r"extremes.yaml: has a name under which results of another choice stand"):
        compose([*SMALL, "probe=extremes"])


# ---- earlier results --------------------------------------------------------------------------------------------------------


def earlier(config):
    """A configuration as it was frozen before the names changed."""
    renamed = {"ghost_batch_size": "norm_batch", "cached_graphs": "graphs"}
    first = {renamed.get(key, key): value for key, value in config.items()}
    extremes, spectrum = config["probe"]["eigenvalues"], dict(config["probe"]["spectrum"])
    spectrum["probes"] = spectrum.pop("vectors")
    schema = dict(spectrum["info"]["schema"])
    schema["probes"] = schema.pop("vectors")
    spectrum["info"] = {**spectrum["info"], "schema": schema}
    extremes = {**extremes, "_target_": "optbench.probes.extremes.Extremes", "name": "extremes"}
    return {**first, "probe": {"extremes": extremes, "spectrum": spectrum}}


@pytest.fixture
def run(tmp_path):
    """The directory of a run that was begun before the names changed, and its configuration in those of now."""
    config = compose([*SMALL, *EARLIER, f"results_dir={tmp_path}"])
    directory = RunDirectory.at(tmp_path, run_id(config))
    directory.create(earlier(config))
    return directory, config


@pytest.mark.parametrize("quick", [True, False])
def test_a_frozen_configuration_is_read_in_the_names_of_now(run, quick, capsys):
    directory, config = run
    if not quick:
        (directory.path / "config.json").unlink()
    capsys.readouterr()
    assert "norm_batch: 32" in (directory.path / "config.yaml").read_text()
    assert directory.config() == config
    assert thaw(directory) == config
    assert capsys.readouterr().err == ""  # nobody has typed it


def test_a_frozen_configuration_with_both_names_is_damaged(tmp_path):
    config = compose(SMALL)
    directory = RunDirectory.at(tmp_path, run_id(config))
    directory.create({**config, "norm_batch": 32})
    assert "ghost_batch_size is there twice" in load(tmp_path)["problem"][0]


def test_tables_have_the_columns_of_now(run):
    directory, _ = run
    rows = [
        {"step": 1, "event": "probe", "probe": "extremes", "extremes_top": 1.5, "probe_file": "probes/extremes-1.npz"},
        # Gone on since the names have changed.
        {"step": 2, "event": "probe", "probe": "eigenvalues", "eigenvalues_top": 2},
        {"step": 2, "event": "evaluation", "validation_loss": 0.5},
    ]
    for row in rows:
        directory.append(row)
    expected = [1.5, 2.0, None]
    for columns in (None, ["eigenvalues_top", "probe"]):
        for _ in range(2):  # from the lines, and from the parquet file
            history = load_history(directory.results_dir, columns=columns)
            assert "extremes_top" not in history
            assert (
                history["eigenvalues_top"].astype(object).where(history["eigenvalues_top"].notna(), None).tolist()
                == expected
            )
            assert history["probe"].dropna().tolist() == ["eigenvalues"] * 2
            directory.finish({"extremes_top": 2.0, "steps": 2})
    frame = load(directory.results_dir)
    assert frame["eigenvalues_top"].tolist() == [2.0]
    assert frame["config.ghost_batch_size"].tolist() == [32]
    assert frame["config.probe.spectrum.vectors"].tolist() == [2]
    assert not [name for name in frame if "norm_batch" in name or "extremes" in name or "spectrum.probes" in name]


def test_measurements_are_those_of_the_probe_of_now(run):
    directory, _ = run
    measurements = directory.measurements
    measurements.write("extremes", 1, {"top": 1.0}, {"eigenvalues": pd.Series([1.0]).to_numpy()}, 0.5, {})
    spoken_of = {"step": 1, "event": "probe", "probe": "extremes", "probe_file": "probes/extremes-1.npz"}
    assert [row["probe"] for row in measurements.rows()] == ["eigenvalues"]
    assert measurements.missing([spoken_of]) is None
    # A new measurement at the same step takes its place.
    measurements.write("eigenvalues", 1, {"top": 2.0}, {"eigenvalues": pd.Series([2.0]).to_numpy()}, 0.5, {})
    assert [row["values"] for row in measurements.rows()] == [{"top": 2.0}]
    assert [path.name for path in measurements.files()] == ["eigenvalues-1.npz"]
    assert not (measurements.path / "extremes-1.npz").exists()


def test_cells_of_an_earlier_plan_have_the_keys_of_now(tmp_path):
    plan = Plan(tmp_path, "mine")
    plan.extend([Entry("run", {"norm_batch": "32", "seed": "0"})], {"axes": {"norm_batch": ["32"]}})
    assert json.loads((plan.path / "plan.jsonl").read_text())["cell"] == {"norm_batch": "32", "seed": "0"}
    assert plan.entries() == [Entry("run", {"ghost_batch_size": "32", "seed": "0"})]

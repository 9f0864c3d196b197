"""Workspaces are held against the document that wandb would be sent, and their names against what is really mirrored."""

import json
import sys

import numpy as np
import pytest
import yaml

from optbench import trackers
from optbench.cli.sync import sync
from optbench.errors import UserError
from optbench.sweep.plan import Entry, Plan
from optbench.trackers import workspace
from optbench.trackers.workspace_panels import Contents, build

WANDB = {"_target_": "optbench.trackers.wandb_mirror.WandbMirror", "name": "wandb", "project": "p", "mode": "auto"}
NUMBERS = {"train_loss": 0.2, "validation_loss": 0.4, "best_validation_loss": 0.3, "test_loss": 0.5, "gap_loss": 0.3}
GRID = [("sgd", 64, 0), ("sgd", 64, 1), ("adam", 512, 0), ("adam", 512, 1)]


@pytest.fixture
def make_sweep(tmp_path):
    """make_sweep(tracker, ended): a sweep over optimizer, batch and seed, the first ``ended`` of its runs done."""

    def make(tracker, ended=4, **information) -> Plan:
        plan = Plan(tmp_path / "results", "gap-smoke")
        entries = []
        for index, (optimizer, batch, seed) in enumerate(GRID):
            run_id = f"{optimizer}-b{batch}-s{seed}"
            cell = {"optimizer": optimizer, "batch": str(batch), "seed": str(seed)}
            entries.append(Entry(run_id, cell))
            rate = 0.1 if optimizer == "sgd" else 0.001
            config = {
                "optimizer": {"name": optimizer, "learning_rate": rate},
                "batch": batch,
                "seed": seed,
                "probe": {"displacement": {"name": "displacement"}, "noise_scale": {"name": "noise_scale"}},
                "tracker": tracker,
            }
            directory = plan.directory(run_id)
            directory.create(yaml.safe_dump(config))
            write_history(directory)
            if index < ended:
                probed = {"displacement_distance": 1.5, "noise_scale_simple": 40.0, "noise_scale_trace": None}
                summary = {"run_id": run_id, "batch": batch, "learning_rate": rate, **NUMBERS, **probed}
                directory.finish({**summary, "steps_to_target": None, "test_accuracy": 0.8, "status": "done"})
        plan.extend(entries, {"experiment": "gap", "scale": "smoke", **information})
        return plan

    return make


def write_history(directory) -> None:
    axes = {"step": 10, "epoch": 1.0, "samples": 640, "seconds": 0.5}
    arrays = {"layer_names": np.array(["0.weight"]), "layer_distances": np.array([1.5])}
    (directory.path / "probes").mkdir()
    np.savez(directory.path / "probes" / "displacement-10.npz", **arrays)
    directory.append({"event": "train", **axes, "loss": 0.7, "learning_rate": 0.1})
    directory.append({"event": "evaluation", **axes, **NUMBERS, "test_accuracy": 0.8})
    probed = {"probe": "displacement", "probe_file": "probes/displacement-10.npz", "displacement_distance": 1.5}
    directory.append({"event": "probe", **axes, **probed})
    directory.append({"event": "probe", **axes, "probe": "noise_scale", "noise_scale_simple": 40.0})


@pytest.fixture
def server(monkeypatch):
    """A wandb that answers: what it was sent is kept in its ``views``."""
    pytest.importorskip("wandb_workspaces")
    import wandb

    class Server:
        default_entity, app_url, views, problem = "me", "https://wandb.test", [], None

        def __init__(self) -> None:
            self._service_api = self

        def execute_graphql(self, query, variables):
            if self.problem:
                raise self.problem
            assert "upsertView" in query
            self.views.append({**variables, "spec": json.loads(variables["spec"])})
            return {"upsertView": {"view": {"id": "view-id", "name": variables["name"]}, "inserted": True}}

    Server.views = []
    monkeypatch.setattr(wandb, "Api", Server)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setattr("optbench.trackers.wandb_mirror.server_answers", lambda: True)
    return Server


def create(plan: Plan) -> list[str]:
    runs = [plan.directory(entry.run_id) for entry in plan.entries()]
    return workspace.create(plan, [(run, run.config()["tracker"]) for run in runs])


def sections_of(spec) -> dict:
    return {section["name"]: section["panels"] for section in spec["section"]["panelBankConfig"]["sections"]}


def test_the_document_that_is_sent(make_sweep, server):
    (line,) = create(make_sweep(WANDB))
    (view,) = server.views
    assert (view["entityName"], view["projectName"], view["displayName"]) == ("me", "p", "gap-smoke")
    assert view["type"] == "project-view"
    assert line == f"workspace: https://wandb.test/me/p?nw={view['name'].removeprefix('nw-').removesuffix('-v')}"
    (runs,) = view["spec"]["section"]["runSets"]
    (group,) = runs["filters"]["filters"]
    assert (group["key"], group["op"]) == ({"section": "run", "name": "group"}, "IN")
    assert group["value"] == ["gap-smoke"]
    assert [(key["section"], key["name"]) for key in runs["grouping"]] == [
        ("config", "optimizer.value.name"),
        ("config", "batch.value"),
    ]
    shown = ["status", "test_accuracy", "test_loss", "gap_loss", "best_validation_loss"]
    assert runs["runFeed"]["columnOrder"] == ["run:displayName", *(f"summary:{name}" for name in shown)]
    sections = sections_of(view["spec"])
    training = "Training by optimizer: median and range of the runs"
    assert list(sections) == [
        training,
        "Against batch",
        "Against learning_rate",
        "Probe displacement",
        "Probe noise_scale",
    ]
    lines = [panel["config"] for panel in sections[training]]
    assert [(config["metrics"], config["xAxis"], config.get("yLogScale")) for config in lines] == [
        (["loss"], "step", True),
        (["train_loss"], "epoch", True),
        (["validation_loss"], "epoch", True),
        (["validation_loss"], "seconds", True),
        (["test_accuracy"], "epoch", False),
        (["gap_loss"], "epoch", False),
        (["learning_rate"], "step", True),
    ]
    assert {(config["groupBy"], config["groupAgg"], config["groupArea"]) for config in lines} == {
        ("optimizer.value.name", "median", "minmax")
    }
    dots = [panel["config"] for panel in sections["Against batch"]]
    assert {(config["xAxis"], config["xAxisLogScale"]) for config in dots} == {("config:batch.value", True)}
    assert [(config["yAxis"], config["yAxisLogScale"]) for config in dots] == [
        ("summary:gap_loss", False),
        ("summary:best_validation_loss", True),
        ("summary:test_accuracy", False),
        ("summary:learning_rate", True),
    ]
    rates = [panel["config"] for panel in sections["Against learning_rate"]]
    assert {config["xAxis"] for config in rates} == {"summary:learning_rate"}
    assert [config["yAxis"] for config in rates] == [config["yAxis"] for config in dots[:-1]]
    pictures, distance = sections["Probe displacement"]
    assert (pictures["viewType"], pictures["config"]["mediaKeys"]) == ("Media Browser", ["displacement_figure"])
    assert distance["config"]["metrics"] == ["displacement_distance"]
    assert [panel["config"]["metrics"] for panel in sections["Probe noise_scale"]] == [["noise_scale_simple"]]


@pytest.mark.slow
def test_every_name_in_a_panel_is_one_that_the_mirror_sends(make_sweep, server, read_wandb):
    plan = make_sweep(WANDB)
    create(plan)
    directory = plan.directory("sgd-b64-s0")
    trackers.sync(directory.path, {**WANDB, "mode": "offline"})
    found = read_wandb(directory.path)
    logged = {name for row in found["rows"] for name in row}
    logged |= {name.partition("/")[0] for name in logged}  # a picture's item is a mapping

    def is_mirrored(name: str) -> bool:
        section, _, key = name.partition(":")
        if section == "summary":
            return key in found["summary"]
        value = found["config"]
        for part in key.replace(".value", "").split("."):
            value = value[part]
        return value is not None

    panels = [panel["config"] for panels in sections_of(server.views[0]["spec"]).values() for panel in panels]
    drawn = {name for config in panels for name in [*config.get("metrics", []), *config.get("mediaKeys", [])]}
    assert drawn <= logged
    assert {config["xAxis"] for config in panels if "metrics" in config} <= logged
    scattered = {config[axis] for config in panels if "yAxis" in config for axis in ("xAxis", "yAxis")}
    (runs,) = server.views[0]["spec"]["section"]["runSets"]
    scattered |= {f"config:{key['name']}" for key in runs["grouping"]}
    assert [name for name in sorted(scattered) if not is_mirrored(name)] == []


def test_a_workspace_is_made_once_in_each_project(make_sweep, server):
    plan = make_sweep(WANDB)
    (made,) = create(plan)
    (kept,) = create(plan)
    assert len(server.views) == 1
    assert kept.startswith(made)
    assert "left as it is" in kept
    (plan.path / "workspace.json").unlink()
    assert create(plan) != [made]
    other = {**WANDB, "entity": "team", "project": "q", "group": "of my own"}
    directory = plan.directory("sgd-b64-s0")
    directory.create(yaml.safe_dump({**directory.config(), "tracker": other}), replace=True)
    assert len(create(plan)) == 2
    last = server.views[-1]
    assert (last["entityName"], last["projectName"]) == ("team", "q")
    assert last["spec"]["section"]["runSets"][0]["filters"]["filters"][0]["value"] == ["of my own"]


@pytest.mark.parametrize(
    ("tracker", "variables", "words"),
    [
        (WANDB, {}, ["no login", "wandb login", "then python -m optbench sync gap-smoke --results-dir"]),
        (WANDB, {"WANDB_API_KEY": "k", "WANDB_MODE": "offline"}, ["switched off here", "optbench sync gap-smoke"]),
        ({**WANDB, "mode": "offline"}, {"WANDB_API_KEY": "k"}, ["tracker.mode=offline"]),
        ({"name": "none"}, {"WANDB_API_KEY": "k"}, ["tracker=wandb"]),
    ],
)
def test_where_wandb_cannot_be_used_one_message_says_why(make_sweep, monkeypatch, tracker, variables, words):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as caught:
        create(make_sweep(tracker))
    assert str(caught.value).startswith("no workspace: ")
    assert all(word in str(caught.value) for word in words)


def test_without_the_package_the_message_says_how_to_install_it(make_sweep, server, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    with pytest.raises(UserError, match=r"pip install 'optbench\[workspaces\]'"):
        create(make_sweep(WANDB))


def test_what_the_server_refuses_is_a_message_and_can_be_tried_again(make_sweep, server):
    plan = make_sweep(WANDB)
    server.problem = PermissionError("not your project")
    with pytest.raises(UserError, match="project p: PermissionError: not your project"):
        create(plan)
    server.problem = None
    assert len(create(plan)) == 1


@pytest.mark.slow
def test_sync_of_a_sweep_mirrors_its_runs_under_its_name(make_sweep, read_wandb, capsys):
    plan = make_sweep({**WANDB, "mode": "offline"}, ended=1)
    # By the name of the experiment, too: the sweep's own says the scale.
    assert sync(["gap", "--results-dir", str(plan.results_dir)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("sgd-b64-s0: 4 rows mirrored to wandb, offline")
    assert lines[1:] == [
        "gap-smoke: 3 of its 4 runs have not ended and are left alone",
        "gap-smoke: no workspace: tracker.mode=offline keeps its runs on this machine",
        "1 runs, 0 not mirrored",
    ]
    assert read_wandb(plan.directory("sgd-b64-s0").path)["run"].run_group == "gap-smoke"


def test_sync_takes_the_id_of_a_run_that_is_also_a_sweep_for_the_run(make_sweep, capsys):
    plan = make_sweep({"name": "none"})
    Plan(plan.results_dir, "sgd-b64-s0").extend(plan.entries()[:1], {})
    assert sync(["sgd-b64-s0", "--results-dir", str(plan.results_dir)]) == 0
    assert capsys.readouterr().out == "sgd-b64-s0: tracker=none\n1 runs, 0 not mirrored\n"


def test_contents_are_what_varies_and_what_was_measured(make_sweep):
    plan = make_sweep({"name": "none"})
    directory = plan.directory("sgd-b64-s0")
    directory.create(yaml.safe_dump({**directory.config(), "batch": None}), replace=True)
    cells = [{**entry.cell, "model": "mlp"} for entry in plan.entries()]
    found = Contents.of(cells, [plan.directory(entry.run_id) for entry in plan.entries()])
    assert found.values == {"optimizer.name": ["sgd", "adam"], "batch": [64, 512]}
    assert found.names >= {"gap_loss", "displacement_distance"}
    assert not {"steps_to_target", "noise_scale_trace", "run_id"} & found.names
    assert (found.probes, found.drawn) == (("displacement", "noise_scale"), {"displacement"})


@pytest.mark.parametrize(
    ("values", "names", "by", "sections"),
    [
        ({}, {"gap_loss", "learning_rate"}, "optimizer", []),
        ({"trial": [0, 1]}, {"gap_loss", "learning_rate"}, "optimizer", ["learning_rate"]),
        ({"averaging.decay": [0.9, 0.99], "batch": [1, 2]}, {"gap_loss"}, "optimizer", ["batch", "averaging.decay"]),
        ({"schedule.name": ["step", "cosine"]}, {"gap_loss"}, "schedule", []),
        ({"schedule.name": ["a", "b"], "optimizer.name": ["a", "b"]}, {"gap_loss"}, "optimizer", []),
        ({"batch": [1, 2]}, set(), "optimizer", []),  # no scatter without an outcome
    ],
)
def test_sections_follow_what_varies(values, names, by, sections):
    pytest.importorskip("wandb_workspaces")
    first, *others = build("e", "p", "n", ["g"], Contents(values, frozenset(names))).sections
    assert first.name.startswith(f"Training by {by}:")
    assert [section.name for section in others] == [f"Against {key}" for key in sections]


def test_a_probe_does_not_show_the_values_of_one_with_a_longer_name():
    pytest.importorskip("wandb_workspaces")
    contents = Contents({}, frozenset({"noise_simple", "noise_scale_simple", "noisy"}), ("noise", "noise_scale"))
    shown = {
        section.name: [panel.title for panel in section.panels]
        for section in build("e", "p", "n", [], contents).sections
    }
    assert shown["Probe noise"] == ["noise_simple"]
    assert shown["Probe noise_scale"] == ["noise_scale_simple"]


def test_an_axis_that_reaches_zero_is_not_logarithmic():
    pytest.importorskip("wandb_workspaces")
    contents = Contents({"optimizer.momentum": [0.0, 0.9]}, frozenset({"gap_loss"}))
    (panel,) = build("e", "p", "n", ["g"], contents).sections[-1].panels
    assert panel.log_x is False

"""A results folder that somebody else sent: it can be used, and nothing in it runs code or leads out of it."""

import json
import os
import pickle
import re
import shutil
from pathlib import Path

import pytest
import yaml

from optbench import config as configuration
from optbench.__main__ import main
from optbench.errors import UserError
from optbench.store import RunDirectory, StoreError, load
from optbench.store.files import to_json
from optbench.store.run_directory import _digest
from optbench.sweep.launchers import slurm
from optbench.sweep.plan import Entry, Plan
from optbench.system import terminal
from optbench.system.signals import Stop
from optbench.training import run

WORDS = [
    "model=mlp", "model.hidden=[8]", "dataset=digits", "dataset.train_limit=64", "batch=16", "budget.steps=4",
    "evaluate_train=16", "tracker=none", "progress=false", "launcher.workers=1",
]  # fmt: skip
HOSTILE = "x\x1b]52;c;ZXZpbA==\x07\x1b[2J\x9b31m\u202e\r[red]<script>alert(1)</script></script>'\""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A results folder with one finished run, which is also the sweep `theirs`; made elsewhere, with a data_dir there."""
    folder = tmp_path_factory.mktemp("there") / "results"
    # As an absolute path of another machine would be.
    words = [*WORDS, f"results_dir={folder}", f"data_dir={folder.parent / 'data'}"]
    config = configuration.compose(words)
    outcome = run.execute(config)
    assert outcome.state == "done"
    plan = Plan(folder, "theirs")
    information = {"command": words, "experiment": None, "axes": {"seed": ["0"]}, "launcher": config["launcher"]}
    plan.extend([Entry(outcome.directory.run_id, {"seed": "0"})], information)
    return folder


@pytest.fixture
def place(made, tmp_path, monkeypatch):
    """The folder as it was received, in a working folder of its own; what may not be touched lies beside it."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(made, tmp_path / "results")
    outside = tmp_path / "outside"
    (outside / "runs").mkdir(parents=True)
    (outside / "secret.txt").write_text("secret\n")
    monkeypatch.setattr(os, "system", lambda command: pytest.fail(f"called with {command!r}"))
    monkeypatch.setenv("OPTBENCH_STRANGERS", "1")
    return tmp_path


def the_run(place):
    [path] = [path for path in (place / "results" / "runs").iterdir() if not path.is_symlink()]
    return RunDirectory(path)


def freeze(directory, config):
    """Write ``config`` as a stranger would: into both files, with the digest that makes the copy count."""
    text = yaml.safe_dump(config, sort_keys=False)
    (directory.path / "config.yaml").write_text(text)
    (directory.path / "config.json").write_bytes(to_json({"config_yaml": _digest(text.encode()), "config": config}))


def contents(folder):
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def fail(directory):
    directory.set_status("failed", "somebody else's machine")


def refused(capsys, *words):
    """The one line with which the command refuses."""
    capsys.readouterr()
    assert main([str(word) for word in words]) in (1, 2)
    error = capsys.readouterr().err.splitlines()
    assert len(error) == 1, error
    assert error[0].startswith("optbench: ")
    return error[0]


# ---- what is frozen ---------------------------------------------------------------------------------------------------------


def put(*path):
    *parents, last, value = path

    def change(config):
        for key in parents:
            config = config[key]
        config[last] = value

    return change


CHANGES = {
    "optimizer": (put("optimizer", "_target_", "os.system"), "optimizer._target_=os.system"),
    "model": (put("model", "_target_", "subprocess.check_output"), "model._target_=subprocess.check_output"),
    "dataset": (put("dataset", "_target_", "os.system"), "dataset._target_"),
    "loss": (put("loss", "_target_", "os.system"), "loss._target_"),
    "schedule": (put("schedule", "_target_", "os.system"), "schedule._target_"),
    "init": (put("init", "_target_", "os.system"), "init._target_"),
    "averaging": (put("averaging", "_target_", "os.system"), "averaging._target_"),
    "momentum_schedule": (put("momentum_schedule", "_target_", "os.system"), "momentum_schedule._target_"),
    "tracker": (put("tracker", "_target_", "os.system"), "tracker._target_"),
    "target of another choice": (put("optimizer", "_target_", "torch.optim.Adam"), "which is torch.optim.SGD"),
    "target that is no text": (put("optimizer", "_target_", ["os.system"]), "optimizer._target_"),
    "probe": (put("probe", {"x": {"_target_": "os.system", "name": "x", "info": {"schema": {}}}}), "probe.x"),
    "choice that is not here": (put("optimizer", "name", "theirs"), "there is no such optimizer here"),
    "no choice": (put("model", "os.system"), "model=os.system"),
    "type": (put("optimizer", "learning_rate", "__import__"), "optimizer.learning_rate=__import__: must be float"),
    "range": (put("optimizer", "learning_rate", -1.0), "optimizer.learning_rate=-1.0: must be float >= 0"),
    "missing option": (lambda config: config["optimizer"].pop("learning_rate"), "optimizer.learning_rate: missing"),
    "option of a newer version": (put("optimizer", "warp", 3), "optimizer.warp: unknown key"),
    "key": (put("callbacks", ["os.system"]), "callbacks: unknown key"),
    "science": (put("batch", "16; rm"), "batch=16; rm"),
    "other science": (put("seed", 7), "is that of the run sgd-mlp-digits-b16-s7"),
    "what does not fit": (put("dataset", "train_limit", 8), "larger than the training set"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_frozen_configuration_is_checked_like_a_typed_one(place, capsys, change):
    directory = the_run(place)
    fail(directory)
    config, (alter, message) = directory.config(), CHANGES[change]
    alter(config)
    freeze(directory, config)
    before = contents(place)
    for words in (["probe", directory.run_id, "probe=trace"], ["retry", "theirs"]):
        error = refused(capsys, *words)
        assert f"run {directory.run_id}: " in error
        assert message in error
    assert contents(place) == before


def test_what_trains_checks_it_once_more(place):
    directory = the_run(place)
    config = directory.config()
    config["optimizer"]["_target_"] = "os.system"
    freeze(directory, config)
    outcome = run.execute_as_rank(directory, terminal.console(), Stop())
    assert outcome.state == "failed"
    assert "optimizer._target_=os.system" in outcome.why


def test_targets_and_info_are_those_of_this_installation(place):
    directory = the_run(place)
    config = directory.config()
    for group in configuration.GROUPS:
        config[group]["info"] = {"schema": {"evil": "str"}, "not_in_run_id": ["name"], "family": "sgd"}
    del config["launcher"]["workers"]  # which an older version did not have
    del config["progress"]
    freeze(directory, config)
    thawed = configuration.thaw(directory)
    expected = configuration.compose(WORDS)
    assert {group: thawed[group]["info"] for group in configuration.GROUPS} == {
        group: expected[group]["info"] for group in configuration.GROUPS
    }
    assert (thawed["launcher"]["workers"], thawed["progress"]) == (None, True)
    assert thawed["results_dir"] == str(place / "results")


def test_a_choice_of_ones_own_holds_that_inherits_another(place, monkeypatch):
    conf = place / "conf"
    shutil.copytree(configuration.conf_dir(), conf)
    (conf / "optimizer" / "mine.yaml").write_text("defaults: [adam]\nname: mine\nbeta1: 0.8\n")
    monkeypatch.setenv("OPTBENCH_CONF", str(conf))
    config = configuration.compose([*WORDS, "optimizer=mine", "results_dir=results"])
    directory = RunDirectory.at("results", configuration.run_id(config))
    directory.create(config)
    assert configuration.thaw(directory) == config


def test_a_run_directory_under_another_name_is_refused(place, capsys):
    directory = the_run(place)
    other = directory.path.with_name("copy")
    shutil.copytree(directory.path, other)
    assert "is that of the run" in refused(capsys, "probe", other, "probe=trace")


# ---- what works -------------------------------------------------------------------------------------------------------------


def test_a_second_hand_folder_is_reported_compared_and_measured(place, made, capsys):
    directory = the_run(place)
    there = contents(made.parent)
    assert main(["status"]) == 0
    assert main(["status", "theirs"]) == 0
    assert main(["logs", directory.run_id]) == 0
    assert main(["report", "theirs"]) == 0
    assert main(["probe", directory.run_id, "probe=[trace,landscape]", "probe.landscape.points=3"]) == 0
    other = configuration.compose([*WORDS, "seed=1", "results_dir=results"])
    assert run.execute(other).state == "done"
    assert main(["compare", directory.run_id, configuration.run_id(other)]) == 0
    assert main(["sync"]) == 0
    assert capsys.readouterr().err == ""
    assert (directory.path / "probes" / "landscape-4.png").is_file()
    assert (place / "results" / "theirs" / "index.html").is_file()
    # Nothing went to where it was made, and nothing beside the folder.
    assert contents(made.parent) == there
    assert sorted(path.name for path in place.iterdir()) == ["outside", "results"]


@pytest.mark.slow  # it starts workers
def test_a_second_hand_sweep_is_retried_where_it_lies(place, made, capfd):
    directory = the_run(place)
    summary = directory.summary()
    directory.clear()
    fail(directory)
    there = contents(made.parent)
    assert main(["retry", "theirs"]) == 0, capfd.readouterr()
    assert directory.status().state == "done"
    assert directory.summary()["test_loss"] == summary["test_loss"]
    assert directory.config()["results_dir"] == "results"
    assert directory.config()["data_dir"] == "data"
    assert contents(made.parent) == there


@pytest.mark.parametrize("linked", ["results", "results/runs", "results/sweeps"])
def test_the_folder_itself_and_its_two_folders_may_be_links(place, capsys, linked):
    elsewhere = place / "big_disk"
    (place / linked).rename(elsewhere)
    (place / linked).symlink_to(elsewhere)
    directory = the_run(place)
    assert main(["status", "theirs"]) == 0
    assert main(["report", "theirs"]) == 0
    assert main(["probe", directory.run_id, "probe=trace", "probe.trace.most=2"]) == 0
    assert len(load("results")) == 1
    assert capsys.readouterr().err == ""


# ---- paths ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("run_id", ["../../outside", "..", ".", "", "/etc", "a/b", 3, None])
def test_a_plan_names_no_run_outside(place, capsys, run_id):
    path = place / "results" / "sweeps" / "theirs" / "plan.jsonl"
    path.write_text(json.dumps({"run_id": run_id, "cell": {}}) + "\n")
    (place / "outside" / "status.json").write_text('{"state": "failed"}')
    (place / "outside" / "config.yaml").write_text("{}")
    before = contents(place / "outside")
    for command in ("status", "report", "retry", "cancel", "sync"):
        assert f"{path.relative_to(place)} is damaged: line 1" in refused(capsys, command, "theirs")
    assert contents(place / "outside") == before


@pytest.mark.parametrize("name", ["../outside", "..", "a/b", ""])
def test_names_of_runs_and_sweeps_are_plain(place, capsys, name):
    with pytest.raises(UserError, match="must be a plain name"):
        RunDirectory.at("results", name)
    with pytest.raises(UserError, match="must be a plain name"):
        Plan("results", name)
    for command in ("status", "report", "retry", "cancel"):
        assert "accepted: a name of at most" in refused(capsys, command, name)


FILES = ["config.yaml", "config.json", "status.json", "summary.json", "history.jsonl", "history.parquet", "log.txt", "lock",
         "environment.json", "progress.json", "tracker.log", "tracker.lock", ".history.csv.tmp", "checkpoints/last.ckpt",
         "probes/index.jsonl", "probes/trace-4.npz", "probes/landscape-4.png", "tensorboard/x"]  # fmt: skip


@pytest.mark.parametrize("name", [*FILES, "checkpoints", "probes", "tensorboard"])
def test_nothing_of_a_run_is_read_or_written_through_a_link(place, capsys, name):
    directory = the_run(place)
    fail(directory)
    path = directory.path / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    target = place / "outside" / ("runs" if "." not in name and name != "lock" else "secret.txt")
    path.symlink_to(target)
    before = contents(place / "outside")
    run_id = directory.run_id
    for words in (["logs", run_id], ["probe", run_id, "probe=trace"], ["compare", run_id, run_id], ["sync", run_id],
                  ["retry", "theirs", "--run", run_id]):  # fmt: skip
        assert f"{path.relative_to(place)} is a symbolic link to {target}" in refused(capsys, *words)
    main(["retry", "theirs"])
    main(["status"])
    main(["status", "theirs"])
    main(["report", "theirs"])
    shown = capsys.readouterr()
    assert "secret\n" not in shown.out + shown.err
    assert contents(place / "outside") == before
    assert path.is_symlink()


@pytest.mark.filterwarnings("ignore:.*symbolic links are left out")
def test_a_run_or_a_sweep_that_is_a_link_is_left_alone(place, capsys):
    directory = the_run(place)
    moved = place / "outside" / "runs" / directory.run_id
    directory.path.rename(moved)
    (place / "results" / "runs" / directory.run_id).symlink_to(moved)
    sweeps = place / "results" / "sweeps"
    (sweeps / "linked").symlink_to(place / "outside")
    before = contents(place / "outside")
    assert len(load("results")) == 0
    with pytest.raises(StoreError, match="symbolic link"):
        RunDirectory.at("results", directory.run_id)
    for words in (["retry", "theirs"], ["status", "theirs"], ["status", "linked"], ["retry", "linked"]):
        assert "is a symbolic link" in refused(capsys, *words)
    assert contents(place / "outside") == before


@pytest.mark.parametrize("name", ["../../../outside/secret.txt", "/etc/passwd", "..", 3])
def test_the_index_of_probes_names_no_file_outside(place, name):
    directory = the_run(place)
    directory.measurements.write("trace", 4, {"trace": 1.0}, {}, 0.1, {})
    [row] = directory.measurements.rows()
    directory.measurements.index.write_text(json.dumps({**row, "file": name}) + "\n")
    with pytest.raises(UserError, match="must be a plain name"):
        directory.measurements.files()
    with pytest.raises(UserError, match="must be a plain name"):
        directory.measurements.arrays(name)


@pytest.mark.parametrize("folder", ["theirs", "theirs/tables", "theirs/figures", "comparisons"])
def test_reports_are_not_written_through_a_link(place, capsys, folder):
    directory = the_run(place)
    path = place / "results" / folder
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(place / "outside")
    other = configuration.compose([*WORDS, "seed=1", "results_dir=results"])
    RunDirectory.at("results", configuration.run_id(other)).create(other)
    before = contents(place / "outside")
    words = (
        ["compare", directory.run_id, configuration.run_id(other)] if folder == "comparisons" else ["report", "theirs"]
    )
    assert "is a symbolic link" in refused(capsys, *words)
    assert contents(place / "outside") == before


# ---- code -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("experiment", ["../outside", "{outside}", "x/../../outside", HOSTILE, 3, ["a"]])
def test_an_analysis_is_one_of_this_installation(place, capsys, experiment):
    (place / "outside" / "analysis.py").write_text("import os\nos.system('evil')\n")
    path = place / "results" / "sweeps" / "theirs" / "sweep.json"
    name = experiment.format(outside=place / "outside") if isinstance(experiment, str) else experiment
    path.write_text(json.dumps({**json.loads(path.read_text()), "experiment": name}))
    assert main(["report", "theirs"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def test_pickles_of_jobs_are_not_read(place, monkeypatch, capsys):
    plan = Plan("results", "theirs")
    (plan.path / "jobs").mkdir()
    for name in ("1_0_submitted.pkl", "1_0_result.pkl", "1_0_0_result.pkl"):
        (plan.path / "jobs" / name).write_bytes(pickle.dumps({"a": 1}))
    plan.note_job(kind="slurm", ids=["1_0"], runs=1, folder=str(plan.path / "jobs"))
    monkeypatch.setattr("pickle.load", lambda *_, **__: pytest.fail("unpickled"))
    monkeypatch.setattr("pickle.loads", lambda *_, **__: pytest.fail("unpickled"))
    assert main(["status", "theirs"]) == 0
    assert main(["cancel", "theirs"]) in (0, 1)
    assert main(["retry", "theirs"]) == 0  # nothing to do


LAUNCHERS = {
    "setup": {"setup": ["touch evil"]},
    "container": {"container": "evil"},
    "srun_args": {"srun_args": ["--prolog=evil"]},
    "extra": {"extra": {"prolog": "evil"}},
    "resources": {"resources": [{"when": "batch > 0", "setup": ["evil"]}]},
    "line break": {"partition": "x\nevil #"},
}


@pytest.mark.parametrize("asked", LAUNCHERS)
def test_a_sweep_of_others_does_not_decide_what_jobs_run(place, capsys, asked):
    fail(the_run(place))
    path = place / "results" / "sweeps" / "theirs" / "sweep.json"
    launcher = configuration.compose(["launcher=slurm_debug"])["launcher"] | LAUNCHERS[asked]
    path.write_text(json.dumps({**json.loads(path.read_text()), "launcher": launcher}))
    before = contents(place)
    [key] = LAUNCHERS[asked]
    error = refused(capsys, "retry", "theirs")
    assert f"the results folder asks for launcher.{key}=" in error
    assert contents(place) == before
    # It goes on with the same words typed, or with others.
    assert main(["retry", "theirs", f"launcher.{key}={'null' if key == 'partition' else launcher_default(key)}"]) == 0


def launcher_default(key):
    return json.dumps(configuration.read_choice("launcher", "slurm_debug")[key]).replace('""', "''")


def test_harmless_options_of_a_launcher_are_kept():
    launcher = configuration.compose(["launcher=slurm", "launcher.partition=gpu", "launcher.runs_per_job=3"])[
        "launcher"
    ]
    assert configuration.settle("launcher", launcher, [], "retry x") == launcher
    typed = configuration.settle("launcher", launcher, ["launcher.partition=cpu"], "retry x")
    assert (typed["partition"], typed["runs_per_job"]) == ("cpu", 3)
    assert configuration.settle("launcher", launcher, ["launcher=local"], "retry x")["name"] == "local"
    for broken in ({"name": "evil"}, None, {**launcher, "_target_": "os.system"}, {**launcher, "cpus": "all"}):
        with pytest.raises(UserError, match="retry x: "):
            configuration.settle("launcher", broken, [], "retry x")


def test_a_planted_copy_of_the_package_is_not_run(place, monkeypatch):
    from optbench.provenance import checkout as code

    folder = Plan("results", "theirs").path
    made = code.snapshot(folder)
    assert code.snapshot(folder) == made
    cache = made / "optbench" / "__pycache__"
    cache.mkdir()
    (cache / "errors.cpython-311.pyc").write_bytes(b"evil")
    assert code.snapshot(folder) == made
    assert not cache.exists()
    for name, content in {"sitecustomize.py": "evil", "optbench/errors.py": "evil", "optbench/evil.so": "evil"}.items():
        kept = (made / name).read_text() if (made / name).exists() else None
        (made / name).write_text(content)
        with pytest.raises(StoreError, match="is not the copy of the package"):
            code.snapshot(folder)
        (made / name).unlink()
        if kept is not None:
            (made / name).write_text(kept)
    (made / "extra").symlink_to(place / "outside")
    with pytest.raises(StoreError, match="symbolic link"):
        code.snapshot(folder)


# ---- what is sent, and to whom ------------------------------------------------------------------------------------------------


def test_a_folder_of_others_does_not_decide_to_whom_runs_are_sent(place, capsys, monkeypatch):
    monkeypatch.setattr("optbench.trackers.sync", lambda *_, **__: pytest.fail("mirrored"))
    directory = the_run(place)
    config = configuration.compose([*WORDS[:-3], "tracker=wandb", "tracker.entity=evil"])
    freeze(directory, {**directory.config(), "tracker": config["tracker"]})
    for words in (["sync"], ["sync", directory.run_id], ["sync", "theirs"]):
        error = refused(capsys, *words)
        assert "the results folder asks for tracker.entity=evil" in error
        assert "or tracker.entity=null" in error
    fail(directory)
    assert "tracker.entity=evil" in refused(capsys, "retry", "theirs")


def test_the_words_that_are_typed_say_to_whom(place, capsys, monkeypatch):
    sent = []
    monkeypatch.setattr("optbench.trackers.sync", lambda path, tracker: sent.append(tracker) or f"{path.name}: sent")
    directory = the_run(place)
    config = configuration.compose([*WORDS[:-3], "tracker=wandb", "tracker.entity=us", "tracker.project=p"])
    freeze(directory, {**directory.config(), "tracker": config["tracker"]})
    assert main(["sync", directory.run_id, "tracker.entity=us"]) == 0
    assert main(["sync", directory.run_id, "tracker.entity=null", "tracker.mode=offline"]) == 0
    assert [(tracker["entity"], tracker["project"], tracker["mode"]) for tracker in sent] == [
        ("us", "p", "auto"),
        (None, "p", "offline"),
    ]


def test_only_jobs_of_the_sweep_are_cancelled():
    ids = ["12", "12_3", "12_", "-u root", "1;2", "１２", "12_3_4", "all", ""]
    assert [text for text in ids if slurm.commands.is_job_id(text)] == ["12", "12_3"]


# ---- what is shown ----------------------------------------------------------------------------------------------------------


def test_control_characters_are_spelled_out(place, capsys):
    directory = the_run(place)
    directory.set_status("failed", HOSTILE)
    directory.log.write_text(f"{HOSTILE}\nlast\tline\n")
    plan = Plan("results", "theirs")
    plan.extend([], {**plan.information(), "axes": {HOSTILE: [HOSTILE]}, "command": [HOSTILE]})
    lines = (plan.path / "plan.jsonl").read_text().splitlines()
    entry = json.loads(lines[0])
    (plan.path / "plan.jsonl").write_text(json.dumps({**entry, "cell": {HOSTILE: HOSTILE}}) + "\n")
    for words in (["status"], ["status", "theirs"], ["status", "theirs", "--json"], ["logs", directory.run_id],
                  ["logs", directory.run_id, "-n", "1"], ["report", "theirs"]):  # fmt: skip
        assert main(words) == 0
        shown = capsys.readouterr()
        assert not [
            letter for letter in shown.out + shown.err if letter != "\n" and letter != "\t" and not shows(letter)
        ]
        if "--json" in words:
            [read] = json.loads(shown.out)["runs"]
            assert read["why"] == HOSTILE
    main(["logs", directory.run_id])
    assert "x\\u001b]52;c;ZXZpbA==\\u0007" in capsys.readouterr().out


def shows(letter):
    return letter.isprintable() or letter == " "


def test_a_page_holds_hostile_texts_as_texts(place):
    directory = the_run(place)
    config = directory.config()
    config["dataset"]["name"] = config["sweep"] = HOSTILE
    freeze(directory, config)
    summary = {**directory.summary(), "why": HOSTILE, "dataset": HOSTILE, "optimizer": HOSTILE}
    (directory.path / "summary.json").write_bytes(to_json(summary))
    (directory.path / "environment.json").write_bytes(
        to_json({"versions": {"torch": HOSTILE}, "processor": HOSTILE, "cores": HOSTILE, "devices": [HOSTILE]})
    )
    plan = Plan("results", "theirs")
    information = {**plan.information(), "command": [HOSTILE], "scale": HOSTILE, "code": {"commit": HOSTILE}}
    plan.extend([], {**information, "experiment": HOSTILE})
    [entry] = plan.entries()
    cell = {"run_id": entry.run_id, "cell": {HOSTILE: HOSTILE, "seed": "0"}}
    (plan.path / "plan.jsonl").write_text(json.dumps(cell) + "\n")
    assert main(["report", "theirs"]) == 0
    page = (place / "results" / "theirs" / "index.html").read_text()
    assert "&lt;script&gt;alert(1)" in page
    assert "<script>alert(1)" not in page
    assert page.count("</script>") == page.count("<script")


# ---- the command line ---------------------------------------------------------------------------------------------------------

VALUES = [
    "os.system",
    "",
    "null",
    "3",
    "[]",
    "{}",
    "{a:1}",
    "'${oc.decode:x}'",
    "'${oc.env:HOME}'",
    "'${oc.create:{}}'",
    "a,b",
]
KEYS = ["optimizer._target_", "+optimizer._target_", "++optimizer._target_", "loss._target_", "+loss._target_",
        "optimizer.info", "optimizer.info.schema.x", "+optimizer.info.not_in_run_id", "model.info.accepts",
        "probe.spectrum._target_", "probe.spectrum.info", "+optimizer.options._target_", "hydra.sweeper._target_",
        "hydra.launcher._target_", "+hydra.callbacks.x._target_", "hydra/callbacks", "hydra/launcher", "hydra.run.dir",
        "hydra.output_subdir", "~optimizer._target_", "+x._target_"]  # fmt: skip


@pytest.mark.parametrize("multirun", [[], ["-m"]])
@pytest.mark.parametrize("key", KEYS)
def test_what_a_file_fixes_cannot_be_typed(tmp_path, monkeypatch, capsys, key, multirun):
    monkeypatch.chdir(tmp_path)
    for value in VALUES:
        error = refused(capsys, *multirun, "model=mlp", "dataset=digits", f"{key}={value}")
        assert error.startswith(
            (f"optbench: {key}={value}: is ", f"optbench: {key}={value}: optbench plans and starts")
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "word",
    [
        "optimizer={_target_:os.system}", "+optimizer={_target_:os.system}", "optimizer={info:null}", "optimizer={info:3}",
        "optimizer={info:{schema:{learning_rate:str}}}", "tracker={_target_:os.system,name:none,info:{schema:{}}}",
        "optimizer={name:[]}", "+optimizer@model=sgd",
    ],
)  # fmt: skip
def test_nor_by_a_mapping(tmp_path, monkeypatch, capsys, word):
    monkeypatch.chdir(tmp_path)
    group = re.split(r"[@=]", word.lstrip("+"))[1 if "@" in word else 0]
    assert group in refused(capsys, "dataset=digits", "model=mlp", word)


def test_a_target_of_ones_own_is_of_the_kind_that_its_group_needs(tmp_path, monkeypatch, capsys):
    conf = tmp_path / "conf"
    shutil.copytree(configuration.conf_dir(), conf)
    monkeypatch.setenv("OPTBENCH_CONF", str(conf))
    monkeypatch.chdir(tmp_path)
    text = (conf / "optimizer" / "sgd.yaml").read_text()
    for target, why in {"os.system": "is not a subclass of torch.optim", "json.JSONDecoder": "is not a subclass of torch.optim",
                        "no.such.Thing": "cannot be imported", "Thing": "cannot be imported"}.items():  # fmt: skip
        changed = text.replace("torch.optim.SGD", target).replace("name: sgd", "name: mine")
        Path(conf / "optimizer" / "mine.yaml").write_text(changed)
        error = refused(capsys, *WORDS, "optimizer=mine", "results_dir=results")
        assert f"optimizer._target_={target}: {why}" in error

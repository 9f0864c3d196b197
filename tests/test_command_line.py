"""The command line as a user meets it: what it refuses and how, and what it leaves behind."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from optbench import config as configuration
from optbench.config import GROUPS, LIST_GROUPS, MACHINE_KEYS, SCIENCE_KEYS, choices, read_choice, search_path
from optbench.config.commands import written
from optbench.config.yaml_text import read_yaml
from optbench.data import locate
from optbench.store.measured import without_measured
from optbench.training.task import Task

TINY = ["dataset=digits", "model=mlp", "budget.steps=5", "tracker=none"]
RUN_FILES = {"config.yaml", "status.json", "history.jsonl", "history.parquet", "summary.json", "environment.json"}
SUMMARY_KEYS = {
    *("run_id", "status", "optimizer", "model", "dataset", "batch", "seed", "trial", "learning_rate", "parameters"),
    *("steps", "epochs", "samples", "seconds_training", "gap_loss", "gap_accuracy"),
    *(f"{split}_{name}" for split in ("train", "validation", "test") for name in ("loss", "accuracy")),
    *(f"best_validation_{name}{step}" for name in ("loss", "accuracy") for step in ("", "_step")),
}
SECRETS = {
    "WANDB_API_KEY": "5ec2e7a0b1c2d3e4f5a6b7c8d9e0f1a2b3c4d5e6",
    "AWS_SECRET_ACCESS_KEY": "aws-secret-0b5e7a",
    "GITHUB_TOKEN": "ghp_token_of_somebody",
    "A_HARMLESS_VARIABLE": "harmless-but-nobodys-business",
}
ESCAPE = "\x1b"


@pytest.fixture(autouse=True)
def _a_folder_of_its_own(tmp_path_factory, monkeypatch):
    """Run in an empty folder, on a machine without network, ranks or settings."""
    monkeypatch.chdir(tmp_path_factory.mktemp("here"))
    for name in ("OPTBENCH_CONF", "OPTBENCH_DATA", "RANK", "LOCAL_RANK", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")  # so that what the command line sets is put back

    def refuse(url):
        raise OSError("no network in tests")

    monkeypatch.setattr(locate, "open_url", refuse)
    monkeypatch.setattr(locate, "SYSTEM_FOLDER", locate.Path("no-such-folder"))


def in_a_process(*words, **options):
    command = [sys.executable, "-m", "optbench", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, **options)


def here():
    """Everything under the current folder."""
    return sorted(str(path) for path in locate.Path().rglob("*"))


def only_run(results_dir="results"):
    [path] = (locate.Path(results_dir) / "runs").iterdir()
    return path


def read(path):
    return json.loads(path.read_text())


# ---- mistakes ---------------------------------------------------------------------------------------------------------------

# The words after a run that would work, and what the message must hold: the key, the value and what is accepted.
MISTAKES = [
    ("batch=0", "batch=0", "int >= 1"),
    ("batch=-5", "batch=-5", "int >= 1"),
    ("batch=abc", "batch=abc", "int >= 1"),
    ("batch=1e9", "batch=1000000000.0", "int >= 1"),
    ("batch=null", "batch=null", "int >= 1"),
    ("batch=2000", "batch=2000", "digits", "1 to 1293"),
    ("batch=128 dataset.train_limit=100", "batch=128", "1 to 100"),
    (
        "dataset.train_limit=600 schedule=batch_growth schedule.milestones=[2epochs]",
        "batch=640",
        "batch_growth",
        "1 to 600",
    ),
    ("optimizer=adm", "optimizer=adm", "did you mean adam"),
    ("optimizer=nothing_like_it", "optimizer=nothing_like_it", "accepted: adadelta, adafactor, "),
    ("model=resnet19", "model=resnet19", "did you mean", "resnet18"),
    ("dataset=cifar11", "dataset=cifar11", "did you mean", "cifar10"),
    ("optimizer=", "optimizer=", "accepted: adadelta, "),
    ("optimizer=null", "optimizer=null", "accepted: adadelta, "),
    ("optimizer=[sgd,adam]", "optimizer=[sgd,adam]", "accepted: adadelta, "),
    ("optimizer=sgd,adam", "optimizer=sgd,adam", "accepted: one", "--multirun"),
    ("optimizer.name=adam", "optimizer.name", "choose with optimizer=..."),
    ("optimizer.info.family=adaptive", "optimizer.info", "choose with optimizer=..."),
    ("bacth=3", "bacth", "did you mean batch"),
    ("+foo=1", "foo", "unknown key", "did you mean force"),
    ("optimizer.momentm=0.9", "optimizer.momentm", "unknown key", "accepted: decay_norm_and_bias, learning_rate"),
    ("optimizer=adam optimizer.beta3=1", "optimizer.beta3", "did you mean beta"),
    ("tracker.project=mine", "tracker.project", "unknown key", "none is accepted here"),
    ("optimizer=momentum optimizer.momentum=fast", "optimizer.momentum=fast", "float in [0, 1)"),
    ("optimizer=momentum optimizer.momentum=1.5", "optimizer.momentum=1.5", "float in [0, 1)"),
    ("optimizer.learning_rate=nan", "optimizer.learning_rate=nan", "float >= 0"),
    ("model.hidden=[a]", "model.hidden=['a']", "list of int >= 1"),
    ("precision=fp15", "precision=fp15", "fp64, fp32, tf32, bf16, fp16"),
    ("model=gpt", "model=gpt", "dataset=digits", "datasets that fit: ptb, text"),
    ("loss=mse", "loss=mse", "dataset=digits", "accepted: auto, cross_entropy"),
    ("model=autoencoder loss=cross_entropy", "loss=cross_entropy", "accepted: auto, bernoulli, mse"),
    ("trainer.accelerator=gpu trainer.devices=1000 batch=1000", "trainer.devices=1000", "trainer.accelerator=cpu"),
    ("trainer.devices=3", "batch=128", "trainer.devices=3", "multiples of 3"),
    ("model=resnet20 micro_batch=100", "micro_batch=100", "multiples of 128"),
    ("model=resnet20 ghost_batch_size=48 trainer.devices=2", "ghost_batch_size=48", "divisors or multiples of 64"),
    ("precision=fp16 optimizer=lbfgs", "precision=fp16", "optimizer=lbfgs", "fp64, fp32, tf32, bf16"),
    ("momentum_schedule=sutskever", "momentum_schedule=sutskever", "optimizer=sgd", "accepted: none"),
    ("schedule=cosine schedule.warmup=9", "schedule.warmup=9", "5 steps"),
    ("schedule.warmup=3eons", "schedule.warmup=3eons", "duration"),
    ("eval_every=0", "eval_every=0", "duration > 0"),
    ("schedule=batch_growth schedule.milestones=[10]", "schedule.milestones=10", "epochs or samples"),
    ("model=wrn model.depth=11", "model.depth=11", "10, 16, 22, 28"),
    ("init=identity", "init=identity", "irnn"),
    ("batch=[1", "batch=[1", "KEY=VALUE"),
    ("frobnicate=1 foo", "foo", "KEY=VALUE"),
    ("--frobnicate", "--frobnicate", "KEY=VALUE", "--help"),
    ("budget.stop_at_target=true", "budget.stop_at_target=true", "budget.target"),
    ("model=autoencoder budget.target=0.5", "budget.target_metric=validation_accuracy", "validation_loss, train_loss"),
    ("optimizer=zoo trial=1", "trial=1", "optimizer=", "trial=0"),
    ("dataset=huggingface", "dataset.path=null", "folder of the parquet shards"),
    ("~batch", "batch", "missing", "int >= 1"),
    ("~optimizer", "optimizer", "missing", "accepted: adadelta, "),
    ("~optimizer.learning_rate", "optimizer.learning_rate", "missing", "float >= 0"),
    ("--cfg job batch=0", "batch=0", "int >= 1"),
    ("--cfg job --multirun batch=1,2", "--cfg", "--multirun"),
    ("-m batch=32,64,0", "batch=0", "int >= 1"),
    ("-m optimizer=sgd,adm", "optimizer=adm", "did you mean adam"),
    ("-m trainer.devices=2 seed=0,1", "trainer.devices=2", "--multirun", "accepted: trainer.devices=1"),
    ("dry_run=true batch=0", "batch=0", "int >= 1"),
    ("trial=5 optimizer.learning_rate=0.1", "optimizer.learning_rate=0.1", "trial=5", "trial=0", "search_space"),
    ("trial=5 optimizer.learning_rate=0.2", "optimizer.learning_rate=0.2", "trial=5", "trial=0", "search_space"),
    ("-m trial=0,5 optimizer.learning_rate=0.1", "optimizer.learning_rate=0.1", "trial=5", "trial=0", "search_space"),
    ("budget.epochs=1", "budget.epochs=1", "budget.steps=5", "accepted: only one of the two"),
    ("-m seed=0,1 budget.epochs=1", "budget.epochs=1", "budget.steps=5", "accepted: only one of the two"),
    ("schedule.warmup=5epochs", "schedule.warmup=5epochs", "0.495 epochs (5 steps)", "accepted: less"),
    ("schedule=multistep schedule.milestones=[2000]", "schedule.milestones=[2000]", "5 steps", "accepted: ", "50%"),
    ("results_dir=/proc/x", "results_dir=/proc/x", "cannot write in /proc", "accepted: a writable folder"),
    ("-m seed=0,1 results_dir=/proc/x", "results_dir=/proc/x", "cannot write in /proc", "accepted: a writable folder"),
    ("seed=0..3", "seed=0..3", "int in [0, ", "with -m: 'seed=range(0,4)' or seed=0,1,2,3"),
    # What another program would do with the sweep, or only with its first cell.
    ("-m seed=0,1,2 hydra/sweeper=basic", "hydra/sweeper=basic", "accepted: -m with launcher=local or slurm"),
    ("-m seed=0,1,2 hydra/sweeper=optuna", "hydra/sweeper=optuna", "accepted: -m with launcher=local or slurm"),
    ("-m seed=0,1 hydra/launcher=joblib", "hydra/launcher=joblib", "accepted: -m with launcher=local or slurm"),
    ("-m seed=0,1 hydra.sweeper._target_=x.Y", "hydra.sweeper._target_=x.Y", "accepted: -m with launcher=local"),
    ("hydra/launcher=basic", "hydra/launcher=basic", "accepted: -m with launcher=local or slurm"),
    ("--experimental-rerun=x.pickle", "--experimental-rerun x.pickle", "would unpickle that file", "accepted: "),
    ("scale=smoke", "scale=smoke", "accepted: with -m experiment=NAME"),
    ("-m seed=0,1 scale=smoke", "scale=smoke", "has no scales", "accepted: an experiment"),
    # Interpolations.
    ("optimizer.learning_rate=${nope}", "optimizer.learning_rate=${nope}", "does not resolve"),
    ("-m seed=0,1 optimizer.learning_rate=${nope}", "optimizer.learning_rate=${nope}", "does not resolve"),
    ("batch=${seed} seed=${batch}", "=${", "does not resolve"),
    ("data_dir=${oc.env:NO_SUCH_VARIABLE}", "data_dir=${oc.env:NO_SUCH_VARIABLE}", "does not resolve"),
    ("batch=${nothing:1}", "batch=${nothing:1}", "does not resolve"),
    # Numbers and texts that nothing can hold.
    ("seed=9007199254740992", "seed=9007199254740992", "int in [0, 9007199254740991]"),
    ("trial=1073741825", "trial=1073741825", "int in [0, 1073741824]"),
    *[
        (f"{key}={'x' * 5000}", f"{key.split()[-1]}=xxx", "5000 characters; accepted: at most 1000")
        for key in ("sweep", "-m seed=0,1 sweep", "results_dir", "data_dir", "optimizer=zoo optimizer.name")
    ],
    (f"tracker=wandb tracker.project={'x' * 5000}", "tracker.project=xxx", "5000 characters; accepted: at most 1000"),
    (f"tracker=wandb tracker.tags=[{'x' * 5000}]", "tracker.tags=", "5000 characters; accepted: at most 1000"),
    (f"model={'x' * 5000}", "model=xxx", "too long for the name of a choice"),
    (f"-m seed=0,1 model={'x' * 5000}", "model=xxx", "too long for the name of a choice"),
    (f"model.{'x' * 5000}=1", "model.xxx", "too long for the name of a choice or an option"),
    # Names and places.
    ("-m seed=0,1 sweep=../x", "sweep=../x", "accepted: a name of at most 100 characters"),
    ("-m seed=0,1 sweep=runs", "sweep=runs", "accepted: a name of at most 100 characters"),
    ("results_dir=", "results_dir=''", "accepted: the path of a folder"),
    ("results_dir=s3://bucket/x", "results_dir=s3://bucket/x", "accepted: the path of a folder"),
]


def check_message(status, out, err, *parts):
    assert status == 2
    assert out == ""
    assert err.startswith("optbench: ")
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert "Traceback" not in err
    assert len(err) < 1000
    for part in parts:
        assert part in err


@pytest.mark.parametrize("mistake", MISTAKES, ids=lambda mistake: mistake[0][:80])
def test_a_mistake_is_one_message_and_leaves_nothing_behind(mistake, command):
    words, *parts = mistake
    check_message(*command(*TINY, *words.split()), *parts)
    assert here() == []


@pytest.mark.parametrize("mode", [["-m", "seed=0,1,2"], ["-m", "seed=0"]], ids=" ".join)
def test_a_front_page_with_another_sweeper_trains_nothing(mode, command, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("own") / "conf"
    shutil.copytree(configuration.conf_dir(), folder)
    front = (folder / "config.yaml").read_text(encoding="utf-8")
    assert "override hydra/sweeper: optbench" in front
    front = front.replace("override hydra/sweeper: optbench", "override hydra/sweeper: basic")
    (folder / "config.yaml").write_text(front, encoding="utf-8")
    monkeypatch.setattr(search_path, "_PACKAGE", folder.parent)
    check_message(*command(*TINY, *mode), "hydra/sweeper", "only one of the cells", "accepted: ")
    assert here() == []


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["frobnicate"], ["frobnicate", "no such command", "KEY=VALUE"]),
        (["lst"], ["lst: no such command", "did you mean list"]),
        (["list", "optimzers"], ["list optimzers", "did you mean optimizer"]),
        (["list", "--frobnicate"], ["--frobnicate", "usage: optbench list"]),
        (["status", "extra"], ["no sweep 'extra'"]),
        (["sync", "no-such-run"], ["no-such-run", "accepted is a run id"]),
        (["doctor", "extra"], ["extra", "usage: optbench doctor"]),
        *[([word, "../x"], ["../x: is no plain name"]) for word in ("status", "report", "retry", "cancel", "sync")],
        (["status", "x" * 5000], ["has 5000 characters; accepted: a name of"]),
        (["report", "first", "--results-dir="], ["--results-dir '': is empty"]),
    ],
    ids=" ".join,
)
def test_a_mistake_in_another_command_is_one_message_too(words, parts, command):
    check_message(*command(*words), *parts)
    assert here() == []


def test_missing_files_are_named_with_every_place_and_with_what_needs_none(command, tmp_path):
    status, out, err = command(*TINY, "dataset=cifar10", f"data_dir={tmp_path / 'data'}")
    check_message(status, out, err, "dataset=cifar10", "cifar-10-python.tar.gz", "no network in tests")
    for place in (tmp_path / "data", tmp_path / "data" / "cifar10"):
        assert str(place) in err
    free = [name for name in choices("dataset") if read_choice("dataset", name)["info"]["download"] == "none"]
    assert set(err.rsplit("need no download: ", 1)[1].strip().split(", ")) == set(free)
    assert here() == []


QUICK = [
    "trial=5 optimizer.learning_rate=0.1",
    "budget.epochs=1",
    "schedule.warmup=5epochs",
    "schedule=multistep schedule.milestones=[2000]",
    "results_dir=/proc/x",
    "seed=0..3",
]


def test_what_the_configuration_tells_is_said_before_torch_is_imported():
    program = (
        "import sys; from optbench.__main__ import main; "
        f"print([main([*{TINY!r}, *words.split()]) for words in {QUICK!r}], 'torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == f"{[2] * len(QUICK)} False\n", result.stderr


def test_missing_files_are_told_before_lightning_is_imported(tmp_path):
    program = (
        "import sys; from optbench.data import locate\n"
        "def refuse(url): raise OSError('no network in tests')\n"
        "locate.open_url, locate.SYSTEM_FOLDER = refuse, locate.Path('no-such-folder')\n"
        "from optbench.__main__ import main\n"
        f"print(main(['dataset=cifar10', 'tracker=none', 'data_dir={tmp_path}']), 'pytorch_lightning' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == "2 False\n"
    assert "cifar-10-python.tar.gz" in result.stderr


def test_files_that_lie_unpacked_are_not_looked_for_in_their_archive(command, tmp_path):
    from optbench.data.cifar import CIFAR10

    folder = tmp_path / CIFAR10.folder
    folder.mkdir()
    for file in CIFAR10.members:
        (folder / file.name).write_bytes(b"not a pickle")
    status, _, err = command("dataset=cifar10", "model=resnet20", "tracker=none", f"data_dir={tmp_path}")
    assert status == 2
    assert "cifar-10-python.tar.gz" not in err
    assert str(folder) in err


def test_a_zoo_optimizer_that_is_not_there_is_refused_before_anything_is_written(command):
    pytest.importorskip("pytorch_optimizer")
    check_message(*command(*TINY, "optimizer=zoo", "optimizer.name=adamm"), "optimizer.name=adamm", "did you mean adam")
    assert here() == []


def test_a_tracker_without_its_package_says_how_to_get_it(command, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "tensorboard" else found(name, *rest)
    )
    check_message(*command(*TINY, "tracker=tensorboard"), "tracker=tensorboard", "pip install", "tracker=none")
    assert here() == []


def test_results_cannot_go_into_a_file(command):
    locate.Path("file").write_text("")
    check_message(*command(*TINY, "results_dir=file/results"), "results_dir=file/results", "not a folder", "accepted")
    assert here() == ["file"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_results_cannot_go_where_nobody_may_write(command):
    locate.Path("closed").mkdir(mode=0o555)
    check_message(*command(*TINY, "results_dir=closed/results"), "results_dir=closed/results", "permission")


def test_a_store_that_the_file_system_refuses_is_a_message_too(command, monkeypatch):
    from optbench.store import RunDirectory, StoreError

    def refuse(*arguments, **options):
        raise StoreError("cannot create results/runs: No space left on device")

    monkeypatch.setattr(RunDirectory, "create", refuse)
    status, _, err = command(*TINY)
    assert (status, err) == (1, "optbench: cannot create results/runs: No space left on device\n")


@pytest.mark.parametrize(
    "words",
    [
        ["batch=0"],
        ["frobnicate"],
        ["--cfg", "job", "optimizer=adm"],
        pytest.param([*TINY, "model=wrn", "model.depth=11"], marks=pytest.mark.slow),  # with torch
    ],
    ids=lambda words: words[-1],
)
def test_a_mistake_is_one_message_of_a_real_process(words):
    result = in_a_process(*words)
    check_message(result.returncode, result.stdout, result.stderr)
    assert here() == []


# ---- what it shows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"], ["optimizer=adam", "--help"]], ids=" ".join)
def test_help_names_every_group_and_every_key_with_its_default(words, command):
    status, out, err = command(*words)
    assert (status, err) == (0, "")
    for group in (*GROUPS, *LIST_GROUPS):
        assert re.search(rf"\b{group}\b", out)
    for key in (*SCIENCE_KEYS, *MACHINE_KEYS):
        assert re.search(rf"^ +{key}=", out, re.MULTILINE)
    assert re.search(r"^  batch=128 +GLOBAL batch in examples", out, re.MULTILINE)
    for name in ("list", "status", "sync", "doctor"):
        assert f"python -m optbench {name}" in out


def test_list_shows_every_choice_with_what_it_is(command):
    status, out, err = command("list")
    assert (status, err) == (0, "")
    for group in (*GROUPS, *LIST_GROUPS):
        table = re.split(rf"^{group}=\.\.\. *\n", out, maxsplit=1, flags=re.MULTILINE)[1].split("=...")[0]
        for name in choices(group):
            about = read_choice(group, name)["info"]["about"]
            assert re.search(rf"^{re.escape(name)} +{re.escape(about[:30])}", table, re.MULTILINE), (group, name)


@pytest.mark.parametrize("word", ["optimizer", "optimizers"])
def test_list_of_one_group_shows_its_options_with_defaults_and_types(word, command):
    status, out, _ = command("list", word, "--options")
    assert status == 0
    assert "optimizer.learning_rate=0.001  (float >= 0)" in out
    assert "model=..." not in out


def test_doctor_says_what_is_here_and_tells_no_secret(command, monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    status, out, err = command("doctor")
    assert (status, err) == (0, "")
    for word in ("torch", "GPUs", "Slurm", "wandb", "logged in", *(f"dataset={name}" for name in choices("dataset"))):
        assert word in out
    assert re.search(r"dataset=digits +here", out)
    assert re.search(r"dataset=cifar10 +MISSING: python -m optbench.data.fetch cifar10", out)
    assert not [value for value in SECRETS.values() if value in out]


def test_the_composed_configuration_can_be_shown_wherever_the_flag_stands(command):
    status, out, _ = command("optimizer=adam", "--cfg", "job", "batch=64")
    assert status == 0
    assert "\nbatch: 64\n" in out
    assert "optimizer:\n  name: adam\n" in out
    assert "\n  learning_rate: 0.001\n" in out
    assert here() == []


def test_the_shown_configuration_is_what_can_be_set_and_nothing_else(command):
    words = [
        "optimizer=zoo",
        "optimizer.name=soap",
        "probe=[none,trace]",
        "probe.trace.most=7",
        "trial=0",
        "data_dir=here",
    ]
    status, out, err = command("--cfg", "job", *words)
    assert (status, err) == (0, "")
    shown = read_yaml(out)
    assert list(shown["probe"]) == ["trace"]
    assert shown["probe"]["trace"]["most"] == 7
    assert (shown["optimizer"]["choice"], shown["optimizer"]["name"]) == ("zoo", "soap")
    assert {*shown} == {*GROUPS, *LIST_GROUPS, *SCIENCE_KEYS, *MACHINE_KEYS}
    assert not [line for line in out.splitlines() if re.match(r" *(info|schema|search_space|about|_target_):", line)]
    # Each line is a word that composes to the same again.
    typed = [f"{group}.{option}={written(value)}" for group in GROUPS if group != "dataset"
             for option, value in shown[group].items() if option not in ("choice", "name") and value != {}]  # fmt: skip
    assert configuration.compose([*words, *typed]) == configuration.compose(words)


@pytest.mark.parametrize(
    ("package", "expected"),
    [("scaling", "# @package scaling\nname: none\n"), ("batch", "128\n"), ("optimizer.learning_rate", "0.1\n")],
)
def test_a_part_of_the_configuration_can_be_shown(package, expected, command):
    assert command("--cfg", "job", "--package", package) == (0, expected, "")


def test_what_is_no_part_of_the_configuration_is_one_message(command):
    status, out, err = command("--cfg", "job", "-p", "optimizer.lerning_rate")
    assert (status, out) == (2, "")
    assert err.startswith(
        "optbench: --package optimizer.lerning_rate: lerning_rate: is no part of the configuration; did you"
    )


def test_a_dry_run_says_what_would_run_and_starts_nothing(command):
    status, out, err = command(*TINY, "dry_run=true")
    run_id = configuration.run_id(configuration.compose(TINY))
    assert (status, err) == (0, "")
    state, memory, time = out.splitlines()
    assert state == f"{run_id}: new; dry_run=true starts nothing"
    assert re.fullmatch(r"micro_batch=\d+: of \d+ examples a device, each .*B, beside .*B: about .*B of .*B", memory)
    assert re.fullmatch(r"[\d,]+ examples of training in all; no earlier run tells what these will cost", time)
    assert here() == []
    status, out, _ = command("-m", *TINY, "dry_run=true", "seed=0,1")
    assert (status, out.count("2 runs: 2 new; dry_run=true")) == (0, 1)
    assert here() == []


# ---- runs ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny_run(tmp_path_factory):
    """A run in a process of its own, from a folder of its own, with secrets in its environment."""
    folder = tmp_path_factory.mktemp("tiny")
    environment = {**os.environ, **SECRETS, "TERM": "xterm-256color", "OMP_NUM_THREADS": "1"}
    return folder, in_a_process(*TINY, cwd=folder, env=environment)


def test_a_run_prints_its_result_and_writes_every_file(tiny_run):
    folder, result = tiny_run
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    run = only_run(folder / "results")
    for word in (f"{run.name}: done", "accuracy", "learning rate 0.1", "5 steps of 128 examples", f"runs/{run.name}"):
        assert word in result.stdout
    assert {path.name for path in run.iterdir()} == RUN_FILES | {"config.json", "checkpoints"}
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["last.ckpt"]
    assert [path.name for path in folder.iterdir()] == ["results"]
    assert read(run / "status.json")["state"] == "done"


def test_its_summary_holds_every_key_and_adds_up(tiny_run):
    folder, _ = tiny_run
    run = only_run(folder / "results")
    summary = read(run / "summary.json")
    assert summary.keys() >= SUMMARY_KEYS
    assert summary["run_id"] == run.name
    assert summary["parameters"] == 64 * 128 + 128 + 128 * 10 + 10
    assert (summary["steps"], summary["samples"], summary["epochs"]) == (5, 640, 640 / 1293)
    assert summary["gap_loss"] == pytest.approx(summary["test_loss"] - summary["train_loss"])
    assert summary["gap_accuracy"] == pytest.approx(summary["train_accuracy"] - summary["test_accuracy"])
    assert not summary.keys() & {"steps_to_target", "seconds_to_target"}


def test_what_it_prints_is_what_the_summary_holds(tiny_run):
    folder, result = tiny_run
    summary = read(only_run(folder / "results") / "summary.json")
    row = next(line for line in result.stdout.splitlines() if "accuracy" in line and "│" in line)
    cells = [float(cell) for cell in re.findall(r"-?[\d.]+(?= %)", row)]
    splits = [summary[f"{name}_accuracy"] for name in ("train", "validation", "test", "gap")]
    assert cells == pytest.approx([100 * value for value in splits], abs=0.0051)


def test_output_that_is_no_terminal_has_no_escape_codes_and_no_bar(tiny_run):
    _, result = tiny_run
    assert ESCAPE not in result.stdout + result.stderr
    assert "\r" not in result.stdout


def test_nothing_of_the_environment_is_written_or_printed(tiny_run):
    folder, result = tiny_run
    contents = [path.read_bytes() for path in folder.rglob("*") if path.is_file()] + [result.stdout.encode()]
    assert len(contents) > len(RUN_FILES)
    for name, value in SECRETS.items():
        assert not [content for content in contents if value.encode() in content or name.encode() in content]


def test_the_same_command_again_says_that_it_is_done_without_torch(tiny_run):
    folder, _ = tiny_run
    program = (
        "import sys, time; from optbench.__main__ import main; status = main(sys.argv[1:]); "
        "print(status, 'torch' in sys.modules, 'pandas' in sys.modules, time.process_time() < 3)"
    )
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    result = subprocess.run(
        [sys.executable, "-c", program, *TINY], cwd=folder, capture_output=True, text=True, timeout=60, check=True
    )
    assert "done already; force=true runs it again\n" in result.stdout
    assert result.stdout.splitlines()[-1] == "0 False False True"
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


@pytest.mark.parametrize(
    ("budget", "said"),
    [
        # ceil(1293 / 128) = 11 steps, 11 * 128 / 1293 = 1.089 epochs
        ("budget.epochs=1 budget.steps=null", "11 steps of 128 examples, 1.09 epochs (1 in whole batches), "),
        ("budget.steps=11", "11 steps of 128 examples, 1.09 epochs, "),
        # 1293 = 3 * 431
        ("budget.epochs=1 budget.steps=null batch=431", "3 steps of 431 examples, 1.00 epochs, "),
    ],
)
def test_a_run_beyond_its_epochs_says_why(budget, said, command):
    words = [*TINY[:2], "tracker=none", "evaluate_train=64", *budget.split()]
    assert said in command(*words)[1]
    again = command(*words)[1]
    assert "already" in again
    assert said in again


def test_force_runs_again_what_is_done(command):
    command(*TINY)
    summary = only_run() / "summary.json"
    truth = read(summary)
    summary.write_text(json.dumps({**truth, "steps": 999}))
    assert "999 steps" in command(*TINY)[1]
    status, out, _ = command(*TINY, "force=true")
    assert status == 0
    assert "already" not in out
    assert without_measured(read(summary)) == without_measured(truth)
    assert [row["step"] for row in rows(only_run()) if row["event"] == "evaluation"] == [5]


def test_results_and_choices_do_not_depend_on_the_working_directory(command, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert command(*TINY, f"results_dir={tmp_path / 'mine'}")[0] == 0
    assert only_run(tmp_path / "mine").name == configuration.run_id(configuration.compose(TINY))
    assert here() == []


def test_status_shows_the_runs(tiny_run, command):
    status, out, _ = command("status", "--results-dir", tiny_run[0] / "results")
    assert status == 0
    assert "1 run in" in out
    [line] = [line for line in out.splitlines() if "digits" in line]
    summary = read(only_run(tiny_run[0] / "results") / "summary.json")
    for cell in (
        "sgd",
        "mlp",
        "128",
        "done",
        "0.1",
        f"{summary['test_loss']:.4g}",
        f"{100 * summary['test_accuracy']:.2f} %",
    ):
        assert f" {cell} " in line
    status, out, _ = command("status", "--results-dir", "nowhere")
    assert (status, out) == (0, "no runs in nowhere\n")


def test_sync_mirrors_what_has_a_tracker(command):
    command(*TINY, "seed=1")
    run_id = only_run().name
    assert command("sync") == (0, f"{run_id}: tracker=none\n1 runs, 0 not mirrored\n", "")
    assert command("sync", run_id[-10:])[1].startswith(run_id)


# ---- ends other than the budget's ---------------------------------------------------------------------------------------------


def rows(run):
    return [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]


def test_a_diverging_run_is_a_result_with_the_same_step_however_often_it_is_looked_at(command):
    words = [*TINY, "optimizer=momentum", "optimizer.learning_rate=30", "budget.steps=40"]
    summaries = {}
    for log_every in (1, 3, 50):
        status, out, err = command(*words, f"log_every={log_every}", f"results_dir=every{log_every}")
        assert (status, err) == (0, "")
        summaries[log_every] = read(only_run(f"every{log_every}") / "summary.json")
        assert "diverged" in out
        assert "the loss was" in out
    history = [row for row in rows(only_run("every1")) if row["event"] == "train"]
    # The row of step t holds the loss of the batch before that update, the t-th counted from 0 being step t - 1.
    bad = [row["step"] - 1 for row in history if not row["loss"] <= 10 * history[0]["loss"]]
    assert 1 <= bad[0] < 39
    for summary in summaries.values():
        assert (summary["status"], summary["diverged_step"], summary["steps"]) == ("diverged", bad[0], bad[0])
        assert f"at step {bad[0]}" in summary["why"]
    assert read(only_run("every50") / "status.json")["state"] == "diverged"


def test_the_first_step_that_reaches_a_target_is_recorded_and_may_end_the_run(command):
    words = [*TINY, "budget.steps=40", "eval_every=5", "budget.target=0.6"]
    command(*words, "results_dir=on")
    command(*words, "budget.stop_at_target=true", "results_dir=off")
    on, off = (read(only_run(name) / "summary.json") for name in ("on", "off"))
    reached = [row for row in rows(only_run("on")) if row.get("validation_accuracy", 0) >= 0.6]
    assert on["steps_to_target"] == off["steps_to_target"] == off["steps"] == reached[0]["step"] < on["steps"] == 40
    assert on["samples_to_target"] == 128 * on["steps_to_target"]


def interrupt_at(step, monkeypatch, action):
    """Call ``action`` in the middle of training, before the update number ``step``."""
    take_step = Task.take_step

    def interrupted(task):
        if task.step == step:
            action()
        take_step(task)

    monkeypatch.setattr(Task, "take_step", interrupted)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_a_run_stopped_by_a_signal_continues_where_it_was(number, code, command, monkeypatch):
    words = [*TINY, "budget.steps=30", "eval_every=8", "log_every=5", "optimizer=adam"]
    command(*words, "results_dir=undisturbed")
    kept = signal.getsignal(number)
    with monkeypatch.context() as patch:
        interrupt_at(13, patch, lambda: os.kill(os.getpid(), number))
        status, _, err = command(*words)
    assert status == code
    assert "the same command continues it" in err
    assert signal.getsignal(number) == kept
    run = only_run()
    stopped = read(run / "status.json")
    assert (stopped["state"], stopped["why"]) == ("preempted", f"stopped by {number.name} at step 14")
    assert not (run / "summary.json").exists()
    assert command(*words, "dry_run=true")[1].startswith(f"{run.name}: preempted")
    steps = []
    with monkeypatch.context() as patch:
        interrupt_at(14, patch, lambda: steps.append(14))
        interrupt_at(13, patch, lambda: steps.append(13))
        assert command(*words)[0] == 0
    assert steps == [14]
    same = only_run("undisturbed")
    assert without_measured(read(run / "summary.json")) == without_measured(read(same / "summary.json"))
    assert [without_measured(row) for row in rows(run)] == [without_measured(row) for row in rows(same)]


def test_a_crash_is_a_failed_run_with_its_traceback_in_its_log(command, monkeypatch):
    def crash():
        raise RuntimeError("the cable is loose")

    with monkeypatch.context() as patch:
        interrupt_at(3, patch, crash)
        status, out, err = command(*TINY)
    run = only_run()
    assert (status, out) == (1, "")
    assert all(line.startswith("optbench: ") for line in err.splitlines())
    assert "failed: RuntimeError: the cable is loose" in err
    assert str(run / "log.txt") in err
    assert read(run / "status.json")["why"] == "RuntimeError: the cable is loose"
    log = (run / "log.txt").read_text()
    assert log.startswith("Traceback")
    assert log.endswith("RuntimeError: the cable is loose\n")
    assert command(*TINY)[0] == 0
    assert read(run / "status.json")["state"] == "done"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"])
def test_a_process_stopped_by_a_signal_continues_where_it_was(number, code):
    words = [*TINY, "model.hidden=[256,256]", "batch=256", "budget.steps=300", "eval_every=100", "log_every=10"]
    in_a_process(*words, "results_dir=undisturbed")
    process = subprocess.Popen(
        [sys.executable, "-m", "optbench", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not list(locate.Path("results").glob("runs/*/history.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err
    run = only_run()
    assert read(run / "status.json")["state"] == "preempted"
    again = in_a_process(*words)
    assert again.returncode == 0, again.stderr
    assert without_measured(read(run / "summary.json")) == without_measured(
        read(only_run("undisturbed") / "summary.json")
    )

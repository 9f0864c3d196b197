"""launcher=slurm without Slurm: what is checked, how runs are packed, the scripts, and what is done with its commands.

The commands of Slurm are small shell scripts here, first on PATH; tests/slurm runs the real ones.
"""

import os
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from optbench.__main__ import main
from optbench.config import compose, read_choice
from optbench.errors import UserError
from optbench.provenance import checkout
from optbench.store import run_directories
from optbench.sweep.launchers import slurm
from optbench.sweep.launchers.slurm import commands
from optbench.sweep.launchers.slurm.resources import Rules
from optbench.sweep.launchers.slurm.submission import _arrays, _jobs
from optbench.sweep.plan import Plan

LOAD = "import pickle, sys; loaded = pickle.load(open(sys.argv[1], 'rb')); "


def options(name="slurm", **changes):
    choice = read_choice("launcher", name)
    assert changes.keys() <= choice.keys()
    return {**choice, **changes}


@pytest.fixture(scope="module")
def composed():
    return compose(["dataset=digits"])


def config_of(composed, **changes):
    """A configuration with ``batch``, or an option of the trainer, changed."""
    batch = changes.pop("batch", 128)
    return {**composed, "batch": batch, "trainer": {**composed["trainer"], **changes}}


@pytest.fixture
def plan(tmp_path):
    plan = Plan(tmp_path / "results", "a sweep")
    plan.path.mkdir(parents=True)
    return plan


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Put a shell script called ``name`` on PATH, where besides there is only what these scripts need."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("cp", "env", "ls", "sleep", "wc"):
        (folder / tool).symlink_to(shutil.which(tool))
    monkeypatch.setenv("PATH", str(folder))

    def write(name, script):
        path = folder / name
        path.write_text(f"#!/bin/bash\n{script}\n")
        path.chmod(0o755)

    return write


@pytest.fixture
def cluster(command, tmp_path):
    """sbatch and srun; the folder where sbatch keeps the scripts it is handed, by job id."""
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    command("srun", "exit 1")
    command("scontrol", "echo 'MaxArraySize            = 5'")
    command(
        "sbatch",
        f'id=$((100 + $(ls {scripts} | wc -l))); cp "$1" {scripts}/$id; env > {tmp_path}/environment\n'
        "echo Submitted batch job $id",
    )
    return scripts


def runs(count, config):
    return [(f"run-{number}", config) for number in range(count)]


class TestPacking:
    @pytest.mark.parametrize(
        ("count", "runs_per_job", "max_jobs", "firsts", "limit"),
        [
            (4, 1, None, [0, 1, 2, 3], 1),
            (12, 3, None, [0, 3, 6, 9], 3),
            (7, 3, None, [0, 2, 4], 3),
            (12, 1, 5, [0, 2, 4, 7, 9], 3),
            (3, 10, None, [0], 3),
            (3, 1, 10, [0, 1, 2], 1),
            (1, 1, 1, [0], 1),
        ],
    )
    def test_by_hand(self, plan, composed, count, runs_per_job, max_jobs, firsts, limit):
        given = options(runs_per_job=runs_per_job, max_jobs=max_jobs)
        run_ids = [name for name, _ in runs(count, composed)]
        jobs = _jobs(plan, run_ids, Rules(given).of(composed), max_retries=2)
        assert [job.first for job in jobs] == firsts
        assert {job.limit for job in jobs} == {limit}
        assert len(jobs) * limit >= count
        assert {Path(job.runs).read_text().split() == run_ids for job in jobs} == {True}
        assert {job.max_retries for job in jobs} == {2}

    @pytest.mark.parametrize(
        ("given", "workers"),
        [
            ({"cpus": 4, "runs_per_job": 8}, 4),
            ({"cpus": 4, "runs_per_job": 1}, 1),  # no worker without a run
            ({"cpus": 4, "gpus": 2, "runs_per_job": 8}, 2),
            ({"cpus": 4, "gpus": 2, "workers_per_gpu": 3, "runs_per_job": 8}, 6),
            ({"cpus": 4, "gpus": 2, "workers": 5, "runs_per_job": 8}, 5),
        ],
    )
    def test_workers_of_a_job(self, plan, composed, given, workers):
        (job,) = _jobs(
            plan, [f"run-{n}" for n in range(given["runs_per_job"])], Rules(options(**given)).of(composed), 1
        )
        assert job.workers == workers

    def test_no_index_reaches_the_limit_of_the_cluster(self, plan, composed, command):
        command("scontrol", "echo 'MaxArraySize            = 5'")
        arrays = list(_arrays(plan, runs(12, composed), options()))
        assert [len(array.jobs) for array in arrays] == [5, 5, 2]
        assert [array.runs for array in arrays] == [5, 5, 2]
        assert [job.first for array in arrays for job in array.jobs] == list(range(12))

    def test_a_cluster_without_arrays(self, plan, composed, command):
        command("scontrol", "echo 'MaxArraySize            = 0'")
        assert [len(array.jobs) for array in _arrays(plan, runs(3, composed), options())] == [1, 1, 1]

    def test_runs_of_several_ranks_are_a_job_each(self, plan, composed, command):
        two_by_three = config_of(composed, num_nodes=2, devices=3)
        mixed = [("one", composed), ("several", two_by_three), ("another", composed), ("many", two_by_three)]
        alone, together = _arrays(plan, mixed, options(runs_per_job=9, workers=4, max_jobs=1))
        assert [(job.run, job.limit) for job in alone.jobs] == [("", 2)]
        assert (alone.resources.nodes, alone.resources.tasks) == (1, 1)
        assert [(job.run, job.workers) for job in together.jobs] == [("several", 1), ("many", 1)]
        assert (together.resources.nodes, together.resources.tasks) == (2, 3)

    def test_the_list_of_an_earlier_submission_stays(self, plan, composed):
        resources = Rules(options()).of(composed)
        (first,) = _jobs(plan, ["a"], resources, 1)
        (second,) = _jobs(plan, ["b"], resources, 1)
        assert (Path(first.runs).read_text(), Path(second.runs).read_text()) == ("a\n", "b\n")


class TestResources:
    def test_the_last_rule_that_holds_wins(self, composed):
        rules = [
            {"when": "batch > 100", "time": "2:00:00", "mem": 8},
            {"when": "batch > 1000", "time": 300, "extra": {"exclude": "n7"}},
            {"when": "model == 'wrn'", "gpus": 4},
        ]
        found = [Rules(options(resources=rules)).of(config_of(composed, batch=batch)) for batch in (64, 128, 4096)]
        assert [(each.minutes, each.memory, each.extra) for each in found] == [
            (60, None, ()),
            (120, 8, ()),
            (300, 8, (("exclude", "n7"),)),
        ]
        assert {each.gpus for each in found} == {0}

    @pytest.mark.parametrize(
        ("gpus", "trainer", "expected"),
        [
            (None, {"accelerator": "auto"}, 0),
            (None, {"accelerator": "gpu"}, 1),
            (None, {"accelerator": "gpu", "devices": 4}, 4),
            (2, {"accelerator": "auto"}, 2),
            (0, {"accelerator": "auto", "devices": 2}, 0),
        ],
    )
    def test_gpus(self, composed, gpus, trainer, expected):
        assert Rules(options(gpus=gpus)).of(config_of(composed, **trainer)).gpus == expected


class TestCheck:
    def test_slurm_has_to_be_there(self, composed, command):
        with pytest.raises(UserError, match="launcher=slurm: no sbatch on PATH"):
            slurm.check_cluster(options())
        slurm.check_cluster(options("slurm_debug"))
        command("sbatch", "")
        with pytest.raises(UserError, match="no srun on PATH"):
            slurm.check_cluster(options())
        command("srun", "")
        slurm.check_cluster(options())

    @pytest.mark.parametrize(
        ("changes", "trainer", "message"),
        [
            ({"resources": [{"gpus": 1}]}, {}, r"resources\[0\]: has no condition"),
            ({"resources": [{"when": 3}]}, {}, r"resources\[0\]: has no condition"),
            ({"resources": [{"when": "batch >"}]}, {}, r"resources\[0\].when: batch >: cannot be read"),
            ({"resources": [{"when": "bacth > 1"}]}, {}, "bacth: unknown key.*batch"),
            ({"resources": [{"when": "batch > 1", "gpu": 1}]}, {}, r"resources\[0\].gpu: unknown key.*gpus"),
            ({"resources": [{"when": "batch > 1", "snapshot": True}]}, {}, r"resources\[0\].snapshot: unknown key"),
            ({"resources": [{"when": "batch > 1", "gpus": "two"}]}, {}, r"resources\[0\].gpus=two: must be int >= 0"),
            ({"resources": [{"when": "batch > 1", "time": "soon"}]}, {}, r"resources\[0\].time=soon: must be time"),
            ({"time": 1, "signal_delay": 60}, {}, "launcher.signal_delay=60: not before the end of launcher.time=1"),
            ({"extra": {"mem": "4G"}}, {}, "launcher.extra.mem=4G: has a key of its own, launcher.mem"),
            ({"extra": {"cpus_per_task": 4}}, {}, "has a key of its own, launcher.cpus"),
            ({"extra": {"array": "0-3"}}, {}, "launcher.extra.array=0-3: is what optbench sets itself"),
            ({"extra": {"exclude": ["n1"]}}, {}, "launcher.extra.exclude.*must be text"),
            ({"gpus": 0}, {"accelerator": "gpu"}, "launcher.gpus=0: too few for trainer.devices=1"),
            ({"gpus": 2}, {"devices": 4}, "launcher.gpus=2: too few for trainer.devices=4"),
        ],
    )
    def test_messages(self, composed, changes, trainer, message):
        with pytest.raises(UserError, match=message):
            slurm.check(options("slurm_debug", **changes), [composed, config_of(composed, **trainer)])

    def test_a_percent_sign_in_the_path_of_logs(self, composed):
        with pytest.raises(UserError, match=r"sweep=50%: Slurm gives % in the paths of logs a meaning"):
            slurm.check(options("slurm_debug"), [{**composed, "sweep": "50%"}])


CHANGES = [
    {},
    {"runs_per_job": 2, "array_parallelism": 1, "partition": "gpu", "gpus": 1, "mem": 1.5, "account": "a b"},
    {"container": "apptainer exec --nv image.sif", "setup": ["module load cuda"], "snapshot": True, "qos": "low"},
    {
        "extra": {"exclude": "n1", "exclusive": True, "overcommit": False},
        "srun_args": ["--mpi=none"],
        "constraint": "a100",
    },
]


class TestScripts:
    @pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: ",".join(changes) or "defaults")
    @pytest.mark.parametrize(
        "trainer", [{}, {"devices": 2, "num_nodes": 2, "accelerator": "cpu"}], ids=["one", "several"]
    )
    def test_are_those_that_are_submitted(self, plan, composed, cluster, changes, trainer):
        planned = [*runs(7, composed), ("last", config_of(composed, **trainer))]
        written = slurm.write_scripts(plan, planned, options("slurm_debug", **changes))
        submissions = slurm.submit(plan, planned, options(**changes))
        assert len(written) == len(submissions) == len(list(cluster.iterdir()))
        for path, handed in zip(written, sorted(cluster.iterdir()), strict=True):
            assert path.read_text() == handed.read_text()

    def test_by_hand(self, plan, composed, cluster, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("OPTBENCH_PATH", "/mine")
        given = {"time": "1-02:00:00", "mem": 1.5, "cpus": 3, "partition": "gpu", "setup": ["module load cuda"]}
        config = config_of(composed, accelerator="gpu", devices=2, num_nodes=4)
        (path,) = slurm.write_scripts(plan, runs(3, config), options(extra={"exclusive": True}, **given))
        logs = f"{plan.path}/jobs"
        assert path.read_text().splitlines() == [
            "#!/bin/bash",
            "",
            "# Parameters",
            "#SBATCH --array=0-2%3",
            "#SBATCH --cpus-per-task=3",
            "#SBATCH --exclusive",
            "#SBATCH --gpus-per-node=2",
            "#SBATCH --job-name='optbench-a sweep'",
            "#SBATCH --mem=1536M",
            "#SBATCH --nodes=4",
            "#SBATCH --ntasks-per-node=2",
            "#SBATCH --open-mode=append",
            f"#SBATCH --output='{logs}/%A_%a_0_log.out'",
            "#SBATCH --partition=gpu",
            "#SBATCH --requeue",
            "#SBATCH --signal=USR2@90",
            "#SBATCH --time=1560",
            "",
            "# setup",
            "module load cuda",
            f"export PYTHONPATH={checkout.PACKAGE.parent}${{PYTHONPATH:+:$PYTHONPATH}}",
            "export OPTBENCH_PATH=/mine",
            "",
            "# command",
            "export SUBMITIT_EXECUTOR=slurm",
            f"srun --unbuffered --output '{logs}/%A_%a_%t_log.out' --cpus-per-task=3 --open-mode=append "
            f"--kill-on-bad-exit=1 {sys.executable} -P -u -m submitit.core._submit '{logs}'",
        ]

    def test_a_container_runs_its_own_python(self, plan, composed, command):
        given = options("slurm_debug", container="apptainer exec --nv image.sif")
        (path,) = slurm.write_scripts(plan, runs(1, composed), given)
        *_, line = path.read_text().splitlines()
        assert " apptainer exec --nv image.sif python3 -P -u -m submitit.core._submit " in line

    def test_need_no_slurm_and_leave_no_old_ones(self, plan, composed, command):
        command("scontrol", "exit 1")
        assert len(slurm.write_scripts(plan, runs(1002, composed), options("slurm_debug"))) == 2  # 1001 is the default
        assert len(slurm.write_scripts(plan, runs(1001, composed), options("slurm_debug"))) == 1
        assert [path.name for path in (plan.path / "jobs").glob("debug*")] == ["debug_0.sh"]


class TestSubmit:
    def test_ids_are_those_of_squeue_and_noted(self, plan, composed, cluster):
        submissions = slurm.submit(plan, runs(6, composed), options())
        assert [each.job_ids for each in submissions] == [tuple(f"100_{index}" for index in range(5)), ("101",)]
        assert [str(each) for each in submissions] == [
            "submitted 100_[0-4]: 5 runs in 5 jobs (cpus=1 time=1:00:00)",
            "submitted 101: 1 run in 1 job (cpus=1 time=1:00:00)",
        ]
        noted = [{key: job[key] for key in ("kind", "ids", "runs", "folder")} for job in plan.jobs()]
        folder = str(plan.path / "jobs")
        assert noted == [
            {"kind": "slurm", "ids": [f"100_{index}" for index in range(5)], "runs": 5, "folder": folder},
            {"kind": "slurm", "ids": ["101"], "runs": 1, "folder": folder},
        ]

    def test_a_refusal_says_what_sbatch_said_and_what_is_queued(self, plan, composed, cluster, command, capfd):
        (cluster.parent / "bin" / "sbatch").rename(cluster.parent / "bin" / "sbatch_once")
        command(
            "sbatch",
            f"if [ -e {cluster}/100 ]; then echo 'sbatch: error: Batch job submission failed: Invalid account' >&2; exit 1; fi\n"
            'sbatch_once "$@"',
        )
        with pytest.raises(UserError) as caught:
            slurm.submit(plan, runs(6, composed), options())
        assert str(caught.value) == (
            "sbatch: error: Batch job submission failed: Invalid account (queued before that: 100_[0-4])"
        )
        assert [job["runs"] for job in plan.jobs()] == [5]
        assert capfd.readouterr().err == ""

    def test_from_inside_a_job_nothing_of_it_is_inherited(self, plan, composed, cluster, monkeypatch, tmp_path):
        monkeypatch.setenv("SLURM_JOB_ID", "7")
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", "9")
        monkeypatch.setenv("SLURM_CONF", "/etc/slurm.conf")
        slurm.submit(plan, runs(1, composed), options())
        seen = [line for line in (tmp_path / "environment").read_text().splitlines() if line.startswith("SLURM")]
        assert seen == ["SLURM_CONF=/etc/slurm.conf"]
        assert os.environ["SLURM_JOB_ID"] == "7"

    def test_what_is_pickled_loads_without_torch_and_holds_no_secret(self, plan, composed, cluster, monkeypatch):
        monkeypatch.setenv("WANDB_API_KEY", "very-secret")
        slurm.submit(plan, runs(1, composed), options())
        (path,) = (plan.path / "jobs").glob("*.pkl")
        loaded = subprocess.run(
            [sys.executable, "-c", LOAD + "print({'torch', 'pytorch_lightning'} & {*sys.modules})", path],
            check=True,
            capture_output=True,
            text=True,
        )
        assert loaded.stdout == "set()\n"
        for file in plan.path.rglob("*"):
            assert not file.is_file() or b"very-secret" not in file.read_bytes()

    def test_with_a_snapshot_the_job_is_unpickled_by_the_copy(self, plan, composed, cluster):
        slurm.submit(plan, runs(1, composed), options(snapshot=True))
        (script,) = cluster.iterdir()
        exports = [
            line for line in script.read_text().splitlines() if line.startswith("export") and "SUBMITIT" not in line
        ]
        program = LOAD + "print(sys.modules[type(loaded.function).__module__].__file__)"
        (path,) = (plan.path / "jobs").glob("*.pkl")
        lines = [*exports, f'\'{sys.executable}\' -P -c "$0" "$1"']
        said = subprocess.run(
            ["/bin/bash", "-c", "\n".join(lines), program, path], check=True, capture_output=True, text=True
        )
        copy = plan.path / "code" / checkout.fingerprint()
        assert said.stdout.strip() == str(copy / "optbench" / "sweep" / "launchers" / "slurm" / "job.py")

    def test_a_job_is_plain_data(self, plan, composed, cluster):
        slurm.submit(plan, runs(2, composed), options(runs_per_job=2, cpus=2, signal_delay=45, max_timeouts=7))
        (path,) = (plan.path / "jobs").glob("*.pkl")
        delayed = pickle.loads(path.read_bytes())
        job = delayed.function
        assert (job.results_dir, job.name, job.first, job.limit) == (str(plan.results_dir), plan.name, 0, 2)
        assert (job.workers, job.cpus, job.signal_delay) == (2, 2, 45)
        assert (delayed._timeout_min, delayed._timeout_countdown) == (60, 7)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("gpu_cluster", ["--partition=gpu", "--gpus-per-node=1", "--time=240", "--mem=32768M", "--signal=USR2@90"]),
        ("many_gpus", ["--partition=gpu", "--gpus-per-node=1", "--time=240", "--mem=65536M"]),
        ("preemptible", ["--partition=preemptible", "--time=120", "--comment='optbench may be preempted'"]),
        ("cpu_cluster", ["--cpus-per-task=16", "--mem=32768M"]),
    ],
)
def test_profiles_change_what_they_say(cluster, tmp_path, name, lines):
    profiles = Path(__file__).parents[2] / "slurm" / "profiles"
    assert name in {path.stem for path in (profiles / "launcher").iterdir()}
    words = ["-m", f"launcher={name}", "dataset=digits", "seed=0,1", f"results_dir={tmp_path / 'results'}"]
    assert main(["--config-dir", str(profiles), *words]) == 0
    (script,) = cluster.iterdir()
    assert {f"#SBATCH {line}" for line in lines} <= {*script.read_text().splitlines()}


def everything(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


REFUSES = "echo 'sbatch: error: Batch job submission failed: Invalid account' >&2; exit 1"


class TestNothingIsLeft:
    @pytest.mark.parametrize("words", [["seed=3"], ["-m", "seed=0,1", "launcher.snapshot=true"]])
    def test_of_a_submission_that_is_refused(self, cluster, command, tmp_path, capsys, words):
        command("sbatch", REFUSES)
        before = everything(tmp_path)
        results = tmp_path / "new" / "results"
        assert main([*words, "launcher=slurm", "dataset=digits", f"results_dir={results}"]) == 2
        assert capsys.readouterr().err.splitlines() == [
            "optbench: sbatch: error: Batch job submission failed: Invalid account"
        ]
        assert everything(tmp_path) == before

    def test_of_one_that_widens_a_sweep_but_what_was_there(self, cluster, command, tmp_path):
        words = ["-m", "launcher=slurm", "dataset=digits", "sweep=mine", f"results_dir={tmp_path / 'results'}"]
        assert main([*words, "seed=0,1"]) == 0
        (tmp_path / "results" / "sweeps" / "mine" / "code.diff").write_text("of then")
        before = everything(tmp_path / "results")
        command("sbatch", REFUSES)
        assert main([*words, "seed=0,1,2", "launcher.snapshot=true"]) == 2
        assert everything(tmp_path / "results") == before
        assert len(Plan(tmp_path / "results", "mine").entries()) == 2

    def test_of_a_run_unless_somebody_else_has_begun_it(self, cluster, command, tmp_path):
        begins = f"for run in {tmp_path}/results/runs/*-s1-*; do echo '{{}}' > $run/history.jsonl; done"
        command("sbatch", f"{begins}; {REFUSES}")
        words = ["-m", "launcher=slurm", "dataset=digits", "seed=0,1", f"results_dir={tmp_path / 'results'}"]
        assert main(words) == 2
        (run,) = (tmp_path / "results" / "runs").iterdir()
        assert "-s1-" in run.name
        assert not list(run.glob("*lock*"))

    @pytest.mark.parametrize(
        ("script", "said"),
        [
            ("echo 'scontrol: error: no controller' >&2; exit 1", "(scontrol: error: no controller)"),
            ("exec sleep 9", "(scontrol: no answer within 0.2 s)"),
        ],
    )
    def test_where_no_cluster_answers(self, cluster, command, tmp_path, capsys, monkeypatch, script, said):
        monkeypatch.setattr(commands, "_ANSWER_SECONDS", 0.2)
        command("scontrol", script)
        before = everything(tmp_path)
        assert main(["launcher=slurm", "dataset=digits", f"results_dir={tmp_path / 'results'}"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert f"launcher=slurm: Slurm does not answer {said}; accepted: a host where" in line
        assert everything(tmp_path) == before

    def test_a_dry_run_asks_no_cluster(self, command, tmp_path, capsys):
        command("scontrol", "echo 'scontrol: error: no controller' >&2; exit 1")
        words = ["-m", "launcher=slurm", "dataset=digits", "seed=0,1", f"results_dir={tmp_path / 'results'}"]
        assert main([*words, "dry_run=true"]) == 0
        assert "2 runs: 2 new" in capsys.readouterr().out

    @pytest.mark.parametrize(
        ("options", "line"),
        [
            ([], "10 runs in 10 jobs of 1 worker (cpus=1 time=1:00:00)"),
            (["runs_per_job=4", "cpus=8"], "10 runs in 3 jobs of 4 workers (cpus=8 time=1:00:00)"),
            (["runs_per_job=4", "workers=2"], "10 runs in 3 jobs of 2 workers (cpus=1 time=1:00:00)"),
            (["max_jobs=1", "gpus=2"], "10 runs in 1 job of 2 workers (cpus=1 gpus=2 time=1:00:00)"),
            (["array_parallelism=3"], "10 runs in 10 jobs of 1 worker, at most 3 at a time (cpus=1 time=1:00:00)"),
        ],
    )
    def test_a_dry_run_counts_the_jobs_that_submitting_queues(self, tmp_path, capsys, options, line):
        results = tmp_path / "results"
        words = [
            "-m",
            "launcher=slurm_debug",
            "dataset=digits",
            "seed=range(10)",
            f"results_dir={results}",
            "sweep=one",
        ]
        words += [f"launcher.{option}" for option in options]
        assert main([*words, "dry_run=true"]) == 0
        assert line in capsys.readouterr().out.splitlines()
        assert main(words) == 0
        (script,) = results.glob("sweeps/one/jobs/debug_*.sh")
        arrays = re.findall(r"--array=0-(\d+)", script.read_text())
        assert f" in {int(arrays[0]) + 1 if arrays else 1} job" in line

    def test_retry_without_a_cluster_changes_nothing(self, cluster, command, tmp_path, capsys):
        results = tmp_path / "results"
        assert main(["launcher=slurm", "dataset=digits", "sweep=one", f"results_dir={results}"]) == 0
        (directory,) = run_directories(results)
        directory.set_status("failed", "by hand")
        command("squeue", "exit 0")
        command("scontrol", "echo 'scontrol: error: no controller' >&2; exit 1")
        before = everything(tmp_path)
        assert main(["retry", "one", "launcher=slurm", "--results-dir", str(results)]) == 2
        assert "launcher=slurm: Slurm does not answer" in capsys.readouterr().err
        assert everything(tmp_path) == before

    def test_but_a_job_whose_number_cannot_be_read_may_be_queued(self, cluster, command, tmp_path):
        command("sbatch", "echo queued it")
        assert main(["launcher=slurm", "dataset=digits", f"results_dir={tmp_path / 'results'}"]) == 2
        (run,) = (tmp_path / "results" / "runs").iterdir()
        assert (run / "config.yaml").is_file()


class TestCommands:
    def test_queued(self, command, tmp_path):
        command(
            "squeue",
            f'echo "$@" > {tmp_path}/words\necho "7_0 PENDING"; echo "7_3 RUNNING"; echo; echo "8 R U N"; echo "9 RUNNING"',
        )
        assert slurm.queued(["7_0", "7_3", "7_4", "8"]) == {"7_0": "PENDING", "7_3": "RUNNING"}
        assert "--jobs=7,8" in (tmp_path / "words").read_text()

    def test_jobs_that_squeue_has_forgotten(self, command):
        command("squeue", "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
        assert slurm.queued(["7"]) == {}

    @pytest.mark.parametrize("script", ["echo 'Unable to contact slurm controller' >&2; exit 1", "sleep 5"])
    def test_a_controller_that_does_not_answer(self, command, monkeypatch, script):
        monkeypatch.setattr(commands, "_SECONDS", 0.2)
        command("squeue", script)
        assert slurm.queued(["7"]) is None

    def test_no_squeue(self, command):
        assert slurm.queued(["7"]) is None
        assert slurm.queued([]) == {}

    def test_cancel(self, command, tmp_path):
        command("scancel", f'echo "$@" >> {tmp_path}/words; echo "scancel: error: Invalid job id 8" >&2; exit 1')
        slurm.cancel(["7_0", "7_1", "7_2", "7_5", "8", "-u me", "all"], "optbench-mine")
        slurm.cancel([], "optbench-mine")
        assert (tmp_path / "words").read_text() == "--name=optbench-mine 7_[0-2,5] 8\n"

    def test_cancel_where_it_cannot(self, command):
        with pytest.raises(UserError, match=r"scancel: .*No such file"):
            slurm.cancel(["7"], "optbench-mine")
        command("scancel", "echo 'scancel: error: Access/permission denied' >&2; exit 1")
        with pytest.raises(UserError, match="permission denied"):
            slurm.cancel(["7"], "optbench-mine")

    @pytest.mark.parametrize(
        ("said", "size"),
        [
            ("MaxArraySize            = 2000", 2000),
            ("MaxJobCount = 5\n  MaxArraySize=7\n", 7),
            ("", 1001),
            ("MaxArraySize = ?", 1001),
        ],
    )
    def test_max_array_size(self, command, said, size):
        command("scontrol", f"echo '{said}'")
        assert slurm.max_array_size() == size

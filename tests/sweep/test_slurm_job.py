"""A Slurm job and its workers, which are shell scripts here: its end, and its answer to a signal."""

import os
import signal
import time

import pytest

from optbench.sweep.launchers.slurm import job as job_module
from optbench.sweep.launchers.slurm.job import Job, JobFailed
from optbench.sweep.plan import Plan
from optbench.sweep.worker.events import Refused, RunEnded, RunStarted

RUN = "sgd-lenet5-digits-b128-s0-0123456789"


@pytest.fixture
def plan(tmp_path):
    plan = Plan(tmp_path / "results", "sweep")
    (plan.path / "jobs").mkdir(parents=True)
    plan.directory(RUN).create("batch: 128\n")
    return plan


@pytest.fixture
def task(monkeypatch):
    """Be the task of a Slurm job."""

    def be(rank=0, **environment):
        tasks = {"SLURM_JOB_ID": "77", "SLURM_NTASKS": "4", "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank % 2)}
        for name in ("SLURM_RESTART_COUNT", "CUDA_VISIBLE_DEVICES"):
            monkeypatch.delenv(name, raising=False)
        for name, value in {**tasks, **environment}.items():
            monkeypatch.setenv(name, value)

    be()
    return be


@pytest.fixture
def worker(tmp_path, monkeypatch, task):
    """Have a shell script take the place of `python -m optbench.sweep.worker.process`; returns the words that it was given."""

    def write(script):
        path = tmp_path / "python"
        # The last word is the file descriptor of the reports.
        lines = [
            "#!/bin/bash",
            f'echo "$@" > {tmp_path}/words',
            f"env > {tmp_path}/environment",
            'report="${@: -1}"',
            script,
        ]
        path.write_text("\n".join(lines))
        path.chmod(0o755)
        monkeypatch.setattr(job_module.sys, "executable", str(path))
        return lambda: (tmp_path / "words").read_text().split()

    monkeypatch.setattr(job_module, "_LOOK_SECONDS", 0.01)
    return write


def reporting(*events):
    return "\n".join(f"echo '{event.line().decode().strip()}' >&$report" for event in events)


def job_of(plan, **changes):
    return Job(**{"results_dir": str(plan.results_dir), "name": plan.name, "runs": "runs.txt", "limit": 3, **changes})


class TestWords:
    def test_of_workers(self, plan, worker, tmp_path):
        words = worker("exit 0")
        job_of(plan, first=4, workers=2, cpus=7, max_retries=5)()
        given = " ".join(words())
        assert given.startswith(
            f"-P -m optbench.sweep.worker.process {plan.results_dir} sweep --max-retries 5 --threads 3 "
        )
        assert "--runs runs.txt --first 4 --limit 3 --workers 2 --report-to" in given
        assert "OMP_NUM_THREADS=3\n" in (tmp_path / "environment").read_text()

    @pytest.mark.parametrize(("visible", "devices"), [(None, "0,1"), ("3,5", "3,5"), ("GPU-a,GPU-b", "GPU-a,GPU-b")])
    def test_gpus_are_those_that_slurm_gave(self, plan, worker, task, visible, devices):
        task(**({"CUDA_VISIBLE_DEVICES": visible} if visible else {}))
        words = worker("exit 0")
        job_of(plan, gpus=2, workers=2)()
        assert words()[words().index("--devices") + 1] == devices

    @pytest.mark.parametrize(("environment", "attempt"), [({}, "77-0"), ({"SLURM_RESTART_COUNT": "2"}, "77-2")])
    def test_of_a_rank(self, plan, worker, task, environment, attempt):
        task(rank=3, **environment)
        words = worker("exit 0")
        job_of(plan, runs="", run=RUN, cpus=4)()
        meeting = plan.path / "jobs" / f"rendezvous-{attempt}-{RUN}"
        expected = f"--threads 4 --run {RUN} --rank 3 --local-rank 1 --world 4 --rendezvous {meeting} --report-to"
        assert expected in " ".join(words())
        assert "--devices" not in words()


class TestEnd:
    def test_all_well(self, plan, worker, capfd):
        worker(reporting(RunStarted(RUN, worker=0), RunEnded(RUN, "diverged", "loss is nan", 1.0, worker=0)))
        assert job_of(plan)() is None
        assert capfd.readouterr().out == f"{RUN}: worker 0 starts\n{RUN}: diverged: loss is nan\n"

    @pytest.mark.parametrize(
        ("script", "message"),
        [
            (
                reporting(
                    RunEnded("a", "done", worker=0),
                    RunEnded("b", "failed", "RuntimeError: no", worker=0),
                    RunEnded("c", "failed", worker=1),
                )
                + "\nexit 1",
                "2 of its runs failed: b: RuntimeError: no; c",
            ),
            (
                reporting(Refused("cannot write f: No space left")) + "\nexit 3",
                "cannot write f: No space",
            ),
            ("exit 70", "the workers ended with exit status 70; what they said is above"),
            ("kill -KILL $$", "the process of the workers was killed by SIGKILL"),
        ],
    )
    def test_a_job_that_failed_says_why(self, plan, worker, script, message):
        worker(script)
        with pytest.raises(JobFailed, match=message):
            job_of(plan)()
        assert plan.directory(RUN).status().state == "pending"

    def test_a_run_of_several_ranks_that_failed(self, plan, worker):
        plan.directory(RUN).set_status("failed", "ValueError: no")
        worker("exit 1")
        with pytest.raises(JobFailed, match=f"{RUN}: failed: ValueError: no"):
            job_of(plan, run=RUN)()

    @pytest.mark.parametrize(
        ("state", "becomes"), [("running", "failed"), ("preempted", "preempted"), ("done", "done")]
    )
    def test_a_rank_that_is_killed_marks_its_run(self, plan, worker, task, state, becomes):
        task(rank=1)
        plan.directory(RUN).set_status(state, "before")
        worker("kill -KILL $$")
        with pytest.raises(JobFailed, match=f"{RUN}: rank 1 was killed by SIGKILL"):
            job_of(plan, run=RUN)()
        status = plan.directory(RUN).status()
        assert (status.state, status.why) == (
            becomes,
            "rank 1 was killed by SIGKILL" if becomes == "failed" else "before",
        )


@pytest.mark.parametrize("script", ["exit 140", "exit 143", "kill -USR2 $$", "kill -TERM $$"])
class TestWorkersStoppedBySlurm:
    def test_the_job_waits_for_its_own_end(self, plan, worker, script, monkeypatch):
        monkeypatch.setattr(job_module, "_LINGER_SECONDS", 0.3)
        worker(script)
        began = time.monotonic()
        with pytest.raises(JobFailed, match=r"stopped by SIG(USR2|TERM), and the job was neither requeued nor ended"):
            job_of(plan)()
        assert time.monotonic() - began > 0.3

    def test_other_ranks_leave_it_to_rank_0(self, plan, worker, task, script):
        task(rank=1)
        plan.directory(RUN).set_status("running")
        worker(script)
        assert job_of(plan, run=RUN)() is None
        assert plan.directory(RUN).status().state == "running"


class TestCheckpoint:
    def interrupted(self, job):
        """Call ``job`` as submitit does, whose handler calls checkpoint() and leaves; returns what that returned."""
        answers = []

        def handler(number, frame):
            answers.append(job.checkpoint())
            raise SystemExit

        kept = signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        try:
            with pytest.raises(SystemExit):
                job()
        finally:
            signal.signal(signal.SIGALRM, kept)
        return answers[0]

    def test_tells_the_workers_and_waits_for_them(self, plan, worker, tmp_path):
        worker(f"trap 'sleep 0.3; echo saved > {tmp_path}/saved; exit 140' USR2\nwhile true; do sleep 0.02; done")
        job = job_of(plan, workers=2, cpus=4)
        delayed = self.interrupted(job)
        assert (tmp_path / "saved").read_text() == "saved\n"
        assert delayed.function == job
        assert delayed.function is not job
        assert delayed.function._child is None

    def test_workers_that_slurm_has_told_itself(self, plan, worker):
        worker("exit 140")
        job = job_of(plan)
        assert self.interrupted(job).function == job

    def test_waits_no_longer_than_slurm_does(self, plan, worker):
        worker("trap '' USR2\nwhile true; do sleep 0.02; done")
        job = job_of(plan, signal_delay=11)
        began = time.monotonic()
        self.interrupted(job)
        assert 1.4 < time.monotonic() - began < 5
        os.kill(job._child.pid, signal.SIGKILL)
        job._child.wait()

"""In an empty folder with only the wheel installed: one's own optimizers, model, images, probe and study, wherever they run."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from tests.wheels import run

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.xdist_group("slurm"), pytest.mark.usefixtures("cluster")]

MADE = [
    ["optimizer", "own_adamw", "--base", "torch.optim.AdamW"],
    ["optimizer", "own_sgd"],
    ["model", "own_net"],
    ["probe", "own_angle"],
    ["experiment", "own_widths"],
]
OWN = ["--config-dir", "conf", "model=own_net", "dataset=folder", "dataset.path=flowers", "probe=own_angle"]
SHORT = ["batch=8", "budget.steps=4", "tracker=none", "evaluate_train=8"]
BOTH = ["-m", *OWN, *SHORT, "optimizer=own_adamw,own_sgd"]
SUBMITTED = ["launcher=slurm", "launcher.signal_delay=30", "launcher.workers=1"]


def draw(folder):
    """Two classes of 20 PNG files each: dark and bright squares."""
    image = pytest.importorskip("PIL.Image")
    generator = np.random.default_rng(0)
    for name, grey in (("dark", 50), ("bright", 150)):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            pixels = generator.integers(grey, grey + 50, (8, 8, 3), dtype=np.uint8)
            image.fromarray(pixels).save(folder / name / f"{number}.png")


class Place:
    """The folder, and the installation."""

    def __init__(self, folder, environment):
        self.folder, self.environment = folder, environment

    def optbench(self, *words):
        """Run a command there; returns what it printed."""
        return run(["-m", "optbench", *words], self.folder, **self.environment)

    def runs(self, **wanted):
        """The runs whose summaries have these values, each with its environment; all of them are done."""
        found = []
        for path in sorted((self.folder / "results" / "runs").glob("*/summary.json")):
            summary = json.loads(path.read_text())
            if wanted.items() <= summary.items():
                assert summary["status"] == "done"
                found.append(summary | json.loads((path.parent / "environment.json").read_text()))
        return found

    def ended(self, count, seconds=120, **wanted):
        """Those runs, once there are ``count``; fails where that takes too long."""
        until = time.time() + seconds
        while len(found := self.runs(**wanted)) < count:
            assert time.time() < until, self.optbench("status")
            time.sleep(0.2)
        return found


@pytest.fixture(scope="module")
def place(from_wheel, tmp_path_factory):
    made = Place(tmp_path_factory.mktemp("empty"), from_wheel)
    for words in MADE:
        made.optbench("new", *words)
    draw(made.folder / "flowers")
    return made


def assert_trained(runs):
    """They are of the two optimizers, were measured by the probe, and not computed by this checkout."""
    assert {summary["optimizer"] for summary in runs} == {"own_adamw", "own_sgd"}
    for summary in runs:
        assert (summary["model"], summary["dataset"]) == ("own_net", "flowers")
        assert -1 <= summary["own_angle_cosine"] <= 1
        assert summary["git"] is None


def test_it_is_the_wheel_that_is_used(place):
    file = run(["-c", "import optbench; print(optbench.__file__)"], place.folder, **place.environment).strip()
    assert Path(file).is_relative_to(place.environment["PYTHONPATH"])


def test_alone(place):
    for name in ("own_adamw", "own_sgd"):
        assert ": done\n" in place.optbench(*OWN, *SHORT, f"optimizer={name}", "seed=0")
    assert_trained(place.runs(seed=0, dataset="flowers"))


def test_in_a_local_sweep(place):
    place.optbench(*BOTH, "seed=1", "launcher.workers=1", "sweep=here")
    assert_trained(place.runs(seed=1, dataset="flowers"))
    place.optbench("report", "here", "--config-dir", "conf")
    assert "own_net" in (place.folder / "results" / "here" / "index.html").read_text()


def test_in_a_job_of_slurm(place):
    assert "2 runs in 1 job" in place.optbench(*BOTH, *SUBMITTED, "launcher.runs_per_job=2", "seed=2", "sweep=there")
    assert_trained(place.ended(2, seed=2, dataset="flowers"))


def test_the_study_here_and_in_a_job_of_slurm_with_its_analysis(place):
    words = ["-m", "--config-dir", "conf", "experiment=own_widths", "scale=smoke"]
    place.optbench(*words, "seed=0", "launcher.workers=1")
    assert len(place.runs(dataset="digits")) == 4
    assert "4 runs in 1 job" in place.optbench(*words, *SUBMITTED, "launcher.runs_per_job=4")
    place.ended(8, dataset="digits")
    place.optbench("report", "own_widths", "--scale", "smoke", "--config-dir", "conf")
    page = (place.folder / "results" / "own_widths-smoke" / "index.html").read_text()
    assert "The best is 0.3 for the width" in page


@pytest.mark.parametrize(
    "words",
    [
        "optimizer=own_adamw",
        "optimizer=own_sgd",
        "model=own_net",
        "dataset=folder dataset.path=flowers",
        "probe=own_angle",
    ],
)
def test_it_is_certified(place, words):
    program = f"from optbench.testing import certify; certify(*{words.split()}).check()"
    own = {"OPTBENCH_CONF": str(place.folder / "conf"), "OPTBENCH_PATH": str(place.folder)}
    run(["-c", program], place.folder, **place.environment, **own)

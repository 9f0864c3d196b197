"""Kills at random moments of runs, workers, supervisors and commands: nothing differs, is lost, done twice, or left."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SEED = 20261128


@pytest.mark.slow
@pytest.mark.timeout(1500)  # beside other work fifty take several minutes
@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.exhaustive)])
@pytest.mark.parametrize("kind", ["run", "worker", "supervisor", "command"])
def test_kills_at_random_moments_change_lose_repeat_and_leave_nothing(tmp_path, kind, kills):
    place = Path(__file__).parent
    command = [sys.executable, place / "killing.py", tmp_path, kind, str(kills), str(SEED)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(place.parents[1])}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1400, check=False)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found.pop("kills") == kills
    assert found.pop("runs") >= 2
    assert found == {"differing": [], "lost": [], "double": [], "litter": []}

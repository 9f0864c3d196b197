"""The script for GPUs runs in small on a CPU."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[1]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_all_parts_of_the_script_for_gpus(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHON", sys.executable)
    page = tmp_path / "gpu.md"
    done = subprocess.run([HERE / "benchmarks" / "gpu.sh", "--small", "--output", page], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in page.read_text().splitlines() if line[:1] == "|"
    ]
    kfac = [row for row in rows if row[0] == "kfac"]
    assert [row[1] for row in kfac] == ["fp32", "bf16"]
    assert all(float(row[2]) > 0 and float(row[4].replace(",", "")) > 0 for row in kfac)
    assert [row[0] for row in rows if row[0].isdigit()] == ["1", "4"]
    assert "skipped" in page.read_text()  # the tests marked gpu

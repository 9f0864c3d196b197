"""Commands whose output nobody takes: closed streams, readers that have read enough, full disks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from optbench.system import streams

ROOT = Path(__file__).parents[2]
TINY = "dataset=digits model=mlp budget.steps=4 eval_every=1 evaluate_train=64 tracker=none"


def shell(folder, script):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    script = script.replace("optbench", f"{sys.executable} -m optbench", 1)
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "end",
    [
        ">&- 2>&- <&-",
        "2>&1 | true",
        "> /dev/full",
        *(pytest.param(end, marks=pytest.mark.exhaustive) for end in (">&-", "| true")),
    ],
)
def test_a_run_goes_on_without_its_output(tmp_path, end):
    result = shell(tmp_path, f"optbench {TINY} {end}")
    assert result.returncode == 0
    assert result.stderr == ""
    [directory] = (tmp_path / "results" / "runs").iterdir()
    assert '"done"' in (directory / "status.json").read_text()
    for path in directory.rglob("*"):  # no file has got the number of a closed stream
        assert path.is_dir() or b"steps of 128 examples" not in path.read_bytes()


def test_a_command_whose_reader_has_read_enough_ends_in_silence(tmp_path):
    result = shell(tmp_path, "optbench list models | true")
    assert (result.returncode, result.stderr) in ((141, ""), (0, ""))


class _Broken:
    """A stream of number ``number`` to which nothing can be written."""

    encoding = "utf-8"

    def __init__(self, number):
        self.number, self.writes = number, 0

    def write(self, text=""):
        self.writes += 1
        raise BrokenPipeError(32, "Broken pipe")

    flush = write

    def fileno(self):
        return self.number

    def isatty(self):
        return False


def test_printing_to_a_broken_pipe_is_no_error_where_the_output_is_expendable(monkeypatch, tmp_path):
    with (tmp_path / "file").open("w") as file:
        broken = _Broken(file.fileno())
        monkeypatch.setattr(sys, "stdout", broken)
        with streams.expendable():
            print("a line")
            Console().print("another")
        assert sys.stdout is broken
        assert broken.writes > 0
        assert Path(f"/proc/self/fd/{file.fileno()}").readlink() == Path(os.devnull)
        with pytest.raises(BrokenPipeError):
            print("a line")

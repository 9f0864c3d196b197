"""Initial weights that end the process that asks for them: `init=sabotage init.how=kill` in the tests' own conf/."""

import faulthandler
import os
import shutil
import signal
from pathlib import Path

YAML = """\
_target_: sabotage.sabotage
name: sabotage
how: nothing
times: 1000                    # how often, before it leaves off
rank: 0                        # of several ranks, the one that does it
notes: "."                     # a folder to count in
info:
  about: a crash at the start of a run
  source: these tests
  schema:
    how: one of nothing, error, kill, segfault, exit
    times: int >= 0
    rank: int >= 0
    notes: str
"""


def install(conf, folder):
    """Copy the choices in ``conf`` to ``folder`` and add this one."""
    shutil.copytree(conf, folder)
    (folder / "init" / "sabotage.yaml").write_text(YAML)


def sabotage(model, generator, how, times, rank, notes):
    mark = Path(notes) / how
    done = len(mark.read_text()) if mark.exists() else 0
    if how == "nothing" or done >= times or int(os.environ.get("RANK", "0")) != rank:
        return
    mark.write_text("x" * (done + 1))
    if how == "error":
        raise RuntimeError("sabotage")
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "segfault":
        faulthandler._sigsegv()
    os._exit(5)

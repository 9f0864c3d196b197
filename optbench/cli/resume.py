"""`resume`: continue one run from the configuration that was frozen when it started."""

import re
from collections.abc import Sequence

from optbench import config as configuration
from optbench.cli.parser import Parser
from optbench.config import Config
from optbench.errors import UserError
from optbench.store import find

# Settings that a results folder, which may be somebody else's, does not decide alone.
_SETTINGS = ("tracker", "data_dir")
_DESCRIPTION = """\
Continue a run here that was stopped or paused, that failed or whose process died: from its last checkpoint, with its frozen
configuration, as the command that started it would. A run that has ended is only shown. `retry SWEEP --run RUN` continues a run
with the launcher of its sweep.
"""


def read(words: Sequence[str]) -> Config:
    """The configuration of the run that `resume RUN` names, to be trained in this process.

    Raises UserError if the configuration is not valid here, or sends to a tracker's account that was not typed.
    """
    parser = Parser(prog="optbench resume", description=_DESCRIPTION)
    parser.add_argument("run", metavar="RUN", help="a run id, or a unique beginning or end of one")
    parser.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help=f"of the machine: {', '.join(_SETTINGS)} and their options"
    )
    parser.add_results_dir()
    given = parser.parse_intermixed_args(list(words))
    for word in given.settings:
        if "=" not in word or re.split(r"[.=]", word)[0] not in _SETTINGS:
            raise UserError(
                f"{word}: not a setting of the command resume; accepted: {', '.join(_SETTINGS)}, as KEY=VALUE; another "
                "science is another run"
            )
    run = find(given.results_dir, given.run)
    frozen = configuration.thaw(run)
    command = f"resume {run.run_id}"
    tracker = configuration.settle("tracker", frozen["tracker"], given.settings, command)
    places = [word for word in given.settings if word.startswith("data_dir=")]
    data_dir = configuration.compose(places)["data_dir"] if places else frozen["data_dir"]
    # Requests of the first command about finished runs are not repeated.
    once = {"force": False, "retry": "none", "dry_run": False}
    return {**frozen, **once, "data_dir": data_dir, "tracker": tracker}

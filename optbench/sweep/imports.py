"""Import the targets of a sweep's own choices, before its runs are frozen, in a process like those that will train them.

    python -m optbench.sweep.imports '{"optimizer": "my_optimizer.Mine"}'

That process has the import path of a worker, and keeps its imports, which may include torch, out of the planning process. The
choices of optbench are not imported: their targets are known to exist.
"""

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from optbench.config import Config, own_places, own_targets
from optbench.config.children import environment
from optbench.config.targets import imported
from optbench.errors import UserError
from optbench.system.file_cache import looking_once

_REFUSED = 2
_MOST_SECONDS = 300.0


def check(configs: Iterable[Config]) -> None:
    """Raise UserError for the first target of the user's own choices in ``configs`` that a worker could not import."""
    if not own_places():
        return
    with looking_once():
        named = {target: where for config in configs for where, target in own_targets(config).items()}
    if not named:
        return
    command = [sys.executable, "-P", "-m", "optbench.sweep.imports", json.dumps(named)]
    try:
        done = subprocess.run(
            command,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_MOST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UserError(
            f"{_listed(named)}: not imported after {_MOST_SECONDS:g} s; accepted: a quicker import"
        ) from None
    said = done.stderr.decode(errors="replace").strip().splitlines() or [""]
    if done.returncode == _REFUSED:
        raise UserError(said[-1])
    if done.returncode:
        raise UserError(
            f"{_listed(named)}: the process that imported it ended with exit status {done.returncode}: {said[-1]}"
        )


def _listed(named: dict[str, str]) -> str:
    return ", ".join(f"{where}._target_={target}" for target, where in named.items())


def main(arguments: Sequence[str] | None = None) -> int:
    """Import the targets that the single argument names; returns 2, with a message as the last line, if one fails."""
    (text,) = sys.argv[1:] if arguments is None else arguments
    named: dict[str, Any] = json.loads(text)
    for target, where in named.items():
        try:
            imported(target, where)
        except UserError as error:
            print(" ".join(str(error).split()), file=sys.stderr)
            return _REFUSED
    return 0


if __name__ == "__main__":
    sys.exit(main())

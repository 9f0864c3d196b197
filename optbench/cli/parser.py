"""The argument parser of the commands: a mistake gives one message, as in the rest of optbench."""

import argparse
from typing import Any

from optbench.config import folder, look_in
from optbench.errors import UserError


class Parser(argparse.ArgumentParser):
    """An `argparse.ArgumentParser` that raises `UserError`; the original prints its usage and exits.

    Descriptions keep their line breaks.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)
        self.add_argument(
            "--config-dir",
            "-cd",
            type=lambda value: look_in([value]),
            metavar="DIR",
            help="a folder of your own choices, as for a run",
        )

    def error(self, message: str) -> Any:
        """Raise `UserError` with ``message`` and the usage."""
        raise UserError(f"{self.prog.removeprefix('optbench ')}: {message}; {' '.join(self.format_usage().split())}")

    def add_results_dir(self) -> None:
        """Add the option --results-dir, which almost every command has."""
        self.add_argument(
            "--results-dir",
            default="results",
            type=lambda value: folder(value, "--results-dir "),
            metavar="DIR",
            help="where the runs are (default: results)",
        )

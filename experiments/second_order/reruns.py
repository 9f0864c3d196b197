"""Print the commands that train the chosen options on more seeds: `python experiments/second_order/reruns.py`."""

import argparse

from analysis import gathered
from second_order_choices import PARTS, commands, scored

from optbench.analysis.study import Study
from optbench.errors import UserError


def main() -> None:
    """Print a command for each method with runs, of every study or of the named one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results-dir", default="results")
    parser.add_argument("--study", choices=[part.name for part in PARTS], help="only this one")
    given = parser.parse_args()
    for part in PARTS:
        if given.study not in (None, part.name):
            continue
        try:
            study = Study.read(given.results_dir, part.experiments[0])
        except UserError:  # the sweep has not been started
            continue
        print("\n".join(commands(part, scored(part, *gathered(part, study)))))


if __name__ == "__main__":
    main()

"""Print the commands that train what was chosen on further seeds: `python experiments/second_order/reruns.py`."""

import argparse

from analysis import gathered
from second_order_choices import PARTS, commands, scored

from optbench.analysis.study import Study
from optbench.errors import UserError


def main() -> None:
    """Print a command for each method of every study, or of the one that is named, that has runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results-dir", default="results")
    parser.add_argument("--study", choices=[part.name for part in PARTS], help="only this one")
    given = parser.parse_args()
    for part in PARTS:
        if given.study not in (None, part.name):
            continue
        try:
            study = Study.read(given.results_dir, part.experiments[0])
        except UserError:  # has not been started
            continue
        print("\n".join(commands(part, scored(part, *gathered(part, study)))))


if __name__ == "__main__":
    main()

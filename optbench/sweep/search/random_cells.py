"""search=random: cells of the grids in random order, up to a budget."""

import random
from collections.abc import Iterator, Sequence

from optbench.sweep.search.budget import Budget
from optbench.sweep.search.method import Answer, Choice, Options, Pick, Problem, Seen


class RandomCells:
    """Chooses cells of all grids without replacement, each with the same probability.

    The sequence depends on the seed alone, so that a larger budget continues a smaller one.
    """

    needs_evaluations = False

    def check(self, problem: Problem, options: Options) -> None:
        """Raise UserError for a budget that pays for no cell."""
        Budget.of(options["budget"], problem).check()

    def choose(self, problem: Problem, seen: Sequence[Seen], options: Options) -> Choice:
        """The next cells of the sequence that the budget can pay."""
        budget = Budget.of(options["budget"], problem)
        known = {each.pick.key for each in seen}
        spent = budget.spent(seen)
        picks: list[Pick] = []
        for pick in _shuffled(problem, options.seed):
            if pick.key in known or not problem.exists(pick):
                continue
            spent += budget.price(pick)
            if spent > budget.limit:
                return Choice(tuple(picks), "" if picks else budget.why)
            picks.append(pick)
            if len(picks) == options.round_size:
                return Choice(tuple(picks))
        return Choice(tuple(picks), "" if picks else "every cell is chosen")

    def answer(self, problem: Problem, seen: Sequence[Seen], options: Options) -> Answer:
        """The best cell so far, of one run."""
        ended = [each for each in seen if each.state == "done" and each.value is not None]
        if not ended:
            return Answer("no run has ended yet")
        best = (max if problem.higher else min)(ended, key=lambda each: each.value or 0.0)
        place = " ".join(f"{key}={text}" for key, text in best.pick.cell.items())
        return Answer(f"best of {len(ended)} cells: {best.value:.4g} at {place}")


def _shuffled(problem: Problem, seed: int) -> Iterator[Pick]:
    """All cells in random order, by Fisher and Yates' shuffle, which keeps only the places that it has exchanged."""
    draw = random.Random(seed)
    count = sum(grid.size for grid in problem.grids)
    moved: dict[int, int] = {}
    for place in range(count):
        other = draw.randrange(place, count)
        chosen = moved.get(other, other)
        moved[other] = moved.get(place, place)
        yield _at(problem, chosen)


def _at(problem: Problem, place: int) -> Pick:
    """The cell number ``place``, counted over all grids, the last axis fastest."""
    for grid in problem.grids:
        if place < grid.size:
            cell = {}
            for key, values in reversed(list(grid.axes.items())):
                place, index = divmod(place, len(values))
                cell[key] = values[index]
            return Pick({key: cell[key] for key in grid.axes}, grid.name)
        place -= grid.size
    raise IndexError(place)

"""search=halving: successive halving over the settings of a grid, with rungs by pause and exact resume."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import chain, count, islice, product, takewhile

from optbench.config import GROUPS
from optbench.errors import UserError, nearest
from optbench.sweep.search.method import Answer, Choice, Grid, Options, Problem, Seen
from optbench.sweep.search.rungs import Bracket, Standing, Words

_SEED, _TRIAL, _DEFAULTS = "seed", "trial", "0"
_MOST_NAMED = 4  # brackets in the sentence


class Halving:
    """Successive halving (Jamieson & Talwalkar 2016), synchronous, in brackets that are apart from each other.

    A setting is a combination of all axes but the seed. All n settings of a bracket are trained to rung 0. From rung k - 1 the
    best max(1, floor(n / factor^k)) go on to rung k = 1, ..., K - 1, and all others stay paused. Rung k is the first evaluation
    at or after the share factor^(k+1-K) of a run (with the option `first`: first * factor^k); the last one is its end.

    With `rungs` 1 all settings are trained to their end, and the best one is chosen there. With `confirm` the last so many seeds
    of the axis have no part in this: when a bracket is decided they are trained of its best setting, whose result on the seeds
    that chose it is optimistic, and with `confirm_defaults` of trial 0, too.

    A setting's value is the mean, over its seeds, of the goal in the evaluation at the rung, not the best one so far. A run that
    diverged is worse than all others, a setting with such a seed too, and it is not continued. A run that failed is left out; a
    setting all of whose runs failed has no place. Settings that tie are taken in the order of the grid.
    """

    needs_evaluations = True

    def check(self, problem: Problem, options: Options) -> None:
        """Raise UserError for options that contradict the grid, or where runs have too few evaluations for the rungs."""
        if options.values.get("target") is not None:
            raise UserError(
                f"search.target={options['target']}: search=halving compares evaluations at its rungs, not times to a target; "
                "accepted: null"
            )
        if options["rungs"] != "auto" and options["first"] != "auto":
            raise UserError(
                f"search.rungs={options['rungs']} and search.first={options['first']}: each follows from the other; accepted: "
                "one of them"
            )
        axes = dict.fromkeys(axis for grid in problem.grids for axis in grid.axes)
        for axis in _within(problem, options):
            if axis not in axes or axis == _SEED:
                raise UserError(
                    f"search.within=[{axis}]: no such axis of the grid; {nearest(axis, [name for name in axes if name != _SEED])}"
                )
        for grid in problem.grids:
            for axis in grid.intervals:
                raise UserError(
                    f"{axis}: search=halving compares settings that the grid lists, and an interval lists none; accepted: "
                    "values, or 'trial=range(64)' for points of the optimizer's search space"
                )
        _check_confirmation(problem, options)
        brackets = _brackets(problem, options)
        largest = max((len(bracket.settings) for bracket in brackets), default=0)
        if largest < options["factor"]:
            raise UserError(
                f"search.factor={options['factor']}: at most {largest} settings compete in a bracket; accepted: so many settings "
                "or more, or search.within with fewer axes"
            )
        for bracket in brackets:
            for pick in bracket.first_of_each_length():
                problem.rungs(pick, bracket.shares[:-1])

    def choose(self, problem: Problem, seen: Sequence[Seen], options: Options) -> Choice:
        """The runs that are due, those of the highest rungs first, then those of new seeds, up to the size of a round."""
        stands = _stands(problem, seen, options)
        in_turn = sorted(stands, key=lambda stand: -len(stand.complete))
        due = chain.from_iterable(stand.due for stand in in_turn)
        new = chain.from_iterable(stand.unconfirmed() for stand in stands)
        picks = tuple(islice(chain(due, new), options.round_size))
        if picks or not all(stand.is_confirmed for stand in stands):
            return Choice(picks)
        return Choice(why="its bracket is decided" if len(stands) == 1 else f"all {len(stands)} brackets are decided")

    def answer(self, problem: Problem, seen: Sequence[Seen], options: Options) -> Answer:
        """The best setting of each bracket so far; a row for each setting at each rung that is complete.

        The columns of the rows: bracket, setting, rung (from 1), steps, value (the mean over the seeds, None if one diverged),
        rank (from 1), promoted (if it was continued), seeds, and the numbers of those that diverged and failed before the rung.
        """
        stands = _stands(problem, seen, options)
        lines = [f"{stand.bracket.title}{stand.line()}" for stand in stands]
        if len(lines) > _MOST_NAMED:
            lines = [f"{sum(stand.is_over for stand in stands)} of {len(stands)} brackets are decided"]
        if failed := sum(each.state == "failed" for each in seen):
            lines.append(f"{failed} failed {'run is' if failed == 1 else 'runs are'} left out")
        return Answer("; ".join(lines), tuple(row for stand in stands for row in stand.rows()))


def _stands(problem: Problem, seen: Sequence[Seen], options: Options) -> list["Standing"]:
    return [Standing(bracket, problem, seen) for bracket in _brackets(problem, options)]


def _check_confirmation(problem: Problem, options: Options) -> None:
    """Raise UserError if a grid has too few seeds for the confirmation, or no defaults to confirm."""
    confirm = options["confirm"]
    if options["confirm_defaults"] and not confirm:
        raise UserError(
            "search.confirm_defaults=true: has no effect without search.confirm; accepted: false, or search.confirm=5"
        )
    for grid in problem.grids if confirm else ():
        seeds = len(grid.axes.get(_SEED, ()))
        if seeds <= confirm:
            raise UserError(
                f"search.confirm={confirm}: these are the last seeds of the axis, which has {seeds}; accepted: an axis seed with "
                f"more, such as 'seed=range({confirm + 1})'"
            )
        if options["confirm_defaults"] and _DEFAULTS not in grid.axes.get(_TRIAL, ()):
            raise UserError(
                "search.confirm_defaults=true: no axis trial with the value 0, the defaults; accepted: false, or "
                "'trial=range(12)'"
            )


def _within(problem: Problem, options: Options) -> list[str]:
    """The axes that keep settings apart."""
    if options["within"] != "auto":
        return list(options["within"])
    return list(dict.fromkeys(axis for grid in problem.grids for axis in grid.axes if axis in GROUPS))


def _brackets(problem: Problem, options: Options) -> list[Bracket]:
    apart, found = _within(problem, options), []
    for grid in problem.grids:
        fixed = [axis for axis in grid.axes if axis in apart]
        compared = [axis for axis in grid.axes if axis not in apart and axis != _SEED]
        settings, seeds = _combinations(grid, compared), _combinations(grid, [_SEED] if _SEED in grid.axes else [])
        seeds, new = seeds[: len(seeds) - options["confirm"]], seeds[len(seeds) - options["confirm"] :]
        always = [each for each in settings if (_TRIAL, _DEFAULTS) in each] if options["confirm_defaults"] else []
        for words in _combinations(grid, fixed):
            bracket = Bracket(grid, words, settings, seeds, (1.0,), options["factor"], new, tuple(always))
            found.append(replace(bracket, shares=_shares(bracket, problem, options)))
    return found


def _combinations(grid: Grid, axes: Sequence[str]) -> tuple[Words, ...]:
    return tuple(tuple(zip(axes, values, strict=True)) for values in product(*(grid.axes[axis] for axis in axes)))


def _shares(bracket: Bracket, problem: Problem, options: Options) -> tuple[float, ...]:
    """The shares of a run at the rungs of a bracket, ascending to 1."""
    factor, rungs, first = bracket.factor, options["rungs"], options["first"]
    if first != "auto":
        return (*takewhile(lambda share: share < 1 - 1e-9, (first * factor**k for k in count())), 1.0)
    if rungs != "auto":
        return _powers(factor, rungs)
    most = next(k for k in count() if len(bracket.settings) < factor ** (k + 1)) + 1
    for rungs in range(most, 2, -1):
        with suppress(UserError):  # runs may be evaluated too seldom for so many
            problem.rungs(bracket.pick(bracket.settings[0], bracket.seeds[0]), _powers(factor, rungs)[:-1])
            return _powers(factor, rungs)
    return _powers(factor, min(most, 2))


def _powers(factor: int, rungs: int) -> tuple[float, ...]:
    return tuple(factor**-k for k in range(rungs - 1, -1, -1))

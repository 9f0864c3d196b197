"""search=verdict: as many seeds as it takes to tell two settings apart, or to call them equal."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optbench.analysis.statistics.sequential import FIRST, Rule
from optbench.errors import UserError
from optbench.sweep.search.method import Answer, Choice, Options, Pick, Problem, Seen
from optbench.sweep.search.pairs import SEED, Comparison, common_seeds, compared, count_settings, settings

_MOST_PAIRS = 500
_MOST_SPOKEN = 3  # pairs in the sentence of the live table
_PER_CENT = 100


class SequentialVerdict:
    """Compares settings, all combinations of the values of the axes but the seed, in pairs, and adds seeds until each is decided.

    A pair is decided if its first setting is told to be better or worse, or closer to the second one than the margin. Seeds
    are added in blocks, one seed of every setting of which a pair is undecided, as many blocks in a round as it has room for. The
    verdicts are those of `optbench.analysis.statistics.sequential`, at the level alpha / K for K pairs.

    The first seeds, which decide nothing, are chosen without waiting; after them a round waits for the last one, so that no run
    is trained for a pair that is decided.

    A diverged run counts as chance, the value before the first step; a failed one has no outcome, and its seed is left out.
    With a target the values are times, and runs that did not reach it count as the least horizon.
    """

    needs_evaluations = False

    def check(self, problem: Problem, options: Options) -> None:
        """Raise UserError for axes without seeds or with a single setting, and for options that contradict each other."""
        for grid in problem.grids:
            if grid.intervals:
                raise UserError(
                    f"{next(iter(grid.intervals))}: search=verdict compares listed settings, and an interval lists none; "
                    "accepted: values such as 0.01,0.1"
                )
            if SEED not in grid.axes:
                raise UserError(
                    "seed: search=verdict adds seeds, and there is no axis of them; accepted: seed=range(20)"
                )
        seeds = min(len(common_seeds(problem)), options["maximum"])
        if seeds < FIRST:
            raise UserError(
                f"seed: {seeds} values; search=verdict gives no verdict before {FIRST}; accepted: seed=range(20)"
            )
        count = sum(count_settings(grid) for grid in problem.grids)
        if count < 2:
            raise UserError("search=verdict: there is one setting; accepted: two or more, such as optimizer=adam,muon")
        pairs = count - 1 if options["pairs"] == "first" else count * (count - 1) // 2
        if pairs > _MOST_PAIRS:
            raise UserError(
                f"search.pairs={options['pairs']}: {count:,} settings make {pairs:,} pairs; accepted: at most {_MOST_PAIRS}, "
                "for which search.pairs=first compares the first setting alone with each other one"
            )
        if options["examples"] is not None and _unit(options) != "points":
            raise UserError(
                f"search.examples={options['examples']}: only accuracies are rounded to shares of examples; accepted: null, or "
                "search.goal=validation_accuracy without a target"
            )
        if options["noise"] == "symmetric" and options["deviation"] is None:
            raise UserError(
                "search.deviation=null: search.noise=symmetric needs the standard deviation of a difference, guessed before the "
                "runs to a factor of 2; accepted: a number above 0"
            )

    def choose(self, problem: Problem, seen: Sequence[Seen], options: Options) -> Choice:
        """The next seeds of all settings of which a pair is undecided."""
        pairs = self._compared(problem, seen, options)
        undecided = [pair for pair in pairs if pair.outcome == "undecided"]
        if not undecided:
            return Choice(why="the pair is decided" if len(pairs) == 1 else f"all {len(pairs)} pairs are decided")
        wanted = {setting for pair in undecided for setting in (pair.first, pair.second)}
        active = [setting for setting in settings(problem) if setting in wanted]
        seeds = common_seeds(problem)[: options["maximum"]]
        chosen = {each.pick.key for each in seen}
        # Undecided settings have always had the same seeds.
        started = [place for place, seed in enumerate(seeds) if any(one.pick(seed).key in chosen for one in active)]
        had = max(started, default=-1) + 1
        if had >= FIRST and any(each.state == "waiting" for each in seen):
            return Choice()
        blocks = max(1, options.round_size // len(active))
        picks: list[Pick] = []
        for seed in seeds[had:]:
            new = [pick for pick in (setting.pick(seed) for setting in active) if problem.exists(pick)]
            picks += new
            blocks -= bool(new)
            if blocks == 0:
                break
        if picks:
            return Choice(tuple(picks))
        return Choice(why=f"{len(undecided)} of {len(pairs)} pairs undecided after all {len(seeds)} seeds")

    def answer(self, problem: Problem, seen: Sequence[Seen], options: Options) -> Answer:
        """The state of all pairs; curves of the estimates and their bounds over the number of seeds."""
        pairs = self._compared(problem, seen, options)
        undecided = [pair for pair in pairs if pair.outcome == "undecided"]
        # The one that keeps the search going, if there are too many to name.
        spoken = pairs if len(pairs) <= _MOST_SPOKEN else undecided[:1]
        sentences = [_sentence(pair, _unit(options)) for pair in spoken]
        if len(pairs) > 1:
            sentences.insert(0, f"{len(pairs) - len(undecided)} of {len(pairs)} pairs decided")
        rows = tuple(_row(pair, _unit(options)) for pair in pairs)
        return Answer("; ".join(sentences), rows, tuple(point for pair in pairs for point in _curve(pair)))

    def _compared(self, problem: Problem, seen: Sequence[Seen], options: Options) -> list[Comparison]:
        scale = _scale(options)
        seeds = len(common_seeds(problem))
        rule = Rule(
            margin=options["margin"],
            alpha=options["alpha"],
            beta=options["beta"],
            maximum=min(options["maximum"], seeds),
            noise=options["noise"],
            resolution=scale / options["examples"] if options["examples"] else 0.0,
            deviation=options["deviation"] or math.nan,
        )
        return compared(problem, seen, rule, options["pairs"], scale, options["target"] is not None)


def _unit(options: Options) -> str:
    if options["target"] is not None:
        return "steps"
    return "points" if str(options["goal"]).endswith("accuracy") else ""


def _scale(options: Options) -> float:
    """Accuracies are shares; differences and margins are in points, per cent."""
    return _PER_CENT if _unit(options) == "points" else 1


def _sentence(pair: Comparison, unit: str) -> str:
    found = pair.verdict
    names = f"{pair.first.name} - {pair.second.name}"
    if pair.outcome == "failed":
        return f"{names}: no run of one of them has an outcome after {len(pair.runs)} seeds"
    if not found.n:
        return f"{names}: no seed has ended yet"
    bounds = "" if math.isinf(found.high) else f" [{found.low:.3g}, {found.high:.3g}]"
    words = {
        "better": f"{pair.first.name} is better",
        "worse": f"{pair.second.name} is better",
        "within": f"within the margin of {pair.rule.margin}",
        "undecided": "undecided",
    }[found.outcome]
    failures = ""
    if any(pair.failures):
        first, second = pair.failures
        failures = f" ({first} and {second} of {len(pair.runs)} runs failed)"
    seeds = "1 seed" if found.n == 1 else f"{found.n} seeds"
    return f"{names}: {found.estimate:.3g}{bounds}{unit and ' '}{unit} after {seeds}: {words}{failures}"


def _row(pair: Comparison, unit: str) -> Mapping[str, Any]:
    found, trained = pair.verdict, pair.trained
    row: dict[str, Any] = {
        "first": pair.first.name,
        "second": pair.second.name,
        "outcome": pair.outcome,
        "estimate": found.estimate,
        "low": found.low,
        "high": found.high,
        "unit": unit,
        "e": found.e,
        "e_within": found.e_within,
        "n": found.n,
        "maximum": found.maximum,
        "rho": found.rho,
        "failures_first": pair.failures[0],
        "failures_second": pair.failures[1],
        "failures_p": pair.failures_p,
        "estimate_trained": trained.estimate,
        "low_trained": trained.low,
        "high_trained": trained.high,
        "n_trained": trained.n,
    }
    if pair.times:
        first, second, p = pair.reached()
        row |= {"reached_first": first, "reached_second": second, "logrank_p": p}
    return row


def _curve(pair: Comparison) -> list[Mapping[str, Any]]:
    """The estimate and its bounds after each number of seeds up to that of the verdict, from the second on."""
    name = f"{pair.first.name} - {pair.second.name}"
    states = (pair.after(n) for n in range(2, pair.verdict.n + 1))
    return [
        {"pair": name, "n": each.n, "estimate": each.estimate, "low": each.low, "high": each.high} for each in states
    ]

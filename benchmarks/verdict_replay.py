"""Replay sequential verdicts: how often they are wrong, and how many seeds they take beside a fixed sample of the same power.

    python benchmarks/verdict_replay.py [--replays 100000] [--output benchmarks/verdict_replay.md]
    python benchmarks/verdict_replay.py --thresholds

Noise is drawn from distributions and from the committed runs of studies. In the first part the two arms of a replay have equal
means, in the second part their difference is a multiple of the margin. ``--thresholds`` computes the table of
`optbench.analysis.statistics.sequential`.
"""

import argparse
import json
import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import scipy
from scipy.special import stdtrit

from optbench.analysis.statistics.sequential import FIRST, Rule, normal_evidence
from optbench.provenance import environment

HERE = Path(__file__).parents[1]
CHUNK = 20_000
SEEDS = 20
SHIFTS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
Array = np.ndarray[Any, np.dtype[Any]]
# A draw: differences (replays, seeds) of arms with equal means, and the standard deviation of a difference for each replay.
Draw = Callable[[np.random.Generator, int, int], tuple[Array, Array]]

# ---- noise --------------------------------------------------------------------------------------------------------------


def of(distribution: Callable[[np.random.Generator, tuple[int, int]], Array], deviation: float) -> Draw:
    """Independent draws of one distribution with mean 0."""
    return lambda generator, replays, seeds: (distribution(generator, (replays, seeds)), np.full(replays, deviation))


def skewed(generator: np.random.Generator, shape: tuple[int, int]) -> Array:
    """The difference of two arms of which each has the noise exp(0.7 z)."""
    return np.exp(0.7 * generator.standard_normal(shape)) - np.exp(0.7 * generator.standard_normal(shape))


def unlike(generator: np.random.Generator, shape: tuple[int, int]) -> Array:
    """The difference of a skewed arm, with exponential noise, and one of a third of its deviation."""
    return generator.exponential(1, shape) - 1 - (generator.exponential(0.3, shape) - 0.3)


_SKEWED = float(np.sqrt(2 * (np.exp(0.98) - np.exp(0.49))))
NOISES: dict[str, Draw] = {
    "normal": of(lambda generator, shape: generator.standard_normal(shape), 1.0),
    "uniform": of(lambda generator, shape: generator.random(shape) - 0.5, float(np.sqrt(1 / 12))),
    "t with 4 degrees": of(lambda generator, shape: generator.standard_t(4, shape), float(np.sqrt(2))),
    "two skewed arms, log-normal": of(skewed, _SKEWED),
    "skewed arms of deviations 1 and 0.3, exponential": of(unlike, float(np.sqrt(1.09))),
}


def committed(study: str, metric: str) -> tuple[Array, Array]:
    """The values of all settings of a study whose runs all ended, less their means, (settings, seeds); and their problems."""
    runs = pd.read_parquet(HERE / "benchmarks" / "grids" / study / "runs.parquet")
    values, problems = [], []
    for (problem, _), rows in runs.groupby(["problem", "setting"], dropna=False):
        rows = rows.drop_duplicates("seed").sort_values("seed")
        found = rows[metric].to_numpy(float)
        if (rows["status"] == "done").all() and np.isfinite(found).all() and np.ptp(found) > 0:
            values.append(found)
            problems.append(str(problem))
    most = max(map(len, values))
    kept = [place for place, found in enumerate(values) if len(found) == most]
    means = np.array([values[place].mean() for place in kept])
    return np.array([values[place] for place in kept]) - means[:, None], np.array([problems[place] for place in kept])


def drawn_from(values: Array, problems: Array, how: str) -> Draw:
    """Differences of two settings of one problem, each with the mean 0, as differences of resampled runs.

    how: "same", of one setting twice; "arms", of two settings, whose seeds are resampled one by one; "seeds", with the same
    seeds in both; "pooled", of deviations of the runs of all settings of the problem, in units of their standard deviations,
    times those of the two settings.
    """
    count = values.shape[1]
    sds = values.std(1, ddof=1)

    def draw(generator: np.random.Generator, replays: int, seeds: int) -> tuple[Array, Array]:
        first = generator.integers(len(values), size=replays)
        second = first.copy()
        if how != "same":
            for place in range(replays):
                others = np.flatnonzero(problems == problems[first[place]])
                others = others[others != first[place]]
                second[place] = generator.choice(others)
        if how == "pooled":
            x = np.empty((replays, seeds))
            for problem in np.unique(problems):
                rows = np.flatnonzero(problems[first] == problem)
                pool = (values[problems == problem] / sds[problems == problem, None]).ravel()
                a, b = (generator.choice(pool, (len(rows), seeds)) for _ in range(2))
                x[rows] = a * sds[first[rows], None] - b * sds[second[rows], None]
            return x, np.hypot(sds[first], sds[second]) * np.sqrt((count - 1) / count)
        at = generator.integers(count, size=(2, replays, seeds))
        rows = np.arange(replays)[:, None]
        one, other = values[first], values[second]
        x = one[rows, at[0]] - other[rows, at[0] if how == "seeds" else at[1]]
        return x, (one - other).std(1) if how == "seeds" else np.hypot(one.std(1), other.std(1))

    return draw


# ---- replays ------------------------------------------------------------------------------------------------------------


def chunks(draw: Draw, replays: int, seeds: int, seed: int = 0) -> Iterator[Array]:
    """The replays of one noise in parts, scaled to a standard deviation of 1."""
    generator = np.random.default_rng(seed)
    for start in range(0, replays, CHUNK):
        x, deviation = draw(generator, min(CHUNK, replays - start), seeds)
        # Two settings whose runs all differ by the same amount have no noise.
        yield x / np.where(deviation > 0, deviation, 1)[:, None]


def ends(x: Array, rule: Rule) -> tuple[Array, Array, Array]:
    """For each replay the number of seeds at its end, whether it ended with better or worse, and whether within."""
    told, within = rule.decisions(x)
    done = told | within
    last = np.where(done.any(-1), done.argmax(-1), x.shape[-1] - 1)[:, None]
    return last[:, 0] + 1, np.take_along_axis(told, last, -1)[:, 0], np.take_along_axis(within, last, -1)[:, 0]


def null_row(name: str, draw: Draw, replays: int) -> tuple[list[float], str]:
    """The shares of wrong verdicts with each of `MARGINS`, and the line of the table."""
    rules = [Rule(margin=margin, maximum=SEEDS) for margin in MARGINS]
    wrong = [[ends(x, rule)[1].mean() for rule in rules] for x in chunks(draw, replays, SEEDS)]
    shares = [float(share) for share in np.mean(wrong, axis=0)]
    return shares, f"| {name} | {' | '.join(f'{share:.3f}' for share in shares)} |"


def t_test_power(x: Array) -> Array:
    """The share of replays in which a two-sided t-test at 0.05 of the first n differences rejects, for n = 2, 3, ..."""
    n = np.arange(1, x.shape[1] + 1)
    mean = x.cumsum(1) / n
    squares = (x**2).cumsum(1) - n * mean**2
    power: Array = (
        np.abs(mean[:, 1:]) > stdtrit(n[1:] - 1, 0.975) * np.sqrt(squares[:, 1:] / (n[1:] * (n[1:] - 1)))
    ).mean(0)
    return power


def costs(draw: Draw, replays: int, margin: float, seeds: int) -> tuple[list[float], str, list[str]]:
    """The seeds over those of a fixed sample at each true difference, a sentence on the latter, and the rows of the table."""
    rule = Rule(margin=margin, maximum=seeds)
    power = float(np.mean([ends(x + margin, rule)[1].mean() for x in chunks(draw, replays, seeds)]))
    fixed_powers = np.mean([t_test_power(x + margin) for x in chunks(draw, replays, 2 * seeds, seed=1)], axis=0)
    fixed = int(np.argmax(fixed_powers >= power)) + 2
    ratios, lines = [], []
    for shift in SHIFTS:
        found = [ends(x + shift * margin, rule) for x in chunks(draw, replays, seeds)]
        n, told, within = (np.concatenate([part[k] for part in found]) for k in range(3))
        # search.round=4 adds two seeds of two settings at a time.
        rounded = np.minimum(2 * np.ceil(n / 2), seeds)
        ratios.append(float(n.mean()) / fixed)
        numbers = [f"{n.mean():.1f}", *(f"{mean / fixed:.2f}" for mean in (n.mean(), rounded.mean()))]
        cells = [f"{shift:g} m", *numbers, f"{told.mean():.3f}", f"{within.mean():.3f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return ratios, f"A fixed sample of the same power, {power:.2f} at the margin, has {fixed} seeds.", lines


COSTS = (
    "| difference | seeds | over the fixed sample | in rounds of two seeds | better or worse | within |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: |"
)


def thresholds(replays: int) -> None:
    """Print the thresholds, the larger ones over normal and uniform noise."""
    numbers = (4, 5, 6, 8, 10, 12, 16, 20, 30, 40)
    found: dict[str, list[Array]] = {"normal": [], "uniform": []}
    for name, parts in found.items():
        for x in chunks(NOISES[name], replays, numbers[-1]):
            n = np.arange(1, numbers[-1] + 1)
            evidence = normal_evidence(x.cumsum(1), (x**2).cumsum(1), n)
            parts.append(np.stack([
                np.maximum.accumulate(log[:, FIRST - 1 :], 1)[:, np.array(numbers) - FIRST]
                for log in (evidence.two, evidence.above)
            ]))  # fmt: skip
    both = {name: np.concatenate(parts, axis=1) for name, parts in found.items()}
    for side, levels in enumerate(((0.1, 0.05, 0.02, 0.01, 0.005, 0.002), (0.3, 0.2, 0.1, 0.05, 0.02, 0.01))):
        for level in levels:
            points = np.max([np.exp(np.quantile(logs[side], 1 - level, axis=0)) for logs in both.values()], axis=0)
            print("two-sided" if side == 0 else "one-sided", level, *np.minimum(points, 1 / level).round(2))


def reached(wrong: dict[str, list[float]], ratios: dict[str, list[float]]) -> list[str]:
    """Compare the replays with the bars."""
    asked: list[tuple[str, dict[str, bool]]] = []
    for place, margin in enumerate(MARGINS):
        words = "without a margin" if margin is None else f"with a margin of {margin:g} sd"
        asked.append((f"at most 0.05 wrong {words}", {name: shares[place] < 0.0505 for name, shares in wrong.items()}))
    for shift, most, words in (
        (0.0, 0.7, "30 % fewer seeds at no difference"),
        (2.0, 0.7, "30 % fewer at twice the margin"),
    ):
        asked.append((words, {name: found[SHIFTS.index(shift)] <= most for name, found in ratios.items()}))
    at_margin = {name: found[SHIFTS.index(1.0)] <= 1 for name, found in ratios.items()}
    asked.append(("no more seeds than the fixed sample at the margin", at_margin))
    lines = ["## Asked and reached", "", "| asked | met by | missed by |", "| --- | ---: | --- |"]
    for words, met in asked:
        missed = "; ".join(name for name, there in met.items() if not there)
        lines.append(f"| {words} | {sum(met.values())} of {len(met)} | {missed} |")
    return lines


def report(replays: int) -> str:
    """The page."""
    lines = [
        "# Sequential verdicts: errors and costs",
        "",
        f"`python benchmarks/verdict_replay.py --replays {replays}` on {environment.processor()}; numpy {np.__version__}, scipy "
        f"{scipy.__version__}, Python {platform.python_version()}.",
        "",
        f"The verdicts of `search=verdict` with alpha 0.05, beta 0.2 and at most {SEEDS} seeds unless said. Margins are in",
        "standard deviations of a difference (sd). All shares are of replays.",
        "",
        "## Two arms with equal means",
        "",
        "The share of verdicts of better or worse, which are wrong. Asked: at most 0.05.",
        "",
        WRONG,
    ]
    wrong: dict[str, list[float]] = {}
    for name, draw in NOISES.items():
        wrong[name], line = null_row(name, draw, replays)
        lines.append(line)
    for study, metric in STUDIES:
        values, problems = committed(study, metric)
        lines += [
            "",
            f"Runs of {study}, {metric.replace('_', ' ')}: {len(values)} settings, {values.shape[1]} seeds each.",
            "",
            WRONG,
        ]
        for how, words in HOW.items():
            wrong[f"{study}, {words}"], line = null_row(words, drawn_from(values, problems, how), replays)
            lines.append(line)
    ratios: dict[str, list[float]] = {}
    lines += ["", "## Costs", ""]
    for margin, seeds in ((1.0, 20), (0.75, 30)):
        for name in ("normal", "t with 4 degrees"):
            ratios[f"{name}, margin {margin:g} sd"], sentence, rows = costs(NOISES[name], replays, margin, seeds)
            lines += [
                f"Noise: {name}; the margin m is {margin:g} sd, at most {seeds} seeds. {sentence}",
                "",
                COSTS,
                *rows,
                "",
            ]
    lines += [*reached(wrong, ratios), ""]
    rounded = {
        part: {name: [round(share, 4) for share in shares] for name, shares in found.items()}
        for part, found in (("wrong", wrong), ("seeds", ratios))
    }
    lines.append(json.dumps(rounded))
    return "\n".join(lines) + "\n"


MARGINS = (None, 0.5, 1.0)
WRONG = "| noise of the differences | no margin | margin 0.5 sd | margin 1 sd |\n| --- | ---: | ---: | ---: |"
STUDIES = (
    ("generalization_gap", "test_accuracy"),
    ("optimizer_comparison", "test_accuracy"),
    ("scaling_rules", "validation_loss"),
)
HOW = {
    "same": "one setting twice",
    "pooled": "two settings, deviations pooled",
    "arms": "two settings, runs resampled in each",
    "seeds": "two settings, seeds resampled",
}


def main() -> None:
    """Print the page, or write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--replays", type=int, default=100_000)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--thresholds", action="store_true")
    given = parser.parse_args()
    if given.thresholds:
        thresholds(given.replays)
        return
    page = report(given.replays)
    print(page, end="")
    if given.output:
        given.output.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()

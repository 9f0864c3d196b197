"""Gradient descent at the edge of stability: the largest eigenvalue, growth along directions, and the drop at a decayed rate."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from multiscale_charts import KINDS, decay_chart, edge_chart, growth_chart, magnitudes_chart
from multiscale_claims import claims

from optbench.analysis.findings import Findings
from optbench.analysis.statistics.intervals import Interval, student
from optbench.analysis.statistics.settings import seeds_only
from optbench.analysis.study import Measurement, Study

QUESTION = (
    "Does the loss grow more slowly than a quadratic along the directions in which gradient descent oscillates at the edge of "
    "stability, and does it drop when the learning rate decays?"
)
TWO_MAGNITUDES = Path(__file__).with_name("two_magnitudes.csv")
#: The criteria: distance of η λ₁/2 from 1; the exponent that tells subquadratic growth from quadratic, and the distance at which
#: it is taken, in norms of the weights; the drop of the loss.
EDGE, SUBQUADRATIC, DISTANCE, DROP = 0.05, 1.9, 0.05, 0.1
#: Steps after the decay over which losses are averaged, an even number: the loss of a cycle of two steps alternates.
AFTER = range(11, 21)
SHARP, BROAD = ("top", "oscillation"), ("random", "normalized")


@dataclass
class Descent:
    """Gradient descent with one rate and seed: two runs, one with a constant rate and one whose rate decays.

    edge: (m, 2), steps and η λ₁/2. growth: the measurement of the probe profile at the last step before the decay. losses: for
    each schedule the training losses by step; that of step s is the loss at the weights before it. diverged: either run.
    label: of its model and rate.
    """

    model: str
    rate: float
    seed: int
    diverged: bool = False
    edge: np.ndarray = field(default_factory=lambda: np.empty((0, 2)))
    growth: Measurement | None = None
    losses: dict[str, pd.Series] = field(default_factory=dict)
    label: str = ""

    @property
    def settled(self) -> np.ndarray:
        """η λ₁/2 in the second half of training."""
        steps, ratios = self.edge.T
        found: np.ndarray = ratios[steps >= steps.max(initial=0) / 2]
        return found


def analyse(study: Study) -> Findings:
    """The eigenvalue against 2/η, the exponents at 5 % of the norm, the drop of the loss, and the problem of two magnitudes."""
    descents = _descents(study)
    trained = [one for one in descents if not one.diverged and one.growth is not None and len(one.edge)]
    magnitudes = pd.read_csv(TWO_MAGNITUDES)
    if not trained:
        return Findings(QUESTION, "Not enough runs for an answer: none is done.", [magnitudes_chart(magnitudes)])
    edge, growth, decay = _edge(trained), _growth(trained), _decay(trained)
    charts = [edge_chart(trained), growth_chart(trained), decay_chart(trained), magnitudes_chart(magnitudes)]
    return Findings(
        QUESTION,
        _answer(edge, growth, decay),
        [chart for chart in charts if chart.series],
        {name: frame for name, frame in {"edge": edge, "growth": growth, "decay": decay}.items() if len(frame)},
        _notes(descents, edge, growth, decay),
        claims=claims(study.runs, _met(edge, growth, decay), _unexplained(decay)),
    )


def _descents(study: Study) -> list[Descent]:
    runs = study.runs[study.runs["status"].isin(["done", "diverged"])]
    if runs.empty:
        return []
    runs = seeds_only(runs, ["model", "base_learning_rate", "config.schedule.name"])
    history = study.histories(["event", "step", "loss"])
    history = history[history["event"] == "train"]
    found: dict[tuple[str, float, int], Descent] = {}
    for _, run in runs.iterrows():
        key = str(run["model"]), float(run["base_learning_rate"]), int(run["seed"])
        one = found.setdefault(key, Descent(*key))
        if run["status"] == "diverged":
            one.diverged = True
            continue
        own = history[history["run_id"] == run["run_id"]]
        is_constant = run["config.schedule.name"] == "constant"
        one.losses["constant" if is_constant else "decayed"] = own.drop_duplicates("step", keep="last").set_index(
            "step"
        )["loss"]
        if is_constant:
            edge = study.measurements(run["run_id"], "stability")
            one.edge = np.array([(each.step, each.values["ratio"]) for each in edge], dtype=float).reshape(-1, 2)
            one.growth = next(iter(study.measurements(run["run_id"], "profile")), None)
    names = labels((one.model, one.rate) for one in found.values())
    for one in found.values():
        one.label = names[one.model, one.rate]
    return sorted(found.values(), key=lambda one: (one.model, one.rate, one.seed))


def labels(conditions: Iterable[tuple[str, float]]) -> dict[tuple[str, float], str]:
    """The names of models and rates, in their order: the rate, after the model if there are several."""
    ordered = sorted(set(conditions))
    several = len({model for model, _ in ordered}) > 1
    return {(model, rate): (f"{model}, " if several else "") + f"η = {rate:g}" for model, rate in ordered}


# ---- tables -------------------------------------------------------------------------------------------------------------


def _edge(descents: Sequence[Descent]) -> pd.DataFrame:
    """One row for each rate and seed; eigenvalues and the secant of the last step in units of 2/η."""
    rows = []
    for one in descents:
        values, settled = one.growth.values if one.growth else {}, one.settled
        row = {"model": one.model, "rate": one.rate, "seed": one.seed, "threshold": 2 / one.rate}
        row |= {"start": one.edge[0, 1], "mean": settled.mean(), "smallest": settled.min(), "largest": settled.max()}
        row |= {"midpoint": values["top"] * one.rate / 2, "secant": values["secant"] * one.rate / 2}
        rows.append(row | {"cosine": values["cosine"]})
    return pd.DataFrame(rows)


def _growth(descents: Sequence[Descent]) -> pd.DataFrame:
    """One row for each rate and seed; distances in norms of the weights.

    top, oscillation, random, normalized: the exponent at DISTANCE, the mean over the directions of a kind. KIND_below: the
    first distance at which it is below SUBQUADRATIC, NaN if it never is. half_step: half the last step, the amplitude of the
    oscillation. exponent_there: along the oscillation at this distance. curvature: k(r → 0) along the oscillation, in units of
    2/η. balance: where a cycle of two steps along this profile alone would have its amplitude, NaN where it has none.
    """
    rows = []
    for one in descents:
        assert one.growth is not None
        values, arrays = one.growth.values, one.growth.arrays()
        row = {"model": one.model, "rate": one.rate, "seed": one.seed}
        distances = arrays["radii"] / values["norm"]
        means = {
            kind: arrays["exponents"][arrays["directions"] == kind].mean(axis=0) for kind in {*arrays["directions"]}
        }
        row |= {kind: _at(distances, means[kind], DISTANCE) for kind in (*SHARP, *BROAD) if kind in means}
        row |= {f"{kind}_below": _below(distances, means[kind]) for kind in (*SHARP, *BROAD) if kind in means}
        place = arrays["directions"].tolist().index("oscillation")
        exponents, curvatures = arrays["exponents"][place], arrays["curvatures"][place] * one.rate / 2
        half = values["step"] / 2 / values["norm"]
        row |= {"half_step": half, "exponent_there": _at(distances, exponents, half)}
        row |= {"curvature": curvatures[np.isfinite(exponents)][0]}
        row |= {"balance": balance(distances, exponents * curvatures / 2)}
        rows.append(row)
    return pd.DataFrame(rows)


def _at(distances: np.ndarray, values: np.ndarray, place: float) -> float:
    known = np.isfinite(values)
    return float(np.interp(math.log(place), np.log(distances[known]), values[known])) if known.any() else math.nan


def _below(distances: np.ndarray, exponents: np.ndarray) -> float:
    found = np.flatnonzero(exponents < SUBQUADRATIC)
    return float(distances[found[0]]) if len(found) else math.nan


def balance(distances: np.ndarray, secants: np.ndarray) -> float:
    """The first distance at which g'(r)/r, in units of 2/η, falls through 1; NaN if it begins below or never falls so far."""
    known = np.isfinite(secants)
    r, s = np.log(distances[known]), secants[known]
    below = np.flatnonzero(s < 1)
    if not len(below) or below[0] == 0:
        return math.nan
    last = below[0]
    share = (s[last - 1] - 1) / (s[last - 1] - s[last])
    return float(np.exp(r[last - 1] + share * (r[last] - r[last - 1])))


def _decay(descents: Sequence[Descent]) -> pd.DataFrame:
    """One row for each rate and seed: the mean loss over the same steps of both runs after the decay, and the drop.

    midpoint_drop: how far the loss at the midpoint of the last two weights is below the mean of their losses.
    """
    rows = []
    for one in descents:
        if one.growth is None or {"constant", "decayed"} - one.losses.keys():
            continue
        steps = [one.growth.step + after for after in AFTER]
        constant, decayed = (one.losses[name].reindex(steps).mean() for name in ("constant", "decayed"))
        # The losses at the last two weights, those before this step and before the next.
        ends = one.losses["constant"].reindex([one.growth.step, one.growth.step + 1]).mean()
        row = {"model": one.model, "rate": one.rate, "seed": one.seed, "constant": constant, "decayed": decayed}
        row |= {"drop": 1 - decayed / constant, "midpoint_drop": 1 - one.growth.values["loss"] / ends}
        rows.append(row)
    return pd.DataFrame(rows)


# ---- words --------------------------------------------------------------------------------------------------------------


def _count(met: pd.Series) -> str:
    return f"{int(met.sum())} of {len(met)} runs"


def _met(edge: pd.DataFrame, growth: pd.DataFrame, decay: pd.DataFrame) -> list[pd.Series]:
    """For each criterion, the runs that meet it."""
    at_edge = (edge["smallest"] >= 1 - EDGE) & (edge["largest"] <= 1 + EDGE)
    broad = growth[[kind for kind in BROAD if kind in growth]]
    apart = (growth[[*SHARP]] < SUBQUADRATIC).all(axis=1) & (broad > SUBQUADRATIC).all(axis=1)
    dropped = decay["drop"] > DROP if len(decay) else pd.Series(dtype=bool)
    return [at_edge, apart, dropped]


def _unexplained(decay: pd.DataFrame) -> Interval | None:
    """The drop of the loss at the decay minus that to the midpoint of the last two weights; None without runs that decay."""
    return student((decay["drop"] - decay["midpoint_drop"]).to_numpy()) if len(decay) else None


def _answer(edge: pd.DataFrame, growth: pd.DataFrame, decay: pd.DataFrame) -> str:
    at_edge, apart, dropped = map(_count, _met(edge, growth, decay))
    return (
        f"λ₁ stays within {EDGE:.0%} of 2/η in the second half of {at_edge}. At {DISTANCE:.0%} of the norm of the weights "
        f"the growth exponent is below {SUBQUADRATIC} along the sharpest and the oscillating direction, and above it along "
        f"random ones, in {apart}. A tenth of the rate lowers the loss by more than {DROP:.0%} within 20 steps in {dropped}."
    )


def _over_seeds(table: pd.DataFrame, column: str) -> dict[str, Interval]:
    groups = dict(iter(table.groupby(["model", "rate"])[column]))
    return {name: student(groups[condition].dropna().to_numpy()) for condition, name in labels(groups).items()}


def _listed(intervals: dict[str, Interval], numbers: str) -> str:
    return "; ".join(f"{each:{numbers}} at {name}" for name, each in intervals.items())


def _notes(descents: Sequence[Descent], edge: pd.DataFrame, growth: pd.DataFrame, decay: pd.DataFrame) -> list[str]:
    notes = [
        "Means over seeds with 95 % Student intervals. λ₁ and secants are in units of 2/η, distances in norms of the weights."
    ]
    lost = [one for one in descents if one.diverged]
    if lost:
        where = "; ".join(dict.fromkeys(one.label for one in lost))
        notes.append(f"Gradient descent diverges in {len(lost)} of {len(descents)} cases, at {where}.")
    notes.append(f"λ₁ at the start: {_listed(_over_seeds(edge, 'start'), '.2f')}.")
    notes.append(f"λ₁, mean of the second half: {_listed(_over_seeds(edge, 'mean'), '.3f')}.")
    notes.append(f"λ₁ at the midpoint of the last two weights: {_listed(_over_seeds(edge, 'midpoint'), '.3f')}.")
    notes.append(f"Secant of the gradient over the last step: {_listed(_over_seeds(edge, 'secant'), '.3f')}.")
    for kind in (*SHARP, *BROAD):
        if kind in growth:
            below = growth[f"{kind}_below"].dropna()
            first = f", first at {below.min():.2g} to {below.max():.2g}" if len(below) else ""
            notes.append(
                f"Exponent at {DISTANCE:.0%} of the norm, {KINDS[kind]}: {_listed(_over_seeds(growth, kind), '.2f')}. It falls "
                f"below {SUBQUADRATIC} at some distance in {len(below)} of {len(growth)} runs{first}."
            )
    half, there = growth["half_step"], (2 - growth["exponent_there"]).abs().max()
    notes.append(
        f"Half the last step, the amplitude of the oscillation, is {half.min():.1g} to {half.max():.1g}, and there the exponent "
        f"along it is within {there:.0e} of 2."
    )
    balanced = growth.dropna(subset=["balance"])
    if len(balanced):
        ratio = balanced["half_step"] / balanced["balance"]
        notes.append(
            f"In {len(balanced)} of {len(growth)} runs the profile along the oscillation has a distance at which a cycle of two "
            f"steps would be in balance; half the last step is {ratio.min():.2g} to {ratio.max():.2g} times that distance."
        )
    else:
        notes.append(
            "In no run has the profile along the oscillation a distance at which a cycle of two steps would be in balance: its "
            "curvature is below 2/η."
        )
    if len(decay):
        notes.append(f"Drop of the loss within 20 steps: {_listed(_over_seeds(decay, 'drop'), '.2f')}.")
        drops = _listed(_over_seeds(decay, "midpoint_drop"), ".2f")
        notes.append(f"Drop of the loss from the last two weights to their midpoint: {drops}.")
        notes.append(f"The first drop minus the second: {_unexplained(decay):.2f}, over all rates and seeds.")
    notes.append(
        "A continuum of scales at small distances is not shown: along every direction the exponent is 2 there."
    )
    return notes

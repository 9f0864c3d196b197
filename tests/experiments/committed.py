"""The claims of studies about their committed runs and tables.

An analysis reads the committed runs as those of a `Study` without run folders, which has no histories and no measurements. What
it would compute from these is taken from the committed tables.
"""

import importlib
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from optbench.analysis.statistics.search_intervals import SearchInterval
from optbench.analysis.studies import analysis_of, folder_of

RESULTS = Path(__file__).parents[2] / "results"
# Names of the code that trained the committed runs, and of today.
_NAMES = {"config.norm_batch": "config.ghost_batch_size", "cell.norm_batch": "cell.ghost_batch_size"}


def table(name, part):
    """A committed table of a study."""
    return pd.read_parquet(RESULTS / name / "tables" / f"{part}.parquet")


def runs(name):
    """The committed runs of a study, with the names of today's columns."""
    found = table(name, "runs")
    extremes = {column: column.replace("extremes_", "eigenvalues_") for column in found if "extremes_" in column}
    found = found.rename(columns=_NAMES | extremes)
    return found.assign(state=found["state"] if "state" in found else found["status"])


class Committed:
    """The study that an analysis asks, as far as the committed table of runs has it."""

    def __init__(self, name, scale="laptop"):
        self.name, self.scale, self.runs = name, scale, runs(name)
        self.results_dir, self.plan = None, SimpleNamespace(information=dict)  # of a sweep without a search
        self.cells = {}

    def histories(self, columns=None, runs=None):
        """Nothing."""
        return pd.DataFrame(columns=["run_id", *(columns or [])])

    def measurements(self, run_id, probe=None):
        return []

    @property
    def trials(self):
        return sorted(self.runs["trial"].unique())

    @property
    def seeds(self):
        return sorted(self.runs["seed"].unique())


@cache
def findings(name):
    """The findings of the analysis of a study in its committed runs, with short bootstraps."""
    function = analysis_of(name)
    if "REPETITIONS" in function.__globals__:
        function.__globals__["REPETITIONS"] = 60
    return function(Committed(name))


def parts(name):
    """The names in the module of a study's analysis, such as its ``claims``."""
    return analysis_of(name).__globals__


def _of_tables(name, *names):
    return lambda: parts(name)["claims"](runs(name), *(table(name, part) for part in names))


def imported(name, module):
    """A module beside the analysis of a study."""
    folder = str(folder_of(name))
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(module)
    finally:
        sys.path.remove(folder)


def _second_order():
    return imported("second_order", "script_claims").committed(RESULTS / "second_order")


def _quadratic():
    own, savings = parts("quadratic_model"), table("quadratic_model", "savings")
    tables = table("quadratic_model", "trained_and_theory"), savings, table("quadratic_model", "local_slopes")
    return own["claims"](runs("quadratic_model"), *tables, own["trends"](savings))


def _limiting():
    own, each = parts("limiting_dynamics"), table("limiting_dynamics", "each_run")
    settings = own["_settings"](each, table("limiting_dynamics", "directions"))
    return own["claims"](runs("limiting_dynamics"), settings, each)


def _multiscale():
    own, tables = parts("multiscale"), [table("multiscale", name) for name in ("edge", "growth", "decay")]
    return own["claims"](runs("multiscale"), own["_met"](*tables), own["_unexplained"](tables[2]))


def _nonconvex():
    own, (calls, factors, kept, noise, share) = (
        parts("nonconvex_rates"),
        (
            table("nonconvex_rates", name)
            for name in (
                "oracle_calls",
                "local_factors",
                "bounds_along_descent",
                "sgd_across_lengths",
                "sums_of_step_sizes",
            )
        ),
    )
    return own["claims"](runs("nonconvex_rates"), calls, factors, kept, own["slope_of"](noise), share, {})


def _coresets():
    own = parts("coresets")
    return own["claims"](runs("coresets"), table("coresets", "comparisons"), own["NAMES"])


def _adaptive():
    own, name = parts("adaptive_sampling"), "adaptive_sampling"
    return own["claims"](runs(name), table(name, "losses"), table(name, "ranges"), own["NAMES"], own["MODELS"])


def _landscape():
    own = parts("landscape")
    tables = (table("landscape", name) for name in ("differences", "correlations"))
    return own["claims"](runs("landscape"), *tables, 0.1)


def _steps():
    own, name = parts("steps_to_target"), "steps_to_target"
    names = ("regimes", "critical_batch", "critical_batch_ratios", "noise_scale", "advantage")
    found = own["claims"](runs(name), {each: table(name, each) for each in names}, 0.8)
    return own["steady"](found, table(name, "without_a_seed"))


def _comparison():
    own, name = parts("optimizer_comparison"), "optimizer_comparison"
    gains, answer = table(name, "tuned_minus_default"), table(name, "claims")
    middle = answer[answer["condition"].str.startswith("median gain")].iloc[0]
    found = own["claims"](
        runs(name),
        table(name, "ranks"),
        own["Gains"](gains, SearchInterval(*(float(middle[key]) for key in ("estimate", "low", "high")))),
        table(name, "failed_searches"),
    )
    return own["steadied"](found, {part: table(name, f"without_a_{part}") for part in ("seed", "problem", "trial")})


def _decay():
    own, name = parts("decay_and_warmup"), "decay_and_warmup"
    found = own["claims"](runs(name), {part: table(name, part) for part in ("laws", "rules", "warmup_gains")})
    return own["steady"](found, table(name, "without_a_seed"))


#: For each study how its claims are made. Those of the sweeps of second_order need histories, and the committed runs of
#: generalization_gap are of another grid than its analysis.
CLAIMS = {
    "landscape": _landscape,
    "steps_to_target": _steps,
    "optimizer_comparison": _comparison,
    "decay_and_warmup": _decay,
    "scaling_rules": _of_tables("scaling_rules", "laws", "without_a_seed"),
    "second_order": _second_order,
    "hessian_directions": _of_tables("hessian_directions", "slices"),
    "batch_hessian": _of_tables("batch_hessian", "critical_batches", "exponents", "maximal_learning_rates"),
    "quadratic_model": _quadratic,
    "initialization_and_momentum": lambda: findings("initialization_and_momentum").claims,
    "limiting_dynamics": _limiting,
    "multiscale": _multiscale,
    "shift_curvature": _of_tables("shift_curvature", "points", "settings"),
    "nonconvex_rates": _nonconvex,
    "online_regression": _of_tables("online_regression", "beale", "differences"),
    "coresets": _coresets,
    "adaptive_sampling": _adaptive,
}


@cache
def claims(name):
    """The claims of a study about its committed runs and tables."""
    return tuple(CLAIMS[name]())

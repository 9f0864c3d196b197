"""Measure one run once it has settled, each number beside its prediction."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from optbench.analysis.statistics.settings import seeds_only
from optbench.analysis.study import Measurement, Study
from optbench.theory import (
    diffusion_exponent,
    displacements,
    local_displacement,
    oscillation_frequency,
    stationary_moments,
)

#: The hyperparameters of the network that vary, their columns, and their words in the names of settings.
AXES = {
    "learning rate": "base_learning_rate",
    "batch": "batch",
    "momentum": "config.optimizer.momentum",
    "weight decay": "config.optimizer.weight_decay",
}
#: The steps over which exponents are fitted, at so many points that are evenly spaced in log k.
WINDOW, POINTS = (10, 1000), 40
#: The steps at which displacements are compared.
AT = (10, 100, 1000)
#: The exponents of later steps with both kinds of sampling.
SAMPLING = ("sampling_in_epochs", "sampling_with_replacement")
#: A direction oscillates clearly if its angular frequency is at least so many times its rate of decay.
CLEAR = 2.0
#: Variances are those of directions that relax so many times in the record.
RELAXATIONS = 20
#: Steps of a segment of which the periodogram is taken, at most.
SEGMENT = 512
Array = np.ndarray


def named(done: pd.DataFrame) -> pd.DataFrame:
    """The runs with the columns axis and case: the hyperparameter that is not that of the base, and its value."""
    network = done[done["model"] != "quadratic"]
    base = {word: network[column].mode().iloc[0] for word, column in AXES.items()} if len(network) else {}
    names = []
    for run in done.to_dict("records"):
        if run["model"] == "quadratic":
            axis, case = "quadratic", f"quadratic, exponent {run['config.dataset.exponent']:g}"
        else:
            changed = [word for word, column in AXES.items() if run[column] != base[word]]
            axis = changed[0] if changed else "base"
            case = ", ".join(f"{word} {run[AXES[word]]:g}" for word in changed) or "base"
        names.append({"axis": axis, "case": case})
    frame = pd.concat([done.reset_index(drop=True), pd.DataFrame(names)], axis=1)
    return seeds_only(frame, ["case"])


@dataclass(frozen=True)
class Settled:
    """The record of one run, and what its predictions are made of.

    steps: k since the first measurement (n,). displacement, speed: |θ(k) - θ(0)|² and |v|² (n,). x, v: (n, directions).
    eigenvalues: of these directions. curvatures, copies: the whole positive spectrum, as values with their numbers of
    directions. trace: tr C of the gradient of one example. sampled: |θ(k) - θ(0)|² of later steps for both kinds of sampling, as
    sampling.py measures it; empty without.
    """

    learning_rate: float
    momentum: float
    weight_decay: float
    batch: int
    steps: Array
    displacement: Array
    speed: Array
    x: Array
    v: Array
    eigenvalues: Array
    curvatures: Array
    copies: Array
    trace: float
    sampled: Mapping[str, Array]

    @classmethod
    def read(cls, study: Study, run: Mapping[str, Any]) -> "Settled | None":
        """The record of ``run``; None if a measurement is missing."""
        record = study.measurements(str(run["run_id"]), "phase_space")
        if len(record) < 2:
            return None
        if run["model"] == "quadratic":
            dimension, copies = int(run["config.dataset.dimension"]), float(run["config.dataset.replicas"])
            curvatures = np.arange(1.0, dimension + 1) ** -float(run["config.dataset.exponent"])
            multiplicities = np.full(dimension, copies)
            trace = float(run["config.dataset.noise_level"]) ** 2 * copies * curvatures.sum()
        else:
            noise = study.measurements(str(run["run_id"]), "gradient_statistics")
            spectrum = study.measurements(str(run["run_id"]), "spectrum")
            if not (noise and spectrum):
                return None
            trace = float(noise[0].values["trace"])
            curvatures, multiplicities = _positive_spectrum(spectrum[0])
        arrays, later = record[-1].arrays(), study.measurements(str(run["run_id"]), "sampling")
        if not len(arrays["step"]):
            return None
        return cls(
            float(run["base_learning_rate"]),
            float(run["config.optimizer.momentum"]),
            float(run["config.optimizer.weight_decay"]),
            int(run["batch"]),
            arrays["step"] - record[0].step,
            arrays["displacement_squared"],
            arrays["velocity_squared"],
            arrays["x"],
            arrays["v"],
            arrays["eigenvalues"],
            curvatures,
            multiplicities,
            trace,
            later[0].arrays() if later else {},
        )

    @property
    def stable(self) -> bool:
        """True if the quadratic of its curvatures has a stationary state, and its recorded directions curve upwards."""
        top = self.learning_rate * (max(self.curvatures.max(), self.eigenvalues.max()) + self.weight_decay)
        return bool(top < 2 * (1 + self.momentum) and self.eigenvalues.min() > 0)

    # ---- local displacement and diffusion --------------------------------------------------------------------------------

    def local(self) -> dict[str, float]:
        """E |θ(k+1) - θ(k)|² = η² E |v|², its prediction from tr C, and their ratio."""
        measured = self.learning_rate**2 * float(self.speed.mean())
        predicted = local_displacement(self.learning_rate, self.momentum, self.trace, self.batch)
        return {"local": measured, "local_predicted": predicted, "local_ratio": measured / predicted}

    def predicted_displacement(self, steps: Array, isotropic: bool = False) -> Array:
        """E |θ(k) - θ(0)|² of a stationary process with the curvatures of the run and noise in proportion to them, (n,).

        C = σ² H with σ² = tr C / tr H, of the positive part of H. Nothing is fitted to the record. isotropic: instead, noise of
        the same trace that is equal in all of these directions.
        """
        shape = np.ones_like(self.curvatures) if isotropic else self.curvatures
        variances = self.trace / self.batch * shape / (shape @ self.copies)
        rates = (self.learning_rate, self.momentum, self.curvatures, variances, self.weight_decay)
        return np.asarray(displacements(steps, *rates) @ self.copies)

    def diffusion(self) -> dict[str, float]:
        """Exponents over `WINDOW` and over all steps, measured and predicted for both kinds of noise; ratios at `AT`."""
        predicted, isotropic = (self.predicted_displacement(self.steps, equal) for equal in (False, True))
        whole = (float(self.steps[0]), float(self.steps[-1]))
        found: dict[str, float] = {}
        for name, squared in (("", self.displacement), ("_predicted", predicted), ("_isotropic", isotropic)):
            found[f"exponent{name}"] = diffusion_exponent(self.steps, squared, WINDOW, POINTS)
            found[f"exponent_even{name}"] = diffusion_exponent(self.steps, squared, whole)
        for step in AT:
            place = np.flatnonzero(self.steps == step)
            ratio = float(self.displacement[place[0]] / predicted[place[0]]) if len(place) else np.nan
            found[f"displacement_ratio_{step}"] = ratio
        return found

    def sampling(self) -> dict[str, float]:
        """The exponents over `WINDOW` with both kinds of sampling, NaN where they were not measured."""
        empty = np.empty(0)
        walks = {name: self.sampled.get(name.removeprefix("sampling_"), empty) for name in SAMPLING}
        return {
            name: diffusion_exponent(np.arange(1, len(walk) + 1), walk, WINDOW, POINTS) for name, walk in walks.items()
        }

    # ---- single directions -----------------------------------------------------------------------------------------------

    def directions(self) -> pd.DataFrame:
        """One row for each recorded direction.

        curvature. frequency: the peak of the averaged periodogram of the increments of x, in cycles a step, and
        frequency_predicted, that of their spectrum (`resonance`); NaN unless the direction oscillates clearly. position,
        velocity: variances, NaN unless it relaxes `RELAXATIONS` times in the record, and predicted ones for C = σ² H.
        equipartition: 2 (h + λ) Var x/(η (1 + β) Var v), which is 1 for any noise.
        """
        total = self.eigenvalues + self.weight_decay
        angle = 2 * np.pi * np.asarray(oscillation_frequency(self.learning_rate, self.momentum, total))
        clear = (angle >= CLEAR * (1 - self.momentum) / (1 + self.momentum)) & (angle > 0)
        predicted = resonance(self.learning_rate, self.momentum, total)
        relaxation = (1 - self.momentum) / (self.learning_rate * np.maximum(total, 1e-30))
        relaxed = relaxation * RELAXATIONS <= self.steps[-1] - self.steps[0]
        position, velocity = self.x.var(axis=0), self.v.var(axis=0)
        noise = self.trace / self.batch * self.eigenvalues / (self.curvatures @ self.copies)
        moments = stationary_moments(self.learning_rate, self.momentum, self.eigenvalues, noise, self.weight_decay)
        ratio = 2 * total * position / (self.learning_rate * (1 + self.momentum) * velocity)
        return pd.DataFrame({
            "direction": np.arange(1, len(total) + 1),
            "curvature": self.eigenvalues,
            "frequency": np.where(clear, self._peaks(), np.nan),
            "frequency_predicted": np.where(clear, predicted, np.nan),
            "position": np.where(relaxed, position, np.nan),
            "position_predicted": moments.position,
            "velocity": np.where(relaxed, velocity, np.nan),
            "velocity_predicted": moments.velocity,
            "equipartition": np.where(relaxed, ratio, np.nan),
        })  # fmt: skip

    def _peaks(self) -> Array:
        """The frequency with the largest mean periodogram of the increments of every direction, in cycles a step."""
        increments = np.diff(self.x, axis=0)
        stride = float(self.steps[1] - self.steps[0]) if len(self.steps) > 1 else 1.0
        length = min(SEGMENT, max(len(increments) // 2, 2))
        size = 8 * SEGMENT  # zeros are added: the grid of frequencies is finer than the resolution
        power = np.zeros((size // 2 + 1, increments.shape[1]))
        for start in range(0, len(increments) - length + 1, max(length // 2, 1)):
            part = increments[start : start + length]
            window = np.hanning(length)[:, None]
            power += np.abs(np.fft.rfft((part - part.mean(axis=0)) * window, size, axis=0)) ** 2
        return np.asarray(power.argmax(axis=0) / size / stride)


def resonance(learning_rate: float, momentum: float, total: Array) -> Array:
    """The frequency at which the spectrum of the increments of x is largest, in cycles a step, for h + λ = ``total``.

    x is autoregressive, x(k+1) = (1 + β - q) x(k) - β x(k-1) + white noise with q = η (h + λ), and the spectrum of its increments

        (2 - 2 cos ω)/|1 - (1 + β - q) e^(-iω) + β e^(-2iω)|²

    has its only maximum at cos ω = 1 - q/(2 √β): in the continuous model that is ω = √(2 (h + λ)/(η (1 + β))) without friction,
    above the angle of the modes, which it approaches where they hardly decay. NaN for β = 0 and where q > 4 √β.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = 1 - learning_rate * np.asarray(total, dtype=float) / (2 * momentum**0.5)
        return np.asarray(np.arccos(cosine) / (2 * np.pi))


def slope(curvature: Array, variance: Array) -> float:
    """The slope of log variance on log curvature over the directions that have a variance; NaN for fewer than three."""
    kept = np.isfinite(variance) & (variance > 0) & (curvature > 0)
    if kept.sum() < 3:
        return float("nan")
    return float(np.polyfit(np.log(curvature[kept]), np.log(variance[kept]), 1)[0])


def _positive_spectrum(spectrum: Measurement) -> tuple[Array, Array]:
    """The positive Ritz values of all vectors, and the number of directions that each stands for."""
    arrays = spectrum.arrays()
    values, weights = arrays["values"], arrays["weights"]
    copies = weights * int(arrays["dimension"]) / len(weights)
    kept = values > 0
    return values[kept], copies[kept]

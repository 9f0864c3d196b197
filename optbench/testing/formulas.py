"""First-order methods as their papers write them, in NumPy: what implementations are held against.

Each takes the gradient g (an array), a dictionary that is its memory, the number t = 1, 2, ... of the step and the method's
constants, and returns what is subtracted from the weights. None has weight decay.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Array = Any  # np.ndarray, of whose arithmetic the stubs know too little
Memory = dict[str, Any]


def sgd(g: Array, memory: Memory, t: int, lr: float) -> Array:
    """α g."""
    return lr * g


def momentum(g: Array, memory: Memory, t: int, lr: float, mu: float = 0.9) -> Array:
    """v ← μv + g, then αv (Polyak 1964, as torch writes it)."""
    memory["v"] = mu * memory.get("v", 0) + g
    return lr * memory["v"]


def nesterov(g: Array, memory: Memory, t: int, lr: float, mu: float = 0.9) -> Array:
    """v ← μv + g, then α (g + μv) (Sutskever et al. 2013, as torch writes it)."""
    memory["v"] = mu * memory.get("v", 0) + g
    return lr * (g + mu * memory["v"])


def adagrad(g: Array, memory: Memory, t: int, lr: float, eps: float = 1e-10) -> Array:
    """G ← G + g², then αg / (√G + ε) (Duchi, Hazan & Singer 2011)."""
    memory["G"] = memory.get("G", 0) + g**2
    return lr * g / (np.sqrt(memory["G"]) + eps)


def adadelta(g: Array, memory: Memory, t: int, lr: float, rho: float = 0.9, eps: float = 1e-6) -> Array:
    """Δ = g √(D + ε) / √(E + ε), with running means E of g² and D of Δ², then αΔ (Zeiler 2012)."""
    memory["E"] = rho * memory.get("E", 0) + (1 - rho) * g**2
    delta = g * np.sqrt(memory.get("D", 0) + eps) / np.sqrt(memory["E"] + eps)
    memory["D"] = rho * memory.get("D", 0) + (1 - rho) * delta**2
    return lr * delta


def rmsprop(g: Array, memory: Memory, t: int, lr: float, rho: float = 0.99, eps: float = 1e-8) -> Array:
    """v ← ρv + (1 - ρ)g², then αg / (√v + ε) (Tieleman & Hinton 2012)."""
    memory["v"] = rho * memory.get("v", 0) + (1 - rho) * g**2
    return lr * g / (np.sqrt(memory["v"]) + eps)


def moments(g: Array, memory: Memory, beta1: float, beta2: float) -> tuple[Array, Array]:
    """The running means m of g and v of g²."""
    memory["m"] = beta1 * memory.get("m", 0) + (1 - beta1) * g
    memory["v"] = beta2 * memory.get("v", 0) + (1 - beta2) * g**2
    return memory["m"], memory["v"]


def adam(
    g: Array, memory: Memory, t: int, lr: float, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
) -> Array:
    """α m̂ / (√v̂ + ε) (Kingma & Ba 2015, algorithm 1)."""
    m, v = moments(g, memory, beta1, beta2)
    return lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)


def adamax(
    g: Array, memory: Memory, t: int, lr: float, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
) -> Array:
    """u ← max(β₂u, |g| + ε), then α m̂ / u (Kingma & Ba 2015, algorithm 2, with torch's ε)."""
    m, _ = moments(g, memory, beta1, beta2)
    memory["u"] = np.maximum(beta2 * memory.get("u", 0), abs(g) + eps)
    return lr / (1 - beta1**t) * m / memory["u"]


def nadam(
    g: Array,
    memory: Memory,
    t: int,
    lr: float,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-8,
    psi: float = 4e-3,
) -> Array:
    """Adam with Nesterov's momentum, whose decay μ_t = β₁(1 - 0.96^(tψ) / 2) grows (Dozat 2016)."""
    m, v = moments(g, memory, beta1, beta2)
    mu = [beta1 * (1 - 0.5 * 0.96 ** (i * psi)) for i in range(1, t + 2)]
    now = (1 - mu[t - 1]) * g / (1 - np.prod(mu[:t]))
    ahead = mu[t] * m / (1 - np.prod(mu))
    return lr * (ahead + now) / (np.sqrt(v / (1 - beta2**t)) + eps)


def amsgrad(
    g: Array, memory: Memory, t: int, lr: float, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
) -> Array:
    """Adam with the largest v so far (Reddi, Kale & Kumar 2018, with Adam's bias corrections)."""
    m, v = moments(g, memory, beta1, beta2)
    memory["largest"] = np.maximum(memory.get("largest", 0), v)
    return lr * (m / (1 - beta1**t)) / (np.sqrt(memory["largest"] / (1 - beta2**t)) + eps)


def radam(
    g: Array, memory: Memory, t: int, lr: float, beta1: float = 0.9, beta2: float = 0.999, eps: float = 1e-8
) -> Array:
    """Adam with the variance of its step rectified, and momentum until that is finite (Liu et al. 2020)."""
    m, v = moments(g, memory, beta1, beta2)
    infinite = 2 / (1 - beta2) - 1
    length = infinite - 2 * t * beta2**t / (1 - beta2**t)
    if length <= 5:
        return lr * m / (1 - beta1**t)
    rectified = (length - 4) * (length - 2) * infinite / ((infinite - 4) * (infinite - 2) * length)
    # torch adds epsilon before it corrects the bias.
    step: Array = lr * np.sqrt(rectified) * m / (1 - beta1**t) * np.sqrt(1 - beta2**t) / (np.sqrt(v) + eps)
    return step


def lion(g: Array, memory: Memory, t: int, lr: float, beta1: float = 0.9, beta2: float = 0.99) -> Array:
    """α sign(β₁m + (1 - β₁)g), then m ← β₂m + (1 - β₂)g (Chen et al. 2023)."""
    m = memory.get("m", 0)
    memory["m"] = beta2 * m + (1 - beta2) * g
    step: Array = lr * np.sign(beta1 * m + (1 - beta1) * g)
    return step


Formula = Callable[..., Array]
FORMULAS: Mapping[str, Formula] = {
    each.__name__: each
    for each in (
        sgd, momentum, nesterov, adagrad, adadelta, rmsprop, adam, adamax, nadam, amsgrad, radam, lion,
    )
}  # fmt: skip

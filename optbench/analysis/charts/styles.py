"""The colours, dashes and markers of series, and the table of names with the same style on all charts.

The first four colours are Paul Tol's "high contrast" scheme, made for colour-blind readers and for print in grey
(personal.sron.nl/~pault); the others are from his "bright", "muted" and "vibrant" schemes. Series also differ in dashes and
markers, never only in colour.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# The colour of lines for laws and limits, which were not measured.
GREY = "#737373"


@dataclass(frozen=True)
class Style:
    """The look of one series: its colour, its dashes (lengths on and off, in points; none is a full line), its marker.

    ``symbol`` is plotly's name for the marker.
    """

    colour: str
    dashes: tuple[float, ...]
    marker: str
    symbol: str

    @property
    def line(self) -> dict[str, Any]:
        """Arguments of a matplotlib line without markers."""
        return {"color": self.colour, "linestyle": (0, self.dashes) if self.dashes else "solid"}

    @property
    def marked(self) -> dict[str, Any]:
        """Arguments of a matplotlib line with markers."""
        return {**self.line, "marker": self.marker}

    @property
    def plotly_dash(self) -> str:
        """The dashes in plotly's notation."""
        return ",".join(f"{length:g}px" for length in self.dashes) or "solid"


PALETTE = (
    Style("#004488", (), "o", "circle"),
    Style("#BB5566", (5, 2), "s", "square"),
    Style("#DDAA33", (6, 2, 1.5, 2), "^", "triangle-up"),
    Style("#000000", (1.5, 1.5), "D", "diamond"),
    Style("#228833", (9, 2), "v", "triangle-down"),
    Style("#AA3377", (6, 1.5, 1.5, 1.5, 1.5, 1.5), "P", "cross"),
    Style("#66CCEE", (3, 1), "X", "x"),
    Style("#EE7733", (12, 2, 3, 2), "<", "triangle-left"),
    Style("#44AA99", (4, 1, 1, 1), ">", "triangle-right"),
    Style("#999933", (2, 1), "p", "pentagon"),
    Style("#882255", (8, 1.5, 2, 1.5, 2, 1.5), "h", "hexagon"),
    Style("#332288", (2, 3), "*", "star"),
)

# The ends of the colours of an order: their lightness falls evenly, so that they also work in grey.
_LIGHT, _DARK = (158, 202, 225), (0, 34, 85)

_BATCH = re.compile(r"batch(?: size)? ([\d,]+)")

# Methods by their titles in conf/optimizer, the most compared ones first: each has the same style on every chart, unless a
# colour would stand for two of them.
_METHODS = (
    "SGD",
    "Adam",
    "K-FAC",
    "SGD with momentum",
    "LAMB",
    "SGD with Nesterov momentum",
    "Muon",
    "AdaGrad",
    "RMSprop",
    "EKFAC",
    "AdamW",
    "Adamax",
    "Lion",
    "Adadelta",
    "LARS",
    "NAdam",
    "AMSGrad",
    "RAdam",
    "Adafactor",
    "Averaged SGD",
    "Rprop",
    "L-BFGS",
    "Natural K-FAC",
    "Hessian-free",
    "Saddle-free Newton",
    "Damped Newton",
    "Levenberg-Marquardt",
    "SCoRe-GGN",
    "Entropy-SGD",
    "Cubic Newton",
    "Perturbed SGD",
    "Zeroth order",
    "SAM",
    "ASAM",
    "Shampoo",
    "SOAP",
    "Prodigy",
    "AdEMAMix",
    "MARS-AdamW",
    "Sophia-H",
    "AdaHessian",
    "Schedule-free SGD",
    "Schedule-free AdamW",
    "OGR",
    "SdLBFGS",
    "ARAS",
    "PSGD Kron",
)
# Other labels on charts of several studies.
_OTHERS = {"measured": 0, "train": 0, "test": 1, "validation": 2}
LOOKS = {**{name: number for number, name in enumerate(_METHODS)}, **_OTHERS}


def look(index: int) -> Style:
    """The style of the ``index``-th series: beyond the palette the colours repeat, with other dashes and markers."""
    again, first = divmod(index, len(PALETTE))
    other = PALETTE[(first + again) % len(PALETTE)]
    return Style(PALETTE[first].colour, other.dashes, other.marker, other.symbol)


def shaded(share: float) -> Style:
    """The style of points in an order, from 0, light, to 1, dark."""
    colour = "".join(f"{round(low + share * (high - low)):02X}" for low, high in zip(_LIGHT, _DARK, strict=True))
    return Style(f"#{colour}", (), "o", "circle")


def ordered(labels: Iterable[str]) -> dict[str, float]:
    """The places from 0 to 1 of labels that are batch sizes, such as "batch 1,024"; none if there are fewer than two."""
    found = {label: int(size[1].replace(",", "")) for label in labels if (size := _BATCH.fullmatch(label))}
    sizes = sorted({*found.values()})
    return {label: sizes.index(size) / (len(sizes) - 1) for label, size in found.items()} if len(sizes) > 1 else {}


def looks_of(charts: Iterable[Iterable[str]], given: dict[str, int] | None = None) -> dict[str, int]:
    """The number of a style for each label, equal on all ``charts``, each of which is given by its labels.

    given: styles that were chosen for labels. The others have the style of the table `LOOKS`, unless a label before them in it
    has its colour on one of their charts. Those, and labels that are not in the table, have the first style whose colour no
    other label on any of their charts has.
    """
    together = [list(dict.fromkeys(labels)) for labels in charts]
    every = dict.fromkeys(label for labels in together for label in labels)
    found = {label: number for label, number in (given or {}).items() if label in every}
    for label in sorted(every, key=lambda label: LOOKS.get(label, len(LOOKS))):
        if label in found:
            continue
        beside = {other for labels in together if label in labels for other in labels}
        taken = {found[other] for other in beside if other in found}
        colours = {number % len(PALETTE) for number in taken}
        own = LOOKS.get(label)
        is_clear = own is not None and (own % len(PALETTE) not in colours or len(colours) == len(PALETTE))
        if own is not None and is_clear and own not in taken:
            found[label] = own
            continue
        free = (number for number in range(len(PALETTE)) if number not in colours)
        # If all colours are taken, another style with one of them.
        found[label] = next(free, next(number for number in range(len(taken) + len(PALETTE)) if number not in taken))
    return found

"""The small language in which a YAML file states the type of each of its options, durations among them.

``int >= 1``, ``float in [0, 1)``, ``bool``, ``str``, ``duration``, ``amount``, ``time``, ``mapping``, ``list of float``,
``one of linear, cosine``; each may end in ``or null``, and then in ``or auto``. A time is a time limit as Slurm spells it:
a number of minutes, or a string such as ``2:30:00`` or ``1-12:00:00``. A duration is a number of steps (an int) or a string
such as ``5epochs``, ``100steps``, ``1000samples`` or ``10%`` (of the whole budget); a bound on it, as in ``duration > 0``, is
one on its amount. A spacing is a duration above 0, or a growth such as ``x1.05``. An amount is a whole number of at least 1, or a
share such as ``10%``.
"""

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from optbench.errors import UserError, nearest

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_TYPE = re.compile(r"(list of )?(int|float|bool|str|duration|spacing|time|amount|mapping)(.*)")
_BOUND = re.compile(r"(>=|<=|>|<)\s*(\S+)")
_INTERVAL = re.compile(r"in\s*([\[(])\s*(\S+)\s*,\s*(\S+)\s*([\])])")
# In any unit: longer than any training, and still exact as a float after conversion from epochs to samples.
LONGEST = 10**15
_DURATION_SPELLINGS = "such as 200 or 200steps, 5epochs, 10000samples, 10% of the budget; at most 1e15"
_TIME_SPELLINGS = "minutes, or in quotes such as 30:00, 2:30:00, 1-12 or 1-12:00:00"
# minutes[:seconds], hours:minutes:seconds, days-hours[:minutes[:seconds]]
_TIME = re.compile(r"(\d+)(?::(\d+))?|(\d+):(\d+):(\d+)|(\d+)-(\d+)(?::(\d+)(?::(\d+))?)?")
_RANGE = re.compile(r"(\d+)(?:\.\.\.?|-|:)(\d+)")  # ranges as other languages write them: 0..3, 0-3, 0:3
_MOST_LISTED = 8
LONGEST_TEXT = 1000  # characters of any text, because texts become names of files, projects and groups
_MOST_SHOWN = 200
_AMOUNT_SPELLINGS = "a number such as 200, or a share such as 10%"
_SPACING_SPELLINGS = (
    f"a duration > 0, {_DURATION_SPELLINGS}; or x1.05, from step 1 on each time 1.05 times the one before"
)
_SPELLINGS = {
    "duration": _DURATION_SPELLINGS,
    "spacing": _SPACING_SPELLINGS,
    "time": _TIME_SPELLINGS,
    "amount": _AMOUNT_SPELLINGS,
}
_SHARE = re.compile(r"(\d+(?:\.\d+)?)\s*%")
_DURATION = re.compile(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)\s*(steps?|epochs?|samples?|%)?")
_GROWTH = re.compile(r"x\s*(\d+(?:\.\d+)?)")


@dataclass(frozen=True)
class Duration:
    """A length of training: ``amount`` of ``unit`` ("steps", "epochs", "samples" or "%" of the budget)."""

    amount: float
    unit: str

    @classmethod
    def parse(cls, value: object) -> "Duration":
        """Read an int (steps) or a string such as "5epochs"; raises ValueError for anything else."""
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= LONGEST:
            return cls(value, "steps")
        match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
        if match is None:
            raise ValueError(value)
        amount, unit = float(match[1]), match[2] or "steps"
        unit = unit if unit == "%" else unit.rstrip("s") + "s"
        if amount > LONGEST or (unit == "steps" and not amount.is_integer()):
            raise ValueError(value)
        return cls(amount, unit)

    @property
    def typed(self) -> str:
        """The spelling for messages: a number of steps needs no unit."""
        return str(self).removesuffix("steps")

    def __str__(self) -> str:
        """The canonical spelling of this duration, which enters the run id, e.g. "5epochs"."""
        # With all digits, so that two durations never share a run id.
        whole = int(self.amount)
        return f"{whole if whole == self.amount else self.amount}{self.unit}"


@dataclass(frozen=True)
class Growth:
    """Times that grow, from step 1 on each ``factor`` times the one before, and at least a step later."""

    factor: float

    @property
    def typed(self) -> str:
        """The spelling for messages."""
        return str(self)

    def __str__(self) -> str:
        """The canonical spelling, which enters the run id, e.g. "x1.05"."""
        return f"x{self.factor}"


def spacing(value: object) -> Duration | Growth:
    """Read a duration above 0, or a growth such as "x1.05"; raises ValueError for anything else."""
    match = _GROWTH.fullmatch(value.strip()) if isinstance(value, str) else None
    found = Duration.parse(value) if match is None else Growth(float(match[1]))
    if (found.factor <= 1) if isinstance(found, Growth) else (found.amount <= 0):
        raise ValueError(value)
    return found


def time_limit_minutes(value: object) -> int:
    """A time limit in whole minutes, rounded up; raises ValueError if ``value`` is not a time limit."""
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    match = _TIME.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None:
        raise ValueError(value)
    minutes, seconds, hours_2, minutes_2, seconds_2, days, hours_3, minutes_3, seconds_3 = (
        int(group or 0) for group in match.groups()
    )
    total = (days * 24 + hours_2 + hours_3) * 3600 + (minutes + minutes_2 + minutes_3) * 60
    total += seconds + seconds_2 + seconds_3
    if total == 0:
        raise ValueError(value)  # Slurm reads 0 as no limit at all
    return -(-total // 60)


def _is_int(value: object) -> bool:
    # No option means a number that neither a tensor nor a column of a table can hold.
    return isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63


def _is_number(value: object) -> bool:
    return _is_int(value) or (isinstance(value, float) and math.isfinite(value))


def _is_duration(value: object) -> bool:
    try:
        Duration.parse(value)
    except ValueError:
        return False
    return True


def _is_spacing(value: object) -> bool:
    try:
        spacing(value)
    except ValueError:
        return False
    return True


def _is_time(value: object) -> bool:
    try:
        time_limit_minutes(value)
    except ValueError:
        return False
    return True


def _is_amount(value: object) -> bool:
    if isinstance(value, str):
        return (match := _SHARE.fullmatch(value.strip())) is not None and 0 < float(match[1]) <= 100
    return _is_int(value) and value >= 1  # type: ignore[operator]


_CHECKS: dict[str, Callable[[object], bool]] = {
    "int": _is_int,
    "float": _is_number,
    "bool": lambda value: isinstance(value, bool),
    "str": lambda value: isinstance(value, str),
    "duration": _is_duration,
    "spacing": _is_spacing,
    "time": _is_time,
    "amount": _is_amount,
    "mapping": lambda value: isinstance(value, Mapping),
}


@dataclass(frozen=True)
class OptionType:
    """One parsed type: ``accepts`` says whether a value is of it."""

    text: str
    base: str
    is_list: bool
    nullable: bool
    automatic: bool
    choices: tuple[str, ...]
    bounds: tuple[tuple[str, float], ...]

    @classmethod
    @cache  # the types of a few hundred options, each read once for every run of a sweep
    def parse(cls, text: str) -> "OptionType":
        """Read a type such as "int >= 1 or null"; raises ValueError if it is not one."""
        body = text.strip()
        automatic = body.endswith(" or auto")
        body = body.removesuffix(" or auto").strip()
        nullable = body.endswith(" or null")
        body = body.removesuffix(" or null").strip()
        if body.startswith("one of "):
            choices = tuple(choice.strip() for choice in body.removeprefix("one of ").split(","))
            return cls(text, "str", False, nullable, automatic, choices, ())
        match = _TYPE.fullmatch(body)
        if match is None:
            raise ValueError(f"not a type: {text!r}")
        bounds = cls._parse_bounds(match[3].strip(), text)
        if bounds and match[2] not in ("int", "float", "duration"):
            raise ValueError(f"not a type: {text!r}")
        return cls(text, match[2], bool(match[1]), nullable, automatic, (), bounds)

    @staticmethod
    def _parse_bounds(body: str, text: str) -> tuple[tuple[str, float], ...]:
        if not body:
            return ()
        if match := _BOUND.fullmatch(body):
            return ((match[1], float(match[2])),)
        if match := _INTERVAL.fullmatch(body):
            low = ">=" if match[1] == "[" else ">"
            high = "<=" if match[4] == "]" else "<"
            return ((low, float(match[2])), (high, float(match[3])))
        raise ValueError(f"not a type: {text!r}")

    def accepts(self, value: object) -> bool:
        """True if ``value`` is of this type and within its bounds."""
        if value is None:
            return self.nullable
        if value == "auto" and self.automatic:
            return True
        if self.is_list:
            return isinstance(value, list | tuple) and all(self._accepts_one(item) for item in value)
        return self._accepts_one(value)

    def _accepts_one(self, value: object) -> bool:
        if not _CHECKS[self.base](value) or (self.choices and value not in self.choices):
            return False
        number = Duration.parse(value).amount if self.base == "duration" else value
        return all(_COMPARISONS[sign](number, bound) for sign, bound in self.bounds)  # type: ignore[arg-type]

    def canonical(self, value: Any) -> Any:
        """The canonical form of an accepted value, which enters the run id: 1 and 1.0 are one float, 5epoch is 5epochs."""
        if value is None or (value == "auto" and self.automatic):
            return value
        if self.is_list:
            return [self._canonical_one(item) for item in value]
        return self._canonical_one(value)

    def _canonical_one(self, value: Any) -> Any:
        if self.base == "float":
            return float(value)
        if self.base == "spacing":
            return str(spacing(value))
        return str(Duration.parse(value)) if self.base == "duration" else value


def _several(key: str, value: object) -> str:
    """A hint for a value that looks like a range of whole numbers in another language; otherwise empty."""
    match = _RANGE.fullmatch(value) if isinstance(value, str) else None
    if match is None or int(match[1]) >= int(match[2]):
        return ""
    first, last = int(match[1]), int(match[2])
    listed = f" or {key}={','.join(map(str, range(first, last + 1)))}" if last - first < _MOST_LISTED else ""
    return f"; several values are swept over with -m: '{key}=range({first},{last + 1})'{listed}"


def in_a_line(value: object) -> str:
    """``value`` for a message: its beginning, with unprintable characters escaped."""
    text = str(value)
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text[:_MOST_SHOWN])
    return shown if len(text) <= _MOST_SHOWN else f"{shown}... ({len(text)} characters)"


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield from (str(name), *_texts(item))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)


def check(options: Mapping[str, Any], schema: Mapping[str, str], where: str = "") -> None:
    """Raise UserError for the first of ``options`` that ``schema`` does not know or accept.

    ``where`` is the dotted path of the options, such as "optimizer", for the message.
    """
    prefix = f"{where}." if where else ""
    for name, value in options.items():
        if name not in schema:
            raise UserError(f"{prefix}{name}: unknown key; {nearest(name, schema)}")
        longest = max(map(len, _texts(value)), default=0)
        if longest > LONGEST_TEXT:
            raise UserError(
                f"{prefix}{name}={in_a_line(value)}: has {longest} characters; accepted: at most {LONGEST_TEXT}"
            )
        if not OptionType.parse(schema[name]).accepts(value):
            shown = "null" if value is None else in_a_line(value)
            spelled = next(
                (f" ({examples})" for base, examples in _SPELLINGS.items() if base in schema[name].split()), ""
            )
            raise UserError(
                f"{prefix}{name}={shown}: must be {schema[name]}{spelled}{_several(f'{prefix}{name}', value)}"
            )
    for name in schema:
        if name not in options:
            raise UserError(f"{prefix}{name}: missing; must be {schema[name]}")

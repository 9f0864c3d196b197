"""KEY=geometric(LOW,HIGH,N): N values with equal ratios, from LOW to HIGH, as an axis of a sweep."""

import re
from collections.abc import Iterable

from optbench.errors import UserError

_CALL = re.compile(r"(?P<key>[^=]+)=\s*geometric\((?P<arguments>[^()]*)\)\s*", re.DOTALL)
_MOST = 100_000
# Digits of a value: enough for the ratios of neighbours, and short in a run id.
_DIGITS = 4


def with_geometric(words: Iterable[str]) -> list[str]:
    """``words`` with every geometric(...) replaced by the values that it lists; raises UserError for one that lists none."""
    return [_listed(word) for word in words]


def _listed(word: str) -> str:
    match = _CALL.fullmatch(word)
    if match is None:
        return word
    try:
        low, high, number = (text.strip() for text in match["arguments"].split(","))
        first, last, count = float(low), float(high), int(number)
    except ValueError:
        raise _refused(word) from None
    if not (0 < first < float("inf") and 0 < last < float("inf") and 2 <= count <= _MOST):
        raise _refused(word)
    values = [float(f"{first * (last / first) ** (place / (count - 1)):.{_DIGITS}g}") for place in range(count)]
    values[0], values[-1] = first, last
    return f"{match['key']}={','.join(map(repr, values))}"


def _refused(word: str) -> UserError:
    return UserError(
        f"{word}: cannot be listed; accepted: geometric(LOW,HIGH,N), with LOW and HIGH above 0 and N from 2 to {_MOST:,}"
    )

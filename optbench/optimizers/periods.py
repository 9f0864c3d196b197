"""The kinds of steps of a method that does some of its work only every so many steps."""

import itertools
import math
from fractions import Fraction


def kinds_of_steps(*periods: int) -> list[tuple[int, Fraction]]:
    """A step of each kind, counted from 0, and the share of all steps that are of its kind; the shares sum to 1.

    Two steps are of one kind if the same ``periods`` divide them. All steps that are returned are later than every period.
    The share of steps that the periods of a set, and no others, divide follows by inclusion and exclusion: 1 in lcm(set) is
    divided by these, less the shares of the larger sets.
    """
    chosen = sorted(set(periods))
    sets = [each for size in range(len(chosen) + 1) for each in itertools.combinations(chosen, size)]
    shares: dict[int, Fraction] = {}
    for multiple in sorted({math.lcm(*each) for each in sets}, reverse=True):
        larger = sum(share for other, share in shares.items() if other % multiple == 0)
        shares[multiple] = Fraction(1, multiple) - larger
    return [(math.lcm(*chosen) + multiple, share) for multiple, share in sorted(shares.items()) if share]

"""Provenance: the code that has computed a run, compared with the current code.

    sources       a Python file reduced to the parts that can change a number
    fingerprints  the modules that compute a configuration, found without importing them, and one hash of all
    records       the code of a run, as recorded in its directory
    vintages      the finished runs of other code; the codes that `verify` found to be equal
    checkout      the code of a whole sweep: commit, changes, and a copy to run

Nothing here imports torch, or the code that it examines.
"""

from optbench.provenance.fingerprints import Code, Sources, fingerprint
from optbench.provenance.records import UNKNOWN, as_text, changed_modules, continued, fingerprints, record, vintages_of
from optbench.provenance.vintages import Standing, Vintages, in_words

__all__ = [
    "UNKNOWN",
    "Code",
    "Sources",
    "Standing",
    "Vintages",
    "as_text",
    "changed_modules",
    "continued",
    "fingerprint",
    "fingerprints",
    "in_words",
    "record",
    "vintages_of",
]

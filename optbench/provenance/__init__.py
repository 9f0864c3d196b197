"""Provenance: which code has computed a run, whether it is the code that is there now, and which codes compute the same.

    sources       a file without what cannot change a number
    fingerprints  the modules that compute a configuration, found without importing one, and one hash of all
    records       what a run's directory says of the code that computed it
    vintages      which finished runs are of other code; which codes `verify` found to be equal
    checkout      what a whole sweep was started from: commit, changes, a copy to run from

Nothing here imports torch, or the code that it looks at.
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

"""Fixtures of searches whose runs are not trained."""

import pytest

from optbench.sweep.grid import again
from optbench.sweep.search import asking

_LATTICES = {}


@pytest.fixture
def composed_once(monkeypatch):
    """Composing the same grid again takes half a second; what it gives is the same."""
    compose = again.compose_again

    def once(words):
        key = tuple(word for word in words if not word.startswith("results_dir="))
        if key not in _LATTICES:
            _LATTICES[key] = compose(words)
        return _LATTICES[key]

    monkeypatch.setattr(again, "compose_again", once)
    monkeypatch.setattr("tests.search.searched.compose_again", once)


@pytest.fixture
def impatient(monkeypatch):
    """A worker that waits for the runs of others does not sleep."""
    monkeypatch.setattr(asking, "_PATIENCE_SECONDS", 0.0)

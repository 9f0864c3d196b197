"""The place in which tests of commands run."""

import pytest


@pytest.fixture
def an_empty_folder_and_an_empty_queue(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("optbench.sweep.launchers.slurm.queued", lambda ids: {})

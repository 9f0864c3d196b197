"""Synthetic run directories, a tracker that records what it is told, a reader of offline wandb runs."""

import json
from pathlib import Path

import pytest
import yaml
from mirrored_runs import CONFIG, ENVIRONMENT, RECORDER, leveldb_records, write_rows, write_summary


@pytest.fixture(autouse=True)
def _no_login(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE", "WANDB_BASE_URL", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(home / "wandb_config"))


@pytest.fixture
def make_run(tmp_path):
    """make_run(name, steps, ended): a run directory as the store writes it."""

    def make(name: str = "lenet5-sgd-0a1b", steps=(), ended: bool = False) -> Path:
        path = tmp_path / "runs" / name
        path.mkdir(parents=True)
        (path / "config.yaml").write_text(yaml.safe_dump(CONFIG, sort_keys=False))
        (path / "environment.json").write_text(json.dumps(ENVIRONMENT))
        (path / "status.json").write_text(json.dumps({"state": "running", "why": "", "since": "2026-01-01T00:00:00Z"}))
        write_rows(path, steps)
        if ended:
            write_summary(path)
        return path

    return make


@pytest.fixture
def recorder(tmp_path, monkeypatch):
    """recorder(**options): the choice of a tracker that records; it lives outside the package, as a user's would."""
    folder = tmp_path / "user_code"
    folder.mkdir()
    (folder / "recording_tracker.py").write_text(RECORDER)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.syspath_prepend(str(folder))
    return lambda **options: {"_target_": "recording_tracker.Recorder", "name": "recorder", **options}


@pytest.fixture
def read_wandb():
    """read_wandb(run_directory): what the only offline segment under it holds."""
    from wandb.proto.wandb_internal_pb2 import Record

    def values(items) -> dict:
        return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}

    def read(path: Path) -> dict:
        (file,) = (path / "wandb").glob("*run-*/*.wandb")
        content = {"rows": [], "steps": [], "summary": {}, "metrics": {}, "exit": None}
        for body in leveldb_records(file.read_bytes()):
            record = Record()
            record.ParseFromString(body)
            match record.WhichOneof("record_type"):
                case "run":
                    content["run"], content["config"] = record.run, values(record.run.config.update)
                case "metric":
                    content["metrics"][record.metric.name] = record.metric
                case "history":
                    logged = values(record.history.item)
                    content["steps"].append(record.history.step.num)
                    content["rows"].append({k: v for k, v in logged.items() if not k.startswith("_")})
                case "summary":
                    content["summary"].update(values(record.summary.update))
                case "exit":
                    content["exit"] = record.exit.exit_code
        return content

    return read

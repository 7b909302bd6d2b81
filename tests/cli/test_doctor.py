"""`hfs-providers doctor`."""

from __future__ import annotations

import json
import os
from datetime import date, timedelta

import platformdirs
import pytest
from typer.testing import CliRunner

from hfs_providers.cli import app, imports

KEY = {"NUM_GROQ": "1", "GROQ_API_KEY_1": "gsk_markedkeyofgroq"}


def _checked(output: str, exit_code: int):
    report = json.loads(output)
    assert report["ok"] == (exit_code == 0)
    return report["findings"]


@pytest.fixture
def findings_for_real(cli):
    """What doctor finds in a process of its own, where it tries the SDKs."""

    def run(env, path):
        done = cli("doctor", "--json", env=env, path=path)
        assert "markedkey" not in done.stdout + done.stderr
        return _checked(done.stdout, done.returncode)

    return run


@pytest.fixture
def findings(monkeypatch, kept_logging):
    """What doctor finds in this process, where every SDK is taken to be sound."""
    monkeypatch.setattr(imports, "try_imports", lambda wanted: dict.fromkeys(wanted))

    def run(env=None, path=()):
        for name, value in (env or {}).items():
            monkeypatch.setenv(name, value)
        for folder in path:
            monkeypatch.syspath_prepend(str(folder))
        done = CliRunner().invoke(app, ["doctor", "--json"])
        assert "markedkey" not in done.output
        return _checked(done.stdout, done.exit_code)

    return run


def _of(found, topic, level=None):
    return [entry for entry in found if entry["topic"] == topic and level in (None, entry["level"])]


def test_nothing_wrong_is_exit_code_0_and_nothing_is_written(findings_for_real, tmp_path):
    # A module in the working directory is not mistaken for an SDK.
    (tmp_path / "groq.py").write_text("raise RuntimeError")
    before = sorted(tmp_path.rglob("*"))
    found = findings_for_real(KEY, [tmp_path / "nothing"])
    assert sorted(tmp_path.rglob("*")) == before
    assert not [entry for entry in found if entry["level"] == "error"]
    assert {entry["topic"] for entry in found} >= {"python", "packages", "sdk", "environment", "state"}
    assert list(found[0]) == ["level", "topic", "message", "remedy", "provider"]


def test_no_provider_usable_is_an_error_with_the_first_step(findings):
    (error,) = [entry for entry in findings() if entry["level"] == "error"]
    assert error["message"] == "No provider is usable"
    assert "NUM_" in error["remedy"]


def test_print_has_remedies_and_a_count(cli):
    done = cli("doctor")
    assert done.returncode == 1
    assert "remedy: " in done.stdout
    assert done.stdout.splitlines()[-1].startswith("1 error, ")


BROKEN = [
    ("cerebras", "cerebras-cloud-sdk", "raise RuntimeError('libfoo is missing')", "RuntimeError: libfoo is missing"),
    ("groq", "groq", "import no_such_dependency", "No module named 'no_such_dependency'"),
    ("google", "google-genai", "import sys; sys.exit(3)", "SystemExit: 3"),
    ("openai", "openai", "import os; os.abort()", "SIGABRT"),
]
"""Module, distribution and source of each built-in provider's SDK, and what is said of it."""


def _broken(tmp_path, sources):
    """A folder that, first on the import path, has these modules."""
    for module, source in sources.items():
        (tmp_path / "broken" / module).mkdir(parents=True)
        (tmp_path / "broken" / module / "__init__.py").write_text(source)
    return tmp_path / "broken"


def test_broken_sdk_is_reported_by_its_own_error(findings_for_real, tmp_path):
    providers = ["cerebras", "groq", "gemini", "openrouter"]
    broken = _broken(tmp_path, {module: source for module, _, source, _ in BROKEN})
    keys = {f"{provider.upper()}_API_KEY": f"{provider}-markedkey-0123456789" for provider in providers}
    errors = _of(findings_for_real(keys, [broken]), "sdk", "error")
    assert [error["provider"] for error in errors] == providers
    for error, (_, distribution, _, words) in zip(errors, BROKEN, strict=True):
        assert words in error["message"]
        assert f"--force-reinstall {distribution}" in error["remedy"]


def test_missing_sdk_is_an_error_only_of_a_configured_provider(findings_for_real, tmp_path, without):
    env = {**KEY, "CEREBRAS_API_KEY": "csk-markedkeyofcerebras", "HIDDEN": "groq openai"}
    found = findings_for_real(env, [without, _broken(tmp_path, {"cerebras": "import os; os._exit(0)"})])
    broken, missing = [entry for entry in found if entry["level"] == "error" and entry["provider"]]
    assert broken["provider"] == "cerebras"
    assert "exit code 0" in broken["message"]
    assert missing["provider"] == "groq"
    assert missing["remedy"] == "pip install 'hfs-providers[groq]'"
    (entry,) = _of(found, "sdk", "info")
    assert (entry["provider"], entry["remedy"]) == ("openrouter", "pip install 'hfs-providers[openrouter]'")


def test_an_sdk_that_takes_long_is_not_called_broken(findings, monkeypatch):
    monkeypatch.setattr(imports, "try_imports", lambda wanted: {**dict.fromkeys(wanted), "groq": imports.too_slow()})
    (slow,) = _of(findings(KEY), "sdk", "warning")
    assert "is not known: it takes longer than 30 s" in slow["message"]
    assert "when the machine is less busy" in slow["remedy"]


def test_hanging_sdk_is_given_up(tmp_path, monkeypatch):
    (tmp_path / "hanging.py").write_text("import time; time.sleep(600)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(imports, "TIMEOUT", 1.0)
    assert imports.try_imports({"it": "hanging", "other": "json"}) == {"it": "it takes longer than 1 s", "other": None}


def test_broken_plugin_is_named_with_its_distribution(findings, tmp_path):
    site = tmp_path / "site"
    info = site / "hfs_broken-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: hfs-broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[hfs_providers]\nbroken = broken_module\n")
    (error,) = _of(findings(KEY, [site]), "plugins", "error")
    assert error["provider"] == "broken"
    assert "hfs-broken" in error["message"]
    assert "hfs-broken" in error["remedy"]


def test_files_that_were_read_are_named(findings, tmp_path):
    (tmp_path / ".env").write_text("NUM_GROQ=1\nGROQ_API_KEY_1=gsk_markedkeyofgroq\n")
    (tmp_path / "hfs-providers.toml").write_text('order = ["groq"]\n')
    words = " ".join(entry["message"] for entry in _of(findings(), "files", "ok"))
    assert str(tmp_path / ".env") in words
    assert str(tmp_path / "hfs-providers.toml") in words


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"HFS_ENV_FILE": "nowhere.env"}, "nowhere.env does not exist"),
        ({"HFS_CONFIG": "nowhere.toml"}, "nowhere.toml cannot be read"),
    ],
)
def test_file_that_cannot_be_read_is_an_error_with_a_remedy(findings, env, words):
    (error,) = [e for e in findings({**KEY, **env}) if e["level"] == "error"]
    assert words in error["message"]
    assert error["remedy"]


def test_retired_model_that_a_variable_names_is_an_error(findings):
    (error,) = _of(findings({**KEY, "CEREBRAS_MODEL": "llama-3.3-70b"}), "models", "error")
    assert "2026-02-16" in error["message"]
    assert "gpt-oss-120b" in error["message"]
    assert "CEREBRAS_MODEL" in error["remedy"]


@pytest.mark.parametrize(("days", "level"), [(29, "warning"), (31, None)])
def test_model_that_retires_within_30_days_is_a_warning(findings, tmp_path, days, level):
    site = tmp_path / "site"
    info = site / "acme-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[hfs_providers]\nacme = acme_{days}:plugin\n")
    day = date.today() + timedelta(days=days)
    (site / f"acme_{days}.py").write_text(
        "from datetime import date\nfrom hfs_providers import KeyedProvider, ModelDefault\n"
        "plugin = KeyedProvider(name='acme', model_class='', models=["
        f"ModelDefault('old', retires=date({day.year}, {day.month}, {day.day})), ModelDefault('new')])\n"
    )
    found = _of(findings({"ACME_API_KEY": "acme_markedkey"}, [site]), "models")
    found = [entry for entry in found if entry["provider"] == "acme"]
    assert [entry["level"] for entry in found] == ([level] if level else [])


def test_state_directory_that_cannot_be_made_is_a_warning(findings, tmp_path, monkeypatch):
    monkeypatch.delenv("HFS_USAGE_DB")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(platformdirs, "user_state_path", lambda *_, **__: tmp_path / "file" / "state")
    (entry,) = _of(findings(KEY), "state")
    assert entry["level"] == "warning"
    assert "HFS_USAGE_DB" in entry["remedy"]


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="for root every directory is writable")
def test_state_directory_that_is_read_only_is_a_warning(findings, tmp_path, monkeypatch):
    (tmp_path / "locked").mkdir(mode=0o500)
    monkeypatch.setattr(platformdirs, "user_state_path", lambda *_, **__: tmp_path / "locked" / "state")
    (entry,) = _of(findings(KEY), "state")
    assert entry["level"] == "warning"


def test_base_url_is_told_without_its_password(findings):
    found = _of(findings({**KEY, "GROQ_BASE_URL": "http://me:hunter2@127.0.0.1:9/v1"}), "environment", "info")
    (entry,) = [entry for entry in found if "GROQ_BASE_URL" in entry["message"]]
    assert "127.0.0.1:9" in entry["message"]
    assert "hunter2" not in entry["message"]

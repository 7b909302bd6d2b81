"""`hfs-providers status`."""

from __future__ import annotations

import json
import subprocess
import sys

GROQ = {"NUM_GROQ": "2", "GROQ_API_KEY_1": "gsk_firstmarkedkey", "GROQ_API_KEY_2": "gsk_secondmarkedkey"}


def test_without_keys_nothing_is_usable_and_the_remedy_is_named(cli):
    done = cli("status")
    assert done.returncode == 1
    assert "no provider is usable" in done.stderr
    assert "NUM_CEREBRAS=1" in done.stderr
    assert "TiDB persistence: No" in done.stdout


def test_with_keys_exit_code_0(cli):
    done = cli("status", env=GROQ)
    assert (done.returncode, done.stderr) == (0, "")
    (row,) = (line for line in done.stdout.splitlines() if line.startswith("groq"))
    assert row.split()[:6] == ["groq", "yes", "yes", "2", "2", "llama-3.3-70b-versatile"]


def test_json(cli):
    done = cli("status", "--json", env={**GROQ, "EXPECTED_GROQ": "3", "GROQ_MODEL": "mine"})
    status = json.loads(done.stdout)
    assert list(status) == [
        "version",
        "usable",
        "providers",
        "problems",
        "env_file",
        "config_file",
        "usage",
        "tidb_persistence",
    ]
    by_name = {provider["name"]: provider for provider in status["providers"]}
    assert list(by_name) == ["cerebras", "groq", "gemini", "openrouter"]
    groq = by_name["groq"]
    assert groq.pop("sdk_version")
    assert groq == {
        "name": "groq",
        "configured": True,
        "usable": True,
        "initialized": None,
        "keys": 2,
        "sources": {"GROQ_API_KEY_n": 2},
        "free": 2,
        "dead": 0,
        "declared": 2,
        "expected": 3,
        "default_model": "mine",
        "sdk": "groq",
        "install": "pip install 'hfs-providers[groq]'",
        "problems": [
            {
                "message": "EXPECTED_GROQ is 3, but 2 usable keys can be used",
                "remedy": None,
                "level": "warning",
                "provider": "groq",
            }
        ],
    }
    assert not by_name["gemini"]["usable"]


def test_json_where_nothing_is_usable_is_still_json(cli):
    done = cli("status", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["usable"] is False


def test_build_shows_what_was_initialized(cli):
    done = cli("status", "--build", "--json", env=GROQ)
    initialized = {p["name"]: p["initialized"] for p in json.loads(done.stdout)["providers"]}
    assert initialized == {"cerebras": False, "groq": True, "gemini": False, "openrouter": False}
    assert "initialized" in cli("status", "--build", env=GROQ).stdout


def test_missing_sdk_is_shown_with_its_command(cli, without):
    done = cli("status", env={**GROQ, "HIDDEN": "groq cerebras-cloud-sdk openai google-genai"}, path=[without])
    assert done.returncode == 1
    assert done.stdout.count("missing") >= 4
    assert "pip install 'hfs-providers[groq]'" in done.stderr


def test_a_database_that_is_not_written_to_is_told_without_its_address(cli):
    done = cli("status", env={**GROQ, "TIDB_DB_URL": "nosuch+driver://root:hunter2@db.example/usage"})
    assert "TiDB persistence: No" in done.stdout
    assert "TIDB_DB_URL" in done.stdout
    assert "hunter2" not in done.stdout + done.stderr


def test_where_usage_goes_is_shown_and_nothing_is_made(cli, tmp_path):
    path = tmp_path / "kept" / "usage.db"
    assert f"Usage: {path} (not there yet)" in cli("status", env={**GROQ, "HFS_USAGE_DB": str(path)}).stdout
    assert not path.exists()
    unkept = 'Usage: not kept, so "free now" knows nothing of other processes'
    assert unkept in cli("status", env={**GROQ, "HFS_USAGE_DB": "off"}).stdout


def test_the_file_of_usage_is_shown_once_it_is_there(cli, tmp_path):
    env = {**GROQ, "HFS_USAGE_DB": str(tmp_path / "usage.db")}
    cli("status", "--build", env=env)
    usage = json.loads(cli("status", "--json", env=env).stdout)["usage"]
    assert usage["path"] == str(tmp_path / "usage.db")
    assert usage["size"] > 0
    assert (usage["targets"], usage["sharing"], usage["processes"]) == ([], "file", 0)


def test_a_file_of_usage_that_cannot_be_used_is_told(cli, tmp_path):
    (tmp_path / "usage.db").mkdir()
    done = cli("status", env={**GROQ, "HFS_USAGE_DB": str(tmp_path / "usage.db")})
    assert "usage cannot be kept in" in done.stdout
    assert done.returncode == 0


def test_env_file_is_named(cli, tmp_path):
    (tmp_path / ".env").write_text("GROQ_API_KEY=gsk_fromthefile\n")
    status = json.loads(cli("status", "--json").stdout)
    assert status["env_file"] == str(tmp_path / ".env")
    assert status["usable"]


def test_problems_come_with_their_remedies(cli):
    done = cli("status", env={**GROQ, "NUM_GROQ": "abc"})
    assert "NUM_GROQ is not an integer" in done.stdout
    assert "remedy: Set NUM_GROQ to the number of keys" in done.stdout


def test_remedies_keep_their_brackets(cli, without):
    done = cli("status", env={**GROQ, "HIDDEN": "groq"}, path=[without])
    assert "remedy: pip install 'hfs-providers[groq]'" in done.stdout


def test_no_disabled_provider_is_asked_for(cli):
    done = cli("status", env={"HFS_DISABLED_PLUGINS": "groq,cerebras,gemini,openrouter"})
    assert done.returncode == 1
    assert "HFS_DISABLED_PLUGINS" in done.stderr


def test_no_key_is_shown(cli):
    done = cli("status", "--build", env=GROQ)
    assert "markedkey" not in done.stdout + done.stderr


HEAVY = (
    "agno",
    "keycycle",
    "pydantic",
    "pydantic_settings",
    "sqlalchemy",
    "groq",
    "cerebras",
    "openai",
    "google.genai",
    "asyncio",
    "hfs_providers.cli.demo",
    "hfs_providers.cli.doctor",
)
PURE = """
import sys

sys.argv = ["hfs-providers", "status", *sys.argv[1:]]
from hfs_providers.cli import main
try:
    main()
except SystemExit:
    pass
print(*sorted(sys.modules), file=sys.stderr)
"""


def _imported(bare_env, tmp_path, *args):
    done = subprocess.run(
        [sys.executable, "-c", PURE, *args], env={**bare_env, **GROQ}, cwd=tmp_path, capture_output=True, text=True
    )
    return set(done.stderr.split())


def test_status_imports_nothing_heavy(bare_env, tmp_path):
    assert not _imported(bare_env, tmp_path) & set(HEAVY)


def test_json_does_not_even_import_rich(bare_env, tmp_path):
    assert not _imported(bare_env, tmp_path, "--json") & {*HEAVY, "rich"}

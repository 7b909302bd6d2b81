"""`hfs-providers clients`: who may use the gateway."""

from __future__ import annotations

import json
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hfs_providers.contract.environment import CLIENTS
from hfs_providers.gateway.client_file import clients_of, digest_of
from hfs_providers.keys.key_files import read_private_file
from tests.cli.conftest import Cli

TOKEN = re.compile(r"hfs_[0-9a-f]{64}\n")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the file is if no variable names one."""
    return tmp_path / "home" / "XDG_CONFIG_HOME" / "hfs-providers" / "clients"


def test_a_token_is_shown_once_and_only_its_digest_is_kept(cli: Cli, path: Path) -> None:
    done = cli("clients", "add", "web")
    assert done.returncode == 0, done.stderr
    assert TOKEN.fullmatch(done.stdout)
    assert "needs a token" in done.stderr
    token = done.stdout.strip()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert token not in path.read_text()
    (found,) = clients_of(read_private_file(str(path))).tokens
    assert (found.name, found.digest, found.admin) == ("web", digest_of(token.encode()), False)
    admin = cli("clients", "add", "ops.of-us_1", "--admin")
    assert admin.stdout != done.stdout
    assert "needs a token" not in admin.stderr
    listed = cli("clients")
    assert listed.returncode == 0
    assert token not in listed.stdout
    rows = [line.split()[:2] for line in listed.stdout.splitlines()]
    assert ["web", "no"] in rows
    assert ["ops.of-us_1", "yes"] in rows


def test_as_json(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "hfs-providers.toml").write_text(
        '[clients.web]\nmodels = ["groq/*"]\nrpm = 5\n[clients.wbe]\nrpm = 1\n'
        '[clients.web.budget]\nusd = 1.5\nper = "day"\n'
    )
    env = {CLIENTS: str(tmp_path / "own" / "clients")}
    added = json.loads(cli("clients", "add", "web", "--json", env=env).stdout)
    assert TOKEN.fullmatch(added.pop("token") + "\n")
    assert added == {"name": "web", "admin": False, "file": env[CLIENTS]}
    listed = json.loads(cli("clients", "list", "--json", env=env).stdout)
    (client,) = listed["clients"]
    assert client.pop("added")
    assert client == {
        "name": "web",
        "admin": False,
        "models": ["groq/*"],
        "limits": {"rpm": 5},
        "budget": {"usd": 1.5, "per": "day"},
    }
    (problem,) = listed["problems"]
    assert problem["message"].endswith("names 'wbe', which has no token. Did you mean 'web'?")
    assert problem["remedy"] == "Run: hfs-providers clients add wbe"
    shown = cli("clients", env=env)
    assert "$1.5 a day" in shown.stdout
    assert "Did you mean 'web'?" in shown.stderr
    revoked = json.loads(cli("clients", "revoke", "web", "--json", env=env).stdout)
    assert revoked == {"name": "web", "tokens": 1, "file": env[CLIENTS]}
    assert (
        "nobody may use the gateway" in json.loads(cli("clients", "--json", env=env).stdout)["problems"][0]["message"]
    )


def test_without_clients_it_says_so(cli: Cli) -> None:
    done = cli("clients")
    assert (done.returncode, done.stdout) == (0, "")
    assert "hfs-providers clients add NAME" in done.stderr
    assert json.loads(cli("clients", "--json").stdout)["clients"] == []


def test_several_at_once_lose_nothing(cli: Cli, path: Path) -> None:
    names = [f"client-{number}" for number in range(6)]
    with ThreadPoolExecutor(6) as pool:
        done = list(pool.map(lambda name: cli("clients", "add", name), names))
    assert [each.returncode for each in done] == [0] * 6
    found = clients_of(read_private_file(str(path))).tokens
    assert {each.name: each.digest for each in found} == {
        name: digest_of(each.stdout.strip().encode()) for name, each in zip(names, done, strict=True)
    }


@pytest.mark.parametrize("name", ["we b", "", "-web", ".web", "wéb", "a" * 65, "hfs_" + "0" * 64, "a/b", "a\nb", "#a"])
def test_a_name_with_odd_characters_is_refused_and_not_shown(cli: Cli, path: Path, name: str) -> None:
    for command in ("add", "revoke"):
        done = cli("clients", command, "--", name)
        assert done.returncode == 2
        assert "it may be a token" in done.stderr
        assert len(name) < 5 or name not in done.stderr
    assert not path.exists()


def test_what_is_there_already_or_not_there_is_said(cli: Cli, path: Path) -> None:
    assert cli("clients", "revoke", "web").returncode == 2
    assert cli("clients", "add", "web").returncode == 0
    before = path.read_bytes()
    again = cli("clients", "add", "web")
    assert (again.returncode, again.stdout) == (1, "")
    assert "hfs-providers clients revoke web" in again.stderr
    assert cli("clients", "revoke", "wbe").returncode == 2
    assert path.read_bytes() == before


@pytest.mark.parametrize("content", [b"nonsense\n", b"\x00", b"# a comment\nweb sha256:12\n"])
def test_a_file_that_it_cannot_read_is_not_written_over(cli: Cli, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "clients"
    path.write_bytes(content)
    for command in ("add", "revoke"):
        done = cli("clients", command, "cli", env={CLIENTS: str(path)})
        assert (done.returncode, done.stdout) == (1, "")
        assert "Remedy: Remove" in done.stderr
    assert path.read_bytes() == content


def test_where_no_file_can_be_is_said(cli: Cli, tmp_path: Path) -> None:
    off = cli("clients", "add", "web", env={CLIENTS: "off"})
    assert off.returncode == 1
    assert f"{CLIENTS} is off" in off.stderr
    (tmp_path / "file").write_text("")
    done = cli("clients", "add", "web", env={CLIENTS: str(tmp_path / "file" / "clients")})
    assert (done.returncode, done.stdout) == (1, "")
    assert "cannot be written" in done.stderr


def test_doctor_tells_of_the_file(cli: Cli, tmp_path: Path) -> None:
    def findings(**env: str) -> list[tuple[str, str]]:
        found = json.loads(cli("doctor", "--json", env=env).stdout)["findings"]
        return [(each["level"], each["message"]) for each in found if "lient" in each["message"]]

    path = tmp_path / "clients"
    assert findings() == []
    assert findings(**{CLIENTS: str(path)}) == [("error", f"{CLIENTS}: {path} does not exist")]
    cli("clients", "add", "web", env={CLIENTS: str(path)})
    (tmp_path / "hfs-providers.toml").write_text("[clients.wbe]\nrpm = 1")
    (warning, ok) = findings(**{CLIENTS: str(path)})
    assert warning[0] == "warning"
    assert "names 'wbe'" in warning[1]
    assert ok == ("ok", f"Clients of the gateway: web ({path})")

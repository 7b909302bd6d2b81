"""`hfs-providers keys import`, and where the commands say that keys come from."""

from __future__ import annotations

import io
import json
import re
import shlex
import stat
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from hfs_providers.cli import doctor
from hfs_providers.cli.key_import import import_keys
from hfs_providers.contract.secret import fingerprint
from hfs_providers.core.inventory import take_inventory
from hfs_providers.keys.key_files import keys_of_file, read_private_file
from tests.cli.conftest import Cli

ONE, TWO, THREE = (f"gsk_mArKeD{number}0123456789abcdefghijk" for number in (1, 2, 3))
PAGE = (Path(__file__).parents[2] / "docs" / "keys.md").read_text(encoding="utf-8")
ENDPOINTS = """
from hfs_providers.authoring import KeyedProvider, ModelDefault
plugin = KeyedProvider("endpoints", "a:B", keyless=True, models=[ModelDefault("m")])
"""


@pytest.fixture
def pasted(tmp_path: Path) -> Path:
    path = tmp_path / "pasted.txt"
    path.write_text(f"{ONE}\r\n{TWO},team\r\n{TWO}\r\nnot a key\r\n")
    return path


def content(path: Path) -> tuple[str, int]:
    return path.read_text(), stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Any:
    """What `import_keys` says as JSON."""

    def said(*arguments: Any) -> Any:
        import_keys(*arguments, as_json=True)
        return json.loads(capsys.readouterr().out)

    return said


def test_it_writes_a_file_that_only_the_owner_can_read(cli: Cli, pasted: Path, tmp_path: Path) -> None:
    done = cli("keys", "import", str(pasted), "--provider", "GROQ")
    assert done.returncode == 0, done.stderr
    path = tmp_path / "home" / "XDG_CONFIG_HOME" / "hfs-providers" / "groq.keys"
    assert content(path) == (f"{ONE}\n{TWO},team\n", 0o600)
    assert done.stdout.splitlines() == [
        f"2 keys added to {path}, which has 2 keys now.",
        "Dropped: each entry that repeats an earlier one (line 3).",
        "Dropped: each entry that contains blanks, line breaks or other characters that no key has (line 4).",
        f"To use the file: GROQ_API_KEYS_FILE={path}",
        "The keys are still in the file that they came from: delete it if you no longer need it.",
    ]


def test_it_adds_to_the_file_that_is_in_use_and_keeps_what_stands_there(
    said: Any, pasted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "groq.keys"
    path.write_text(f"# ours\n{ONE}")
    path.chmod(0o644)
    for name, value in {"GROQ_API_KEYS_FILE": str(path), "NUM_GROQ": "1", "GROQ_API_KEY_1": THREE}.items():
        monkeypatch.setenv(name, value)
    pasted.write_text(f"{pasted.read_text()}{THREE}\n")
    record = said(str(pasted), "groq", None)
    assert content(path) == (f"# ours\n{ONE}\n{TWO},team\n", 0o600)
    assert (record["keys"], record["added"], record["used"]) == (2, 1, True)
    assert (record["dropped"]["there"], record["dropped"]["elsewhere"]) == (1, ["groq#1"])


def test_what_is_there_already_is_not_written_again(
    said: Any, pasted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "deep" / "groq.keys"
    assert said(str(pasted), "groq", str(path))["added"] == 2
    before = path.stat().st_ino
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(pasted.read_bytes())))
    record = said("-", "groq", str(path))
    assert (record["added"], record["keys"], record["dropped"]["there"]) == (0, 2, 2)
    assert path.stat().st_ino == before


def test_a_file_can_be_put_in_order_in_place(said: Any, pasted: Path) -> None:
    said(str(pasted), "groq", str(pasted))
    assert content(pasted) == (f"{ONE}\n{TWO},team\n", 0o600)


@pytest.mark.parametrize(
    ("file", "provider", "to", "words"),
    [
        (ONE, "groq", None, "that file does not exist"),
        ("pasted.txt", ONE, None, "there is no such provider"),
        ("empty", "groq", None, "that file holds no key"),
        ("pasted.txt", "groq", "folder", "is a directory"),
        ("pasted.txt", "groq", "binary", "is not UTF-8 text"),
        ("pasted.txt", "groq", "pasted.txt/keys", "cannot be written"),
        ("pasted.txt", "endpoints", None, "takes endpoints instead of keys"),
    ],
)
def test_what_cannot_be_done_is_said_without_a_key(
    pasted: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    file: str,
    provider: str,
    to: str | None,
    words: str,
) -> None:
    here = pasted.parent
    monkeypatch.chdir(here)
    monkeypatch.syspath_prepend(here)
    Path("empty").touch()
    Path("folder").mkdir()
    Path("binary").write_bytes(b"\xff\xfe\0")
    Path("endpoints-1.dist-info").mkdir()
    Path("endpoints-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: endpoints\nVersion: 1\n")
    Path("endpoints-1.dist-info/entry_points.txt").write_text("[hfs_providers]\nendpoints = its_plugin:plugin\n")
    Path("its_plugin.py").write_text(ENDPOINTS)
    before = sorted((path, path.is_file() and path.read_bytes()) for path in here.iterdir())
    with pytest.raises(typer.Exit):
        import_keys(file, provider, to)
    shown = capsys.readouterr()
    assert words in shown.err
    assert "mArKeD" not in shown.out + shown.err
    after = [(path, path.is_file() and path.read_bytes()) for path in here.iterdir() if path.name != "__pycache__"]
    assert sorted(after) == before


def test_commands_show_where_keys_come_from(cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "groq.keys"
    path.touch(0o600)
    path.write_text(f"{TWO}\n{THREE}\n")
    env = {"NUM_GROQ": "1", "GROQ_API_KEY_1": ONE, "GROQ_API_KEYS_FILE": str(path)}
    words, sources = f"GROQ_API_KEY_n (1), {path} (2)", {"GROQ_API_KEY_n": 1, str(path): 2}
    providers = json.loads(cli("status", "--json", env=env).stdout)["providers"]
    assert next(each for each in providers if each["name"] == "groq")["sources"] == sources
    assert words in cli("plugins", env=env).stdout
    findings = doctor._environment(take_inventory(env))
    assert f"groq: keys from {words}" in [finding.message for finding in findings]
    key_id = f"groq@{fingerprint(TWO)}"
    assert cli("keys", "retire", key_id, env=env).stdout.startswith(f"{key_id} is out of rotation")
    (shown,) = json.loads(cli("keys", "--json", env=env).stdout)["providers"]
    assert [(key["id"], key["source"], key["state"]) for key in shown["keys"]] == [
        ("groq#1", "GROQ_API_KEY_1", "ready"),
        (key_id, str(path), "dead"),
        (f"groq@{fingerprint(THREE)}", str(path), "ready"),
    ]


def test_the_commands_of_the_page_do_what_they_say(cli: Cli, pasted: Path, tmp_path: Path) -> None:
    for command in re.findall(r"^\$ hfs-providers (.+)$", PAGE, re.MULTILINE):
        written, _, source = command.partition(" < ")
        places = {"pasted.txt": str(pasted), "secrets/groq.keys": str(tmp_path / "secrets" / "groq.keys")}
        done = cli(*(places.get(each, each) for each in shlex.split(written)), given=source and pasted.read_text())
        assert (done.returncode, done.stdout[:12]) == (0, "2 keys added"), done.stderr


def test_the_example_of_the_page_does_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    listed, program, table = (
        re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)[0] for kind in ("text", "python", "toml")
    )
    Path("hfs-providers.toml").write_text(table)
    first = re.findall(r"gsk_\w+", listed)[0]
    exec(compile(program, "docs/keys.md", "exec"), {})
    assert capsys.readouterr().out == f"['groq@{fingerprint(first)}']\n[]\n"
    Path("groq.keys").write_text(listed)
    found = keys_of_file(read_private_file(str(Path("groq.keys"))))
    assert ([key.account for key in found.keys], found.dropped) == ([None, "berlin", "berlin"], {})

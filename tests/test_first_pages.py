"""docs/getting-started.md and docs/troubleshooting.md: programs and commands run, and the messages are ours."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from hfs_providers import ProviderManager
from hfs_providers.testing import LoopbackServer, Ok, RateLimited, Unauthorized
from tests.cli.conftest import Cli
from tests.cli.conftest import bare_env as bare_env
from tests.cli.conftest import cli as cli
from tests.long import takes_long

ROOT = Path(__file__).parents[1]
START = (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")
TROUBLE = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


# The last program and session belong together.
*PROGRAMS, COOLING = blocks(START, "python")
*COMMANDS, SESSION = blocks(START, "console")


def test_the_programs_answer(
    fresh_manager: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with LoopbackServer(answer=lambda _: Ok("Hello there.")) as server:
        for name, value in server.env({"groq": 2, "gemini": 1}).items():
            monkeypatch.setenv(name, value)
        said: dict[str, object] = {}
        for program in PROGRAMS:
            exec(program, said)
    simulated = "[groq/llama-3.3-70b-versatile] You said: Say hello."
    assert capsys.readouterr().out.splitlines() == ["Hello there.", "Hello there.", simulated]


def test_a_key_that_cools_down_is_shown(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    _, program, command = re.split(r"^\$ (?:python|hfs-providers) ", SESSION, flags=re.MULTILINE)
    exec(COOLING.removeprefix(f"# {program.splitlines()[0]}\n"), {})
    assert capsys.readouterr().out == program.partition("\n")[2]
    arguments, _, table = command.partition("\n")
    done = cli(arguments, env={"COLUMNS": "110"})
    assert _without_numbers(done.stdout) == _without_numbers(table), done.stderr
    # A second time, it overwrites nobody's settings.
    with pytest.raises(FileExistsError):
        exec(COOLING, {})


def _without_numbers(table: str) -> str:
    """A table without times and what is used, and without the widths that come from these."""
    lines = re.sub(r"\d+/|(?:[A-Z]\w\w \d+ |[\d-]{10} )?\d\d:\d\d(?::\d\d)?|─+", "N", table).splitlines()
    return "\n".join(" ".join(line.split()) for line in lines)


@takes_long
def test_the_commands_run(cli: Cli, tmp_path: Path) -> None:
    commands = [line[2:] for block in COMMANDS for line in block.splitlines()]
    assert len(commands) == 4
    with LoopbackServer() as server:
        (tmp_path / ".env").write_text("".join(f"{k}={v}\n" for k, v in server.env({"groq": 2}).items()))
        for command in commands:
            program, *arguments = shlex.split(command)
            assert program == "hfs-providers"
            if arguments != ["serve"]:  # tests/gateway
                done = cli(*arguments)
                assert (done.returncode, "groq" in done.stdout + done.stderr) == (0, True), done.stderr


def quoted(text: str) -> list[str]:
    """The messages that the tables have in their first column."""
    return re.findall(r"^\| `([^`|]+)` \|", text, re.MULTILINE)


def test_the_messages_are_those_of_the_code() -> None:
    code = "\n".join(path.read_text(encoding="utf-8") for path in (ROOT / "hfs_providers").rglob("*.py"))
    code = re.sub(r"\"\n\s*f?\"", "", code)
    messages = [message for message in quoted(TROUBLE) if " " in message]
    assert len(messages) >= 14
    for message in messages:
        # The longest part without names and numbers is in the source as it is.
        words = max(re.findall(r"[a-z][a-z ,;-]+[a-z]", re.sub(r"groq|usable|keys were|250 ms", "X", message)), key=len)
        assert len(words) > 4
        assert words in code, message


@pytest.mark.parametrize(
    ("answer", "shown"),
    [(RateLimited(retry_after=600), "(1 cooling)"), (Unauthorized(), "(1 dead)")],
)
def test_what_a_call_without_a_free_key_says_is_shown(answer: object, shown: str) -> None:
    [message] = [message for message in quoted(TROUBLE) if message.startswith("no key") and shown[3:] in message]
    with LoopbackServer() as server:
        server.script("groq", "*", [], then=answer)
        with ProviderManager(env=server.env({"groq": 1}) | {"HFS_USAGE_DB": "off"}) as manager:
            model = manager.get_model("groq", timeout=0)
            for _ in range(2):
                error = _error_of(lambda: model.response(messages=[_hello()]))
    assert re.sub(r"\d[\d.]*", "N", message) in re.sub(r"\d[\d.]*", "N", str(error))


def _hello() -> object:
    from agno.models.message import Message

    return Message(role="user", content="hello")


def _error_of(call: Callable[[], object]) -> Exception | None:
    try:
        call()
    except Exception as error:
        return error
    return None

"""`hfs-providers agents run` and `watch`, as their users run them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from hfs_providers.testing import LoopbackServer, ServerError
from tests import warm
from tests.agents.workers import DEADLINE, item


def command(*args: str) -> list[str]:
    return [warm.python(), "-m", "hfs_providers", "agents", *args]


def agents(
    *args: str, env: Mapping[str, str], cwd: Path, given: str | bytes = ""
) -> tuple[subprocess.CompletedProcess[bytes], list[dict[str, Any]]]:
    """Run a command; and its results."""
    data = given.encode() if isinstance(given, str) else given
    done = subprocess.run(command(*args), env=dict(env), cwd=cwd, input=data, capture_output=True, timeout=120)
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(b"{")]
    return done, results


def lines(items: Sequence[object]) -> str:
    return "\n".join(map(json.dumps, items))


class TestRun:
    def test_gives_a_result_for_each_line_of_stdin(self, env: Mapping[str, str], tmp_path: Path) -> None:
        done, results = agents("run", env=env, cwd=tmp_path, given=lines([item(n) for n in range(20)]) + "\n\n")
        assert done.returncode == 0, done.stderr
        assert sorted(int(result["item_id"]) for result in results) == list(range(20))
        assert all(result["success"] and result["served_by"]["provider"] == "groq" for result in results)
        assert done.stderr == b"20 items: 20 succeeded, 0 failed\n"

    def test_reads_a_file_and_takes_a_role(self, env: Mapping[str, str], tmp_path: Path) -> None:
        (tmp_path / "work.jsonl").write_text(lines([item()]))
        done, results = agents("run", "work.jsonl", "--role", "reviewer", env=env, cwd=tmp_path)
        assert done.returncode == 0
        assert set(results[0]["data"]) == {"approved", "confidence", "feedback", "issues"}

    def test_answers_lines_that_are_wrong_and_does_the_others(self, env: Mapping[str, str], tmp_path: Path) -> None:
        given = [json.dumps(item("good")), "no JSON", json.dumps({"id": "half"}), json.dumps([1]), "x" * 5_000_000]
        done, results = agents("run", env=env, cwd=tmp_path, given="\n".join(given))
        assert done.returncode == 1
        errors = {result["item_id"]: result["error"] for result in results}
        assert set(errors) == {"good", "line 2", "half", "line 4", "line 5"}
        assert errors["good"] is None
        assert "description: Field required" in errors["half"]

    def test_fails_where_an_item_fails(self, env: Mapping[str, str], server: LoopbackServer, tmp_path: Path) -> None:
        for provider in ("groq", "cerebras"):
            server.script(provider, "*", [], then=ServerError(500))
        done, results = agents("run", env=env, cwd=tmp_path, given=lines([item()]))
        server.reset()
        assert done.returncode == 1
        assert "no entry of the chain could answer" in results[0]["error"]

    def test_takes_each_item_through_the_pipeline(self, env: Mapping[str, str], tmp_path: Path) -> None:
        done, results = agents("run", "--pipeline", env=env, cwd=tmp_path, given=lines([item()]))
        assert done.returncode == 0, done.stderr
        assert set(results[0]["data"]) == {"plan", "artifacts", "verdict", "attempts"}

    def test_without_any_provider_says_why_and_does_nothing(self, bare: Mapping[str, str], tmp_path: Path) -> None:
        done, results = agents("run", "--pipeline", env=bare, cwd=tmp_path, given=lines([item()]))
        assert (done.returncode, results) == (3, [])
        said = done.stderr.decode()
        for role in ("orchestrator", "executor", "reviewer"):
            assert f"no {role} is available: no provider can be used" in said
        assert "GROQ_API_KEY_1" in said
        assert "hfs-providers doctor" in said

    @pytest.mark.parametrize(
        "args", [["nowhere.jsonl"], ["--role", "poet"], ["--workers", "5"], ["--events", "no/where"]]
    )
    def test_refuses_what_it_cannot_use(self, args: list[str], env: Mapping[str, str], tmp_path: Path) -> None:
        done, _ = agents("run", *args, env=env, cwd=tmp_path)
        assert done.returncode == 2
        assert b"Traceback" not in done.stderr

    @pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
    def test_answers_what_it_has_read_when_it_is_ended(
        self, number: signal.Signals, code: int, env: Mapping[str, str], server: LoopbackServer, tmp_path: Path
    ) -> None:
        pipe = subprocess.PIPE
        process = subprocess.Popen(command("run"), env=dict(env), cwd=tmp_path, stdin=pipe, stdout=pipe, stderr=pipe)
        assert process.stdin is not None
        with server.hold() as gate:
            process.stdin.write(lines([item(n) for n in range(6)]).encode() + b"\n")
            process.stdin.flush()
            assert gate.wait_for(4, DEADLINE)
            # Its input stays open.
            process.send_signal(number)
            assert process.wait(DEADLINE) == code
        out, err = process.communicate()
        results = [json.loads(line) for line in out.splitlines()]
        assert sorted(result["item_id"] for result in results) == list("012345")
        assert {result["error"] for result in results} == {"cancelled"}
        assert err == b"6 items: 0 succeeded, 0 failed, 6 cancelled\n"

    @pytest.mark.skipif(os.name != "posix", reason="Windows has no such terminals")
    def test_shows_a_bar_on_a_terminal_and_keeps_the_results_out_of_it(
        self, env: Mapping[str, str], tmp_path: Path
    ) -> None:
        import pty

        terminal, end = pty.openpty()
        process = subprocess.Popen(
            command("run"),
            env={**env, "TERM": "xterm", "COLUMNS": "100"},
            cwd=tmp_path,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=end,
        )
        os.close(end)
        out, _ = process.communicate(lines([item(n) for n in range(5)]).encode(), timeout=60)
        shown = b""
        # A terminal gives 4 KiB at a time, and at the end an error.
        with suppress(OSError):
            while said := os.read(terminal, 4096):
                shown += said
        os.close(terminal)
        assert process.returncode == 0
        assert sorted(json.loads(line)["item_id"] for line in out.splitlines()) == list("01234")
        assert b"5/5" in shown
        assert b"item_id" not in shown

    @pytest.mark.skipif(os.name != "posix", reason="Windows has no such pipes")
    def test_ends_quietly_when_nobody_reads_its_results(self, env: Mapping[str, str], tmp_path: Path) -> None:
        (tmp_path / "work.jsonl").write_text(lines([item(n) for n in range(300)]))
        pipe = subprocess.PIPE
        process = subprocess.Popen(command("run", "work.jsonl"), env=dict(env), cwd=tmp_path, stdout=pipe, stderr=pipe)
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["success"]
        process.stdout.close()
        assert process.wait(DEADLINE) == 1
        assert b"Error" not in process.stderr.read()
        process.stderr.close()

    def test_refuses_a_directory(self, env: Mapping[str, str], tmp_path: Path) -> None:
        done, results = agents("run", ".", env=env, cwd=tmp_path)
        assert (done.returncode, results) == (2, [])
        assert b"Error: . cannot be opened: Is a directory" in done.stderr

    @pytest.mark.skipif(sys.platform != "linux", reason="another system's terminal ends otherwise")
    def test_says_that_its_input_broke_off_and_answers_what_it_has_read(
        self, env: Mapping[str, str], tmp_path: Path
    ) -> None:
        import pty

        # Reading a terminal's upper end fails with EIO once nobody has its lower end.
        reading, writing = pty.openpty()
        process = subprocess.Popen(
            command("run"),
            env=dict(env),
            cwd=tmp_path,
            stdin=reading,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        os.close(reading)
        os.write(writing, lines([item(n) for n in range(2)]).encode() + b'\n{"id": "half')
        os.close(writing)
        out, err = process.communicate(timeout=DEADLINE)
        assert process.returncode == 2
        assert sorted(json.loads(line)["item_id"] for line in out.splitlines()) == ["0", "1"]
        assert b"Error: stdin cannot be read to the end: Input/output error" in err

    @pytest.mark.skipif(os.name != "posix", reason="a shell of POSIX's closes it")
    def test_says_that_stdin_is_closed(self, env: Mapping[str, str], tmp_path: Path) -> None:
        closed = ["sh", "-c", 'exec "$0" -m hfs_providers agents run - <&-', sys.executable]
        done = subprocess.run(closed, env=dict(env), cwd=tmp_path, capture_output=True, timeout=60)
        assert done.returncode == 2
        assert done.stderr.startswith(b"Error: stdin is closed\n")

    @pytest.mark.parametrize("given", [("--max-concurrent-agents", "1"), ()])
    def test_works_on_as_many_items_at_once_as_it_is_told(
        self, given: Sequence[str], env: Mapping[str, str], server: LoopbackServer, tmp_path: Path
    ) -> None:
        variable = {} if given else {"HFS_MAX_CONCURRENT_AGENTS": "1"}
        path = tmp_path / "events.jsonl"
        done, _ = agents(
            "run", "--events", str(path), *given, env={**env, **variable}, cwd=tmp_path, given=lines([item(1), item(2)])
        )
        assert done.returncode == 0, done.stderr
        events = [json.loads(line) for line in path.read_text().splitlines()]
        begun = [event["item_id"] for event in events if str(event.get("message")).startswith("started")]
        assert begun == ["1", "2"]
        kinds = [event["kind"] for event in events if event["kind"] in ("progress", "agent_completed")]
        assert kinds == ["progress", "progress", "agent_completed"] * 2

    def test_refuses_a_number_of_agents_that_is_none(self, env: Mapping[str, str], tmp_path: Path) -> None:
        done, _ = agents("run", env={**env, "HFS_MAX_CONCURRENT_AGENTS": "many"}, cwd=tmp_path)
        assert done.returncode == 1
        assert b"HFS_MAX_CONCURRENT_AGENTS is not a number" in done.stderr


class TestResume:
    @pytest.fixture
    def work(self, tmp_path: Path) -> Path:
        path = tmp_path / "work.jsonl"
        path.write_text(lines([item(n) for n in range(5)]) + "\nno JSON\n")
        return path

    def test_does_what_has_no_result_yet_and_what_was_cancelled(
        self, work: Path, env: Mapping[str, str], tmp_path: Path
    ) -> None:
        earlier = [
            {"item_id": "0", "success": True},
            {"item_id": "1", "success": False, "error": "it broke"},
            {"item_id": "2", "success": False, "error": "cancelled"},
            {"item_id": "line 6", "success": False, "error": "no JSON"},
        ]
        (tmp_path / "results.jsonl").write_text(lines(earlier) + "\n")
        done, results = agents("run", "work.jsonl", "--resume", "results.jsonl", env=env, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert sorted(result["item_id"] for result in results) == ["2", "3", "4"]
        told = b"3 items: 3 succeeded, 0 failed, 3 skipped because they were answered before\n"
        assert done.stderr == told

    def test_may_append_to_the_results_even_after_a_line_that_was_cut_off(
        self, work: Path, env: Mapping[str, str], tmp_path: Path
    ) -> None:
        path = tmp_path / "results.jsonl"
        path.write_text(json.dumps({"item_id": "0", "success": True}) + '\n{"item_id": "1", "succ')
        for _ in range(2):
            with path.open("a") as results:
                resumed = command("run", "work.jsonl", "--resume", "results.jsonl")
                subprocess.run(resumed, env=dict(env), cwd=tmp_path, stdout=results, timeout=60)
        whole = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        assert sorted(result["item_id"] for result in whole) == ["0", "1", "2", "3", "4", "line 6"]

    @pytest.mark.parametrize("text", [None, '{"id": "1"}\n'])
    def test_refuses_what_are_no_results(
        self, text: str | None, work: Path, env: Mapping[str, str], tmp_path: Path
    ) -> None:
        if text is not None:
            (tmp_path / "results.jsonl").write_text(text)
        done, results = agents("run", "work.jsonl", "--resume", "results.jsonl", env=env, cwd=tmp_path)
        assert (done.returncode, results) == (2, [])
        assert b"results.jsonl" in done.stderr


class TestWatch:
    @pytest.mark.skipif(os.name != "posix", reason="Windows has no such pipes")
    @pytest.mark.parametrize("buffering", [{}, {"PYTHONUNBUFFERED": "1"}])
    def test_ends_quietly_when_nobody_reads_it(
        self, buffering: Mapping[str, str], env: Mapping[str, str], tmp_path: Path
    ) -> None:
        heartbeat = '{"kind": "heartbeat", "at": 1.0, "agent": "executor#1"}\n'
        (tmp_path / "events.jsonl").write_text(heartbeat * 20_000)
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command("watch", "events.jsonl"),
            env={**env, **buffering},
            cwd=tmp_path,
            stdout=pipe,
            stderr=pipe,
        )
        assert process.stdout is not None
        assert b"heartbeat" in process.stdout.readline()
        process.stdout.close()
        assert process.wait(DEADLINE) == 1
        assert process.stderr is not None
        assert process.stderr.read() == b""
        process.stderr.close()

    def test_shows_what_a_run_wrote(self, env: Mapping[str, str], tmp_path: Path) -> None:
        agents("run", "--events", "events.jsonl", env=env, cwd=tmp_path, given=lines([item("mine")]))
        done, _ = agents("watch", "events.jsonl", env=env, cwd=tmp_path)
        assert done.returncode == 0
        shown = [line.split()[1:] for line in done.stdout.decode().splitlines()]
        assert ["agent_completed", "executor#1", "mine"] in shown
        assert shown[-1] == ["supervisor_stopped"]

    def test_follows_a_file_that_is_being_written(self, env: Mapping[str, str], tmp_path: Path) -> None:
        path = tmp_path / "events.jsonl"
        path.write_text('{"kind": "heartbeat", "at": 1.0, "agent": "executor#1"}\n{"kind": "hea')
        process = subprocess.Popen(
            command("watch", "events.jsonl"),
            env=dict(env),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert "heartbeat" in process.stdout.readline()
        with path.open("a") as file:
            file.write('rtbeat", "at": 2.0, "agent": "reviewer#1"}\n{"kind": "supervisor_stopped", "at": 3.0}\n')
        rest, _ = process.communicate(timeout=DEADLINE)
        assert "reviewer#1" in rest
        assert process.returncode == 0

    @pytest.mark.parametrize("text", [None, "no event\n"])
    def test_says_what_is_wrong_with_a_file(self, text: str | None, env: Mapping[str, str], tmp_path: Path) -> None:
        if text is not None:
            (tmp_path / "events.jsonl").write_text(text)
        done, _ = agents("watch", "events.jsonl", env=env, cwd=tmp_path)
        assert done.returncode in (1, 2)
        assert b"events.jsonl" in done.stderr
        assert b"Traceback" not in done.stderr

    def test_draws_the_agents_on_a_terminal(self) -> None:
        from rich.console import Console

        from hfs_providers.agents import AgentEvent
        from hfs_providers.cli.agents.watch import View

        view = View()
        for data in (
            {"kind": "agent_started", "agent": "executor#1", "pid": 77, "state": {"state": "idle"}},
            {
                "kind": "agent_failed",
                "agent": "executor#1",
                "pid": 77,
                "state": {"state": "failed", "error": "[broke]"},
            },
            {"kind": "heartbeat", "agent": "reviewer#1", "pid": 78, "state": {"state": "active", "task": "mine"}},
        ):
            view.take(AgentEvent.read({"at": 1.0, "error_count": 0, **data}))
        console = Console(width=120, markup=False, record=True, file=open(os.devnull, "w"))  # noqa: SIM115  closed below
        with console.file:
            console.print(view.draw())
        rows = [line.split() for line in console.export_text().splitlines()]
        assert ["executor#1", "77", "failed", "[broke]", "0", "1", "0"] in rows
        assert ["reviewer#1", "78", "active", "mine", "0", "0", "0"] in rows

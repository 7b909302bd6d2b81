"""A real worker process, spoken to over its pipes: the protocol, and every way in which it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from hfs_providers.agents.bridge import worker_command
from hfs_providers.agents.wire import LINE_LIMIT
from hfs_providers.testing import LoopbackServer, Unauthorized
from tests import warm
from tests.agents.workers import DEADLINE, RawWorker, item

posix = pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")


class TestInitialize:
    def test_comes_before_anything_else(self, env: Mapping[str, str], tmp_path: Path) -> None:
        with RawWorker("reviewer", env, tmp_path, command=worker_command("reviewer", 30)) as worker:
            for method in ("start_session", "send_work", "cancel", "health", "stop_session", "shutdown"):
                assert worker.ask(method)["error"]["code"] == -32002
            refused = worker.ask("initialize", {"protocol_versions": [7, "1"]})["error"]
            assert (refused["code"], refused["data"]) == (-32001, {"supported": [1]})
            assert worker.ask("initialize", {"protocol_versions": 1})["error"]["code"] == -32602
            told = worker.initialize()["result"]
            assert told == {
                "protocol_version": 1,
                "server": told["server"],
                "role": "reviewer",
                "pid": worker.process.pid,
                "capabilities": {"progress": True, "cancel": True, "sessions": True},
            }
            assert worker.initialize()["error"]["code"] == -32600
            assert worker.ask("shutdown")["result"] == {}
            assert worker.wait() == 0

    def test_is_followed_by_a_heartbeat_at_once_and_by_more(self, env: Mapping[str, str], tmp_path: Path) -> None:
        with RawWorker("executor", env, tmp_path, heartbeat=0.05) as worker:
            worker.initialize()
            worker.wait_for(lambda message: len(worker.told("heartbeat")) >= 3)
            first = worker.told("heartbeat")[0]
            assert (first["state"], first["sessions"]) == ({"state": "idle"}, [])


class TestMalformedInput:
    """Each is answered, and the worker lives on."""

    @pytest.mark.parametrize(
        ("line", "code"),
        [
            (b"this is no JSON", -32700),
            (b"\xff\xfe", -32700),
            (b'{"jsonrpc": "2.0", "id": NaN, "method": "health"}', -32700),
            (b"[" * 200_000, -32700),
            (b"[]", -32600),
            (b'[{"jsonrpc": "2.0", "id": 1, "method": "health"}]', -32600),
            (b"3", -32600),
            (b'{"jsonrpc": "2.0", "id": {}, "method": "health"}', -32600),
        ],
    )
    def test_of_no_known_id(self, worker: RawWorker, line: bytes, code: int) -> None:
        start = len(worker.messages)
        worker.write(line + b"\n")
        assert worker.answer_to(None, start)["error"]["code"] == code
        assert worker.ask("health")["result"]["error_count"] == 0

    def test_over_the_limit_is_thrown_away_up_to_its_end(self, worker: RawWorker) -> None:
        start = len(worker.messages)
        asked = worker.send("health")
        worker.write(b'{"jsonrpc": "2.0", "id": 1, "x": "' + b"x" * LINE_LIMIT + b'"}\n')
        assert worker.answer_to(None, start)["error"]["code"] == -32600
        assert worker.answer_to(asked)["result"]["is_healthy"] is True
        assert "result" in worker.ask("health")

    def test_of_an_unknown_method(self, worker: RawWorker) -> None:
        assert worker.ask("sing")["error"]["code"] == -32601

    def test_of_wrong_params(self, worker: RawWorker) -> None:
        assert worker.ask("start_session", {"config": 3})["error"]["code"] == -32602
        assert worker.ask("cancel", {"session_id": 3})["error"]["code"] == -32602
        assert worker.ask("cancel", [1])["error"]["code"] == -32602

    def test_of_an_unknown_session(self, worker: RawWorker) -> None:
        for method in ("send_work", "cancel", "stop_session"):
            asked = worker.ask(method, {"session_id": "nobody", "item": item(), "item_id": "1"})
            assert asked["error"]["code"] == -32003

    def test_without_an_id_is_never_answered(self, worker: RawWorker) -> None:
        start = len(worker.messages)
        worker.write(b'{"jsonrpc": "2.0", "method": "sing"}\n{"jsonrpc": "2.0", "method": "health"}\n\n')
        worker.ask("health")
        assert [message for message in worker.messages[start:] if "method" not in message] == worker.messages[-1:]


class TestWork:
    def test_gives_a_structured_result_and_who_served_it(self, worker: RawWorker, server: LoopbackServer) -> None:
        before = len(server.seen)
        session = worker.session()
        result = worker.ask("send_work", {"session_id": session, "item": item("one"), "timeout": None})["result"]
        assert (result["item_id"], result["success"], result["error"]) == ("one", True, None)
        assert set(result["data"]) == {"summary", "artifacts"}
        assert "Do number one." in result["data"]["artifacts"][0]["content"]
        assert result["served_by"]["provider"] == "groq"
        assert [(seen.provider, seen.model) for seen in server.seen[before:]] == [
            ("groq", result["served_by"]["model"])
        ]

    def test_tells_its_progress_and_its_events(self, worker: RawWorker) -> None:
        session = worker.session()
        worker.ask("send_work", {"session_id": session, "item": item("two")})
        told = [event for event in worker.told("progress") if event["session_id"] == session]
        assert [(event["item_id"], event["stage"]) for event in told] == [("two", "started"), ("two", "answered")]
        assert "agent_started" in {event["kind"] for event in worker.told("event")}
        done = [event for event in worker.told("event") if event.get("item_id") == "two"]
        assert [event["kind"] for event in done] == ["agent_completed"]

    def test_of_several_items_goes_on_at_once(self, worker: RawWorker, server: LoopbackServer) -> None:
        session = worker.session()
        with server.hold() as gate:
            asked = [worker.send("send_work", {"session_id": session, "item": item(name)}) for name in "abc"]
            assert gate.wait_for(3)
            health = worker.ask("health")["result"]
            assert health["state"] == {"state": "active", "task": "a"}
        assert all(worker.answer_to(number)["result"]["success"] for number in asked)

    def test_with_an_id_that_is_pending_is_refused(self, worker: RawWorker, server: LoopbackServer) -> None:
        session = worker.session()
        with server.hold() as gate:
            asked = worker.send("send_work", {"session_id": session, "item": item("same")})
            assert gate.wait_for(1)
            again = worker.ask("send_work", {"session_id": session, "item": item("same")})
        assert again["error"]["code"] == -32004
        assert worker.answer_to(asked)["result"]["success"] is True

    def test_that_is_cancelled_is_answered_so(self, worker: RawWorker, server: LoopbackServer) -> None:
        session = worker.session()
        with server.hold() as gate:
            asked = worker.send("send_work", {"session_id": session, "item": item("long")})
            assert gate.wait_for(1)
            assert worker.ask("cancel", {"session_id": session, "item_id": "long"})["result"] == {"cancelled": True}
            result = worker.answer_to(asked)["result"]
        assert (result["success"], result["error"]) == (False, "cancelled")
        assert worker.ask("cancel", {"session_id": session, "item_id": "long"})["result"] == {"cancelled": False}

    def test_that_takes_too_long_fails(self, worker: RawWorker, server: LoopbackServer) -> None:
        session = worker.session()
        with server.hold():
            result = worker.ask("send_work", {"session_id": session, "item": item("slow"), "timeout": 0.05})["result"]
        assert (result["success"], result["error"]) == (False, "timed out after 0.05 s")

    def test_of_a_session_that_is_stopped_is_answered_first(self, worker: RawWorker, server: LoopbackServer) -> None:
        session = worker.session()
        start = len(worker.messages)
        with server.hold() as gate:
            asked = worker.send("send_work", {"session_id": session, "item": item("left")})
            assert gate.wait_for(1)
            stopped = worker.send("stop_session", {"session_id": session})
            assert worker.answer_to(stopped)["result"] == {"stopped": True}
        answers = [message["id"] for message in worker.messages[start:] if "method" not in message]
        assert answers == [asked, stopped]
        assert worker.answer_to(asked)["result"]["error"] == "cancelled"


class TestErrors:
    def test_count_degrade_and_are_cleared_by_a_success(self, own_worker: RawWorker) -> None:
        session = own_worker.session()
        for _ in range(3):
            refused = own_worker.ask("send_work", {"session_id": session, "item": item(priority=99)})["error"]
            assert refused["code"] == -32602
            assert [text.partition(":")[0] for text in refused["data"]["errors"]] == ["priority"]
        health = own_worker.ask("health")["result"]
        assert (health["is_healthy"], health["error_count"]) == (False, 3)
        assert "priority" in health["last_error"]
        kinds = [event["kind"] for event in own_worker.told("event")]
        assert kinds.count("agent_error_recorded") == 3
        assert kinds.count("agent_health_degraded") == 1
        own_worker.ask("send_work", {"session_id": session, "item": item()})
        health = own_worker.ask("health")["result"]
        assert (health["is_healthy"], health["error_count"]) == (True, 0)

    def test_stand_beside_the_success_rate_and_the_mean_duration(self, own_worker: RawWorker) -> None:
        session = own_worker.session()
        own_worker.ask("send_work", {"session_id": session, "item": item()})
        own_worker.ask("send_work", {"session_id": session, "item": item(timeout=1e-6)})
        health = own_worker.ask("health")["result"]
        assert (health["succeeded"], health["failed"], health["success_rate"]) == (1, 1, 0.5)
        assert health["mean_duration"] > 0


class TestWithoutAProvider:
    def test_a_session_is_unavailable_and_says_why(self, bare: Mapping[str, str], tmp_path: Path) -> None:
        with RawWorker("executor", bare, tmp_path) as worker:
            worker.initialize()
            answer = worker.ask("start_session", {"config": {}})["result"]
            assert answer["session_id"] is None
            assert answer["state"]["state"] == "unavailable"
            assert "GROQ_API_KEY_1" in answer["state"]["reason"]
            health = worker.ask("health")["result"]
            assert (health["is_healthy"], health["state"]) == (False, answer["state"])

    @pytest.mark.parametrize(
        ("config", "reason"),
        [
            ({"tier": "nowhere"}, "no tier 'nowhere'"),
            ({"models": ["nobody"]}, "unknown provider 'nobody'"),
            ({"models": ["gemini"]}, "gemini has no API key"),
            ({"temperature": 3}, "not a valid AgentConfig: temperature"),
        ],
    )
    def test_nor_with_a_bad_config(self, worker: RawWorker, config: dict[str, object], reason: str) -> None:
        answer = worker.ask("start_session", {"config": config})["result"]
        assert answer["session_id"] is None
        assert reason in answer["state"]["reason"]


class TestTheEnd:
    def test_answers_what_is_pending_before_shutdown(self, own_worker: RawWorker, server: LoopbackServer) -> None:
        session = own_worker.session()
        start = len(own_worker.messages)
        with server.hold() as gate:
            asked = own_worker.send("send_work", {"session_id": session, "item": item()})
            assert gate.wait_for(1)
            ending = own_worker.send("shutdown")
            assert own_worker.wait() == 0
        answers = [message for message in own_worker.messages[start:] if "method" not in message]
        assert [message["id"] for message in answers] == [asked, ending]
        assert answers[0]["result"]["error"] == "cancelled"

    def test_comes_with_the_end_of_its_input(self, own_worker: RawWorker, server: LoopbackServer) -> None:
        session = own_worker.session()
        with server.hold() as gate:
            asked = own_worker.send("send_work", {"session_id": session, "item": item()})
            assert gate.wait_for(1)
            own_worker.close_input()
            assert own_worker.wait() == 0
        assert own_worker.answer_to(asked)["result"]["error"] == "cancelled"

    @posix
    def test_comes_with_sigterm_after_the_answers(self, own_worker: RawWorker, server: LoopbackServer) -> None:
        session = own_worker.session()
        with server.hold() as gate:
            asked = own_worker.send("send_work", {"session_id": session, "item": item()})
            assert gate.wait_for(1)
            own_worker.process.send_signal(signal.SIGTERM)
            assert own_worker.wait() == 143
        assert own_worker.answer_to(asked)["result"]["error"] == "cancelled"

    @posix
    def test_comes_with_a_reader_that_has_gone(self, env: Mapping[str, str], tmp_path: Path) -> None:
        reading, writing = os.pipe()
        command = [warm.python(), "-m", "hfs_providers", "agents", "worker", "--role", "executor"]
        process = subprocess.Popen(
            command, env=dict(env), cwd=tmp_path, stdin=subprocess.PIPE, stdout=writing, stderr=subprocess.PIPE
        )
        os.close(writing)
        os.close(reading)
        assert process.stdin is not None
        process.stdin.write(b'{"jsonrpc": "2.0", "id": 1, "method": "health"}\n')
        process.stdin.flush()
        # Its input stays open: it is the output that ends it.
        assert process.wait(DEADLINE) == 1
        process.communicate()


# A worker whose model call blocks the event loop, and a grace that a test can wait for.
STUCK = """
import sys, time
from hfs_providers.agents import run_worker, roles, worker

worker.GRACE = 0.3
roles.RoleAgent._asked = lambda *_: time.sleep(60)
sys.exit(run_worker("executor"))
"""


@posix
@pytest.mark.parametrize(("ending", "code"), [("sigterm", 143), ("end of input", 0)])
def test_a_worker_that_is_stuck_ends_within_its_grace_all_the_same(
    ending: str, code: int, env: Mapping[str, str], tmp_path: Path
) -> None:
    with RawWorker("executor", env, tmp_path, command=[warm.python(), "-c", STUCK]) as worker:
        worker.initialize()
        session = worker.session()
        worker.send("send_work", {"session_id": session, "item": item()})
        worker.wait_for(lambda message: message.get("method") == "progress")
        if ending == "sigterm":
            worker.process.send_signal(signal.SIGTERM)
        else:
            worker.close_input()
        assert worker.wait() == code


class TestStandardOutput:
    def test_is_where_agno_logs_by_itself(self, tmp_path: Path) -> None:
        program = "from agno.utils.log import log_error; log_error('an error of a run')"
        done = subprocess.run([warm.python(), "-c", program], cwd=tmp_path, capture_output=True, text=True)
        assert "an error of a run" in done.stdout

    def test_belongs_to_the_protocol_though_agno_logs_there(
        self, env: Mapping[str, str], server: LoopbackServer, tmp_path: Path
    ) -> None:
        # Whatever prints in the process, from its start on.
        (tmp_path / "sitecustomize.py").write_text("import atexit\natexit.register(print, 'printed at the end')\n")
        found_first = {**env, "PYTHONPATH": str(tmp_path)}
        with RawWorker("executor", found_first, tmp_path, command=worker_command("executor", 30)) as worker:
            worker.initialize()
            session = worker.session(models=["groq/not-a-model"])
            server.retire("groq", "not-a-model")
            failed = worker.ask("send_work", {"session_id": session, "item": item()})["result"]
            assert failed["success"] is False
            worker.ask("shutdown")
            assert worker.wait() == 0
            # Each line of stdout was parsed as a message.
            assert all(message["jsonrpc"] == "2.0" for message in worker.messages)
            assert b"printed at the end\n" in worker.said

    def test_holds_no_key(self, env: Mapping[str, str], server: LoopbackServer, tmp_path: Path) -> None:
        key = server.new_key("groq")
        server.script("groq", key, [], then=Unauthorized(echo_key=True))
        with RawWorker("executor", {**env, "GROQ_API_KEY_1": key}, tmp_path) as worker:
            worker.initialize()
            session = worker.session(models=["groq"])
            failed = worker.ask("send_work", {"session_id": session, "item": item()})["result"]
            assert failed["success"] is False
            worker.ask("shutdown")
            worker.wait()
            everything = json.dumps(worker.messages) + b"".join(worker.said).decode()
        assert "1 dead" in everything
        assert not [start for start in range(4, len(key) - 5) if key[start : start + 6] in everything]

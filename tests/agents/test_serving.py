"""The roles on AgentOS: work over HTTP, carried by a durable queue in a real PostgreSQL, answered by real SDKs."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from hfs_providers import SettingsError
from hfs_providers.agents import serving
from hfs_providers.cli import app
from hfs_providers.testing import BadRequest, LoopbackServer
from tests import warm

POSTGRES = os.environ.get("HFS_TEST_POSTGRES_URL", "")
needs_postgres = pytest.mark.skipif(
    not POSTGRES, reason="needs a PostgreSQL where databases may be made; HFS_TEST_POSTGRES_URL says where it is"
)
SERVER_KEY = "a-key-of-the-test-s-own"
ENDED = {"COMPLETED", "ERROR", "FAILED", "CANCELLED"}
WITHIN = 60.0


def item(**changes: Any) -> dict[str, Any]:
    return {"id": "item", "description": "build it", "phase": "plan_to_artifacts", **changes}


class Serve:
    """A running `hfs-providers agents serve`, and a client of it."""

    def __init__(self, env: Mapping[str, str], key: str | None = SERVER_KEY) -> None:
        own = {**env} if key is None else {**env, "HFS_AGENTS_KEY": key}
        command = [warm.python(), "-m", "hfs_providers", "agents", "serve", "--port", "0"]
        self.process = subprocess.Popen(command, env=own, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        self.said = list(self._first_lines())
        base = next((line.split()[-1] for line in self.said if line.startswith("Serving on ")), None)
        assert base is not None, self.said
        self.client = httpx.Client(base_url=base, timeout=WITHIN, headers={"Authorization": f"Bearer {key}"})

    def _first_lines(self) -> Iterator[str]:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            yield line.rstrip()
            if line.startswith("Serving on "):
                return

    def submit(self, message: Mapping[str, Any], role: str = "executor", **form: str) -> httpx.Response:
        fields = {"message": json.dumps(message), "background": "true", "stream": "false", **form}
        return self.client.post(f"/agents/{role}/runs", data=fields)

    def accepted(self, message: Mapping[str, Any], role: str = "executor") -> dict[str, str]:
        answer = self.submit(message, role)
        assert answer.status_code == 202, answer.text
        return {**answer.json(), "role": role}

    def result(self, run: Mapping[str, str]) -> dict[str, Any]:
        """The run, once it has ended."""
        return self._ended(f"/agents/{run['role']}/runs/{run['run_id']}?session_id={run['session_id']}")

    def job(self, run: Mapping[str, str]) -> dict[str, Any]:
        """The queue's record of a run, which ends a moment after it."""
        return self._ended(f"/queue/jobs/{run['run_id']}")

    def _ended(self, path: str) -> dict[str, Any]:
        deadline = time.monotonic() + WITHIN
        while True:
            answer = self.client.get(path)
            if answer.status_code == 200 and answer.json()["status"].upper() in ENDED:
                return dict(answer.json())
            assert time.monotonic() < deadline, answer.text
            time.sleep(0.05)

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
        """Send a signal; the exit code, and what it said after it served."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=WITHIN)
        return self.process.returncode, said

    def close(self) -> None:
        self.client.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The URL of a database of these tests' own."""
    import psycopg

    name = f"hfs_test_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(POSTGRES, autocommit=True) as admin:
        admin.execute(f'CREATE DATABASE "{name}"')
        try:
            yield str(httpx.URL(POSTGRES).copy_with(path=f"/{name}"))
        finally:
            admin.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@pytest.fixture(scope="module")
def loopback() -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        yield server


@pytest.fixture
def provider(loopback: LoopbackServer) -> LoopbackServer:
    """The provider's server, which has forgotten the test before."""
    loopback.reset()
    return loopback


@pytest.fixture(scope="module")
def env(bare: Mapping[str, str], database: str, loopback: LoopbackServer) -> dict[str, str]:
    return {**bare, "HFS_AGENTS_DB": database, **loopback.env({"groq": 2}), "GROQ_LIMITS": "none"}


@contextmanager
def serving_with(env: Mapping[str, str], key: str | None = SERVER_KEY) -> Iterator[Serve]:
    with ExitStack() as stack:
        server = Serve(env, key)
        stack.callback(server.close)
        yield server


@pytest.fixture(scope="class")
def server(env: dict[str, str]) -> Iterator[Serve]:
    """One for the tests of a class; while it runs it takes the work of every other, because they share the database."""
    with serving_with(env) as running:
        yield running


@needs_postgres
class TestAJob:
    def test_is_done_by_the_chain_and_answered_with_who_served(self, server: Serve, provider: LoopbackServer) -> None:
        run = server.result(server.accepted(item(id="mine")))
        result = run["content"]
        assert (run["status"], result["success"], result["item_id"]) == ("COMPLETED", True, "mine")
        assert result["data"]["artifacts"]
        [seen] = provider.seen
        assert (result["served_by"]["provider"], result["served_by"]["model"]) == (seen.provider, seen.model)
        assert (run["model_provider"], run["model"]) == (seen.provider, seen.model)

    def test_may_be_any_role_s(self, server: Serve) -> None:
        runs = [server.accepted(item(), role) for role in ("orchestrator", "optimizer", "reviewer")]
        plan, improvement, verdict = (server.result(run)["content"]["data"] for run in runs)
        assert ("steps" in plan, "improved" in improvement, "approved" in verdict) == (True, True, True)

    def test_whose_item_breaks_the_contract_is_refused_before_it_is_queued(
        self, server: Serve, provider: LoopbackServer
    ) -> None:
        refused = [server.submit(item(priority=11)), server.submit(item(surplus=1)), server.submit({})]
        assert [answer.status_code for answer in refused] == [400, 400, 400]
        assert "priority" in refused[0].text
        assert provider.seen == []

    def test_that_fails_is_an_error_with_the_reason_and_is_not_tried_again(
        self, server: Serve, provider: LoopbackServer, env: dict[str, str]
    ) -> None:
        provider.script("groq", env["GROQ_API_KEY_1"], [], then=BadRequest())
        provider.script("groq", env["GROQ_API_KEY_2"], [], then=BadRequest())
        run = server.result(server.accepted(item()))
        assert (run["status"], run["content"]["success"], run["content"]["data"]) == ("ERROR", False, None)
        assert run["content"]["error"]
        job = server.job(run)
        assert (job["status"], job["attempt"], len(provider.seen)) == ("failed", 1, 1)

    def test_is_given_up_when_its_time_is_over(self, server: Serve, provider: LoopbackServer) -> None:
        with provider.hold():
            run = server.result(server.accepted(item(timeout=0.2)))
        assert (run["status"], run["content"]["error"]) == ("ERROR", "timed out after 0.2 s")

    def test_can_be_cancelled_at_work(self, server: Serve, provider: LoopbackServer) -> None:
        with provider.hold() as gate:
            run = server.accepted(item())
            assert gate.wait_for(1)
            assert server.client.post(f"/agents/executor/runs/{run['run_id']}/cancel").status_code == 200
            ended = server.result(run)
        assert (ended["status"], ended["content"]["error"]) == ("CANCELLED", "cancelled")

    def test_is_one_of_at_most_four_at_work(self, server: Serve, provider: LoopbackServer) -> None:
        with ThreadPoolExecutor() as callers, provider.hold() as gate:
            queued = [server.accepted(item(), role) for role in ("executor", "reviewer", "executor", "optimizer")]
            # Calls that wait for their answer come past the queue, and count all the same.
            direct = [callers.submit(server.submit, item(), background="false") for _ in range(2)]
            queued += [server.accepted(item()) for _ in range(2)]
            assert gate.wait_for(4)
        assert [server.result(run)["status"] for run in queued] == ["COMPLETED"] * 6
        assert [call.result().json()["status"] for call in direct] == ["COMPLETED"] * 2
        assert (provider.max_in_flight, len(provider.seen)) == (4, 8)

    @pytest.mark.parametrize(("script", "last"), [([], "RunCompleted"), ([BadRequest()], "RunError")])
    def test_can_be_followed_as_it_goes(
        self, server: Serve, provider: LoopbackServer, env: dict[str, str], script: list[Any], last: str
    ) -> None:
        for key in ("GROQ_API_KEY_1", "GROQ_API_KEY_2"):
            provider.script("groq", env[key], script)
        answer = server.submit(item(), stream="true")
        events = [line.split()[1] for line in answer.text.splitlines() if line.startswith("event:")]
        assert (events[0], events[-1]) == ("RunStarted", last)


@needs_postgres
class TestARestart:
    def test_after_a_kill_answers_every_job_and_repeats_only_the_idempotent(
        self, env: dict[str, str], provider: LoopbackServer
    ) -> None:
        with provider.hold() as gate, serving_with(env) as first:
            idempotent = first.accepted(item(id="again", idempotent=True))
            others = [first.accepted(item(id=f"once {number}")) for number in range(3)]
            assert gate.wait_for(4)
            waiting = first.accepted(item(id="waiting"))
            first.end(signal.SIGKILL)
        deadline = time.monotonic() + WITHIN
        while provider.in_flight:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        cut_off = len(provider.seen)
        with serving_with(env) as second:
            assert second.result(waiting)["content"]["success"]
            assert second.result(idempotent)["content"]["success"]
            lost = [second.result(run) for run in others]
        assert [run["status"] for run in lost] == ["ERROR"] * 3
        assert all("not started again" in run["content"]["error"] for run in lost)
        assert len(provider.seen) - cut_off == 2

    def test_on_request_lets_work_end_first(self, env: dict[str, str], provider: LoopbackServer) -> None:
        with serving_with(env) as first:
            with provider.hold() as gate:
                run = first.accepted(item())
                assert gate.wait_for(1)
                first.process.send_signal(signal.SIGTERM)
            assert first.end()[0] == 143
        with serving_with(env) as second:
            assert second.result(run)["content"]["success"]
        assert len(provider.seen) == 1

    def test_that_cannot_wait_gives_the_work_back(self, env: dict[str, str], provider: LoopbackServer) -> None:
        with provider.hold() as gate, serving_with(env) as first:
            idempotent, other = first.accepted(item(idempotent=True)), first.accepted(item())
            assert gate.wait_for(2)
            assert first.end()[0] == 143
        with serving_with(env) as second:
            assert second.result(idempotent)["content"]["success"]
            assert "not started again" in second.result(other)["content"]["error"]


@needs_postgres
def test_two_servers_share_the_work(env: dict[str, str], provider: LoopbackServer) -> None:
    with serving_with(env) as one, serving_with(env) as other:
        with provider.hold() as gate:
            runs = [one.accepted(item()) for _ in range(8)]
            assert gate.wait_for(8)
        assert {other.result(run)["status"] for run in runs} == {"COMPLETED"}
    assert len(provider.seen) == 8


@needs_postgres
class TestCallers:
    def test_without_the_key_reach_nothing_but_the_signs_of_life(self, server: Serve) -> None:
        routes = server.client.get("/openapi.json").json()["paths"]
        # What AgentOS leaves open: that it is there, and what it can do.
        routes = {path: methods for path, methods in routes.items() if path not in ("/", "/health", "/info")}
        assert {"/agents/{agent_id}/runs", "/queue/jobs", "/config"} <= set(routes)
        anybody = httpx.Client(base_url=server.client.base_url)
        answers = {
            (path, method): anybody.request(method, path) for path, methods in routes.items() for method in methods
        }
        assert {call: answer.status_code for call, answer in answers.items() if answer.status_code != 401} == {}

    @pytest.mark.parametrize("sent", ["Bearer another-key-of-some-length", "Bearer x", f"Basic {SERVER_KEY}"])
    def test_with_another_key_are_refused(self, server: Serve, sent: str) -> None:
        assert server.client.get("/agents", headers={"Authorization": sent}).status_code == 401
        assert server.client.get("/agents").status_code == 200


@needs_postgres
class TestWhatIsSaid:
    def test_of_failed_work_is_a_line_with_the_reason(self, env: dict[str, str], provider: LoopbackServer) -> None:
        for key in ("GROQ_API_KEY_1", "GROQ_API_KEY_2"):
            provider.script("groq", env[key], [], then=BadRequest())
        with serving_with(env) as server:
            run = server.result(server.accepted(item()))
            _, said = server.end()
        assert run["content"]["error"] in said
        assert "Traceback" not in said

    def test_of_a_key_that_was_made_up_is_the_key_once(self, env: dict[str, str]) -> None:
        with serving_with(env, key=None) as server:
            [line] = [line for line in server.said if "HFS_AGENTS_KEY" in line]
            made_up = line.split()[-1]
            server.client.headers["Authorization"] = f"Bearer {made_up}"
            assert server.client.get("/agents").status_code == 200
            server.client.get("/nowhere")
            _, said = server.end()
        assert len(made_up) >= 32
        assert made_up not in said

    def test_is_never_a_password_or_a_provider_s_key(self, env: dict[str, str], database: str) -> None:
        secret = "a-password-of-the-database"
        url = httpx.URL(database)
        env = {**env, "HFS_AGENTS_DB": str(url.copy_with(username=url.username or "postgres", password=secret))}
        with serving_with(env) as server:
            server.result(server.accepted(item()))
            texts = [
                server.client.get(path).text for path in ("/config", "/agents", "/queue/jobs", "/info", "/sessions")
            ]
            texts += [*server.said, server.end()[1]]
        for hidden in (secret, SERVER_KEY, env["GROQ_API_KEY_1"], env["GROQ_API_KEY_2"]):
            assert not [text for text in texts if hidden in text]


@needs_postgres
class TestWithoutAProvider:
    def test_every_role_is_unavailable_and_its_work_fails_with_the_reason(
        self, bare: Mapping[str, str], database: str
    ) -> None:
        with serving_with({**bare, "HFS_AGENTS_DB": database}) as server:
            roles = {agent["id"]: agent["description"] for agent in server.client.get("/agents").json()}
            run = server.result(server.accepted(item()))
        assert set(roles) == {"orchestrator", "optimizer", "reviewer", "executor"}
        assert all(text.startswith("unavailable: no provider can be used") for text in roles.values())
        assert sum("unavailable: no provider can be used" in line for line in server.said) == 4
        assert (run["status"], run["content"]["success"], run["content"]["data"]) == ("ERROR", False, None)
        assert "GROQ_API_KEY_1" in run["content"]["error"]


@needs_postgres
def test_nothing_is_told_to_agno(env: dict[str, str]) -> None:
    """Whoever asks beyond this machine comes to the proxy."""
    with socket.create_server(("127.0.0.1", 0)) as proxy:
        proxy.setblocking(False)
        address = f"http://127.0.0.1:{proxy.getsockname()[1]}"
        outward = {"HTTPS_PROXY": address, "HTTP_PROXY": address, "NO_PROXY": "127.0.0.1"}
        with serving_with({**env, **outward}) as server:
            server.result(server.accepted(item()))
            server.end()
        with pytest.raises(BlockingIOError):
            proxy.accept()


class TestTheKey:
    @pytest.mark.parametrize("key", ["short", "with a blank in between", "schlüssel-mit-umlaut", "agno_pat_0123456789"])
    def test_is_refused_where_it_cannot_be_used(self, key: str) -> None:
        with pytest.raises(SettingsError, match="HFS_AGENTS_KEY") as error:
            serving.checked_key(key, "127.0.0.1")
        assert key not in str(error.value)

    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", ""])
    def test_is_needed_where_others_reach_the_server(self, host: str) -> None:
        with pytest.raises(SettingsError, match="HFS_AGENTS_KEY"):
            serving.checked_key("", host)
        assert serving.checked_key(SERVER_KEY, host) == SERVER_KEY

    @pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
    def test_may_be_made_up_where_they_do_not(self, host: str) -> None:
        assert serving.checked_key("", host) is None

    @pytest.mark.parametrize("variable", ["JWT_VERIFICATION_KEY", "JWT_JWKS_FILE"])
    def test_is_never_ignored_for_tokens(self, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(variable, "something")
        with pytest.raises(SettingsError, match=f"Unset {variable}"):
            serving.checked_key(SERVER_KEY, "127.0.0.1")


class TestTheDatabase:
    @pytest.mark.parametrize("scheme", ["postgres", "postgresql", "postgresql+psycopg", "postgresql+asyncpg"])
    def test_is_postgresql_by_any_of_its_names(self, scheme: str) -> None:
        url = serving.database_url(f"{scheme}://me:secret@db.example:5433/work?sslmode=require")
        assert url == "postgresql+psycopg://me:secret@db.example:5433/work?sslmode=require"

    @pytest.mark.parametrize("text", ["", "secret", "mysql://me:secret@host/name", "postgresql://me:secret@host"])
    def test_is_refused_where_it_is_no_such_url(self, text: str) -> None:
        with pytest.raises(SettingsError, match="postgresql://user@host/name") as error:
            serving.database_url(text)
        assert "secret" not in str(error.value)

    def test_that_nobody_answers_for_ends_the_command(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        url = f"postgresql://me:secret@127.0.0.1:{port}/work"
        with pytest.raises(serving.ServingError, match=rf"work at 127.0.0.1:{port} .* --database") as error:
            serving.check_database(serving.database_url(url))
        assert "secret" not in str(error.value)


@pytest.mark.usefixtures("kept_logging")
class TestTheCommand:
    def test_without_its_extra_names_the_one_that_installs_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(serving, "find_spec", lambda name: None if name == "uvicorn" else object())
        done = CliRunner().invoke(app, ["agents", "serve"])
        assert isinstance(done.exception, serving.MissingExtraError)
        assert str(done.exception) == "not installed: uvicorn. Run: pip install 'hfs-providers[agents]'"

    def test_on_an_open_address_refuses_without_a_key(self) -> None:
        done = CliRunner().invoke(app, ["agents", "serve", "--host", "0.0.0.0", "--database", "postgresql://host/name"])
        assert isinstance(done.exception, SettingsError)
        assert "Set HFS_AGENTS_KEY" in str(done.exception)

    def test_on_a_port_that_is_taken_says_so(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(serving.ServingError, match=f"127.0.0.1, port {port}: Address already in use"):
                serving.listen("127.0.0.1", port)

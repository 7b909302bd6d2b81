"""Who may use the gateway, for what, and how often."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from hfs_providers.contract.environment import CLIENTS
from hfs_providers.contract.records import Limits
from hfs_providers.core.config_file import ClientRules
from hfs_providers.gateway.client_file import ClientToken, digest_of, written
from hfs_providers.gateway.client_history import used_by_client
from hfs_providers.gateway.clients import Clients, Terms, count_for_client
from hfs_providers.gateway.guard import Guard
from hfs_providers.gateway.refusals import Refusal
from hfs_providers.keys import file_watch
from hfs_providers.keys.key_files import PrivateFile
from hfs_providers.testing import LoopbackServer, RateLimited
from hfs_providers.usage import Store
from tests.gateway.served import CORP, HELLO, Served, Wire, whole
from tests.gateway.test_serve import fails, serving
from tests.usage_rows import row, write

TOKENS = {name: f"hfs_{name}-mArKeD-{'0' * 50}" for name in ("web", "cli", "ops")}
BODY = json.dumps({"model": "groq", **HELLO}).encode()


def listed(*names: str) -> bytes:
    """A file with these clients; `ops` is an admin."""
    return written(ClientToken(name, digest_of(TOKENS[name].encode()), name == "ops") for name in names)


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {TOKENS[name]}"}


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with clients, which is read again only when a test says so."""
    monkeypatch.setattr(type(file_watch._watching), "_run", lambda self, stop: stop.wait())
    path = tmp_path / "clients"
    path.write_bytes(listed("web", "cli", "ops"))
    path.chmod(0o600)
    return path


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        yield server


Serve = Callable[..., Served]


@pytest.fixture
def serve(server: LoopbackServer, file: Path, tmp_path: Path) -> Iterator[Serve]:
    """A gateway for the clients of the file, with a configuration file of this text."""
    running: list[Served] = []

    def start(config: str = "", **options: Any) -> Served:
        path = tmp_path / "hfs-providers.toml"
        path.write_text(config)
        env = {**server.env({"groq": 1, "gemini": 1}), "HFS_CONFIG": str(path), "HFS_USAGE_DB": "off"}
        running.append(Served(env, clients=file, **options).__enter__())
        return running[-1]

    yield start
    for each in running:
        each.__exit__()


def ask(
    served: Served, client: str, model: str = "groq", path: str = "chat/completions", **more: Any
) -> httpx.Response:
    """One request of a client."""
    body = {"model": model, **HELLO, **more}
    return httpx.post(f"{served.url}/v1/{path}", json=body, headers=bearer(client), timeout=20)


def look(served: Served) -> None:
    """Let the gateway read the file. A change counts when two reads have found the same."""
    assert served.clients._watch is not None
    served.clients._watch.look()
    served.clients._watch.look()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer"},
        {"authorization": f"Bearer {TOKENS['web']}x"},
        {"authorization": f"Bearer {TOKENS['web'][:-1]}"},
        {"authorization": f"Bearer {TOKENS['web'].upper()}"},
        {"authorization": f"Basic {TOKENS['web']}"},
        {"authorization": TOKENS["web"]},
        {"authorization": f"Bearer {digest_of(TOKENS['web'].encode()).hex()}"},
        {"x-api-key": "unused"},
        {"cookie": f"token={TOKENS['web']}"},
    ],
)
def test_without_a_known_token_there_is_only_health(
    serve: Serve, server: LoopbackServer, headers: dict[str, str]
) -> None:
    served = serve()
    for method, path in (
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/embeddings"),
        ("GET", "/v1/chat/completions"),
        ("GET", "/v1/models"),
        ("GET", "/v1/models/groq"),
        ("GET", "/metrics"),
        ("GET", "/metrics/"),
        ("GET", "/ready"),
        ("GET", "/health/"),
        ("GET", "/"),
        ("OPTIONS", "/v1/models"),
    ):
        sent = {"content-type": "application/json", **headers}
        got = httpx.request(method, f"{served.url}{path}?key={TOKENS['web']}", headers=sent, content=BODY)
        assert (got.status_code, got.headers["www-authenticate"]) == (401, "Bearer"), path
        assert got.json()["error"]["code"] == "invalid_api_key"
        assert got.json()["error"]["type"] == "authentication_error"
    got = httpx.post(f"{served.url}/v1/messages", content=BODY, headers={"content-type": "application/json", **headers})
    assert (got.status_code, got.json()["type"]) == (401, "error")
    assert set(got.json()["error"]) == {"type", "message"}
    assert httpx.get(f"{served.url}/health", headers=headers).status_code == 200
    assert not server.seen


@pytest.mark.parametrize(
    "headers",
    [
        bearer("web"),
        {"authorization": f"bearer  {TOKENS['web']}"},
        {"x-api-key": TOKENS["web"]},
        {"authorization": "Bearer unused", "x-api-key": TOKENS["web"]},
        {"authorization": f"Bearer {TOKENS['web']}", "x-api-key": "unused"},
    ],
)
def test_a_token_is_taken_from_either_header(serve: Serve, headers: dict[str, str]) -> None:
    served = serve()
    sent = {"content-type": "application/json", **headers}
    got = httpx.post(f"{served.url}/v1/chat/completions", content=BODY, headers=sent)
    assert got.status_code == 200, got.text
    assert [event.usage.client for event in served.events if event.usage is not None] == ["web"]


def test_an_sdk_sends_it_as_its_api_key(serve: Serve) -> None:
    served = serve()
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key=TOKENS["cli"], max_retries=0) as client:
        assert "any" in [model.id for model in client.models.list()]
    with (
        openai.OpenAI(base_url=f"{served.url}/v1", api_key="sk-wrong", max_retries=0) as client,
        pytest.raises(openai.AuthenticationError),
    ):
        client.models.list()


def test_metrics_need_an_admin(serve: Serve) -> None:
    served = serve()
    got = httpx.get(f"{served.url}/metrics", headers=bearer("web"))
    assert (got.status_code, got.json()["error"]["code"]) == (403, "admin_needed")
    assert "hfs_requests" in httpx.get(f"{served.url}/metrics", headers=bearer("ops")).text
    assert ask(served, "ops").status_code == 200
    assert httpx.get(f"{served.url}/ready", headers=bearer("web")).status_code == 200


def test_the_dashboard_tells_admins_alone(serve: Serve) -> None:
    served = serve(dashboard_token="its-own")
    overview, own = f"{served.url}/dashboard/api/overview", {"authorization": "Bearer its-own"}
    page = httpx.get(f"{served.url}/")
    assert (page.status_code, "groq" in page.text) == (200, False)
    assert httpx.get(f"{served.url}/dashboard/api.js").status_code == 200
    for headers, status in (({}, 401), (bearer("web"), 403), (bearer("ops"), 200), (own, 200)):
        assert httpx.get(overview, headers=headers).status_code == status
        action = httpx.post(f"{served.url}/dashboard/api/retire", json={"key": "groq#9"}, headers=headers)
        # There is no such key.
        assert action.status_code == (404 if status == 200 else status)
    assert httpx.get(f"{served.url}/dashboard/api/nothing").status_code == 401
    # It opens nothing but the dashboard.
    assert httpx.get(f"{served.url}/metrics", headers=own).status_code == 401
    assert httpx.get(f"{served.url}/v1/models", headers=own).status_code == 401


def test_without_clients_actions_need_the_token_of_the_dashboard(serve: Serve, file: Path) -> None:
    file.unlink()
    served = serve(dashboard_token="its-own")
    assert httpx.get(f"{served.url}/dashboard/api/overview").status_code == 200
    retire = f"{served.url}/dashboard/api/retire"
    assert httpx.post(retire, json={"key": "groq#9"}).status_code == 401
    assert httpx.post(retire, json={"key": "groq#9"}, headers={"authorization": "Bearer its-own"}).status_code == 404


def test_whoever_is_revoked_while_it_runs_is_let_in_no_more(serve: Serve, file: Path) -> None:
    served = serve()
    assert ask(served, "web").status_code == 200
    file.write_bytes(listed("cli"))
    look(served)
    assert [ask(served, name).status_code for name in ("web", "cli", "ops")] == [401, 200, 401]
    file.write_bytes(listed())
    look(served)
    assert ask(served, "cli").status_code == 401
    assert "nobody may use" in served.clients.problems[0].message
    file.write_bytes(listed("web"))
    look(served)
    assert ask(served, "web").status_code == 200
    assert served.clients.problems == []


def spoil(path: Path, how: str) -> None:
    if how == "deleted":
        path.unlink()
    elif how == "a directory":
        path.unlink()
        path.mkdir()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "half written":
        path.write_bytes(listed("web").split(b"\n")[1][:40])
    elif how == "not text":
        path.write_bytes(b"\x00\xff\xfe")
    elif how == "writable by all":
        path.write_bytes(listed())
        path.chmod(0o666)


@pytest.mark.parametrize("how", ["deleted", "a directory", "empty", "half written", "not text", "writable by all"])
def test_a_file_that_cannot_be_used_leaves_things_as_they_are(
    serve: Serve, file: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    served = serve()
    spoil(file, how)
    look(served)
    look(served)
    assert ask(served, "web").status_code == 200
    assert httpx.get(f"{served.url}/v1/models").status_code == 401
    (problem,) = served.clients.problems
    assert problem.level == "error"
    assert problem.message.startswith(f"{CLIENTS}: {file} ")
    assert problem.remedy
    assert caplog.text.count(problem.message) == 1
    if how == "a directory":
        file.rmdir()
    file.write_bytes(listed("cli"))
    file.chmod(0o600)
    look(served)
    assert served.clients.problems == []
    assert [ask(served, name).status_code for name in ("web", "cli")] == [401, 200]


def test_lines_that_name_no_client_are_left_out_and_said(serve: Serve, file: Path) -> None:
    file.write_bytes(listed("web") + b"cli sha256:12\n" + b"w\xc3\xa9b " + listed("ops").split(b" ", 1)[1][-80:])
    file.chmod(0o644)
    served = serve()
    assert [ask(served, name).status_code for name in ("web", "cli", "ops")] == [200, 401, 401]
    lines, exposed = served.clients.problems
    assert "lines 3, 4" in lines.message
    assert exposed.remedy == f"Run: chmod 600 {file}"


def test_the_first_client_that_is_added_closes_a_gateway_that_was_open(serve: Serve, file: Path) -> None:
    content = file.read_bytes()
    file.unlink()
    served = serve()
    assert served.ask("groq").status_code == 200
    assert httpx.get(f"{served.url}/metrics").status_code == 200
    assert served.clients.problems == []
    file.write_bytes(content)
    look(served)
    assert served.ask("groq").status_code == 401
    assert ask(served, "web").status_code == 200


def test_with_tokens_it_may_be_addressed_by_any_name_but_not_by_foreign_pages(serve: Serve) -> None:
    served = serve(guard=Guard([], ["https://app.example"]))
    url = f"{served.url}/v1/models"
    assert httpx.get(url, headers={"host": "gateway.example", **bearer("web")}).status_code == 200
    assert httpx.get(url, headers={"origin": "https://evil.example", **bearer("web")}).status_code == 403
    assert httpx.get(url, headers={"sec-fetch-site": "cross-site", **bearer("web")}).status_code == 403
    preflight = {"origin": "https://app.example", "access-control-request-method": "GET"}
    assert httpx.options(url, headers=preflight).status_code == 200
    refused = httpx.get(url, headers={"origin": "https://app.example"})
    # So that the page can read why.
    assert (refused.status_code, refused.headers["access-control-allow-origin"]) == (401, "https://app.example")


def test_a_token_goes_nowhere(
    server: LoopbackServer, file: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    sent: list[bytes] = []

    async def talk(request: bytes, writer: Any) -> None:
        sent.append(request)
        writer.write(whole() if len(sent) == 1 else whole(b'{"error": {"message": "no"}}', "400 No"))

    with Wire(talk) as wire, Served(wire.env(), [CORP], clients=file) as served:
        answers = [ask(served, "web", model) for model in ("corp", "corp", "corp/other", "nobody", "corp,corp/x")]
        answers.append(httpx.get(f"{served.url}/metrics", headers=bearer("ops")))
        answers.append(httpx.get(f"{served.url}/metrics", headers=bearer("web")))
        answers.append(httpx.get(f"{served.url}/v1/models", headers={"authorization": f"Bearer {TOKENS['web']}!"}))
        events = [repr(event) for event in served.events]
        assert events
    said = [repr((answer.headers, answer.text)) for answer in answers]
    for text in [*said, *events, caplog.text, *map(repr, sent)]:
        assert "mArKeD" not in text


def test_requests_on_one_connection_are_counted_for_their_own_clients(serve: Serve) -> None:
    served = serve()
    requests = b""
    for name in ("web", "cli", "web"):
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(BODY)}\r\n"
        head += f"content-type: application/json\r\nauthorization: Bearer {TOKENS[name]}\r\n\r\n"
        requests += head.encode() + BODY
    # At once, so that each is begun within the end of the one before it.
    got = served.raw(requests + b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
    assert got.count(b"HTTP/1.1 200 OK") == 4
    rows = [event.usage for event in served.events if event.usage is not None]
    assert [each.client for each in rows] == ["web", "cli", "web"]


RULES = """
[tiers]
careful = ["gemini/gemini-2.5-pro", "groq/llama-3.3-70b-versatile"]
[clients.web]
models = ["groq/llama-*", "tier/cheap"]
[clients.cli]
models = ["groq", "tier/careful"]
[clients.ops]
models = []
"""


@pytest.mark.parametrize(
    ("client", "model", "served_by"),
    [
        ("web", "groq/llama-3.1-8b-instant", ["groq"]),
        ("web", "groq", ["groq"]),
        ("web", "any", ["groq"]),
        ("web", "tier/careful", ["groq"]),
        ("web", "gemini", None),
        ("web", "groq/openai/gpt-oss-120b", None),
        ("web", "groq/llama-3.1-8b-instant,gemini", None),
        ("web", "GROQ/LLAMA-3.1-8b-instant", None),
        ("cli", "groq", ["groq"]),
        ("cli", "groq/llama-3.3-70b-versatile", None),
        ("cli", "tier/careful", ["gemini", "groq"]),
        ("cli", "any", None),
        ("ops", "groq", None),
        ("ops", "any", None),
    ],
)
def test_a_client_gets_the_models_that_it_may_use(
    serve: Serve, server: LoopbackServer, client: str, model: str, served_by: list[str] | None
) -> None:
    served = serve(RULES)
    for provider in ("groq", "gemini"):
        server.script(provider, "*", [], then=RateLimited(retry_after=50))
    got = ask(served, client, model)
    asked = list(dict.fromkeys(each.provider for each in server.seen))
    if served_by is None:
        assert (got.status_code, got.json()["error"]["param"]) in ((403, "model"), (404, "model"))
        assert asked == []
    else:
        assert asked == served_by


def test_the_list_of_models_has_those_that_the_client_may_use(serve: Serve, server: LoopbackServer) -> None:
    served = serve(RULES)

    def names(client: str) -> set[str]:
        found = httpx.get(f"{served.url}/v1/models", headers=bearer(client)).json()["data"]
        return {each["id"] for each in found}

    assert {"any", "tier/careful", "groq", "groq/llama-3.3-70b-versatile"} <= names("web")
    assert not [name for name in names("web") if "gemini" in name or "gpt-oss" in name]
    assert names("cli") == {"groq", "tier/careful"}
    assert names("ops") == set()
    one = httpx.get(f"{served.url}/v1/models/gemini", headers=bearer("web"))
    assert one.status_code == 404


def test_no_successor_serves_that_the_client_may_not_use(serve: Serve) -> None:
    config = '[clients.web]\nmodels = ["groq/llama-3.3-*"]\n[clients.cli]\nmodels = ["groq/*"]'
    served = serve(config)
    routes = served.gateway._relays["/v1/chat/completions"].routes
    for name, pinned in (("web", True), ("cli", False), ("ops", False)):
        (target,) = routes.find("groq", served.clients._terms[name].models).targets
        assert (target.id, target.options.explicit) == ("llama-3.3-70b-versatile", pinned), name


def test_a_client_has_limits_of_its_own(serve: Serve, server: LoopbackServer) -> None:
    served = serve("[clients.web]\nrpm = 2\n[clients.cli]\ntpd = 1_000_000")
    assert [ask(served, "web").status_code for _ in range(3)] == [200, 200, 429]
    got = ask(served, "web", "gemini")
    assert got.status_code == 429
    error = got.json()["error"]
    assert (error["code"], error["type"]) == ("client_limited", "rate_limit_error")
    assert "rpm = 2" in error["message"]
    assert 1 <= int(got.headers["retry-after"]) <= 60
    assert len(server.seen) == 2
    assert {ask(served, name).status_code for name in ("cli", "ops") for _ in range(3)} == {200}
    # They do not begin anew because the file was written again.
    served.clients.apply(PrivateFile(listed("web") + b"\n"))
    assert ask(served, "web").status_code == 429


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def refusal(terms: Terms, tokens: int = 0) -> Refusal:
    with pytest.raises(Refusal) as refused, terms.request(tokens):
        pass
    return refused.value


def test_requests_in_flight_count_and_those_that_were_never_sent_do_not() -> None:
    clock = Clock()
    terms = Terms("web", ClientRules(None, Limits(rpm=1, tpm=1000)), clock)
    with terms.request(0):
        assert refusal(terms).retry_after == 1.0
    with terms.request(0):
        count_for_client(row(0.0, tokens=300))
        count_for_client(row(0.0, tokens=400))
    clock.now += 20
    assert refusal(terms).retry_after == pytest.approx(40.0)
    clock.now += 41
    with terms.request(900):
        count_for_client(row(0.0, tokens=900))
    clock.now += 59
    assert refusal(terms, 200).retry_after == pytest.approx(1.0)
    assert "tpm = 1000" in refusal(terms, 200).message


def test_rows_of_nobody_are_counted_for_nobody() -> None:
    terms = Terms("web", ClientRules(None, Limits(rpm=1)))
    with Terms("other").request(5):
        count_for_client(row(0.0, tokens=300))
    with terms.request(5):
        pass
    with terms.request(5):
        count_for_client(row(0.0, tokens=300))
    assert refusal(terms).status == 429


def test_a_gateway_takes_over_what_its_clients_have_used(tmp_path: Path) -> None:
    store, now = Store(tmp_path / "usage.db"), 1_000_000.0
    rows = [row(now - ago, client=name, tokens=100) for ago, name in ((90_000, "web"), (5000, "web"), (30, "web"))]
    rows += [row(now - 20, client="web", tokens=50, outcome="rate_limited")._replace(attempt=2)]
    write(store, [*rows, row(now - 10, client="cli", tokens=100)])
    used = used_by_client(store, lambda: now)
    assert [(now - at, requests, tokens) for at, requests, tokens in used("web")] == [(5000, 1, 100), (20, 1, 150)]
    clock = Clock()
    # Days and hours are counted in parts of a quarter of an hour and of a minute, and free a little late.
    for limits, earliest, latest in (
        (Limits(rpm=1), 40, 40),
        (Limits(tph=150), 3580, 3640),
        (Limits(rpd=2), 81_400, 82_300),
    ):
        clients = Clients({"web": ClientRules(None, limits)}, used, clock, lambda: now)
        clients.apply(PrivateFile(listed("web", "ops")))
        refused = refusal(clients.identify({b"x-api-key": TOKENS["web"].encode()}).terms, 1)
        assert refused.retry_after is not None
        assert earliest - 0.01 <= refused.retry_after <= latest + 0.01
    clients = Clients({"web": ClientRules(None, Limits(rpd=3, tpd=300))}, used, clock, lambda: now)
    clients.apply(PrivateFile(listed("web", "ops")))
    with clients.identify({b"x-api-key": TOKENS["web"].encode()}).terms.request(50):
        pass


@pytest.mark.parametrize("content", [None, b"this is no database" * 100])
def test_without_a_usage_file_clients_begin_anew(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "usage.db"
    store = Store(path)
    if content is None:
        store = None
    else:
        path.write_bytes(content)
    assert list(used_by_client(store)("web")) == []


BUDGET = """
[prices."groq/*"]
input = 0
output = 0
request = 0.01
[clients.web.budget]
usd = 0.05
per = "month"
[clients.ops.budget]
usd = 0.05
per = "month"
"""


def test_a_budget_of_a_client_holds_over_two_processes(server: LoopbackServer, file: Path, tmp_path: Path) -> None:
    config, usage = tmp_path / "config.toml", tmp_path / "usage.db"
    config.write_text(BUDGET)
    env = {**server.env({"groq": 1}), "HFS_CONFIG": str(config), "HFS_USAGE_DB": str(usage), CLIENTS: str(file)}
    with serving(env=env) as (_, first), serving(env=env) as (_, second):
        urls = [command.split()[1] for command in (first, second)]
        assert "authorization: Bearer $TOKEN" in first

        def got(place: int, client: str) -> httpx.Response:
            body = {"model": "groq", **HELLO}
            return httpx.post(urls[place % 2], json=body, headers=bearer(client), timeout=30)

        answers = [got(place, "web") for place in range(8)]
        assert [answer.status_code for answer in answers] == [200] * 5 + [429] * 3
        error = answers[-1].json()["error"]
        assert error["code"] == "budget_exceeded"
        assert "[clients.web.budget]" in error["message"]
        assert int(answers[-1].headers["retry-after"]) >= 1
        assert {got(place, "ops").status_code for place in range(4)} == {200}
    with sqlite3.connect(usage) as connection:
        query = "SELECT client, count(*) FROM usage JOIN series ON series.id = series GROUP BY client ORDER BY client"
        assert connection.execute(query).fetchall() == [("ops", 4), ("web", 5)]
        assert not [line for line in connection.iterdump() if "mArKeD" in line]


def test_a_process_hears_of_clients_that_come_and_go(server: LoopbackServer, tmp_path: Path) -> None:
    path = tmp_path / "clients"
    path.write_bytes(listed("web"))
    path.chmod(0o600)
    with serving(env={**server.env({"groq": 1}), CLIENTS: str(path), "HFS_USAGE_DB": "off"}) as (_, command):
        url = command.split()[1].replace("/chat/completions", "/models")
        assert httpx.get(url, headers=bearer("web")).status_code == 200
        path.write_bytes(listed("cli"))
        # It reads the file twice a second; each request takes some milliseconds.
        with httpx.Client(headers=bearer("web"), timeout=20) as client:
            statuses = (client.get(url).status_code for _ in range(20_000))
            assert 401 in statuses
        assert httpx.get(url, headers=bearer("cli")).status_code == 200


def test_what_keeps_it_from_starting_is_said_with_the_command(server: LoopbackServer, tmp_path: Path) -> None:
    env = {**server.env({"groq": 1}), "HFS_USAGE_DB": "off"}
    path = tmp_path / "clients"
    said = fails("--host", "0.0.0.0", env=env)
    assert "anybody" in said
    assert "hfs-providers clients add NAME" in said
    assert "anybody" in fails("--host", "0.0.0.0", env={**env, CLIENTS: "off"})
    env |= {CLIENTS: str(path)}
    assert f"{path} does not exist" in fails(env=env)
    for content, about in ((b"", "is empty"), (listed(), "has no client"), (b"nonsense\n", "names no client")):
        path.write_bytes(content)
        said = fails(env=env)
        assert about in said
        assert "hfs-providers clients add NAME" in said
        assert f"{CLIENTS}=off" in said
    path.write_bytes(listed("web"))
    config = tmp_path / "config.toml"
    config.write_text("[clients.web]\nrpm = -5\nmodel = 'x'")
    said = fails(env={**env, "HFS_CONFIG": str(config)})
    assert "clients.web.rpm" in said
    assert "Traceback" not in said
    # Nor before there are clients: those that are added later would have no rules.
    broken = {name: value for name, value in env.items() if name != CLIENTS} | {"HFS_CONFIG": str(config)}
    assert "clients.web.rpm" in fails(env=broken)


def test_clients_without_a_token_are_said_and_do_no_harm(server: LoopbackServer, file: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[clients.wbe]\nrpm = 5\n[clients."o d\\td"]\nrpm = 5')
    env = {**server.env({"groq": 1}), CLIENTS: str(file), "HFS_CONFIG": str(config), "HFS_USAGE_DB": "off"}
    with serving("--host", "0.0.0.0", "--allow-host", "x", env=env) as (process, command):
        url = command.split()[1].replace("0.0.0.0", "127.0.0.1")
        assert httpx.post(url, json={"model": "groq", **HELLO}, headers=bearer("web")).status_code == 200
        process.terminate()
        assert process.stderr is not None
        said = process.stderr.read()
    assert "Did you mean 'web'?" in said
    assert "hfs-providers clients add wbe" in said
    assert "'o d\\td'" in said
    assert "unencrypted" in said


def test_nobody_is_let_in_by_a_file_that_is_not_there_yet(tmp_path: Path) -> None:
    clients = Clients({})
    clients.follow(str(tmp_path / "later"))
    assert not clients.required
    clients.close()
    clients.close()

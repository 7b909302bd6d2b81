"""Keys tried for real: one by one, and all of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hfs_providers import ProviderManager
from hfs_providers.authoring import Credential, KeyProbe, Secret
from hfs_providers.keys import KeyPool
from hfs_providers.testing import (
    EmptyBody,
    Forbidden,
    Garbage,
    LoopbackServer,
    ModelGone,
    PaymentRequired,
    RateLimited,
    Raw,
    Reset,
    ServerError,
    Stall,
    Step,
    Unauthorized,
)
from hfs_providers.wrapper.check import check_keys
from hfs_providers.wrapper.probe import RETIRED

PROVIDERS = ("cerebras", "groq", "gemini", "openrouter")


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as running:
        yield running


class Tried:
    """One provider with some keys, and what their probes show."""

    def __init__(self, server: LoopbackServer, provider: str, keys: int = 1, **env: str) -> None:
        self.server = server
        self.provider = provider
        self.env = {**server.env({provider: keys}), **env}
        self.manager = ProviderManager(self.env)
        self.pool = self.manager.wrapper(provider).pool
        self.rows: list[Any] = []
        self.manager.observe(lambda event: self.rows.append(event.usage) if event.usage else None)

    def plays(self, step: Step | None) -> None:
        self.server.script(self.provider, self.key(1), [], then=step)

    def key(self, number: int) -> str:
        return self.env[f"{self.provider.upper()}_API_KEY_{number}"]

    def probe(self, **options: Any) -> KeyProbe:
        return self.manager.wrapper(self.provider).probe(self.pool.credentials[0], **options)

    @property
    def paths(self) -> list[str]:
        return [seen.path for seen in self.server.seen]

    @property
    def state(self) -> str:
        return self.pool.statuses()[0].state


@pytest.fixture
def tried(server: LoopbackServer) -> Iterator[Callable[..., Tried]]:
    made: list[Tried] = []

    def make(provider: str = "groq", keys: int = 1, **env: str) -> Tried:
        made.append(Tried(server, provider, keys, **env))
        return made[-1]

    yield make
    for each in made:
        each.manager.shutdown()


class TestWhatAProbeSays:
    @pytest.mark.parametrize("ask", [False, True], ids=["cheapest", "one-token"])
    @pytest.mark.parametrize("provider", PROVIDERS)
    @pytest.mark.parametrize(
        ("step", "outcome", "state"),
        [
            (None, "works", "ready"),
            (Unauthorized(echo_key=True), "dead", "dead"),
            (PaymentRequired(echo_key=True), "dead", "dead"),
            (RateLimited(retry_after=90, echo_key=True), "limited", "cooling"),
            (RateLimited(), "limited", "cooling"),
            (ServerError(500), "unknown", "ready"),
            (ServerError(503), "unknown", "ready"),
            (Reset(), "unknown", "ready"),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, Step) else "",
    )
    def test_follows_the_answer(
        self, tried: Callable[..., Tried], provider: str, step: Step | None, outcome: str, state: str, ask: bool
    ) -> None:
        one = tried(provider)
        one.plays(step)
        probe = one.probe(ask=ask)
        assert (probe.id, probe.outcome) == (f"{provider}#1", outcome)
        assert one.state == state
        assert (probe.reason is None) == (outcome == "works")
        assert probe.latency is not None
        key = one.key(1)
        assert key not in repr(probe)
        assert key[-4:] not in repr(probe)

    @pytest.mark.parametrize("provider", PROVIDERS)
    def test_a_limited_key_says_when(self, tried: Callable[..., Tried], provider: str) -> None:
        one = tried(provider)
        one.plays(RateLimited(retry_after=90))
        free_in = one.probe().free_in
        assert free_in is not None
        assert 80 < free_in <= 91

    def test_a_limit_found_without_a_model_is_the_key_s(self, tried: Callable[..., Tried]) -> None:
        one = tried()
        one.plays(RateLimited(retry_after=90))
        one.probe()
        assert one.pool.statuses("any-model")[0].state == "cooling"

    def test_a_403_without_a_reason_says_nothing_about_the_key(self, tried: Callable[..., Tried]) -> None:
        one = tried("groq")
        one.plays(Raw(403, b"<html>blocked by a proxy</html>"))
        assert one.probe().outcome == "unknown"
        one.plays(Forbidden())
        assert one.state != "dead"

    @pytest.mark.parametrize("ask", [False, True], ids=["cheapest", "one-token"])
    @pytest.mark.parametrize("step", [EmptyBody(), Garbage()], ids=["empty", "garbage"])
    @pytest.mark.parametrize("provider", PROVIDERS)
    def test_a_200_of_somebody_else_proves_nothing(
        self, tried: Callable[..., Tried], provider: str, step: Step, ask: bool
    ) -> None:
        one = tried(provider)
        one.plays(step)
        assert (one.probe(ask=ask).outcome, one.state) == ("unknown", "ready")

    @pytest.mark.parametrize(
        ("provider", "body"),
        [
            (
                "gemini",
                b'{"candidates":[{"content":{"role":"model"},"finishReason":"MAX_TOKENS","index":0}],'
                b'"usageMetadata":{"promptTokenCount":2,"totalTokenCount":2}}',
            ),
            (
                "openrouter",
                b'{"id":"1","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":'
                b'"length","message":{"role":"assistant","content":""}}]}',
            ),
        ],
    )
    def test_a_token_that_was_a_thought_proves_the_key(
        self, tried: Callable[..., Tried], provider: str, body: bytes
    ) -> None:
        one = tried(provider)
        one.plays(Raw(200, body, {"content-type": "application/json"}))
        assert one.probe(ask=True).outcome == "works"

    def test_silence_ends_with_the_timeout(self, tried: Callable[..., Tried]) -> None:
        one = tried()
        one.plays(Stall(60))
        probe = one.probe(timeout=0.2)
        assert (probe.outcome, one.state) == ("unknown", "ready")
        assert probe.latency is not None
        assert probe.latency < 30


class TestWhatAProbeSends:
    @pytest.mark.parametrize(
        ("provider", "path"),
        [
            ("cerebras", "/v1/models"),
            ("groq", "/openai/v1/models"),
            ("gemini", "/v1/models"),
            ("openrouter", "/api/v1/key"),
        ],
    )
    def test_is_the_cheapest_that_proves_a_key(self, tried: Callable[..., Tried], provider: str, path: str) -> None:
        one = tried(provider)
        one.probe()
        assert one.paths == [path]
        assert one.rows == []

    @pytest.mark.parametrize("provider", PROVIDERS)
    def test_is_one_token_on_request_and_leaves_a_row(self, tried: Callable[..., Tried], provider: str) -> None:
        one = tried(provider)
        assert one.probe(ask=True).outcome == "works"
        (row,) = one.rows
        assert (row.key_id, row.outcome) == (f"{provider}#1", "ok")
        assert row.charged == row.tokens > 0
        assert sum(one.server.answered(provider).values()) == 1

    def test_goes_to_the_successor_of_a_model_that_is_gone(self, tried: Callable[..., Tried]) -> None:
        one = tried("groq")
        one.server.retire("groq", "llama-3.3-70b-versatile")
        assert one.probe(ask=True).outcome == "works"
        assert [row.outcome for row in one.rows] == ["model_gone", "ok"]

    def test_goes_to_no_other_model_than_the_user_s(self, tried: Callable[..., Tried]) -> None:
        one = tried("groq", GROQ_MODEL="mine")
        one.plays(ModelGone())
        assert one.probe(ask=True).outcome == "unknown"
        assert len(one.rows) == 1

    def test_is_nothing_where_a_limit_would_be_passed(self, tried: Callable[..., Tried]) -> None:
        one = tried("groq", GROQ_LIMITS="rpm=1")
        assert one.probe(ask=True).outcome == "limited"
        again = one.probe(ask=True)
        assert (again.outcome, again.latency) == ("limited", None)
        assert again.free_in is not None
        assert len(one.server.seen) == 1

    def test_is_nothing_where_the_key_was_told_to_wait(self, tried: Callable[..., Tried]) -> None:
        one = tried()
        with one.pool.acquire("m") as lease:
            lease.rate_limited(300, "key")
        probe = one.probe()
        assert (probe.outcome, probe.latency, one.paths) == ("limited", None, [])


class TestADeadKey:
    """The naive way, a lease, is refused until its probation is over: who mended a key would not learn it."""

    def test_is_tried_and_revived(self, tried: Callable[..., Tried]) -> None:
        one = tried()
        one.pool.retire("groq#1", "revoked")
        assert one.probe().outcome == "works"
        assert one.state == "ready"

    def test_that_its_owner_retired_is_left_alone(self, tried: Callable[..., Tried]) -> None:
        one = tried()
        one.pool.retire("groq#1", f"{RETIRED}: leaked")
        probe = one.probe()
        assert (probe.outcome, probe.reason, probe.latency) == ("dead", "retired: leaked", None)
        assert (one.state, one.paths) == ("dead", [])

    def test_is_left_alone_while_its_account_has_to_wait(self, tried: Callable[..., Tried]) -> None:
        one = tried(keys=2, GROQ_ACCOUNT_1="us", GROQ_ACCOUNT_2="us")
        one.pool.retire("groq#1", "revoked")
        with one.pool.acquire("m", key_id="groq#2") as lease:
            lease.rate_limited(300, "key")
        probe = one.probe()
        assert (probe.outcome, probe.latency, one.paths) == ("dead", None, [])
        assert one.pool.statuses()[1].state == "cooling"

    def test_stays_dead_where_it_is(self, tried: Callable[..., Tried]) -> None:
        one = tried()
        one.pool.retire("groq#1", "revoked")
        one.plays(Unauthorized())
        assert one.probe().outcome == "dead"
        assert one.state == "dead"

    def test_stays_dead_where_nobody_knows(self, tried: Callable[..., Tried]) -> None:
        one = tried()
        one.pool.retire("groq#1", "revoked")
        one.plays(ServerError(503))
        assert one.probe().outcome == "unknown"
        assert one.state == "dead"

    def test_lives_where_it_is_told_to_wait(self, tried: Callable[..., Tried]) -> None:
        one = tried()
        one.pool.retire("groq#1", "revoked")
        one.plays(RateLimited(retry_after=60))
        assert one.probe().outcome == "limited"
        assert one.state == "cooling"


class TestHealth:
    def test_live_names_the_keys_that_do_not_work(self, tried: Callable[..., Tried]) -> None:
        one = tried("groq", keys=2)
        one.plays(Unauthorized())
        health = one.manager.health("groq", live=True)
        assert health.usable
        (reason,) = health.reasons
        assert reason.startswith("groq#1: dead: invalid_api_key")


class Slow:
    """A wrapper whose probes wait to be let go, and count how many there are at a time."""

    def __init__(self, provider: str, keys: int, open_at_once: bool = True) -> None:
        credentials = [Credential(f"{provider}#{n}", Secret(f"secret-{n}")) for n in range(1, keys + 1)]
        self.pool = KeyPool(provider, credentials)
        self.go = threading.Event()
        self.arrived = threading.Semaphore(0)
        self.now = self.most = 0
        self._lock = threading.Lock()
        if open_at_once:
            self.go.set()

    def probe(self, credential: Credential, *, timeout: float, ask: bool) -> KeyProbe:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.arrived.release()
        self.go.wait(30)
        with self._lock:
            self.now -= 1
        return KeyProbe(credential.id, credential.fingerprint, "works")


class Broken(Slow):
    def probe(self, credential: Credential, *, timeout: float, ask: bool) -> KeyProbe:
        raise RuntimeError("the key is secret-1")


class TestCheckingAll:
    def test_tries_each_key_once(self) -> None:
        wrappers: dict[str, Any] = {"one": Slow("one", 50), "two": Slow("two", 3)}
        found = sorted(probe.id for _, probe in check_keys(wrappers))
        assert found == sorted(each.id for wrapper in wrappers.values() for each in wrapper.pool.credentials)

    def test_asks_no_provider_and_all_of_them_for_more_than_so_much(self) -> None:
        wrappers: dict[str, Any] = {name: Slow(name, 20, open_at_once=False) for name in ("one", "two", "three")}
        results = check_keys(wrappers, most=8, most_of_one=3)
        first = threading.Thread(target=lambda: found.append(next(results)))
        found: list[Any] = []
        first.start()
        for name, expected in (("one", 3), ("two", 3), ("three", 2)):
            for _ in range(expected):
                assert wrappers[name].arrived.acquire(timeout=30)
        for wrapper in wrappers.values():
            wrapper.go.set()
        first.join(30)
        assert len(found) + len(list(results)) == 60
        assert all(wrapper.most <= 3 for wrapper in wrappers.values())

    def test_gives_up_what_never_ends(self) -> None:
        hung: Any = Slow("hung", 2, open_at_once=False)
        later = iter([0.0, 0.0])
        results = list(check_keys({"hung": hung}, clock=lambda: next(later, 1e6)))
        assert [(probe.outcome, probe.reason) for _, probe in results] == [
            ("unknown", "given up: no result in time")
        ] * 2
        hung.go.set()

    def test_says_what_a_plugin_s_own_fault_was_and_shows_no_key(self) -> None:
        broken: Any = Broken("broken", 1)
        ((_, probe),) = check_keys({"broken": broken})
        assert (probe.outcome, probe.reason) == ("unknown", "RuntimeError: the key is [broken#1]")

    def test_leaves_the_rest_alone_where_it_is_stopped(self) -> None:
        slow: Any = Slow("slow", 100)
        results = check_keys({"slow": slow}, most=1)
        next(results)
        results.close()
        assert slow.most == 1

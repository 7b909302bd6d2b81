"""What calling keycycle directly does badly, shown on keycycle itself, and the same situation through this library.

keycycle runs in processes of its own, each in an empty directory: importing it takes over the root logger and creates
a file. What the import alone does is in `tests/test_imports.py`.
"""

from __future__ import annotations

import asyncio
import copy
import json
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agno.exceptions import ModelRateLimitError
from agno.models.message import Message

from hfs_providers import KeyedProvider, KeysExhaustedError, ModelCallError, ModelDefault, ProviderManager
from hfs_providers.calls._keycycle import NoAvailableKeyError
from hfs_providers.contract.errors import PoolExhaustedError
from hfs_providers.testing import LoopbackServer, OpenAIDialect, RateLimited, Raw, Step
from tests import warm

MODEL = "openai/gpt-oss-120b"
NAIVE = """
import asyncio, json, os, pickle, sys, time
from collections import deque
from pathlib import Path
from agno.models.message import Message
for name in [name for name in sys.modules if name.partition(".")[0] == "keycycle"]:
    del sys.modules[name]  # as our package has imported it
from keycycle import MultiProviderWrapper, NoAvailableKeyError, RateLimits
from keycycle.utils import get_agno_model_class

given = json.loads(sys.argv[1])
url, keys, found = given["url"], given["keys"], {}

def wrapper(provider="groq", count=None, **options):
    # Without tracking, because it wants a database.
    return MultiProviderWrapper(
        provider, keys[:count], given["model"], get_agno_model_class(provider), track_usage=False, **options
    )

def model(made, **options):
    # The SDK's own retries are off, so that only keycycle's are seen.
    return made.get_model(base_url=url, client_params={"max_retries": 0}, **options)

def ask(model):
    return model.response(messages=[Message(role="user", content="hello")])

def error_of(function):
    try:
        function()
    except Exception as error:
        return type(error).__name__ + ": " + str(error)

def dead(made):
    return [key.dead for key in made.manager.keys]

__PROGRAM__

Path("found.json").write_text(json.dumps(found))
os._exit(0)  # its threads need not be waited for
"""

Naive = Callable[..., dict[str, Any]]


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer(dialects=[OpenAIDialect("acme")]) as server:
        yield server


@pytest.fixture
def keys(server: LoopbackServer) -> list[str]:
    return [server.new_key("groq") for _ in range(16)]


@pytest.fixture
def naive(server: LoopbackServer, keys: list[str], tmp_path: Path) -> Naive:
    """Runs a program against keycycle in a directory of its own; what it put into `found`."""

    def run(program: str, **env: str) -> dict[str, Any]:
        directory = tmp_path / "naive"
        directory.mkdir(exist_ok=True)
        given = {"url": server.base_url("groq"), "keys": keys, "model": MODEL}
        clean = {name: value for name, value in os.environ.items() if name != "TIDB_DB_URL"}
        done = subprocess.run(
            [warm.python(), "-c", NAIVE.replace("__PROGRAM__", program), json.dumps(given)],
            cwd=directory,
            env={**clean, **env},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (directory / "found.json").exists(), done.stderr
        found: dict[str, Any] = json.loads((directory / "found.json").read_text())
        return found

    return run


@pytest.fixture
def ours(server: LoopbackServer, keys: list[str]) -> Iterator[Callable[..., Any]]:
    """Makes our wrapper of the same provider over the same keys."""
    managers: list[ProviderManager] = []

    def make(count: int | None = None, provider: str = "groq", **env: str) -> Any:
        env = {**server.env({provider: keys[:count]}), "HFS_USAGE_DB": "off", **env}
        managers.append(ProviderManager(env=env))
        made: Any = managers[-1].wrappers[provider]
        made.backend.sleep = lambda seconds: None
        return made

    yield make
    for manager in managers:
        manager.shutdown()


def ask(model: Any) -> str:
    return str(model.response(messages=[Message(role="user", content="hello")]).content)


def states(wrapper: Any) -> list[str]:
    return [status.state for status in wrapper.pool.statuses()]


class TestTheEnvironment:
    """keycycle's key loader calls `load_dotenv(override=True)`."""

    @pytest.fixture
    def directory(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        directory = tmp_path / "naive"
        directory.mkdir()
        (directory / ".env").write_text("GROQ_API_KEY_1=gsk_out_of_the_file_0001\nUNRELATED=from the file\n")
        for name, value in ENVIRONMENT.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(directory)
        return directory

    def test_naive(self, directory: Path, naive: Naive) -> None:
        found = naive(
            "found['keys'] = MultiProviderWrapper.load_api_keys('groq')\nfound['unrelated'] = os.environ['UNRELATED']"
        )
        assert found == {"keys": ["gsk_out_of_the_file_0001"], "unrelated": "from the file"}

    def test_ours(self, directory: Path) -> None:
        before = dict(os.environ)
        with ProviderManager() as manager:
            credentials = manager.wrappers["groq"].pool.credentials
            assert [c.secret.reveal() for c in credentials if c.secret] == [ENVIRONMENT["GROQ_API_KEY_1"]]
        assert dict(os.environ) == before


ENVIRONMENT = {
    "NUM_GROQ": "1",
    "GROQ_API_KEY_1": "gsk_of_the_process_0002",
    "UNRELATED": "of the process",
    "HFS_USAGE_DB": "off",
}


class TestReservations:
    """`get_model` reserves tokens that nobody gives back; so does a call that fails."""

    def test_naive(self, naive: Naive, server: LoopbackServer) -> None:
        found = naive(
            "made = wrapper()\n"
            "found['models'] = 0\n"
            "while not (error := error_of(lambda: made.get_model(wait=False))):\n"
            "    found['models'] += 1\n"
            "found['error'] = error"
        )
        assert found["models"] == 128
        assert found["error"].startswith("NoAvailableKeyError")
        assert server.hits("groq") == {}

    def test_ours(self, ours: Callable[..., Any]) -> None:
        wrapper = ours()
        models = [wrapper.get_model(MODEL, wait=False) for _ in range(1_000)]
        assert wrapper.pool.counts(MODEL).reserved_tokens == 0
        assert "hello" in ask(models[-1])

    FAILING = Raw(400, b'{"error": {"message": "no", "type": "invalid_request_error"}}')

    def test_naive_with_calls_that_fail(self, naive: Naive, server: LoopbackServer) -> None:
        server.script("groq", "*", [], then=self.FAILING)
        found = naive(
            "made = wrapper(count=1)\n"
            "failing = model(made)\n"
            "for _ in range(3):\n"
            "    error_of(lambda: ask(failing))\n"
            "found['pending'] = sum(b.pending_tokens for b in made.manager.keys[0].buckets.values())"
        )
        assert found["pending"] == 4_000

    def test_ours_with_calls_that_fail(self, ours: Callable[..., Any], server: LoopbackServer) -> None:
        server.script("groq", "*", [], then=self.FAILING)
        wrapper = ours(count=1)
        model = wrapper.get_model(MODEL)
        for _ in range(3):
            with pytest.raises(ModelCallError):
                ask(model)
        counts = wrapper.pool.counts(MODEL)
        assert (counts.in_flight, counts.reserved_tokens) == (0, 0)


class TestConnections:
    """Each call drops the SDK's client, and with it the connection."""

    def test_naive(self, naive: Naive, server: LoopbackServer) -> None:
        naive("made = model(wrapper())\nfor _ in range(5):\n    ask(made)")
        assert server.connections == 5

    def test_ours(self, ours: Callable[..., Any], server: LoopbackServer) -> None:
        model = ours().get_model(MODEL)
        for _ in range(5):
            ask(model)
        assert server.connections == 1


class TestWaiting:
    """An async call that waits for a key sleeps in the event loop."""

    def test_naive(self, naive: Naive) -> None:
        found = naive(
            "made = wrapper(count=1)\n"
            "waiting = model(made, timeout=0.1)\n"
            "made.manager.keys[0].trigger_cooldown()\n"
            "found['ticks'] = 0\n"
            "async def tick():\n"
            "    while True:\n"
            "        await asyncio.sleep(0)\n"
            "        found['ticks'] += 1\n"
            "async def call():\n"
            "    await waiting.aresponse(messages=[Message(role='user', content='hello')])\n"
            "async def both():\n"
            "    ticking = asyncio.ensure_future(tick())\n"
            "    await asyncio.sleep(0)\n"
            "    before = found['ticks']\n"
            "    try:\n"
            "        await call()\n"
            "    except NoAvailableKeyError as error:\n"
            "        found['error'] = str(error)\n"
            "    found['ticks'] -= before\n"
            "    ticking.cancel()\n"
            "asyncio.run(both())"
        )
        assert found["error"].startswith("Timeout")
        assert found["ticks"] == 0

    def test_ours(self, ours: Callable[..., Any]) -> None:
        wrapper = ours(count=1)
        wrapper.pool.acquire(MODEL).rate_limited(0.2)

        async def both() -> tuple[str, int]:
            ticks = 0

            async def tick() -> None:
                nonlocal ticks
                while True:
                    await asyncio.sleep(0)
                    ticks += 1

            ticking = asyncio.ensure_future(tick())
            lease = await wrapper.pool.aacquire(MODEL)
            lease.release()
            ticking.cancel()
            answer = await wrapper.get_model(MODEL).aresponse(messages=[Message(role="user", content="hello")])
            return str(answer.content), ticks

        answer, ticks = asyncio.run(both())
        assert "hello" in answer
        assert ticks > 10


class TestPicking:
    """To pick a key keycycle adds up its whole history."""

    COUNTING = """
def calls_of(function):
    calls = 0
    def count(frame, event, argument):
        nonlocal calls
        calls += event == "call"
    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return calls
"""

    def test_naive(self, naive: Naive) -> None:
        found = naive(
            f"{self.COUNTING}\n"
            "made = wrapper(count=1, key_limits={0: RateLimits(10**6, 10**6, 10**6, 10**9, 10**9, 10**9)})\n"
            "found['calls'] = []\n"
            "for number in range(1, 5_001):\n"
            "    made.manager.record_usage(made.manager.keys[0], given['model'], 10, 0)\n"
            "    if number in (100, 5_000):\n"
            "        found['calls'].append(calls_of(made.get_key_usage))\n"
        )
        few, many = found["calls"]
        assert many > 40 * few

    def test_ours(self, ours: Callable[..., Any]) -> None:
        calls_of: dict[str, Any] = {"sys": sys}
        exec(self.COUNTING, calls_of)
        pool = ours(count=1, GROQ_LIMITS=",".join(f"{name}={10**8}" for name in LIMITS)).pool
        calls = []
        for number in range(1, 5_001):
            pool.acquire(MODEL).commit(10)
            if number in (100, 5_000):
                calls.append(min(calls_of["calls_of"](lambda: pool.acquire(MODEL).commit(10)) for _ in range(5)))
        few, many = calls
        assert many < 2 * few


LIMITS = ("rpm", "rph", "rpd", "tpm", "tph", "tpd")


class TestWords:
    """A number or a word in the text of an error kills the key, whatever the status says."""

    BAD_REQUEST = Raw(
        400,
        b'{"error": {"message": "tool call id call_40312 was not answered", "type": "invalid_request_error"}}',
        {"content-type": "application/json"},
    )
    FAILED = Raw(
        500,
        b'{"error": {"message": "the deadline of an upstream server expired", "type": "internal_server_error"}}',
        {"content-type": "application/json"},
    )

    @pytest.mark.parametrize("step", [BAD_REQUEST, FAILED], ids=["call_40312", "expired"])
    def test_naive(self, naive: Naive, server: LoopbackServer, step: Step) -> None:
        server.script("groq", "*", [], then=step)
        found = naive(
            "made = wrapper(count=3)\n"
            "asking = model(made)\n"
            "found['error'] = error_of(lambda: ask(asking))\n"
            "found['dead'] = dead(made)"
        )
        assert found["error"]
        assert found["dead"].count(True) == 2  # all but the one that it tried last

    @pytest.mark.parametrize("step", [BAD_REQUEST, FAILED], ids=["call_40312", "expired"])
    def test_ours(self, ours: Callable[..., Any], server: LoopbackServer, step: Step) -> None:
        server.script("groq", "*", [], then=step)
        wrapper = ours(count=3)
        with pytest.raises(ModelCallError) as caught:
            ask(wrapper.get_model(MODEL))
        assert caught.value.kind == ("bad_request" if step is self.BAD_REQUEST else "server_error")
        assert states(wrapper) == ["ready"] * 3


class TestOneKey:
    """A key that is alone never cools: the provider is asked again and again."""

    def test_naive(self, naive: Naive, server: LoopbackServer, keys: list[str]) -> None:
        server.script("groq", "*", [], then=RateLimited(retry_after=600))
        naive("made = model(wrapper(count=1))\nfor _ in range(3):\n    error_of(lambda: ask(made))")
        assert server.hits("groq") == {keys[0]: 3}

    def test_ours(self, ours: Callable[..., Any], server: LoopbackServer, keys: list[str]) -> None:
        server.script("groq", "*", [], then=RateLimited(retry_after=600))
        wrapper = ours(count=1)
        model = wrapper.get_model(MODEL)
        for _ in range(3):
            with pytest.raises(KeysExhaustedError):
                ask(model)
        assert server.hits("groq") == {keys[0]: 1}
        assert states(wrapper) == ["cooling"]


class TestLimits:
    """keycycle's tables have no `default` for Groq, and OpenRouter's one is that of the free models."""

    def test_naive(self, naive: Naive) -> None:
        found = naive(
            "def granted(provider, model_id):\n"
            "    made, count = wrapper(provider, count=1), 0\n"
            "    while count < 200 and not error_of(lambda: made.get_key_usage(model_id, 0, wait=False)):\n"
            "        count += 1\n"
            "        made.manager.record_usage(made.manager.keys[0], model_id, 0, 0)\n"
            "    return count\n"
            "found['unknown'] = granted('groq', 'a-model-of-tomorrow')\n"
            "found['paid'] = granted('openrouter', 'anthropic/claude-paid')\n"
            "limits = wrapper('openrouter')._resolve_limits_internal('anthropic/claude-paid')\n"
            "found['paid a day'] = limits.requests_per_day\n"
            "limits = wrapper('groq')._resolve_limits_internal('a-model-of-tomorrow')\n"
            "found['of nobody'] = [limits.requests_per_minute, limits.requests_per_hour, limits.requests_per_day]"
        )
        assert found == {"unknown": 10, "paid": 20, "paid a day": 50, "of nobody": [10, 100, 1000]}

    @pytest.mark.parametrize(
        ("provider", "model_id", "granted"),
        [
            ("groq", "a-model-of-tomorrow", 200),
            ("openrouter", "anthropic/claude-paid", 200),
            ("openrouter", "meta-llama/llama-3.3-70b-instruct:free", 20),
        ],
    )
    def test_ours(self, ours: Callable[..., Any], provider: str, model_id: str, granted: int) -> None:
        pool = ours(count=1, provider=provider).pool
        count = 0
        while count < 200 and pool.next_free(model_id, 0) == 0:
            pool.acquire(model_id, 0, timeout=0).commit()
            count += 1
        assert count == granted


class TestTheOpenAIClient:
    """keycycle's overwrites `base_url`, sleeps when it rotates, logs parts of keys and knows only its own providers."""

    def test_naive_base_url(self, naive: Naive) -> None:
        found = naive("found['url'] = wrapper().get_openai_client(base_url=url).client_kwargs['base_url']")
        assert found["url"] == "https://api.groq.com/openai/v1"

    def test_naive_rotation(self, naive: Naive, server: LoopbackServer, keys: list[str], tmp_path: Path) -> None:
        server.script("groq", keys[0], [RateLimited(retry_after=600)])
        found = naive(
            "found['slept'] = []\n"
            "time.sleep = found['slept'].append\n"
            "client = wrapper(count=2).get_openai_client()\n"
            "client.client_kwargs.update(base_url=url + '/openai/v1', max_retries=0)\n"
            "said = [{'role': 'user', 'content': 'hello'}]\n"
            "found['answer'] = client.chat.completions.create(messages=said).choices[0].message.content\n"
        )
        assert "hello" in found["answer"]
        assert found["slept"] == [0.5]
        assert keys[0][-8:] in (tmp_path / "naive" / "app.log").read_text()

    def test_naive_other_provider(self, naive: Naive) -> None:
        found = naive(
            "made = MultiProviderWrapper('acme', keys, 'large', track_usage=False)\n"
            "found['error'] = error_of(made.get_openai_client)"
        )
        assert found["error"].startswith("ValueError: Unknown provider: acme")

    def test_ours(
        self,
        ours: Callable[..., Any],
        server: LoopbackServer,
        keys: list[str],
        caplog: pytest.LogCaptureFixture,
        capfd: pytest.CaptureFixture[str],
    ) -> None:
        caplog.set_level(logging.DEBUG)
        server.script("groq", keys[0], [RateLimited(retry_after=600)])
        wrapper = ours(count=2)
        slept: list[float] = []
        wrapper.backend.sleep = slept.append
        client = wrapper.get_openai_client(affinity=None)
        answer = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hello"}])
        assert "hello" in answer.choices[0].message.content
        assert server.hits("groq") == dict.fromkeys(keys[:2], 1)
        assert slept == []
        shown = caplog.text + "".join(capfd.readouterr())
        assert not [key for key in keys if key[-8:] in shown]

    def test_ours_with_a_base_url(self, ours: Callable[..., Any], server: LoopbackServer, keys: list[str]) -> None:
        client = ours(count=1).get_openai_client(base_url=server.base_url("acme"))
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "hello"}])
        assert server.hits("acme") == {keys[0]: 1}
        assert server.hits("groq") == {}

    def test_ours_with_another_provider(self, server: LoopbackServer) -> None:
        acme = KeyedProvider(
            name="acme",
            model_class="agno.models.openai.like:OpenAILike",
            sdk="openai",
            openai_path="",
            models=(ModelDefault("large"),),
        )
        with ProviderManager(env={**server.env({"acme": 1}), "HFS_USAGE_DB": "off"}, plugins=[acme]) as manager:
            client = manager.wrappers["acme"].get_openai_client()  # type: ignore[attr-defined]
            answer = client.chat.completions.create(model="large", messages=[{"role": "user", "content": "hello"}])
        assert "hello" in answer.choices[0].message.content


class TestBuilding:
    """Without a database there is no wrapper; with `NUM_X=0` there is an empty one."""

    def test_naive_without_a_database(self, naive: Naive) -> None:
        found = naive("found['error'] = error_of(lambda: MultiProviderWrapper('groq', keys, given['model']))")
        assert found["error"].startswith("ValueError: Database URL not provided")

    def test_ours_without_a_database(self, ours: Callable[..., Any]) -> None:
        assert "hello" in ask(ours(count=1).get_model(MODEL))

    def test_naive_with_no_keys(self, naive: Naive, keys: list[str]) -> None:
        found = naive(
            "made = MultiProviderWrapper.from_env('groq', given['model'], track_usage=False)\n"
            "found['keys'] = len(made.manager.keys)",
            NUM_GROQ="0",
            GROQ_API_KEY_1=keys[0],
        )
        assert found["keys"] == 0

    def test_ours_with_no_keys(self, keys: list[str]) -> None:
        with ProviderManager(env={"NUM_GROQ": "0", "GROQ_API_KEY_1": keys[0], "HFS_USAGE_DB": "off"}) as manager:
            assert "groq" not in manager.wrappers
            assert not manager.environment_status["groq"]["configured"]


class TestTheError:
    """`NoAvailableKeyError` needs arguments that a copy does not bring, and does not get on with Agno's errors."""

    def test_naive(self) -> None:
        error = NoAvailableKeyError("groq", MODEL, True, 10.0)
        with pytest.raises(TypeError):
            pickle.loads(pickle.dumps(error))

    def test_naive_beside_agno_s(self) -> None:
        both = type("Both", (ModelRateLimitError, NoAvailableKeyError), {})
        with pytest.raises(TypeError):
            both("limited")

    @pytest.mark.parametrize("way", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
    def test_ours(self, way: Callable[[KeysExhaustedError], KeysExhaustedError]) -> None:
        pool = PoolExhaustedError("groq", MODEL, total=3, cooling=2, dead=1, free_in=12.5, timeout=10.0)
        error = KeysExhaustedError(pool)
        same = way(error)
        assert isinstance(same, ModelRateLimitError)
        assert isinstance(same, NoAvailableKeyError)
        assert (str(same), vars(same)) == (str(error), vars(error))
        assert (same.wait, same.timeout, same.total_keys, same.cooling_down) == (True, 10.0, 3, 2)

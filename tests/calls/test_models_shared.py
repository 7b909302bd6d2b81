"""One model object in many hands: threads, tasks, loops, forks, copies and other processes."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import gc
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextvars import ContextVar
from multiprocessing import get_context
from typing import Any

import aiohttp
import httpx
import httpx2
import pytest
from agno.agent import Agent
from agno.exceptions import ModelProviderError, ModelRateLimitError
from agno.models.message import Message

from hfs_providers import (
    Event,
    KeyRejectedError,
    KeysExhaustedError,
    ModelCallError,
    ProviderManager,
    StreamInterruptedError,
)
from hfs_providers.calls.model_errors import ContextOverflowError
from hfs_providers.keys import fingerprint
from hfs_providers.testing import (
    BadRequest,
    ContextTooLong,
    GeminiDialect,
    LoopbackServer,
    Ok,
    OpenAIDialect,
    RateLimited,
    Request,
    ServerError,
    Step,
    StreamError,
)
from tests import warm
from tests.long import LONGEST

PROVIDERS = ["cerebras", "groq", "gemini", "openrouter"]
KEYS = 8
TASKS = 500 if LONGEST else 100
GUARD = 60.0
"""Seconds after which something hangs."""


class WatchingServer(LoopbackServer):
    """Remembers each request as it came, and lets a test see headers and word the errors inside streams."""

    def __init__(self) -> None:
        self.stream_error: dict[str, Any] = {"message": "failed", "type": "server_error", "code": 500}
        self.headers: list[Mapping[str, str]] = []
        self.requests: dict[str, list[Request]] = defaultdict(list)
        super().__init__(dialects=[ListeningDialect(self), WordyGemini(self)])

    def next_step(self, request: Request) -> Step:
        self.requests[request.prompt].append(request)
        return super().next_step(request)


class ListeningDialect(OpenAIDialect):
    def __init__(self, server: WatchingServer) -> None:
        super().__init__("groq", "", "gsk_", "/openai/v1")
        self._server = server

    def read(self, method: str, path: str, headers: Mapping[str, str], body: Mapping[str, Any]) -> Request | None:
        self._server.headers.append(headers)
        return super().read(method, path, headers, body)

    def stream_error(self, request: Request) -> list[bytes]:
        return [self.event({"error": self._server.stream_error})]


class WordyGemini(GeminiDialect):
    def __init__(self, server: WatchingServer) -> None:
        super().__init__("gemini")
        self._server = server

    def stream_error(self, request: Request) -> list[bytes]:
        said = self._server.stream_error
        return [self.event({"error": {"code": said["code"], "message": said["message"], "status": "INTERNAL"}})]


@pytest.fixture
def server() -> Iterator[WatchingServer]:
    with WatchingServer() as server:
        yield server


@pytest.fixture
def env(server: WatchingServer) -> dict[str, str]:
    limits = {f"{name.upper()}_LIMITS": "none" for name in PROVIDERS}
    return {**server.env(dict.fromkeys(PROVIDERS, KEYS)), **limits, "HFS_USAGE_DB": "off"}


@pytest.fixture
def manager(env: dict[str, str]) -> Iterator[ProviderManager]:
    with ProviderManager(env=env) as manager:
        yield manager


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(manager: ProviderManager, provider: str) -> Any:
    wrapper(manager, provider).backend.sleep = lambda seconds: None
    return manager.get_model(provider, affinity=None)


def wrapper(manager: ProviderManager, provider: str) -> Any:
    return manager.wrappers[provider]


def key(env: Mapping[str, str], provider: str, number: int) -> str:
    return env[f"{provider.upper()}_API_KEY_{number}"]


def saying(prompt: str) -> list[Message]:
    return [Message(role="user", content=prompt)]


def ask(model: Any, prompt: str = "hello") -> str:
    return str(model.response(messages=saying(prompt)).content)


def read(model: Any, prompt: str = "hello") -> str:
    return "".join(delta.content or "" for delta in model.response_stream(messages=saying(prompt)))


async def aask(model: Any, prompt: str = "hello") -> str:
    return str((await model.aresponse(messages=saying(prompt))).content)


async def aread(model: Any, prompt: str = "hello") -> str:
    return "".join([delta.content or "" async for delta in model.aresponse_stream(messages=saying(prompt))])


def held(manager: ProviderManager, provider: str) -> tuple[int, int]:
    counts = wrapper(manager, provider).pool.counts(manager.default_model(provider))
    return counts.in_flight, counts.reserved_tokens


def within_guard(work: Callable[[], object]) -> None:
    """Run it in a thread that may hang without taking the tests with it."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            work()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(GUARD)
    assert not thread.is_alive(), f"still running after {GUARD} s"
    if failed:
        raise failed[0]


class TestThreadsAndTasks:
    def test_no_call_is_sent_with_or_billed_to_another_call_s_key(
        self, manager: ProviderManager, model: Any, provider: str, server: WatchingServer
    ) -> None:
        calling: ContextVar[str] = ContextVar("calling", default="nobody")
        billed: dict[str, list[str]] = defaultdict(list)

        def write_down(event: Event) -> None:
            if event.usage is not None:
                billed[calling.get()].append(event.usage.fingerprint)

        manager.observe(write_down)
        answers: dict[str, str] = {}

        def in_a_thread(thread: int) -> None:
            for number in range(8):
                prompt = f"thread-{thread}-{number}"
                calling.set(prompt)
                answers[prompt] = (read if number % 2 else ask)(model, prompt)

        async def in_a_task(number: int) -> None:
            prompt = f"task-{number}"
            calling.set(prompt)
            answers[prompt] = await (aread if number % 2 else aask)(model, prompt)

        async def in_tasks() -> None:
            await asyncio.gather(*(in_a_task(number) for number in range(TASKS)))

        def together() -> None:
            with ThreadPoolExecutor(17) as threads:
                futures = [threads.submit(in_a_thread, number) for number in range(16)]
                futures.append(threads.submit(asyncio.run, in_tasks()))
                for future in futures:
                    future.result()

        within_guard(together)
        sent = {prompt: [fingerprint(r.key) for r in requests] for prompt, requests in server.requests.items()}
        assert len(answers) == 16 * 8 + TASKS
        assert all(answer.endswith(f"You said: {prompt}") for prompt, answer in answers.items())
        assert billed == sent
        assert held(manager, provider) == (0, 0)

    def test_one_sdk_client_for_each_key_and_one_connection_for_all(
        self, manager: ProviderManager, model: Any, provider: str, server: WatchingServer, monkeypatch: Any
    ) -> None:
        clients: list[Any] = []

        def get_client(bound: Any) -> Any:
            clients.append(original(bound))
            return clients[-1]

        model_class = wrapper(manager, provider).model_class
        original = model_class.get_client
        monkeypatch.setattr(model_class, "get_client", get_client)
        for _ in range(10 * KEYS):
            ask(model)
        assert len({id(client) for client in clients}) == KEYS
        assert server.connections == 1
        assert set(server.hits(provider).values()) == {10}

    def test_calls_that_are_cancelled_while_they_wait_for_a_connection_do_not_use_it_up(
        self, manager: ProviderManager, provider: str, server: WatchingServer
    ) -> None:
        # httpcore 1.0.9 makes a connection for a waiting request and hands it over in the next step of the loop. Is
        # the request cancelled or timed out in between, nobody ever uses the connection, and it counts for ever.
        model = manager.get_model(provider, request_timeout=5, max_retries=0)
        most = 100  # connections of Groq's and Cerebras' SDKs

        async def crowd() -> str:
            with server.hold() as gate:
                waiting: list[asyncio.Future[str]] = []

                async def ask_and_take_one_along() -> None:
                    try:
                        await aask(model)
                    finally:
                        waiting.pop().cancel()

                first = [asyncio.ensure_future(ask_and_take_one_along()) for _ in range(most)]
                await asyncio.to_thread(gate.wait_for, most)
                waiting += [asyncio.ensure_future(aask(model)) for _ in range(most)]
                last = list(waiting)
                for _ in range(20):  # until they stand in the queue
                    await asyncio.sleep(0)
                for call in first:
                    call.cancel()
                await asyncio.gather(*first, *last, return_exceptions=True)
            return await aask(model, "afterwards")

        assert asyncio.run(crowd()).endswith("afterwards")
        assert held(manager, provider) == (0, 0)

    def test_abandoned_streams_neither_hang_nor_hold_anything(
        self, manager: ProviderManager, model: Any, provider: str
    ) -> None:
        def abandon() -> None:
            for _ in range(300):
                next(model.response_stream(messages=saying("never mind")))

        within_guard(abandon)
        assert held(manager, provider) == (0, 0)


class TestEventLoops:
    def test_each_of_two_runs_keeps_its_connection(self, model: Any, server: WatchingServer) -> None:
        async def three() -> list[str]:
            return [await aask(model) for _ in range(3)]

        for run in (1, 2):
            assert all(asyncio.run(three()))
            assert server.connections == run

    def test_a_stream_that_was_read_gives_its_connection_back(
        self, model: Any, provider: str, server: WatchingServer
    ) -> None:
        if provider in ("cerebras", "openrouter"):
            pytest.skip("its SDK closes the response at [DONE], which may be before the end of the body")

        async def three() -> list[str]:
            return [await aread(model) for _ in range(3)]

        assert all(asyncio.run(three()))
        assert server.connections == 1
        assert all(read(model) for _ in range(3))
        assert server.connections == 2

    def test_the_loop_keeps_neither_answers_nor_errors_of_calls_that_ended(
        self, manager: ProviderManager, model: Any, provider: str, server: WatchingServer
    ) -> None:
        # It keeps the contexts of cancelled timers and of open connections, and whatever is in these.
        kinds = (httpx.Response, httpx2.Response, aiohttp.ClientResponse, ModelCallError, KeysExhaustedError)
        # Some calls are answered in the end, and some fail for good.
        server.script(provider, "*", [*([ServerError()] * 20), *([BadRequest()] * 10)])
        wrapper(manager, provider).backend.async_sleep = lambda seconds: asyncio.sleep(0)
        # What other tests left in this process, such as the last turn of a chain.
        others = [each for each in gc.get_objects() if isinstance(each, kinds)]

        async def crowd() -> int:
            # With a timer that goes off before the cancelled ones would, as any program has one, these stay.
            asyncio.get_running_loop().call_later(10, print)
            await asyncio.gather(*(aask(model) for _ in range(20)), return_exceptions=True)
            await asyncio.sleep(0)  # until the step is over that brought the results
            gc.collect()
            return sum(isinstance(each, kinds) for each in gc.get_objects()) - len(others)

        assert asyncio.run(crowd()) == 0

    def test_two_loops_at_once(self, model: Any) -> None:
        async def some() -> list[str]:
            return [await aask(model, f"word{number}") for number in range(5)]

        with ThreadPoolExecutor(2) as threads:
            answers = list(threads.map(lambda _: asyncio.run(some()), range(2)))
        assert [len(set(found)) for found in answers] == [5, 5]


FORKING = """
import asyncio, json, os, sys
from agno.models.message import Message
from hfs_providers import ProviderManager

env, provider = json.loads(sys.argv[1]), sys.argv[2]
model = ProviderManager(env=env).get_model(provider)
messages = [Message(role="user", content="hello")]

def say(*words):
    os.write(1, (" ".join(words) + "\\n").encode())  # in one piece: two processes share this output

def sync(who):
    say(who, "sync", model.response(messages=list(messages)).content)

def both(who):
    sync(who)
    say(who, "async", asyncio.run(model.aresponse(messages=list(messages))).content)

both("before")
child = os.fork()
if child == 0:
    both("child")
    os._exit(0)
sync("beside")
os.waitpid(child, 0)
both("after")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
class TestFork:
    def test_child_and_parent_both_go_on(self, provider: str, env: dict[str, str], server: WatchingServer) -> None:
        done = subprocess.run(
            [warm.python(), "-c", FORKING, json.dumps(env), provider], capture_output=True, text=True, timeout=GUARD
        )
        assert done.returncode == 0, done.stderr
        said = Counter(" ".join(line.split()[:2]) for line in done.stdout.splitlines() if "You said: hello" in line)
        expected = ["before sync", "before async", "beside sync", "child sync", "child async"]
        assert said == Counter([*expected, "after sync", "after async"]), done.stderr

    def test_the_child_makes_connections_of_its_own(self, env: dict[str, str], server: WatchingServer) -> None:
        program = FORKING.replace("both(", "sync(").replace("def sync(who):\n    sync(who)", "def both(who):")
        done = subprocess.run(
            [warm.python(), "-c", program, json.dumps(env), "groq"], capture_output=True, text=True, timeout=GUARD
        )
        assert done.returncode == 0, done.stderr
        assert server.connections == 2


class TestCopies:
    class Elsewhere(Exception):
        pass

    def limited(self, model: Any) -> Any:
        """A primary of plain Agno that is rate limited."""

        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise ModelRateLimitError("limited elsewhere")

        return type("Limited", (type(model),), {"invoke": refuse})(id="limited")

    def test_a_fallback_of_agno_shares_the_pool(
        self, manager: ProviderManager, model: Any, provider: str, env: dict[str, str], server: WatchingServer
    ) -> None:
        server.script(provider, key(env, provider, 1), [RateLimited(retry_after=600)])
        agent = Agent(model=self.limited(model), fallback_models=[model], telemetry=False)
        assert "hello" in agent.run("hello").content
        for _ in range(2 * KEYS):
            ask(model)
        assert server.hits(provider)[key(env, provider, 1)] == 1
        assert held(manager, provider) == (0, 0)

    @pytest.mark.parametrize("how", [lambda agent: agent.deep_copy(), copy.deepcopy], ids=["agno", "deepcopy"])
    def test_a_copied_agent_shares_the_pool(
        self, model: Any, provider: str, env: dict[str, str], server: WatchingServer, how: Callable[[Agent], Agent]
    ) -> None:
        server.script(provider, key(env, provider, 1), [RateLimited(retry_after=600)])
        agent = Agent(model=model, telemetry=False)
        assert "hello" in how(agent).run("hello").content
        for _ in range(2 * KEYS):
            ask(model)
        assert server.hits(provider)[key(env, provider, 1)] == 1

    def test_replace_gives_a_model_with_the_same_keys(
        self, model: Any, provider: str, env: dict[str, str], server: WatchingServer
    ) -> None:
        server.script(provider, key(env, provider, 1), [RateLimited(retry_after=600)])
        changed = dataclasses.replace(model, temperature=0.5)
        assert (type(changed), changed.id, changed.temperature) == (type(model), model.id, 0.5)
        for _ in range(KEYS):
            assert "hello" in ask(changed)
        for _ in range(KEYS):
            ask(model)
        assert server.hits(provider)[key(env, provider, 1)] == 1

    def test_it_tells_model_provider_and_number_of_keys(self, manager: ProviderManager) -> None:
        assert repr(manager.get_model("groq", "m")) == f"Groq(id='m', provider='Groq', keys={KEYS})"

    def test_replace_takes_no_key(self, model: Any) -> None:
        with pytest.raises(TypeError, match="api_key"):
            dataclasses.replace(model, api_key="mine")

    def test_the_rotation_is_none_of_its_fields(self, model: Any) -> None:
        assert [field.name for field in dataclasses.fields(model)] == [
            field.name for field in dataclasses.fields(type(model)._bound_class)
        ]

    def test_what_cannot_be_copied_is_shared(self, manager: ProviderManager) -> None:
        with httpx.Client() as own:
            model = manager.get_model("groq", client_params={"http_client": own})
            agent = copy.deepcopy(Agent(model=model, telemetry=False))
            assert agent.model.client_params == {"http_client": own}
            assert agent.model.client_params is not model.client_params
            assert "hello" in agent.run("hello").content

    def test_so_is_a_field_of_which_there_is_no_copy_at_all(self, manager: ProviderManager) -> None:
        model: Any = manager.get_model("groq")
        model.lock = threading.Lock()
        assert copy.deepcopy(model).lock is model.lock

    def test_a_client_set_by_hand_stays_with_the_model_that_it_was_set_on(self, model: Any, provider: str) -> None:
        clients = wrapper(model._hfs.backend.services, provider).backend.clients
        for name in (clients.client_field, clients.async_client_field):
            setattr(model, name, object())
        copied = copy.deepcopy(model)
        assert copied.__dict__[clients.client_field] is None
        assert copied.__dict__[clients.async_client_field] is None
        assert "hello" in ask(copied)


class TestOtherProcesses:
    def test_a_model_goes_to_a_worker_process_and_its_answer_comes_back(
        self, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        with (
            ProviderManager() as manager,
            ProcessPoolExecutor(1, mp_context=get_context("spawn")) as workers,
        ):
            for provider in PROVIDERS:
                model = manager.get_model(provider)
                answer = workers.submit(model.response, messages=saying("far away")).result(GUARD)
                assert answer.content.endswith("You said: far away"), provider

    def test_a_model_of_an_explicit_environment_says_why_it_stays(self, model: Any) -> None:
        with (
            ProcessPoolExecutor(1, mp_context=get_context("spawn")) as workers,
            pytest.raises(TypeError, match="explicit environment"),
        ):
            workers.submit(model.response, messages=saying("far away")).result(GUARD)


class TestSettings:
    def test_models_with_other_timeouts_do_not_share_an_sdk_client(
        self, manager: ProviderManager, provider: str, server: WatchingServer
    ) -> None:
        hasty = manager.get_model(provider, request_timeout=0.2, max_retries=0)
        patient = manager.get_model(provider, request_timeout=30, max_retries=0)
        for model in (patient, hasty):
            for _ in range(KEYS):  # each key has had a client of that model
                ask(model)
        server.script(provider, "*", [], then=Ok(delay=1.0))
        with pytest.raises(ModelCallError):
            ask(hasty)
        assert "hello" in ask(patient)

    def test_models_with_other_headers_do_not_share_an_sdk_client(
        self, manager: ProviderManager, server: WatchingServer
    ) -> None:
        marked = manager.get_model("groq", default_headers={"x-team": "blue"})
        other = manager.get_model("groq", default_headers={"x-team": "red"})
        plain = manager.get_model("groq")
        for model in (marked, other, plain) * 2 * KEYS:
            ask(model)
        teams = [headers.get("x-team") for headers in server.headers]
        assert teams == ["blue", "red", None] * 2 * KEYS


class TodaysStdout:
    """`sys.stdout` as it is when something is written."""

    def write(self, text: str) -> int:
        return sys.stdout.write(text)

    def flush(self) -> None:
        sys.stdout.flush()


class TestWhatIsPrinted:
    @pytest.fixture
    def printed(self, model: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
        """What has been printed since; Agno's handlers hold on to the stdout of their first import."""
        for handler in logging.getLogger("agno").handlers:
            if type(handler) is logging.StreamHandler:
                monkeypatch.setattr(handler, "stream", TodaysStdout())
        return lambda: "".join(capfd.readouterr())

    @pytest.mark.parametrize("call", [ask, read])
    def test_attempts_that_are_repeated_print_nothing(
        self,
        model: Any,
        provider: str,
        server: WatchingServer,
        printed: Callable[[], str],
        call: Callable[[Any], str],
    ) -> None:
        server.script(provider, "*", [ServerError(500), RateLimited(retry_after=600), ServerError(503)])
        assert "hello" in call(model)
        assert sum(server.hits(provider).values()) == 4
        assert printed() == ""

    @pytest.mark.parametrize("call", [ask, read])
    def test_the_failure_that_ends_a_call_is_printed_once(
        self,
        manager: ProviderManager,
        model: Any,
        provider: str,
        server: WatchingServer,
        printed: Callable[[], str],
        call: Callable[[Any], str],
    ) -> None:
        server.script(provider, "*", [], then=ServerError(500))
        with pytest.raises(ModelCallError):
            call(model)
        assert sum(server.hits(provider).values()) == 6
        # Agno's class for Cerebras logs nothing.
        assert printed().count("ERROR") == (0 if provider == "cerebras" else 1)


class TestMessages:
    def test_a_duration_covers_every_attempt(
        self, manager: ProviderManager, model: Any, provider: str, server: WatchingServer
    ) -> None:
        server.script(provider, "*", [ServerError(500), ServerError(500), Ok()])
        wrapper(manager, provider).backend.sleep = lambda seconds: time.sleep(0.1)
        messages = saying("hello")
        model.response(messages=messages)
        assert messages[-1].role == "assistant"
        assert messages[-1].metrics.duration >= 0.2

    def test_the_time_to_the_first_token_covers_every_attempt(
        self, manager: ProviderManager, model: Any, provider: str, server: WatchingServer
    ) -> None:
        server.script(provider, "*", [ServerError(500), ServerError(500), Ok()])
        wrapper(manager, provider).backend.sleep = lambda seconds: time.sleep(0.1)
        messages = saying("hello")
        list(model.response_stream(messages=messages))
        assert messages[-1].role == "assistant"
        assert messages[-1].metrics.time_to_first_token >= 0.2

    @pytest.mark.parametrize("json_mode", [False, True])
    def test_each_attempt_sends_the_same(
        self, model: Any, provider: str, server: WatchingServer, json_mode: bool
    ) -> None:
        # Agno's Groq appends a sentence to the system message whenever it formats the messages for JSON mode.
        server.script(provider, "*", [RateLimited(retry_after=600), ServerError(500), RateLimited(retry_after=600)])
        messages = [Message(role="system", content="Be brief."), *saying("hello")]
        before = [message.model_dump() for message in messages]
        wanted = {"response_format": {"type": "json_object"}} if json_mode else {}
        model.response(messages=messages, **wanted)
        bodies = [request.body for request in server.requests["hello"]]
        assert len(bodies) == 4
        assert all(body == bodies[0] for body in bodies)
        assert [message.model_dump() for message in messages[:2]] == before

    def test_groq_is_not_told_once_more_with_each_attempt_that_json_is_wanted(
        self, manager: ProviderManager, env: dict[str, str], server: WatchingServer
    ) -> None:
        model = manager.get_model("groq", affinity=None)
        for number in range(1, KEYS):
            server.script("groq", key(env, "groq", number), [RateLimited(retry_after=600)])
        messages = [Message(role="system", content="Be brief."), *saying("hello")]
        model.response(messages=messages, response_format={"type": "json_object"})
        said = [request.body["messages"][0]["content"] for request in server.requests["hello"]]
        assert len(said) == KEYS
        assert max(text.count("JSON") for text in said) <= 1
        assert str(messages[0].content).count("JSON") <= 1


class TestErrorsThroughAgno:
    """Agno's `Model.response` looks at each error again, and may replace it by one of its own."""

    @pytest.mark.parametrize("call", [ask, read])
    def test_a_context_that_is_too_long_is_our_error_and_agno_s(
        self, model: Any, provider: str, server: WatchingServer, call: Callable[[Any], str]
    ) -> None:
        server.script(provider, "*", [], then=ContextTooLong())
        with pytest.raises(ModelProviderError) as caught:
            call(model)
        assert isinstance(caught.value, ContextOverflowError), type(caught.value)

    @pytest.mark.parametrize("name", ["groq", "gemini"])
    @pytest.mark.parametrize(
        "said",
        [
            {"message": "upstream says: context window, too many tokens", "type": "server_error", "code": 500},
            {"message": "slow down", "type": "rate_limit_error", "code": 429},
            {"message": "overloaded", "type": "overloaded_error", "code": 529},
        ],
        ids=["words of an overflow", "429", "529"],
    )
    def test_an_interrupted_stream_stays_one_whatever_interrupted_it(
        self, manager: ProviderManager, server: WatchingServer, name: str, said: dict[str, Any]
    ) -> None:
        # As Agno's own context or rate limit error it would be compressed, repeated or given to a fallback, and what
        # was already passed on would be said twice.
        server.stream_error = said
        server.script(name, "*", [], then=StreamError(chunks=2))
        with pytest.raises(ModelProviderError) as caught:
            read(manager.get_model(name))
        assert isinstance(caught.value, StreamInterruptedError), type(caught.value)

    def test_a_limit_on_the_one_key_that_was_asked_for_stays_our_error(
        self, manager: ProviderManager, provider: str, server: WatchingServer
    ) -> None:
        server.script(provider, "*", [], then=RateLimited(retry_after=600))
        with pytest.raises(ModelProviderError) as caught:
            ask(wrapper(manager, provider).get_model(key_id=f"{provider}#2"))
        assert isinstance(caught.value, (KeyRejectedError, KeysExhaustedError)), type(caught.value)
        assert caught.value.status_code == 429
        assert sum(server.hits(provider).values()) == 1

    @pytest.mark.parametrize("step", [ServerError(500), BadRequest(), RateLimited(retry_after=600)])
    def test_an_error_says_what_caused_it(
        self, manager: ProviderManager, provider: str, server: WatchingServer, step: Step
    ) -> None:
        server.script(provider, "*", [], then=step)
        with pytest.raises(ModelProviderError) as caught:
            ask(manager.get_model(provider, max_retries=0, wait=False))
        error = caught.value
        assert error.__cause__ is not None
        assert error.__cause__ is not error

"""What a plugin may bring for its SDK: clients, errors, endpoints. Its whole suite is `ProviderConformance`."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest
from agno.models.message import Message

from hfs_providers import KeyedProvider, ModelDefault, ProviderManager
from hfs_providers.authoring import Clients
from hfs_providers.calls.verdicts import judge
from hfs_providers.clients.families import family_of
from hfs_providers.contract.error_rules import ErrorRules, Meaning
from hfs_providers.families.stainless import StainlessClients
from hfs_providers.keys.provider_variables import read_provider
from hfs_providers.testing import LoopbackServer, OpenAIDialect


class OwnClients(Clients):
    answers = "asked"


def acme(**changes: Any) -> KeyedProvider:
    data: dict[str, Any] = {
        "name": "acme",
        "model_class": "agno.models.openai.like:OpenAILike",
        "sdk": "openai",
        "base_url": "https://acme.example/v1",
        "models": (ModelDefault("large"),),
    }
    return KeyedProvider(**data | changes)


class TestWhatClientMayBe:
    def test_a_family_by_its_name(self) -> None:
        assert family_of("stainless") is StainlessClients

    def test_a_class(self) -> None:
        assert family_of(OwnClients) is OwnClients

    def test_a_class_by_its_dotted_path(self) -> None:
        assert family_of("hfs_providers.families.stainless:StainlessClients") is StainlessClients

    @pytest.mark.parametrize("named", ["stainles", "json:loads", "json:nothing", dict])
    def test_nothing_else(self, named: Any) -> None:
        with pytest.raises(TypeError, match=r"neither one of stainless, .*, own nor a subclass"):
            family_of(named)

    def test_a_wrong_one_is_a_problem_of_its_plugin(self) -> None:
        plugin = acme(client="stainles")
        with ProviderManager(env={"ACME_API_KEY": "acme-0123456789"}, plugins=[plugin]) as manager:
            [problem] = [p for p in manager.problems if p.provider == "acme"]
            assert "client='stainles' is neither one of" in problem.message

    def test_one_that_is_asked_has_to_answer(self) -> None:
        plugin = acme(client=OwnClients)
        clients = OwnClients(plugin, plugin.configure_env({}))
        with pytest.raises(LookupError, match="OwnClients says answers = 'asked' and has no method `ends`"):
            clients.ends(object())

    def test_one_that_finds_an_answer_usable_hands_it_on(self) -> None:
        class Asked(StainlessClients):
            answers = "asked"

            def usable(self, response: Any) -> bool:
                return bool(response.choices)

        with (
            LoopbackServer(dialects=[OpenAIDialect("acme")]) as server,
            ProviderManager(env=server.env({"acme": 1}), plugins=[acme(client=Asked)]) as manager,
        ):
            answer = manager.get_model("acme").response(messages=[Message(role="user", content="hello")])
        assert "hello" in str(answer.content)


class TestKeysOfTheProcess:
    def test_the_bare_class_takes_one_as_its_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from agno.models.fireworks import Fireworks

        monkeypatch.setenv("FIREWORKS_API_KEY", "fw-of-the-process")
        assert Fireworks(id="m").api_key == "fw-of-the-process"

    def test_the_model_of_a_manager_does_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("FIREWORKS_API_KEY", "fw-of-the-process")
        plugin = acme(model_class="agno.models.fireworks:Fireworks")
        with ProviderManager(env={"ACME_API_KEY": "acme-0123456789"}, plugins=[plugin]) as manager:
            assert manager.get_model("acme").__dict__["api_key"] is None

    def test_a_keyless_provider_sends_none_of_the_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-of-the-process")
        headers: list[Any] = []

        class Listening(OpenAIDialect):
            def read(self, method: str, path: str, given: Any, body: Any) -> Any:
                headers.append(given)
                return super().read(method, path, given, body)

        with LoopbackServer(dialects=[Listening("acme", keyless=True)]) as server:
            env = server.env({"acme": 2})
            with ProviderManager(env=env, plugins=[acme(keyless=True)]) as manager:
                from agno.models.message import Message

                manager.get_model("acme").response(messages=[Message(role="user", content="hello")])
        assert headers
        assert "sk-of-the-process" not in str(headers)


class TestEndpoints:
    def test_blanks_and_quotes_around_one_are_removed(self) -> None:
        found = read_provider("vllm", {"VLLM_ENDPOINT": " 'http://gpu:8000/v1' "}, keyless=True)
        assert [credential.params["endpoint"] for credential in found.credentials] == ["http://gpu:8000/v1"]

    def test_a_host_and_port_will_do(self) -> None:
        found = read_provider("vllm", {"VLLM_ENDPOINT": "gpu:8000"}, keyless=True)
        assert found.credentials[0].params["endpoint"] == "gpu:8000"

    @pytest.mark.parametrize("value", ["", "   ", "http://", "//", "two words"])
    def test_what_is_no_address_is_dropped_and_reported(self, value: str) -> None:
        env = {"NUM_VLLM": "1", "VLLM_ENDPOINT_1": value, "VLLM_ENDPOINT_2": "http://gpu-2:8000"}
        found = read_provider("vllm", env, keyless=True)
        assert [credential.id for credential in found.credentials] == ["vllm#2"]
        assert "VLLM_ENDPOINT_1 is not an address and is dropped" in [problem.message for problem in found.problems]

    def test_one_that_is_there_twice_counts_once(self) -> None:
        env = {"NUM_VLLM": "1", "VLLM_ENDPOINT_1": "http://gpu:8000", "VLLM_ENDPOINT_2": "http://gpu:8000"}
        found = read_provider("vllm", env, keyless=True)
        assert [credential.id for credential in found.credentials] == ["vllm#1"]
        assert "VLLM_ENDPOINT_2 repeats VLLM_ENDPOINT_1 and is dropped" in [p.message for p in found.problems]


class Refused(Exception):
    """An error as an SDK raises it."""

    def __init__(self, status: int | None = None, body: Any = None) -> None:
        super().__init__("refused")
        self.status_code = status
        self.body = body


Refused.__module__ = "acme_sdk.errors"


def rules(**data: Any) -> ErrorRules:
    """As a plugin has them whose SDK is `acme_sdk`."""
    errors: ErrorRules = acme(sdk="acme-sdk", sdk_module="acme_sdk.client", errors=ErrorRules(**data)).errors
    return errors


class TestErrorsOfAPlugin:
    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            (Refused(400, {"type": "no_such", "code": "17"}), "model_gone"),
            (Refused(400, {"code": "18"}), "context_overflow"),
            (Refused(404), "refused"),
            (Refused(), "transport"),
        ],
        ids=["type", "code", "status", "class"],
    )
    def test_are_read_as_it_says(self, error: Refused, kind: str) -> None:
        said = rules(
            codes={"no_such": Meaning("model_gone"), "18": Meaning("context_overflow")},
            statuses={404: Meaning("refused")},
            exceptions={"Refused": Meaning("transport")},
        )
        assert judge(error, said).kind == kind
        assert judge(error).kind != kind

    def test_a_code_goes_before_a_status(self) -> None:
        said = rules(codes={"no_such": Meaning("model_gone")}, statuses={429: Meaning("overloaded")})
        assert judge(Refused(429, {"type": "no_such"}), said).kind == "model_gone"

    def test_a_dead_key_is_dead_for_every_model(self) -> None:
        assert judge(Refused(418), rules(statuses={418: Meaning("dead")})).scope == "key"

    def test_its_wait_is_read_as_ever(self) -> None:
        error = Refused(509)
        error.headers = {"retry-after": "7"}  # type: ignore[attr-defined]  # as some SDKs have it
        verdict = judge(error, rules(statuses={509: Meaning("rate_limited")}))
        assert (verdict.kind, verdict.retry_after) == ("rate_limited", 7.0)


class TestASharedTransport:
    @pytest.mark.parametrize("base", [httpx.AsyncClient, httpx.AsyncHTTPTransport])
    def test_lets_no_more_requests_in_than_it_may_have_connections(self, base: Any) -> None:
        plugin = acme()
        clients = Clients(plugin, plugin.configure_env({}))

        async def many(url: str, key: str) -> list[int]:
            shared = clients.shared(base, most_connections=2)
            client = shared if isinstance(shared, httpx.AsyncClient) else httpx.AsyncClient(transport=shared)
            body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
            headers = {"authorization": f"Bearer {key}"}
            async with client:
                first = [asyncio.create_task(client.post(url, json=body, headers=headers)) for _ in range(8)]
                await asyncio.sleep(0)
                first[0].cancel()
                done = await asyncio.gather(*first, return_exceptions=True)
            return [answer.status_code for answer in done if isinstance(answer, httpx.Response)]

        with LoopbackServer(dialects=[OpenAIDialect("acme")]) as server:
            url = f"{server.base_url('acme')}/chat/completions"
            assert asyncio.run(many(url, server.new_key("acme"))) == [200] * 7
            assert server.max_in_flight <= 2

    def test_one_that_was_given_a_transport_uses_no_other(self) -> None:
        plugin = acme()
        clients = Clients(plugin, plugin.configure_env({}))
        asked: list[httpx.Request] = []

        def answer(request: httpx.Request) -> httpx.Response:
            asked.append(request)
            return httpx.Response(200)

        async def many() -> None:
            mock = httpx.MockTransport(answer)
            async with clients.shared(httpx.AsyncClient, transport=mock) as client:
                await asyncio.gather(*(client.get("http://acme.example") for _ in range(50)))

        asyncio.run(many())
        assert len(asked) == 50

    @pytest.mark.parametrize("proxies", [{}, {"HTTPS_PROXY": "http://proxy.example:8080"}], ids=["without", "with"])
    def test_a_thread_is_asked_for_a_proxy_only_where_there_may_be_one(
        self, proxies: dict[str, str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        for name, value in proxies.items():
            monkeypatch.setenv(name, value)
        threads: list[object] = []

        async def to_thread(function: Any, *arguments: Any) -> Any:
            threads.append(function)
            return function(*arguments)

        monkeypatch.setattr(asyncio, "to_thread", to_thread)
        asked = [Message(role="user", content="hello")]
        with LoopbackServer() as server, ProviderManager(env={**server.env({"gemini": 1}), **proxies}) as manager:
            answer = asyncio.run(manager.get_model("gemini").aresponse(messages=asked))
        assert answer.content
        # google-genai's own session asks one for each request, always.
        assert bool(threads) is bool(proxies)

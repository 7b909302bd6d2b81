"""What `get_model` and `get_any_model` are given: pins, timeouts, clashes of names, the model that is asked for."""

from __future__ import annotations

import inspect
import math
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
from agno.models.message import Message

from hfs_providers import KeyNotFoundError, KeysExhaustedError, ProviderManager
from hfs_providers.authoring import KeyedProvider, ModelDefault
from hfs_providers.calls import _keycycle
from hfs_providers.calls.options import CallOptions
from hfs_providers.clients import model_fields
from hfs_providers.errors import ProviderUnavailableError
from hfs_providers.keys import fingerprint
from hfs_providers.testing import LoopbackServer, RateLimited


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        yield server


@pytest.fixture
def env(server: LoopbackServer) -> dict[str, str]:
    names = ("cerebras", "groq")
    limits = {f"{name.upper()}_LIMITS": "none" for name in names}
    return {**server.env(dict.fromkeys(names, 3)), **limits, "HFS_USAGE_DB": "off"}


@pytest.fixture
def manager(env: dict[str, str]) -> Iterator[ProviderManager]:
    with ProviderManager(env=env) as manager:
        yield manager


def ask(model: Any) -> str:
    return str(model.response(messages=[Message(role="user", content="hello")]).content)


class TestPins:
    @pytest.mark.parametrize("which", ["place", "id", "key", "fingerprint"])
    def test_a_key_is_named_as_get_api_key_takes_it(
        self, manager: ProviderManager, env: dict[str, str], server: LoopbackServer, which: str
    ) -> None:
        key = env["GROQ_API_KEY_2"]
        named: Any = {"place": 1, "id": "groq#2", "key": key, "fingerprint": fingerprint(key)}[which]
        assert "hello" in ask(manager.get_model("groq", key_id=named))
        assert server.hits("groq") == {key: 1}

    @pytest.mark.parametrize("wrong", [9, -1, "groq#9", "cerebras#1", "nonsense", "gsk_mistyped"])
    def test_a_key_that_is_not_there_is_an_error_at_once(self, manager: ProviderManager, wrong: Any) -> None:
        with pytest.raises(_keycycle.KeyNotFoundError) as caught:
            manager.get_model("groq", key_id=wrong)
        assert type(caught.value) is KeyNotFoundError
        assert "Its keys: groq#1, groq#2, groq#3" in str(caught.value)

    def test_the_error_does_not_show_what_may_be_a_key(self, manager: ProviderManager) -> None:
        with pytest.raises(KeyNotFoundError) as caught:
            manager.get_model("groq", key_id="gsk_mistyped")
        assert "mistyped" not in f"{caught.value!r} {caught.value} {vars(caught.value)}"

    @pytest.mark.parametrize("named", ["groq#2", "the key"])
    def test_a_pin_outlives_pickling(
        self,
        env: dict[str, str],
        server: LoopbackServer,
        monkeypatch: pytest.MonkeyPatch,
        fresh_manager: None,
        named: str,
    ) -> None:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        key = env["GROQ_API_KEY_2"]
        with ProviderManager() as manager:
            pickled = pickle.dumps(manager.get_model("groq", key_id=key if named == "the key" else named))
            assert key.encode() not in pickled
            for _ in range(4):
                ask(pickle.loads(pickled))
        assert server.hits("groq") == {key: 4}


class TestTimeout:
    def test_none_waits_as_long_as_it_takes(self, manager: ProviderManager) -> None:
        pool = manager.wrappers["groq"].pool
        for credential in pool.credentials:
            pool.acquire("m", key_id=credential.id).rate_limited(0.05, "key")
        assert "hello" in ask(manager.get_model("groq", "m", timeout=None))

    def test_none_does_not_wait_for_what_never_comes(self, manager: ProviderManager) -> None:
        pool = manager.wrappers["groq"].pool
        model = manager.get_model("groq", key_id="groq#1", timeout=None)
        lease = pool.acquire(model.id, key_id="groq#1")
        lease.rate_limited(math.inf, "key")
        with pytest.raises(KeysExhaustedError):
            ask(model)

    def test_none_can_be_given_for_any_provider_and_for_a_chain(self, manager: ProviderManager) -> None:
        assert "hello" in ask(manager.get_any_model(timeout=None)[1])
        assert "hello" in ask(manager.get_chain("groq", timeout=None))

    def test_none_can_be_given_to_the_wrapper_s_own_methods(self, manager: ProviderManager) -> None:
        wrapper: Any = manager.wrappers["groq"]
        assert wrapper.get_api_key(timeout=None)
        wrapper.get_model(timeout=None)


class TestModelParams:
    def test_an_argument_of_agno_s_called_like_ours_is_given_there(self, manager: ProviderManager) -> None:
        model: Any = manager.get_model("groq", model_params={"provider": "mine", "timeout": 7.0, "max_retries": 9})
        assert (model.provider, model.timeout, model.max_retries) == ("mine", 7.0, 9)
        assert "hello" in ask(model)

    def test_the_sdk_s_retries_stay_off(
        self, manager: ProviderManager, env: dict[str, str], server: LoopbackServer
    ) -> None:
        server.script("groq", "*", [], then=RateLimited(retry_after=60))
        model = manager.get_model("groq", model_params={"max_retries": 9}, key_id="groq#1", wait=False)
        with pytest.raises(KeysExhaustedError):
            ask(model)
        assert server.hits("groq") == {env["GROQ_API_KEY_1"]: 1}

    @pytest.mark.parametrize(
        ("given", "named"),
        [
            ({"temperature": 0.1, "model_params": {"temperature": 0.2}}, "temperature"),
            ({"request_timeout": 3, "model_params": {"timeout": 4}}, "request_timeout"),
            ({"id": "mine"}, "model_id"),
            ({"model_params": {"id": "mine"}}, "model_id"),
            ({"model_params": {"api_key": "mine"}}, "api_key"),
        ],
    )
    def test_a_clash_is_named(self, manager: ProviderManager, given: dict[str, Any], named: str) -> None:
        with pytest.raises(TypeError, match=rf"get_model .*\b{named}\b"):
            manager.get_model("groq", **given)

    def test_they_outlive_pickling(
        self, env: dict[str, str], monkeypatch: pytest.MonkeyPatch, fresh_manager: None
    ) -> None:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        with ProviderManager() as manager:
            model = pickle.loads(pickle.dumps(manager.get_model("groq", model_params={"provider": "mine"})))
        assert model.provider == "mine"


def test_what_calls_assume_without_options_is_what_get_model_does() -> None:
    given = inspect.signature(ProviderManager.get_model).parameters
    assumed = CallOptions().arguments()
    assert assumed == {name: given[name].default for name in assumed}


class TestAnyProvider:
    def test_the_keys_are_asked_for_the_model_that_is_named(self, manager: ProviderManager) -> None:
        pool = manager.wrappers["cerebras"].pool
        for credential in pool.credentials:
            pool.acquire("mine", key_id=credential.id).rate_limited(60, "model")
        name, model = manager.get_any_model(model_id="mine")
        assert (name, model.id) == ("groq", "mine")

    def test_keys_that_rest_for_the_default_model_alone_serve_another(self, manager: ProviderManager) -> None:
        pool = manager.wrappers["cerebras"].pool
        for credential in pool.credentials:
            pool.acquire(manager.default_model("cerebras"), key_id=credential.id).rate_limited(60, "model")
        assert manager.get_any_model(model_id="mine")[0] == "cerebras"

    def test_what_it_says_is_of_the_model_that_is_named(self, manager: ProviderManager) -> None:
        for name in ("cerebras", "groq"):
            pool = manager.wrappers[name].pool
            for credential in pool.credentials:
                pool.acquire("mine", key_id=credential.id).rate_limited(60, "model")
        with pytest.raises(KeysExhaustedError) as caught:
            manager.get_any_model(model_id="mine", wait=False)
        assert "groq/mine: no key free of 3 (3 cooling)" in caught.value.reasons["groq"]
        assert caught.value.cooling_down == 6

    def test_its_first_three_arguments_are_positional(self, manager: ProviderManager) -> None:
        assert manager.get_any_model(500, False, 0.0)[0] == "cerebras"


def test_what_assembly_cannot_tell_the_first_model_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_fields, "known_fields", lambda path: None)  # as of a class without a source
    plugin = KeyedProvider(
        name="acme",
        model_class="agno.models.openai.like:OpenAILike",
        sdk="openai",
        models=(ModelDefault("m"),),
        model_params={"temprature": 1},
    )
    with ProviderManager(env={"ACME_API_KEY": "acme-0123456789"}, plugins=[plugin]) as manager:
        assert manager.available_providers == ["acme"]
        with pytest.raises(ProviderUnavailableError, match="takes no 'temprature'"):
            manager.get_model("acme")

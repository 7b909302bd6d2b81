"""A model that one key lacks and others have, and what an answer quotes of the key."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from agno.models.message import Message

from hfs_providers import Event, KeyedProvider, Limits, ModelDefault, ModelNotFoundError, ProviderManager
from hfs_providers.authoring import ErrorRules
from hfs_providers.testing import LoopbackServer, ModelGone, Ok, OpenAIDialect, Raw, Unauthorized

LACKING = ModelGone(decommissioned=False)
JSON = {"content-type": "application/json"}
DEFAULTS = (ModelDefault("first"), ModelDefault("second"))


def plugin(**fields: Any) -> KeyedProvider:
    fixed: dict[str, Any] = {"model_class": "agno.models.openai.like:OpenAILike", "sdk": "openai", "models": DEFAULTS}
    return KeyedProvider(**{"name": "corp", **fixed, **fields})


class House:
    """A provider of so many keys, and its requests."""

    def __init__(self, keys: int, provider: KeyedProvider, **env: str) -> None:
        self.server = LoopbackServer(dialects=[OpenAIDialect("corp")])
        self.keys = keys
        self.provider = provider
        self.variables = env
        self.events: list[Event] = []

    def __enter__(self) -> House:
        self.server.__enter__()
        self.env = {**self.server.env({"corp": self.keys}), **self.variables}
        self.manager = ProviderManager(env=self.env, plugins=[self.provider])
        self.manager.__enter__()
        self.manager.observe(self.events.append)
        self.manager.wrappers["corp"].backend.sleep = lambda seconds: None  # type: ignore[attr-defined]
        return self

    def __exit__(self, *_: object) -> None:
        self.manager.__exit__(None, None, None)
        self.server.__exit__(None, None, None)

    def script(self, key: int, *steps: Any, then: Any = None) -> None:
        """What the key of that number is answered."""
        self.server.script("corp", self.env[f"CORP_API_KEY_{key}"], list(steps), then=then)

    def ask(self, model_id: str | None = "m", **options: Any) -> str:
        model = self.manager.get_model("corp", model_id, **options)
        return str(model.response(messages=[Message(role="user", content="hello")]).content)

    def hits(self) -> list[int]:
        """Requests, by key."""
        seen = self.server.hits("corp")
        return [seen.get(self.env[f"CORP_API_KEY_{key}"], 0) for key in range(1, self.keys + 1)]

    def states(self, model_id: str = "m") -> list[str]:
        return [key.state for key in self.manager.wrappers["corp"].pool.statuses(model_id)]


@pytest.fixture
def house() -> Iterator[House]:
    with House(2, plugin()) as house:
        yield house


def test_the_call_goes_on_with_another_key(house: House) -> None:
    house.script(1, then=LACKING)
    assert "hello" in house.ask()
    assert house.hits() == [1, 1]


def test_a_key_that_alone_lacks_a_model_is_not_asked_for_it_again(house: House) -> None:
    house.script(1, then=LACKING)
    for _ in range(3):
        house.ask()
    assert house.hits() == [1, 3]
    assert house.states() == ["cooling", "ready"]
    assert house.states("other") == ["ready", "ready"]


def test_the_pause_of_such_a_key_is_told(house: House) -> None:
    house.script(1, then=LACKING)
    house.ask()
    told = [(e.key_id, e.model, e.reason) for e in house.events if e.kind == "key_cooling"]
    assert told == [("corp#1", "m", "this key lacks the model")]


def test_a_model_that_no_key_has_is_reported_each_time_and_pauses_none(house: House) -> None:
    house.server.script("corp", "*", [], then=LACKING)
    for _ in range(2):
        with pytest.raises(ModelNotFoundError):
            house.ask()
    assert house.states() == ["ready", "ready"]


def test_three_keys_are_asked_at_most() -> None:
    with House(5, plugin()) as house:
        house.server.script("corp", "*", [], then=LACKING)
        with pytest.raises(ModelNotFoundError):
            house.ask()
        assert sum(house.hits()) == 3


def test_a_model_that_is_gone_for_all_is_asked_for_once(house: House) -> None:
    gone = {"error": {"message": "gone", "type": "invalid_request_error", "code": "model_decommissioned"}}
    house.server.script("corp", "*", [], then=Raw(400, json.dumps(gone).encode(), JSON))
    with pytest.raises(ModelNotFoundError):
        house.ask()
    assert sum(house.hits()) == 1


def test_a_pinned_key_is_the_only_one_asked(house: House) -> None:
    house.script(1, then=LACKING)
    with pytest.raises(ModelNotFoundError):
        house.ask(key_id="corp#1")
    assert house.hits() == [1, 0]


def test_a_default_that_all_keys_lack_gives_way_to_its_successor(house: House) -> None:
    house.script(1, LACKING)
    house.script(2, LACKING)
    assert "corp/second" in house.ask(None)
    # What they lacked was the other model.
    assert house.states("second") == ["ready", "ready"]
    assert [e.seconds for e in house.events if e.kind == "key_rotated"] == [0.0, 0.0]


def test_with_no_other_key_ready_it_is_reported_at_once(house: House) -> None:
    house.script(2, Unauthorized())
    house.ask(key_id="corp#1")
    house.ask()
    house.script(1, then=LACKING)
    with pytest.raises(ModelNotFoundError):
        house.ask(affinity=None)


def test_each_endpoint_of_a_keyless_provider_has_its_own_models() -> None:
    gone = {"error": {"message": "model 'm' not found", "type": "api_error"}}

    with LoopbackServer(dialects=[OpenAIDialect("corp", keyless=True)]) as server:
        env = server.env({"corp": 2})
        server.script("corp", "*", [Raw(404, json.dumps(gone).encode(), JSON)])
        with ProviderManager(env=env, plugins=[plugin(keyless=True)]) as manager:
            answer = manager.get_model("corp", "m").response(messages=[Message(role="user", content="hello")])
    assert "hello" in str(answer.content)


# -- what an answer quotes of the key ---------------------------------------------------------------------------------


def xai(words: str) -> Raw:
    body = {"code": "Client specified an invalid argument", "error": words}
    return Raw(400, json.dumps(body).encode(), JSON)


def test_a_bad_request_that_quotes_the_masked_key_is_about_the_key(house: House) -> None:
    key = house.env["CORP_API_KEY_1"]
    house.script(1, then=xai(f"Incorrect API key provided: {key[:2]}***{key[-2:]}. You can obtain one."))
    assert "hello" in house.ask()
    assert house.states() == ["dead", "ready"]


def test_a_bad_request_that_quotes_no_key_is_one(house: House) -> None:
    house.script(1, then=xai("The model expects a single `text` element per message: ***"))
    with pytest.raises(Exception, match="single `text` element"):
        house.ask()
    assert house.states() == ["ready", "ready"]


def test_no_key_is_in_the_locals_of_a_traceback(house: House) -> None:
    house.server.script("corp", "*", [], then=Unauthorized(echo_key=True))
    keys = [house.env["CORP_API_KEY_1"], house.env["CORP_API_KEY_2"]]
    with pytest.raises(Exception, match=r"corp#\d") as caught:
        house.ask(key_id="corp#1")
    seen: list[str] = []
    trace = caught.value.__traceback__
    while trace is not None:
        frame = trace.tb_frame
        if frame.f_globals["__name__"].startswith("hfs_providers."):
            seen += [f"{name}={value!r}" for name, value in frame.f_locals.items()]
        trace = trace.tb_next
    assert any(text.startswith("verdict=") for text in seen)
    assert not [text for text in seen for key in keys if key in text]


# -- a provider's own headers -----------------------------------------------------------------------------------------


def cooling(house: House) -> list[float | None]:
    return [e.seconds for e in house.events if e.kind == "key_cooling"]


def test_a_provider_declares_its_own_wait_header() -> None:
    with House(2, plugin(errors=ErrorRules(wait_headers=("X-Corp-Budget-Renews",)))) as house:
        body = json.dumps({"error": {"message": "no budget"}}).encode()
        house.script(1, Raw(429, body, {**JSON, "X-Corp-Budget-Renews": "17"}))
        house.ask()
        assert cooling(house) == [17.0]


def limits_of(limits: dict[str, Limits], keys: int = 1, **env: str) -> dict[str, int]:
    """The limits that hold after an answer to each key, whose headers show 500 requests a day and 7 a minute."""
    provider = plugin(limits=limits, limit_headers={"x-corp-day": "rpd", "x-corp-minute": "rpm"})
    with House(keys, provider, **env) as house:
        for number in range(1, keys + 1):
            house.script(number, then=Ok(headers={"x-corp-day": "500", "x-corp-minute": "7"}))
            house.ask(key_id=f"corp#{number}")
        used = house.manager.wrappers["corp"].pool.used("m")["corp#1"]
        return {f"{use.unit[0]}{use.period[0]}": use.limit for use in used}


def test_limits_that_headers_show_fill_those_that_the_plugin_leaves_open() -> None:
    assert limits_of({"*": Limits(rpm=20, tpm=1000)}) == {"rm": 20, "tm": 1000, "rd": 500}


def test_limits_that_headers_show_stand_where_the_plugin_names_none() -> None:
    assert limits_of({}) == {"rm": 7, "rd": 500}


def test_limits_of_the_user_are_not_added_to() -> None:
    assert limits_of({"*": Limits(rpm=20)}, CORP_LIMITS="rpm=3") == {"rm": 3}


def test_headers_that_show_another_limit_than_the_plugin_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="hfs_providers")
    limits_of({"*": Limits(rpm=7)})
    limits_of({"*": Limits(rpm=20)}, keys=2)
    told = [record.getMessage() for record in caplog.records if "other limits" in record.getMessage()]
    assert told == [
        "corp: the answers of m show other limits (rpm=7) than its plugin; the plugin's apply unless CORP_LIMITS "
        "overrides them"
    ]

"""The loopback server against the real SDKs: each dialect, each step, each form of a wait."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from typing import Any, ClassVar

import cerebras.cloud.sdk
import groq
import httpx
import openai
import pytest
from agno.agent import Agent
from agno.models.cerebras import Cerebras
from agno.models.google import Gemini
from agno.models.groq import Groq
from agno.models.openrouter import OpenRouter
from google import genai
from google.genai import errors as genai_errors
from pydantic import BaseModel

from hfs_providers.testing import (
    BadRequest,
    ContextTooLong,
    EmptyBody,
    Forbidden,
    Garbage,
    HalfStream,
    LoopbackServer,
    ModelGone,
    Ok,
    OpenAIDialect,
    PaymentRequired,
    RateLimited,
    Raw,
    Reset,
    ServerError,
    Stall,
    StreamError,
    Unauthorized,
)
from tests.loopback_process import LoopbackProcess

PROVIDERS = ("groq", "cerebras", "openrouter", "gemini")
SDKS: dict[str, Any] = {"groq": groq, "cerebras": cerebras.cloud.sdk, "openrouter": openai}
TIMEOUT = 5.0
KEY = "key-0123456789abcdef"
TOOL = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city", "days"],
}


def model_of(server: Any, provider: str) -> str:
    return str(server.models(provider)[0])


def client_of(server: Any, provider: str, key: str = KEY, timeout: float = TIMEOUT) -> Any:
    url = server.base_url(provider)
    if provider == "gemini":
        options = {"base_url": url, "timeout": int(timeout * 1000), "retry_options": {"attempts": 1}}
        return genai.Client(api_key=key, http_options=options)
    sdk = {"groq": groq.Groq, "cerebras": cerebras.cloud.sdk.Cerebras, "openrouter": openai.OpenAI}[provider]
    extra = {"warm_tcp_connection": False} if provider == "cerebras" else {}
    return sdk(api_key=key, base_url=url, max_retries=0, timeout=timeout, **extra)


def ask(server: Any, provider: str, prompt: str = "hello", **kwargs: Any) -> Any:
    client = client_of(server, provider, kwargs.pop("key", KEY), kwargs.pop("timeout", TIMEOUT))
    model = kwargs.pop("model", None) or model_of(server, provider)
    if provider == "gemini":
        return client.models.generate_content(model=model, contents=prompt, **kwargs)
    return client.chat.completions.create(model=model, messages=[{"role": "user", "content": prompt}], **kwargs)


def streamed(server: Any, provider: str, prompt: str = "hello", **kwargs: Any) -> Iterator[Any]:
    client = client_of(server, provider, timeout=kwargs.pop("timeout", TIMEOUT))
    model = model_of(server, provider)
    if provider == "gemini":
        yield from client.models.generate_content_stream(model=model, contents=prompt, **kwargs)
    else:
        messages = [{"role": "user", "content": prompt}]
        yield from client.chat.completions.create(model=model, messages=messages, stream=True, **kwargs)


def text_of(provider: str, answer: Any) -> str:
    return str(answer.text if provider == "gemini" else answer.choices[0].message.content)


def delta_of(provider: str, chunk: Any) -> str:
    if provider == "gemini":
        return chunk.text or ""
    return (chunk.choices[0].delta.content or "") if chunk.choices else ""


def finish_of(provider: str, chunk: Any) -> Any:
    if provider == "gemini":
        return chunk.candidates[0].finish_reason if chunk.candidates else None
    return chunk.choices[0].finish_reason if chunk.choices else None


def refused(server: Any, provider: str, step: Any, **kwargs: Any) -> Any:
    """The error that the SDK raises for a step."""
    server.script(provider, KEY, [step])
    expected = genai_errors.APIError if provider == "gemini" else SDKS[provider].APIStatusError
    with pytest.raises(expected) as caught:
        ask(server, provider, **kwargs)
    return caught.value


def status_of(error: Any) -> int:
    return int(getattr(error, "status_code", None) or error.code)


def body_of(error: Any) -> Any:
    """The whole body, as it came."""
    if hasattr(error, "details"):
        return error.details
    return error.response.json()


def headers_of(error: Any) -> Any:
    return error.response.headers


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        yield server


# Answers


@pytest.mark.parametrize("provider", PROVIDERS)
class TestAnswers:
    def test_a_plain_answer_names_provider_model_and_prompt(self, server: LoopbackServer, provider: str) -> None:
        text = text_of(provider, ask(server, provider))
        assert text == f"[{provider}/{model_of(server, provider)}] You said: hello"

    def test_an_async_answer(self, server: LoopbackServer, provider: str) -> None:
        async def call() -> str:
            model = model_of(server, provider)
            if provider == "gemini":
                client = client_of(server, provider)
                return str((await client.aio.models.generate_content(model=model, contents="hello")).text)
            sdk = {
                "groq": groq.AsyncGroq,
                "cerebras": cerebras.cloud.sdk.AsyncCerebras,
                "openrouter": openai.AsyncOpenAI,
            }
            extra = {"warm_tcp_connection": False} if provider == "cerebras" else {}
            url = server.base_url(provider)
            async with sdk[provider](api_key=KEY, base_url=url, max_retries=0, timeout=TIMEOUT, **extra) as client:
                messages = [{"role": "user", "content": "hello"}]
                answer = await client.chat.completions.create(model=model, messages=messages)
                return str(answer.choices[0].message.content)

        assert asyncio.run(call()).endswith("You said: hello")

    def test_a_stream_is_the_same_text_in_pieces(self, server: LoopbackServer, provider: str) -> None:
        chunks = list(streamed(server, provider))
        pieces = [piece for piece in (delta_of(provider, chunk) for chunk in chunks) if piece]
        assert len(pieces) > 1
        assert "".join(pieces) == f"[{provider}/{model_of(server, provider)}] You said: hello"

    def test_a_stream_has_one_finish_reason(self, server: LoopbackServer, provider: str) -> None:
        reasons = [finish_of(provider, chunk) for chunk in streamed(server, provider)]
        assert len([reason for reason in reasons if reason]) == 1

    def test_models_are_listed(self, server: LoopbackServer, provider: str) -> None:
        client = client_of(server, provider)
        listed = client.models.list()
        names = [m.name for m in listed] if provider == "gemini" else [m.id for m in listed.data]
        assert {name.removeprefix("models/") for name in names} == set(server.models(provider))

    def test_usage_is_the_same_each_time(self, server: LoopbackServer, provider: str) -> None:
        def total() -> int:
            answer = ask(server, provider)
            return int(answer.usage_metadata.total_token_count if provider == "gemini" else answer.usage.total_tokens)

        assert total() == total() > 0

    def test_a_scripted_text_is_said(self, server: LoopbackServer, provider: str) -> None:
        server.script(provider, KEY, [Ok(text="as scripted")])
        assert text_of(provider, ask(server, provider)) == "as scripted"

    def test_a_scripted_usage_is_reported(self, server: LoopbackServer, provider: str) -> None:
        server.script(provider, KEY, [Ok(text="x", usage=(11, 7))])
        answer = ask(server, provider)
        usage = answer.usage_metadata if provider == "gemini" else answer.usage
        assert (usage.total_token_count if provider == "gemini" else usage.total_tokens) == 18

    def test_a_delay_is_kept(self, server: LoopbackServer, provider: str) -> None:
        server.script(provider, KEY, [Ok(delay=0.2)])
        began = time.monotonic()
        ask(server, provider)
        assert time.monotonic() - began >= 0.2


class TestStreamUsage:
    def test_groq_puts_it_under_x_groq(self, server: LoopbackServer) -> None:
        last = list(streamed(server, "groq"))[-1]
        assert last.x_groq.usage.total_tokens > 0

    def test_cerebras_sends_it_unasked_with_the_finish_reason(self, server: LoopbackServer) -> None:
        last = list(streamed(server, "cerebras"))[-1]
        assert last.usage.total_tokens > 0
        assert last.choices[0].finish_reason == "stop"

    def test_cerebras_can_be_told_to_send_none(self) -> None:
        with LoopbackServer(dialects=[OpenAIDialect("cerebras", "", "csk-", "/v1")]) as server:
            assert all(chunk.usage is None for chunk in streamed(server, "cerebras"))

    def test_every_cerebras_chunk_is_typed(self, server: LoopbackServer) -> None:
        assert {type(chunk).__name__ for chunk in streamed(server, "cerebras")} == {"ChatChunkResponse"}

    def test_cerebras_times_its_answer(self, server: LoopbackServer) -> None:
        assert list(streamed(server, "cerebras"))[-1].time_info is not None

    def test_openrouter_sends_it_in_the_last_chunk(self, server: LoopbackServer) -> None:
        assert list(streamed(server, "openrouter"))[-1].usage.total_tokens > 0

    def test_openrouter_comments_while_it_works(self, server: LoopbackServer) -> None:
        body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True}
        url = server.base_url("openrouter") + "/chat/completions"
        text = httpx.post(url, json=body, headers={"authorization": f"Bearer {KEY}"}, timeout=TIMEOUT).text
        assert ": OPENROUTER PROCESSING\n\n" in text

    def test_geminis_is_cumulative_and_last_is_whole(self, server: LoopbackServer) -> None:
        counts = [chunk.usage_metadata.candidates_token_count or 0 for chunk in streamed(server, "gemini")]
        assert counts == sorted(counts)
        assert counts[-1] > 0


@pytest.mark.parametrize("provider", PROVIDERS)
class TestTools:
    def test_the_first_tool_is_called_with_valid_arguments(self, server: LoopbackServer, provider: str) -> None:
        if provider == "gemini":
            declared = {"function_declarations": [{"name": "forecast", "parameters_json_schema": TOOL}]}
            call = ask(server, provider, config={"tools": [declared]}).function_calls[0]
            name, arguments = call.name, call.args
        else:
            tools = [{"type": "function", "function": {"name": "forecast", "parameters": TOOL}}]
            call = ask(server, provider, tools=tools).choices[0].message.tool_calls[0]
            name, arguments = call.function.name, json.loads(call.function.arguments)
        assert (name, arguments) == ("forecast", {"city": "hello", "days": 1})

    def test_no_tool_is_called_where_the_caller_forbids_it(self, server: LoopbackServer, provider: str) -> None:
        if provider == "gemini":
            declared = {"function_declarations": [{"name": "forecast", "parameters_json_schema": TOOL}]}
            forbidden = {"tools": [declared], "tool_config": {"function_calling_config": {"mode": "NONE"}}}
            answer = ask(server, provider, config=forbidden)
        else:
            tools = [{"type": "function", "function": {"name": "forecast", "parameters": TOOL}}]
            answer = ask(server, provider, tools=tools, tool_choice="none")
        assert "You said: hello" in text_of(provider, answer)

    def test_calls_have_ids_of_their_own(self, server: LoopbackServer, provider: str) -> None:
        if provider == "gemini":
            pytest.skip("Gemini's calls need no id")
        tools = [{"type": "function", "function": {"name": "forecast", "parameters": TOOL}}]
        ids = [ask(server, provider, tools=tools).choices[0].message.tool_calls[0].id for _ in range(2)]
        assert ids[0] != ids[1]


def test_gemini_3_signs_its_calls(server: LoopbackServer) -> None:
    declared = {"function_declarations": [{"name": "forecast", "parameters_json_schema": TOOL}]}
    answer = ask(server, "gemini", model="gemini-3.5-flash-lite", config={"tools": [declared]})
    assert answer.candidates[0].content.parts[0].thought_signature


# Structured answers

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": ["string", "null"], "minLength": 8},
        "age": {"type": "integer", "minimum": 18},
        "kind": {"const": "person"},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 2},
        "parent": {"anyOf": [{"$ref": "#/$defs/person"}, {"type": "null"}]},
    },
    "required": ["name", "age", "kind", "tags"],
    "$defs": {
        "person": {
            "type": "object",
            "properties": {"parent": {"anyOf": [{"$ref": "#/$defs/person"}, {"type": "null"}]}},
        }
    },
}


class TestStructuredAnswers:
    def test_the_answer_fits_the_schema(self, server: LoopbackServer) -> None:
        wanted = {"type": "json_schema", "json_schema": {"name": "p", "schema": SCHEMA}}
        answer = json.loads(text_of("openrouter", ask(server, "openrouter", "Bo", response_format=wanted)))
        assert len(answer["name"]) >= 8
        assert answer["age"] >= 18
        assert answer["kind"] == "person"
        assert len(answer["tags"]) == 2

    def test_json_mode_without_a_schema_is_an_object(self, server: LoopbackServer) -> None:
        answer = ask(server, "groq", response_format={"type": "json_object"})
        assert isinstance(json.loads(text_of("groq", answer)), dict)

    def test_text_mode_is_text(self, server: LoopbackServer) -> None:
        answer = ask(server, "groq", response_format={"type": "text"})
        assert text_of("groq", answer).endswith("You said: hello")

    def test_geminis_schema_is_understood(self, server: LoopbackServer) -> None:
        schema = {"type": "OBJECT", "properties": {"n": {"type": "INTEGER"}, "s": {"type": "STRING"}}}
        config = {"response_mime_type": "application/json", "response_schema": schema}
        assert json.loads(text_of("gemini", ask(server, "gemini", config=config))) == {"n": 1, "s": "hello"}


# Through Agno


def agno_model(server: Any, provider: str, **kwargs: Any) -> Any:
    model, url = kwargs.pop("id", None) or model_of(server, provider), server.base_url(provider)
    if provider == "gemini":
        options = {"base_url": url, "timeout": 5000, "retry_options": {"attempts": 1}}
        return Gemini(id=model, api_key=KEY, client_params={"http_options": options})
    if provider == "cerebras":
        client = {"warm_tcp_connection": False, "max_retries": 0}
        return Cerebras(id=model, api_key=KEY, base_url=url, timeout=TIMEOUT, client_params=client)
    made = {"groq": Groq, "openrouter": OpenRouter}[provider]
    return made(id=model, api_key=KEY, base_url=url, timeout=TIMEOUT, max_retries=0)


def capital_of(country: str) -> str:
    """Give the capital of a country.

    Args:
        country: its name.
    """
    return f"the capital of {country} is Zenith"


class Person(BaseModel):
    name: str
    age: int


@pytest.mark.parametrize("provider", PROVIDERS)
class TestThroughAgno:
    def test_an_agent_runs(self, server: LoopbackServer, provider: str) -> None:
        answer = Agent(model=agno_model(server, provider), telemetry=False).run("hello")
        assert answer.content.endswith("You said: hello")

    def test_an_agent_runs_async(self, server: LoopbackServer, provider: str) -> None:
        answer = asyncio.run(Agent(model=agno_model(server, provider), telemetry=False).arun("hello"))
        assert answer.content.endswith("You said: hello")

    def test_an_agent_streams_with_usage(self, server: LoopbackServer, provider: str) -> None:
        agent = Agent(model=agno_model(server, provider), telemetry=False)
        events = list(agent.run("hello", stream=True, yield_run_output=True))
        assert events[-1].content.endswith("You said: hello")
        assert events[-1].metrics.total_tokens > 0

    @pytest.mark.parametrize("streaming", [False, True])
    def test_an_agent_uses_its_tool(self, server: LoopbackServer, provider: str, streaming: bool) -> None:
        agent = Agent(model=agno_model(server, provider), tools=[capital_of], telemetry=False)
        if streaming:
            content = list(agent.run("Nadir", stream=True, yield_run_output=True))[-1].content
        else:
            content = agent.run("Nadir").content
        assert "the capital of Nadir is Zenith" in content

    def test_an_agent_gets_a_typed_answer(self, server: LoopbackServer, provider: str) -> None:
        answer = Agent(model=agno_model(server, provider), output_schema=Person, telemetry=False).run("Bo")
        assert isinstance(answer.content, Person)

    def test_an_agent_gets_a_typed_answer_in_json_mode(self, server: LoopbackServer, provider: str) -> None:
        agent = Agent(model=agno_model(server, provider), output_schema=Person, use_json_mode=True, telemetry=False)
        assert isinstance(agent.run("Bo").content, Person)


# Errors

STATUSES: list[tuple[Any, dict[str, int]]] = [
    (RateLimited(), dict.fromkeys(PROVIDERS, 429)),
    (Unauthorized(), {"groq": 401, "cerebras": 401, "openrouter": 401, "gemini": 400}),
    (PaymentRequired(), {"groq": 402, "cerebras": 402, "openrouter": 402, "gemini": 403}),
    (Forbidden(), dict.fromkeys(PROVIDERS, 403)),
    (ModelGone(), {"groq": 400, "cerebras": 404, "openrouter": 404, "gemini": 404}),
    (ContextTooLong(), dict.fromkeys(PROVIDERS, 400)),
    (BadRequest(), {"groq": 400, "cerebras": 422, "openrouter": 400, "gemini": 400}),
    (ServerError(500), dict.fromkeys(PROVIDERS, 500)),
    (ServerError(502), dict.fromkeys(PROVIDERS, 502)),
    (ServerError(503), dict.fromkeys(PROVIDERS, 503)),
    (ServerError(529), dict.fromkeys(PROVIDERS, 529)),
]
CLASSES = {
    400: "BadRequestError",
    401: "AuthenticationError",
    402: "APIStatusError",
    403: "PermissionDeniedError",
    404: "NotFoundError",
    422: "UnprocessableEntityError",
    429: "RateLimitError",
}


@pytest.mark.parametrize("provider", PROVIDERS)
@pytest.mark.parametrize(("step", "statuses"), STATUSES, ids=[repr(step).split("(echo")[0] for step, _ in STATUSES])
class TestErrors:
    def test_the_status_is_the_providers(
        self, server: LoopbackServer, provider: str, step: Any, statuses: dict[str, int]
    ) -> None:
        assert status_of(refused(server, provider, step)) == statuses[provider]

    def test_the_sdk_raises_its_own_class(
        self, server: LoopbackServer, provider: str, step: Any, statuses: dict[str, int]
    ) -> None:
        status = statuses[provider]
        name = type(refused(server, provider, step)).__name__
        if provider == "gemini":
            assert name == ("ClientError" if status < 500 else "ServerError")
        elif status == 402:
            assert name in ("APIStatusError", "PaymentRequiredError")  # Cerebras has a class for it
        else:
            assert name == CLASSES.get(status, "InternalServerError")

    def test_the_message_has_no_loose_ends(
        self, server: LoopbackServer, provider: str, step: Any, statuses: dict[str, int]
    ) -> None:
        body = body_of(refused(server, provider, step))
        message = body.get("error", body)["message"]
        assert message == message.strip()


def inner(server: LoopbackServer, provider: str, step: Any) -> dict[str, Any]:
    body = body_of(refused(server, provider, step))
    return dict(body if provider == "cerebras" else body["error"])


class TestBodies:
    def test_groqs_limit(self, server: LoopbackServer) -> None:
        error = inner(server, "groq", RateLimited(retry_after=432, per="day", unit="tokens"))
        assert (error["type"], error["code"]) == ("tokens", "rate_limit_exceeded")
        assert "on tokens per day (TPD): Limit" in error["message"]
        assert "Please try again in 7m12s." in error["message"]

    def test_groqs_bad_key(self, server: LoopbackServer) -> None:
        expected = {"message": "Invalid API Key", "type": "invalid_request_error", "code": "invalid_api_key"}
        assert inner(server, "groq", Unauthorized()) == expected

    def test_groqs_overlong_prompt_names_its_parameter(self, server: LoopbackServer) -> None:
        error = inner(server, "groq", ContextTooLong())
        assert (error["code"], error["param"]) == ("context_length_exceeded", "messages")

    def test_groqs_retired_model(self, server: LoopbackServer) -> None:
        assert inner(server, "groq", ModelGone())["code"] == "model_decommissioned"

    def test_groqs_unknown_model(self, server: LoopbackServer) -> None:
        error = refused(server, "groq", ModelGone(decommissioned=False))
        assert status_of(error) == 404
        assert body_of(error)["error"]["code"] == "model_not_found"

    def test_cerebras_requests(self, server: LoopbackServer) -> None:
        assert inner(server, "cerebras", RateLimited()) == {
            "message": "Requests per minute limit exceeded - too many requests sent.",
            "type": "too_many_requests_error",
            "param": "quota",
            "code": "request_quota_exceeded",
        }

    def test_cerebras_tokens(self, server: LoopbackServer) -> None:
        assert inner(server, "cerebras", RateLimited(unit="tokens")) == {
            "message": "Tokens per minute limit exceeded - too many tokens processed.",
            "type": "too_many_tokens_error",
            "param": "quota",
            "code": "token_quota_exceeded",
        }

    def test_cerebras_bad_key(self, server: LoopbackServer) -> None:
        error = inner(server, "cerebras", Unauthorized())
        assert (error["message"], error["code"]) == ("Wrong API Key", "wrong_api_key")

    def test_geminis_bad_key(self, server: LoopbackServer) -> None:
        error = inner(server, "gemini", Unauthorized())
        assert error["status"] == "INVALID_ARGUMENT"
        kinds = [detail["@type"].rpartition(".")[2] for detail in error["details"]]
        assert kinds == ["ErrorInfo", "LocalizedMessage"]
        assert error["details"][0]["reason"] == "API_KEY_INVALID"

    @pytest.mark.parametrize(
        ("step", "metric", "quota"),
        [
            (RateLimited(), "requests", "GenerateRequestsPerMinutePerProjectPerModel-FreeTier"),
            (RateLimited(per="day"), "requests", "GenerateRequestsPerDayPerProjectPerModel-FreeTier"),
            (RateLimited(unit="tokens"), "input_token_count", "GenerateContentInputTokensPerModelPerMinute-FreeTier"),
            (
                RateLimited(unit="tokens", per="day"),
                "input_token_count",
                "GenerateContentInputTokensPerModelPerDay-FreeTier",
            ),
        ],
    )
    def test_geminis_quota(self, server: LoopbackServer, step: RateLimited, metric: str, quota: str) -> None:
        violation = inner(server, "gemini", step)["details"][0]["violations"][0]
        assert violation["quotaId"] == quota
        assert violation["quotaMetric"] == f"generativelanguage.googleapis.com/generate_content_free_tier_{metric}"

    def test_geminis_quota_for_all_models_names_none(self, server: LoopbackServer) -> None:
        violation = inner(server, "gemini", RateLimited(scope="key"))["details"][0]["violations"][0]
        assert "model" not in violation["quotaDimensions"]

    def test_geminis_missing_model(self, server: LoopbackServer) -> None:
        error = inner(server, "gemini", ModelGone())
        assert error["status"] == "NOT_FOUND"
        assert error["message"].endswith(
            "Call ListModels to see the list of available models and their supported methods."
        )

    def test_gemini_overloaded(self, server: LoopbackServer) -> None:
        error = inner(server, "gemini", ServerError(503))
        assert (error["status"], error["message"]) == (
            "UNAVAILABLE",
            "The model is overloaded. Please try again later.",
        )

    def test_geminis_internal_error_is_not_an_overload(self, server: LoopbackServer) -> None:
        error = inner(server, "gemini", ServerError(500))
        assert error["status"] == "INTERNAL"
        assert "overloaded" not in error["message"]

    def test_openrouters_daily_limit(self, server: LoopbackServer) -> None:
        error = inner(server, "openrouter", RateLimited(retry_after=60, form="reset", per="day", scope="key"))
        assert error["message"].startswith("Rate limit exceeded: free-models-per-day. Add 10 credits")
        assert error["metadata"]["limit_source"] == "openrouter_free_tier_daily"
        assert int(error["metadata"]["headers"]["X-RateLimit-Reset"]) > time.time() * 1000

    def test_openrouters_body_carries_the_wait_in_no_other_form(self, server: LoopbackServer) -> None:
        error = inner(server, "openrouter", RateLimited(retry_after=60, form="none", per="day", scope="key"))
        assert "headers" not in error["metadata"]

    def test_openrouters_upstream_limit(self, server: LoopbackServer) -> None:
        metadata = inner(server, "openrouter", RateLimited(scope="model"))["metadata"]
        assert metadata["provider_name"]
        assert "is temporarily rate-limited upstream" in metadata["raw"]

    def test_openrouters_missing_key(self, server: LoopbackServer) -> None:
        url = server.base_url("openrouter") + "/chat/completions"
        answer = httpx.post(url, json={"model": "m", "messages": []}, timeout=TIMEOUT)
        assert answer.json()["error"] == {"message": "No auth credentials found", "code": 401}

    def test_openrouters_lack_of_credits(self, server: LoopbackServer) -> None:
        error = inner(server, "openrouter", PaymentRequired())
        assert error["metadata"] == {"limit_source": "openrouter_credits"}

    def test_openrouters_request_that_is_too_dear(self, server: LoopbackServer) -> None:
        error = inner(server, "openrouter", PaymentRequired(fewer_tokens=True))
        assert "or fewer max_tokens" in error["message"]
        assert error["metadata"] == {"provider_name": None}

    def test_openrouters_moderation(self, server: LoopbackServer) -> None:
        metadata = inner(server, "openrouter", Forbidden(about="moderation"))["metadata"]
        assert metadata["reasons"]
        assert metadata["flagged_input"] == "hello"

    def test_geminis_region_is_a_precondition(self, server: LoopbackServer) -> None:
        error = refused(server, "gemini", Forbidden(about="region"))
        assert (status_of(error), body_of(error)["error"]["status"]) == (400, "FAILED_PRECONDITION")

    @pytest.mark.parametrize("provider", PROVIDERS)
    @pytest.mark.parametrize(
        "kind",
        [RateLimited, Unauthorized, PaymentRequired, Forbidden, ModelGone, BadRequest, ContextTooLong, ServerError],
    )
    def test_every_error_can_echo_the_key(self, server: LoopbackServer, provider: str, kind: Any) -> None:
        assert KEY in json.dumps(body_of(refused(server, provider, kind(echo_key=True))))


class TestWaits:
    @pytest.mark.parametrize("provider", ["groq", "cerebras", "openrouter"])
    def test_whole_seconds(self, server: LoopbackServer, provider: str) -> None:
        error = refused(server, provider, RateLimited(retry_after=40, form="seconds"))
        assert headers_of(error)["retry-after"] == "40"

    @pytest.mark.parametrize("provider", ["groq", "cerebras", "openrouter"])
    def test_whole_seconds_stay_whole(self, server: LoopbackServer, provider: str) -> None:
        error = refused(server, provider, RateLimited(retry_after=0.4, form="seconds"))
        assert headers_of(error)["retry-after"] == "1"

    @pytest.mark.parametrize("provider", ["groq", "cerebras", "openrouter"])
    def test_a_fraction_is_the_wait_that_was_asked_for(self, server: LoopbackServer, provider: str) -> None:
        error = refused(server, provider, RateLimited(retry_after=7.25, form="fraction"))
        assert headers_of(error)["retry-after"] == "7.25"

    @pytest.mark.parametrize("provider", PROVIDERS)
    def test_a_date(self, server: LoopbackServer, provider: str) -> None:
        error = refused(server, provider, RateLimited(retry_after=40, form="date"))
        wait = parsedate_to_datetime(headers_of(error)["retry-after"]).timestamp() - time.time()
        assert 38 < wait <= 41.5

    @pytest.mark.parametrize("provider", PROVIDERS)
    def test_milliseconds(self, server: LoopbackServer, provider: str) -> None:
        error = refused(server, provider, RateLimited(retry_after=1.5, form="ms"))
        assert headers_of(error)["retry-after-ms"] == "1500"

    @pytest.mark.parametrize(
        ("wait", "text"), [(62.5, "1m2.5s"), (7.66, "7.66s"), (0.12, "120ms"), (3661, "1h1m1s"), (60, "1m0s")]
    )
    def test_groqs_reset_is_a_go_duration(self, server: LoopbackServer, wait: float, text: str) -> None:
        error = refused(server, "groq", RateLimited(retry_after=wait, form="reset"))
        assert headers_of(error)["x-ratelimit-reset-requests"] == text

    def test_cerebras_reset_is_seconds(self, server: LoopbackServer) -> None:
        error = refused(server, "cerebras", RateLimited(retry_after=11.5, form="reset", per="day"))
        assert float(headers_of(error)["x-ratelimit-reset-requests-day"]) == 11.5

    def test_openrouters_reset_is_epoch_milliseconds(self, server: LoopbackServer) -> None:
        error = refused(server, "openrouter", RateLimited(retry_after=40, form="reset"))
        assert 38 < int(headers_of(error)["x-ratelimit-reset"]) / 1000 - time.time() < 41

    @pytest.mark.parametrize("form", ["reset", "retryinfo"])
    def test_geminis_own_is_in_the_body(self, server: LoopbackServer, form: Any) -> None:
        error = inner(server, "gemini", RateLimited(retry_after=34, form=form))
        delays = [detail["retryDelay"] for detail in error["details"] if "retryDelay" in detail]
        assert [float(delay.removesuffix("s")) for delay in delays] == [34]

    @pytest.mark.parametrize("provider", PROVIDERS)
    def test_none(self, server: LoopbackServer, provider: str) -> None:
        error = refused(server, provider, RateLimited(retry_after=40, form="none"))
        named = [name for name in headers_of(error) if "retry" in name or "ratelimit" in name]
        assert not named
        assert "retryDelay" not in json.dumps(body_of(error))


# Transport


@pytest.mark.parametrize("provider", PROVIDERS)
class TestTransport:
    def test_a_reset_is_a_connection_error(self, server: LoopbackServer, provider: str) -> None:
        server.script(provider, KEY, [Reset()])
        with pytest.raises(Exception) as caught:  # noqa: PT011  # google-genai raises httpx2's own
            ask(server, provider)
        assert type(caught.value).__name__ in ("APIConnectionError", "ReadError", "RemoteProtocolError")

    def test_a_stall_is_a_timeout(self, server: LoopbackServer, provider: str) -> None:
        server.script(provider, KEY, [Stall(3)])
        began = time.monotonic()
        with pytest.raises(Exception) as caught:  # noqa: PT011
            ask(server, provider, timeout=0.3)
        assert "Timeout" in type(caught.value).__name__
        assert time.monotonic() - began < 2

    def test_a_stall_is_on_record_while_it_lasts(self, server: LoopbackServer, provider: str) -> None:
        server.script(provider, KEY, [Stall(3)])
        with pytest.raises(Exception):  # noqa: B017, PT011
            ask(server, provider, timeout=0.3)
        assert [(seen.outcome, seen.finished) for seen in server.seen] == [("Stall", False)]

    @pytest.mark.parametrize("step", [Garbage(), EmptyBody()])
    def test_what_is_no_json_is_no_answer(self, server: LoopbackServer, provider: str, step: Any) -> None:
        server.script(provider, KEY, [step])
        text = ""
        with contextlib.suppress(Exception):  # some SDKs raise, and others hand out an empty answer
            text = text_of(provider, ask(server, provider))
        assert text in ("", "None")
        assert server.answered(provider) == {}

    @pytest.mark.parametrize("how", ["eof", "reset"])
    def test_a_half_stream_has_its_pieces_and_no_finish(self, server: LoopbackServer, provider: str, how: Any) -> None:
        server.script(provider, KEY, [HalfStream(chunks=2, how=how)])
        pieces, reasons = [], []
        try:
            for chunk in streamed(server, provider):
                pieces.append(delta_of(provider, chunk))
                reasons.append(finish_of(provider, chunk))
        except Exception:
            assert how == "reset"
        else:
            assert how == "eof"
        assert len([piece for piece in pieces if piece]) == 2
        assert not any(reasons)

    def test_a_stream_can_fall_silent(self, server: LoopbackServer, provider: str) -> None:
        server.script(provider, KEY, [HalfStream(chunks=1, how="stall", seconds=3)])
        pieces = []
        with pytest.raises(Exception) as caught:  # noqa: PT011
            pieces.extend(delta_of(provider, chunk) for chunk in streamed(server, provider, timeout=0.3))
        assert "Timeout" in type(caught.value).__name__

    def test_an_error_in_a_stream_is_raised(self, server: LoopbackServer, provider: str) -> None:
        server.script(provider, KEY, [StreamError()])
        received = []
        expected = genai_errors.ServerError if provider == "gemini" else SDKS[provider].APIError
        with pytest.raises(expected):
            received.extend(delta_of(provider, chunk) for chunk in streamed(server, provider))
        assert any(received) or provider == "gemini"

    def test_raw_is_to_the_byte(self, server: LoopbackServer, provider: str) -> None:
        server.script(
            provider, KEY, [Raw(418, body=b'{"message": "teapot"}', headers={"content-type": "application/json"})]
        )
        with pytest.raises(Exception) as caught:  # noqa: PT011
            ask(server, provider)
        assert status_of(caught.value) == 418


class TestHttp:
    def request(self, server: LoopbackServer, body: bytes, headers: str) -> bytes:
        port = int(server.base_url("groq").split(":")[2].split("/")[0])
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as connection:
            start = "POST /groq/openai/v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
            head = f"{start}authorization: Bearer {KEY}\r\n{headers}\r\n"
            connection.sendall(head.encode() + body)
            return connection.recv(65536)

    def test_a_chunked_body(self, server: LoopbackServer) -> None:
        body = json.dumps({"model": "m", "messages": [{"role": "user", "content": "chunky"}]}).encode()
        chunks = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:10], body[10:])) + b"0\r\n\r\n"
        assert b"chunky" in self.request(server, chunks, "transfer-encoding: chunked\r\n")

    def test_a_body_that_is_no_object_is_a_bad_request(self, server: LoopbackServer) -> None:
        assert b" 400 " in self.request(server, b"[1]", "content-length: 3\r\n").split(b"\r\n")[0]

    def test_a_body_that_is_no_json_is_a_bad_request(self, server: LoopbackServer) -> None:
        assert b" 400 " in self.request(server, b"{oh", "content-length: 3\r\n").split(b"\r\n")[0]

    def test_a_length_that_is_no_number_is_refused(self, server: LoopbackServer) -> None:
        assert b" 400 " in self.request(server, b"", "content-length: many\r\n").split(b"\r\n")[0]

    def test_a_wrong_path_is_not_found(self, server: LoopbackServer) -> None:
        answer = httpx.post(server.base_url("groq") + "/v9/chat/completions", json={}, timeout=TIMEOUT)
        assert answer.status_code == 404

    def test_the_cerebras_warm_up_is_welcome(self, server: LoopbackServer) -> None:
        answer = httpx.get(server.base_url("cerebras") + "/v1/tcp_warming", timeout=TIMEOUT)
        assert answer.status_code == 200
        assert server.seen == []

    def test_one_connection_serves_many_requests(self, server: LoopbackServer) -> None:
        client = client_of(server, "groq")
        for _ in range(3):
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
        assert server.connections == 1


# Control


class TestScripts:
    def test_steps_are_used_up_and_then_holds(self, server: LoopbackServer) -> None:
        server.script("groq", KEY, [ServerError(503)], then=ServerError(500))
        with pytest.raises(groq.InternalServerError) as first:
            ask(server, "groq")
        with pytest.raises(groq.InternalServerError) as second:
            ask(server, "groq")
        assert (first.value.status_code, second.value.status_code) == (503, 500)

    def test_a_script_for_the_key_goes_before_one_for_all(self, server: LoopbackServer) -> None:
        server.script("groq", "*", [], then=Ok(text="all"))
        server.script("groq", KEY, [], then=Ok(text="mine"))
        assert text_of("groq", ask(server, "groq")) == "mine"
        assert text_of("groq", ask(server, "groq", key="other")) == "all"

    def test_a_script_for_the_model_goes_before_one_for_the_key(self, server: LoopbackServer) -> None:
        server.script("groq", KEY, [], then=Ok(text="any"))
        server.script("groq", KEY, [], then=Ok(text="this"), model="m")
        assert text_of("groq", ask(server, "groq", model="m")) == "this"
        assert text_of("groq", ask(server, "groq", model="n")) == "any"

    def test_unknown_keys_are_refused_once_keys_are_known(self, server: LoopbackServer) -> None:
        server.keys("groq", [KEY])
        assert ask(server, "groq")
        with pytest.raises(groq.AuthenticationError):
            ask(server, "groq", key="stranger")

    def test_a_retired_model_is_gone_for_all_keys(self, server: LoopbackServer) -> None:
        server.retire("cerebras", "llama-3.3-70b")
        with pytest.raises(cerebras.cloud.sdk.NotFoundError):
            ask(server, "cerebras", model="llama-3.3-70b")
        assert "llama-3.3-70b" not in server.models("cerebras")

    def test_an_answer_function_replaces_the_brain(self) -> None:
        with LoopbackServer(answer=lambda request: Ok(text=f"{request.model}!")) as server:
            assert text_of("groq", ask(server, "groq", model="m")) == "m!"

    def test_an_answer_function_that_fails_is_seen_at_once(self) -> None:
        def fails(request: Any) -> Ok:
            raise LookupError("no idea")

        with LoopbackServer(answer=fails) as server, pytest.raises(groq.InternalServerError, match="no idea"):
            ask(server, "groq")

    def test_a_dialect_of_ones_own(self) -> None:
        with LoopbackServer(dialects=[OpenAIDialect("acme")]) as server:
            client = openai.OpenAI(api_key=KEY, base_url=server.base_url("acme"), max_retries=0, timeout=TIMEOUT)
            answer = client.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}])
        assert text_of("acme", answer) == "[acme/m] You said: hi"

    def test_a_good_answer_has_the_headers_of_its_script(self, server: LoopbackServer) -> None:
        server.script("groq", KEY, [Ok(headers={"x-ratelimit-limit-requests": "100"})])
        raw = client_of(server, "groq").chat.completions.with_raw_response.create(
            model="m", messages=[{"role": "user", "content": "x"}]
        )
        assert raw.headers["x-ratelimit-limit-requests"] == "100"


class TestRecords:
    def test_hits_count_by_key(self, server: LoopbackServer) -> None:
        ask(server, "groq", key="a")
        ask(server, "groq", key="a")
        ask(server, "cerebras", key="b")
        assert server.hits("groq") == {"a": 2}
        assert server.hits() == {"a": 2, "b": 1}

    def test_answered_counts_whole_answers_only(self, server: LoopbackServer) -> None:
        server.script("groq", KEY, [RateLimited(), Ok()])
        with pytest.raises(groq.RateLimitError):
            ask(server, "groq", model="m")
        ask(server, "groq", model="m")
        assert server.answered("groq") == {(KEY, "m"): 1}

    def test_a_dropped_stream_is_not_finished(self, server: LoopbackServer) -> None:
        server.script("groq", KEY, [Ok(chunk_delay=0.05, chunks=8)])
        client = client_of(server, "groq")
        stream = client.chat.completions.create(
            model="m", messages=[{"role": "user", "content": "a b c d e f"}], stream=True
        )
        next(iter(stream))
        stream.close()
        client.close()
        deadline = time.monotonic() + TIMEOUT
        while not server.seen and time.monotonic() < deadline:
            time.sleep(0.01)
        assert [seen.finished for seen in server.seen] == [False]

    def test_the_log_is_bounded(self) -> None:
        with LoopbackServer(log_size=2) as server:
            for _ in range(3):
                ask(server, "groq")
            assert len(server.seen) == 2

    def test_reset_forgets(self, server: LoopbackServer) -> None:
        server.script("groq", KEY, [], then=Ok(text="scripted"))
        ask(server, "groq")
        server.reset()
        assert (server.seen, server.hits("groq"), server.answered("groq")) == ([], {}, {})
        assert text_of("groq", ask(server, "groq")) != "scripted"

    def test_no_representation_shows_a_key(self, server: LoopbackServer) -> None:
        requests: list[Any] = []

        def keep(request: Any) -> Ok:
            requests.append(request)
            return Ok(text="x")

        with LoopbackServer(answer=keep) as other:
            ask(other, "groq")
            ask(other, "gemini")
            shown = repr(other) + repr(other.seen) + repr(requests)
        assert KEY not in shown
        assert len(requests) == 2

    def test_a_gate_holds_calls_in_flight(self, server: LoopbackServer) -> None:
        answers: list[str] = []
        threads = [
            threading.Thread(target=lambda: answers.append(text_of("groq", ask(server, "groq")))) for _ in range(4)
        ]
        with server.hold() as gate:
            for thread in threads:
                thread.start()
            assert gate.wait_for(4, timeout=TIMEOUT)
            assert answers == []
        for thread in threads:
            thread.join(TIMEOUT)
        assert len(answers) == 4
        assert server.max_in_flight == 4


class TestEnvironment:
    def test_keys_are_made_up_and_look_like_the_providers(self, server: LoopbackServer) -> None:
        env = server.env({"groq": 2, "gemini": ["key-a", "key-b"]})
        assert (env["NUM_GROQ"], env["NUM_GEMINI"]) == ("2", "2")
        assert env["GROQ_API_KEY_1"].startswith("gsk_")
        assert env["GROQ_API_KEY_1"] != env["GROQ_API_KEY_2"]
        assert env["GEMINI_API_KEY_2"] == "key-b"
        assert env["GROQ_BASE_URL"] == server.base_url("groq")


class TestLifecycle:
    def test_stopping_twice_is_fine_and_quick(self) -> None:
        server = LoopbackServer().start()
        began = time.monotonic()
        server.stop()
        server.stop()
        assert time.monotonic() - began < 2

    def test_a_stopped_server_refuses_connections(self) -> None:
        with LoopbackServer() as server:
            port = int(server.base_url("groq").split(":")[2].split("/")[0])
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), timeout=1)

    def test_it_starts_again_where_it_was(self) -> None:
        server = LoopbackServer().start()
        url = server.base_url("groq")
        server.stop()
        with server:
            assert server.base_url("groq") == url
            assert ask(server, "groq")

    def test_stopping_cuts_calls_in_flight(self) -> None:
        server = LoopbackServer().start()
        server.script("groq", KEY, [Stall(30)])
        failed = threading.Event()

        def call() -> None:
            with pytest.raises(groq.APIConnectionError):
                ask(server, "groq")
            failed.set()

        thread = threading.Thread(target=call)
        thread.start()
        deadline = time.monotonic() + TIMEOUT
        while not server.seen and time.monotonic() < deadline:
            time.sleep(0.01)
        server.stop()
        thread.join(TIMEOUT)
        assert failed.is_set()

    def test_a_port_in_use_is_said_at_once(self) -> None:
        with LoopbackServer() as server:
            port = int(server.base_url("groq").split(":")[2].split("/")[0])
            began = time.monotonic()
            with pytest.raises(OSError, match="in use"):
                LoopbackServer(port=port).start()
            assert time.monotonic() - began < 2

    def test_importing_it_imports_neither_pytest_nor_agno_nor_an_sdk(self) -> None:
        program = (
            "import sys, hfs_providers.testing\n"
            "heavy = {'pytest', 'agno', 'groq', 'openai', 'cerebras', 'google.genai', 'httpx'} & set(sys.modules)\n"
            "print(sorted(heavy))"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
        assert done.stdout.strip() == "[]", done.stderr


@pytest.fixture(scope="module")
def process() -> Iterator[LoopbackProcess]:
    with LoopbackProcess() as process:
        yield process


class TestProcess:
    CHILD: ClassVar[str] = (
        "import sys, time\n"
        "from tests.loopback_process import LoopbackProcess\n"
        "if __name__ == '__main__':\n"
        "    process = LoopbackProcess().__enter__()\n"
        "    print(process.base_url('groq'), flush=True)\n"
        "    time.sleep(60)\n"
    )

    def test_it_answers_and_counts(self, process: LoopbackProcess) -> None:
        env = process.env({"groq": 1})
        assert text_of("groq", ask(process, "groq", key=env["GROQ_API_KEY_1"])).endswith("You said: hello")
        assert process.hits("groq") == {env["GROQ_API_KEY_1"]: 1}

    def test_it_is_scripted(self, process: LoopbackProcess) -> None:
        process.script("groq", KEY, [RateLimited(retry_after=3)])
        with pytest.raises(groq.RateLimitError):
            ask(process, "groq")
        assert process.seen[-1].outcome == "RateLimited"

    def test_it_ends_with_its_parent(self, tmp_path: Any) -> None:
        program = tmp_path / "parent.py"
        program.write_text(self.CHILD)
        parent = subprocess.Popen([sys.executable, str(program)], stdout=subprocess.PIPE, text=True)
        try:
            assert parent.stdout is not None
            port = int(parent.stdout.readline().split(":")[2].split("/")[0])
        finally:
            parent.kill()
            parent.wait(5)
        assert gone(lambda: socket.create_connection(("127.0.0.1", port), timeout=1).close())


def gone(connect: Callable[[], None]) -> bool:
    """Whether connecting begins to fail within seconds."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline:
        try:
            connect()
        except OSError:
            return True
        time.sleep(0.05)
    return False

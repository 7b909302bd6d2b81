"""The errors that the verdict bench serves: the file is well-formed, and ours gives each its verdict."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, get_args, get_type_hints

import httpx
import httpx2
import pytest
from agno.models.cerebras import Cerebras
from agno.models.google import Gemini
from agno.models.groq import Groq
from agno.models.message import Message
from agno.models.openai.like import OpenAILike
from agno.models.openrouter import OpenRouter

from benchmarks.verdict_bench import DOCUMENT, LIBRARIES, RESULTS
from benchmarks.verdicts.bodies import BUILT_IN, RESET_IN, Body, FaultyServer, bodies
from benchmarks.verdicts.judged import judged
from benchmarks.verdicts.table import read_results, write_document
from benchmarks.verdicts.talk import DEAD, Outcome
from hfs_providers.calls.common_codes import QUOTES_KEY
from hfs_providers.calls.model_errors import reads_as_overflow
from hfs_providers.calls.verdicts import judge
from hfs_providers.clients.families import family_of
from hfs_providers.contract.error_rules import ErrorRules
from hfs_providers.contract.secret import Secret
from tests.calls.test_verdicts_servers import meaning

MODEL = "a-model"


@pytest.fixture(scope="module")
def server() -> Iterator[FaultyServer]:
    with FaultyServer() as server:
        yield server


def rules_of(provider: str) -> ErrorRules:
    if provider not in BUILT_IN:
        return ErrorRules(modules={"openai"})
    plugin = import_module(f"hfs_providers.plugins.{provider}").plugin
    return family_of(plugin.client).complete(plugin).errors


# Each client makes its own TLS context, which takes longer than a request.
CLIENT, GEMINIS_CLIENT = httpx.Client(), httpx2.Client()


def bare(provider: str, key: str, base_url: str) -> Any:
    """The Agno model of a provider, which asks once."""
    where: dict[str, Any] = {"id": MODEL, "api_key": key}
    if provider == "gemini":
        options = {"base_url": base_url, "retry_options": {"attempts": 1}, "httpx_client": GEMINIS_CLIENT}
        return Gemini(**where, client_params={"http_options": options})
    where |= {"base_url": base_url, "max_retries": 0, "http_client": CLIENT}
    if provider == "cerebras":
        return Cerebras(**where, client_params={"warm_tcp_connection": False})
    kinds: dict[str, Any] = {"groq": Groq, "openrouter": OpenRouter}
    return kinds.get(provider, OpenAILike)(**where)


def test_the_file_is_well_formed() -> None:
    hints = get_type_hints(Body)
    assert len(bodies()) == 60
    assert max(Counter(body.id for body in bodies()).values()) == 1
    for body in bodies():
        for field in ("fault", "key", "call", "model"):
            assert getattr(body, field) in get_args(hints[field]), body.id
        assert body.source.startswith("https://"), body.id
        assert isinstance(json.loads(body.body), dict), body.id
        assert body.ours != body.verdict, body.id
        assert body.seconds is None or 0 < body.seconds <= 25 * 3600, body.id


@pytest.mark.parametrize("body", bodies(), ids=lambda body: body.id)
def test_ours_gives_an_error_its_verdict(body: Body, server: FaultyServer) -> None:
    server.play(body, MODEL)
    key = server.new_key(body.provider)
    model = bare(body.provider, key, server.base_url(body.provider))
    with pytest.raises(Exception) as caught:  # noqa: PT011  whatever it is, the verdict is what is looked at
        model.invoke(messages=[Message(role="user", content="x")], assistant_message=Message(role="assistant"))
    verdict = judge(caught.value, rules_of(body.provider))
    # As a call reads it, which knows its key and what was sent.
    if verdict.code in QUOTES_KEY and Secret(key).quoted_in(verdict.message):
        verdict = replace(verdict, kind="dead", scope="key")
    elif reads_as_overflow(verdict):
        verdict = replace(verdict, kind="context_overflow")
    assert meaning(verdict) == (body.ours or body.verdict)
    stated = body.seconds
    if stated is not None:
        assert verdict.retry_after == pytest.approx(stated, abs=60 if stated >= RESET_IN else 1)


def test_the_document_shows_the_last_results_of_these_bodies(tmp_path: Path) -> None:
    results = read_results(RESULTS)
    for library in LIBRARIES:
        assert set(results.judged[library.name]) == {body.id for body in bodies()}
    again = tmp_path / DOCUMENT.name
    again.write_text(DOCUMENT.read_text(encoding="utf-8"), encoding="utf-8")
    write_document(again, bodies(), results)
    assert again.read_text(encoding="utf-8") == DOCUMENT.read_text(encoding="utf-8")


def outcome(rest: float, *, answered: bool = True) -> Outcome:
    return Outcome(answered, "", {"bad": [rest, rest], "good": [0.0, 0.0]})


MODELS = ["wanted", "larger"]
ROTATED = [("bad", "wanted"), ("good", "wanted")]


def body_of(text: str) -> Body:
    return next(body for body in bodies() if body.id == text)


@pytest.mark.parametrize(
    ("body", "what", "asked", "misses"),
    [
        ("groq: 401 invalid_api_key", outcome(DEAD), ROTATED, []),
        ("groq: 401 invalid_api_key", outcome(0), ROTATED, ["key: used again at once"]),
        ("groq: 401 invalid_api_key", outcome(5), ROTATED, ["key: not used for 5 s"]),
        ("groq: 401 invalid_api_key", outcome(DEAD, answered=False), ROTATED[:1], ["call: raised an error"]),
        ("groq: 429 tokens per day", outcome(579), ROTATED, []),
        ("groq: 429 tokens per day", outcome(30), ROTATED, ["key: not used for 30 s instead of 10 min"]),
        ("groq: 429 tokens per day", outcome(DEAD), ROTATED, ["key: never used again"]),
        ("groq: 429 tokens per day", outcome(579), ROTATED[:1] + ROTATED, ["call: 2 requests with the refused key"]),
        ("groq: 422", outcome(0, answered=False), ROTATED[:1], []),
        (
            "groq: 422",
            outcome(0, answered=False),
            [*ROTATED[:1], ("bad", "larger")],
            ["call: 2 requests", "model: the other model was asked too"],
        ),
        ("groq: 400 context_length_exceeded", outcome(0), [*ROTATED, ("bad", "larger")], []),
    ],
)
def test_what_a_library_did_is_compared_with_what_is_right(
    body: str, what: Outcome, asked: list[tuple[str, str]], misses: list[str]
) -> None:
    assert judged(body_of(body), what, asked, MODELS).misses == misses


def test_a_library_without_the_provider_misses_nothing() -> None:
    result = judged(body_of("groq: 422"), Outcome(offered=False), [], MODELS)
    assert (result.offered, result.misses) == (False, [])

"""What further servers send, through the openai SDK, and errors in the shapes of botocore, Cohere and Ollama.

Each row of CASES is a row of docs/verdicts.md; a test holds the two together. The bodies are as the sources named in
that document show them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest

from hfs_providers.calls.common_codes import QUOTES_KEY
from hfs_providers.calls.verdicts import Verdict, judge
from hfs_providers.contract.error_rules import ErrorRules

DOCS = Path(__file__).parents[2] / "docs" / "verdicts.md"
NOW = 1_795_262_400.0
OPENAI = ErrorRules(modules={"openai"})
AWS = ErrorRules(modules={"botocore"})
COHERE = ErrorRules(modules={"cohere"})


def oai(kind: str | None = None, code: object = None, **more: Any) -> dict[str, Any]:
    return {"error": {"message": "as worded", "type": kind, "param": None, "code": code, **more}}


@dataclass(frozen=True)
class Case:
    """What a server sends, and what it means.

    Args:
        server: whose answer it is.
        sends: how the documentation names it.
        status, body, headers: of the answer.
        means: the kind of the verdict, with its scope where that is the key's and with `credits`.
        wait: seconds.
    """

    server: str
    sends: str
    status: int
    body: Any
    means: str
    wait: float | None = None
    headers: dict[str, str] = field(default_factory=dict)


XAI_404 = {"code": "Some requested entity was not found", "error": "The model m does not exist or your team lacks it."}
FIREWORKS = oai("error", "PRECONDITION_FAILED")

CASES = (
    Case(
        "llama.cpp", "400 `exceed_context_size_error`", 400, oai("exceed_context_size_error", 400), "context_overflow"
    ),
    Case("llama.cpp", "503 `unavailable_error` (loading the model)", 503, oai("unavailable_error", 503), "overloaded"),
    Case("moonshot", "429 `exceeded_current_quota_error`", 429, oai("exceeded_current_quota_error"), "dead, credits"),
    Case("moonshot", "429 `engine_overloaded_error`", 429, oai("engine_overloaded_error"), "overloaded"),
    Case("moonshot", "429 `rate_limit_reached_error`", 429, oai("rate_limit_reached_error"), "rate_limited model"),
    Case("moonshot", "404 `resource_not_found_error`", 404, oai("resource_not_found_error"), "model_gone key"),
    Case("moonshot", "400 `content_filter`", 400, oai("content_filter"), "refused"),
    Case("dashscope", "400 `Arrearage`", 400, oai("Arrearage", "Arrearage"), "dead, credits"),
    Case("dashscope", "400 `data_inspection_failed`", 400, oai("x", "data_inspection_failed"), "refused"),
    Case("dashscope", "403 `AccessDenied.Unpurchased`", 403, oai("x", "AccessDenied.Unpurchased"), "model_gone key"),
    Case(
        "mistral",
        "400 `invalid_model`",
        400,
        {"object": "error", "message": "Invalid model: m", "type": "invalid_model", "param": None, "code": "1500"},
        "model_gone",
    ),
    Case("fireworks", "412 `PRECONDITION_FAILED` (suspended)", 412, FIREWORKS, "dead, credits"),
    Case("azure", "404 `DeploymentNotFound`", 404, {"error": {"code": "DeploymentNotFound"}}, "model_gone key"),
    Case("azure", "401 with code `401`", 401, {"error": {"code": "401", "message": "wrong key"}}, "dead"),
    Case("anthropic", "404 `not_found_error`", 404, {"type": "error", **oai("not_found_error")}, "model_gone key"),
    Case("anthropic", "529 `overloaded_error`", 529, {"type": "error", **oai("overloaded_error")}, "overloaded"),
    Case(
        "anthropic", "413 `request_too_large`", 413, {"type": "error", **oai("request_too_large")}, "context_overflow"
    ),
    Case("anthropic", "402 `billing_error`", 402, {"type": "error", **oai("billing_error")}, "dead, credits"),
    Case("ollama", "404 `api_error`", 404, oai("api_error"), "model_gone"),
    Case("ollama", "404 `not_found_error`", 404, oai("not_found_error"), "model_gone key"),
    Case("xai", "404 `Some requested entity was not found`", 404, XAI_404, "model_gone key"),
    Case("litellm", "400 `budget_exceeded`", 400, oai("budget_exceeded", "400"), "dead, credits"),
    Case("litellm", "429 `budget_exceeded`", 429, oai("budget_exceeded", "429"), "dead, credits"),
    Case("litellm", "401 `key_model_access_denied`", 401, oai("key_model_access_denied", "401"), "model_gone key"),
    Case("litellm", "401 `expired_key`", 401, oai("expired_key", "401"), "dead"),
    Case(
        "litellm",
        "429 with `llm_provider-retry-after`",
        429,
        oai("throttling_error", "429"),
        "rate_limited model",
        wait=17.0,
        headers={"llm_provider-retry-after": "17"},
    ),
)


def meaning(verdict: Verdict) -> str:
    if verdict.kind == "rate_limited" or (verdict.kind == "model_gone" and verdict.scope == "key"):
        return f"{verdict.kind} {verdict.scope}"
    return f"{verdict.kind}, credits" if verdict.credits else verdict.kind


def refusal_of(case: Case) -> openai.APIStatusError:
    """What the openai SDK raises for an answer."""

    def handle(request: Any) -> Any:
        return httpx2.Response(case.status, json=case.body, headers=case.headers)

    http = httpx2.Client(transport=httpx2.MockTransport(handle))
    client = openai.OpenAI(api_key="k", base_url="http://server.example", http_client=http, max_retries=0)
    with pytest.raises(openai.APIStatusError) as caught:
        client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])
    return caught.value


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.server}: {case.sends}".replace("`", ""))
def test_a_servers_error_gets_its_verdict(case: Case) -> None:
    verdict = judge(refusal_of(case), OPENAI, now=lambda: NOW)
    assert meaning(verdict) == case.means
    assert verdict.retry_after == case.wait


def test_the_documentation_has_a_row_for_each_of_them() -> None:
    lines = DOCS.read_text(encoding="utf-8").splitlines()
    rows = [f"| {case.server} | {case.sends} | {case.means} |" for case in CASES]
    servers = tuple({f"| {case.server} |" for case in CASES})
    assert [line for line in lines if line.startswith(servers)] == rows


def test_the_bad_request_of_xai_names_its_code_for_a_wrong_key_too() -> None:
    body = {"code": "Client specified an invalid argument", "error": "The model expects a single `text` element."}
    verdict = judge(refusal_of(Case("xai", "", 400, body, "")), OPENAI)
    assert (verdict.kind, verdict.code) == ("bad_request", body["code"])
    assert verdict.code in QUOTES_KEY
    assert verdict.message == body["error"]


def test_a_providers_own_wait_header_counts_before_the_others() -> None:
    headers = {"X-Corp-Budget-Renews": "17", "retry-after": "3"}
    error = refusal_of(Case("corp", "", 429, oai(), "", headers=headers))
    assert judge(error).retry_after == 3
    assert judge(error, ErrorRules(wait_headers=("X-Corp-Budget-Renews",))).retry_after == 17


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1m30s", 90.0), (str(int(NOW + 60)), 60.0), ("Sat, 21 Nov 2026 12:00:30 GMT", 30.0), ("later", None)],
)
def test_a_providers_own_wait_header_has_the_forms_of_the_others(text: str, seconds: float | None) -> None:
    error = refusal_of(Case("corp", "", 429, oai(), "", headers={"x-renews": text}))
    assert judge(error, ErrorRules(wait_headers=("x-renews",)), now=lambda: NOW).retry_after == seconds


# -- botocore and Cohere: by the shapes of their errors, which need not be installed ---------------------------------


def aws(code: str | None, status: int | None = 400, name: str = "ClientError", **headers: str) -> Exception:
    """botocore's ClientError, or its EventStreamError where there is no status."""
    kind = type(name, (Exception,), {"__module__": "botocore.exceptions"})
    error: Any = kind(f"An error occurred ({code}) when calling the Converse operation")
    error.response = {"Error": {"Code": code, "Message": "as AWS words it"}}
    if status is not None:
        error.response["ResponseMetadata"] = {"HTTPStatusCode": status, "HTTPHeaders": headers}
    made: Exception = error
    return made


@pytest.mark.parametrize(
    ("code", "status", "means"),
    [
        ("ThrottlingException", 429, "rate_limited model"),
        ("ServiceQuotaExceededException", 400, "rate_limited model"),
        ("ModelNotReadyException", 429, "overloaded"),
        ("ServiceUnavailableException", 503, "overloaded"),
        ("InternalServerException", 500, "server_error"),
        ("ModelErrorException", 424, "server_error"),
        ("ModelTimeoutException", 408, "server_error"),
        ("ResourceNotFoundException", 404, "model_gone key"),
        ("UnrecognizedClientException", 403, "dead"),
        ("InvalidSignatureException", 403, "dead"),
        ("ExpiredTokenException", 403, "dead"),
        ("AccessDeniedException", 403, "rate_limited model"),
        ("ValidationException", 400, "bad_request"),
        ("Unheard", 500, "server_error"),
        ("throttlingException", None, "rate_limited model"),
        ("modelStreamErrorException", None, "server_error"),
        (None, 503, "overloaded"),
    ],
)
def test_botocores_errors_are_read_by_their_code(code: str | None, status: int | None, means: str) -> None:
    verdict = judge(aws(code, status), AWS)
    assert meaning(verdict) == means
    assert verdict.status == status
    assert verdict.sent


def test_botocores_errors_tell_their_words_and_their_wait() -> None:
    verdict = judge(aws("ThrottlingException", 429, **{"retry-after": "9"}), AWS)
    assert (verdict.message, verdict.retry_after) == ("as AWS words it", 9.0)


def bare(module: str, name: str) -> Exception:
    error: Exception = type(name, (Exception,), {"__module__": module})("broken")
    return error


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("EndpointConnectionError", False),
        ("ConnectTimeoutError", False),
        ("ProxyConnectionError", False),
        ("ReadTimeoutError", True),
        ("ConnectionClosedError", True),
        ("ResponseStreamingError", True),
        ("HTTPClientError", True),
    ],
)
def test_botocores_transport_is_one(name: str, sent: bool) -> None:
    verdict = judge(bare("botocore.exceptions", name), AWS)
    assert (verdict.kind, verdict.sent) == ("transport", sent)


@pytest.mark.parametrize("name", ["NoCredentialsError", "ParamValidationError", "NoRegionError"])
def test_botocores_complaints_about_what_it_was_given_are_local(name: str) -> None:
    assert judge(bare("botocore.exceptions", name), AWS).kind == "local"


@pytest.mark.parametrize("module", ["cohere.core.http_sse._exceptions", "httpx_sse._exceptions"])
def test_a_stream_that_is_no_event_stream_is_the_servers_fault(module: str) -> None:
    verdict = judge(bare(module, "SSEError"), COHERE)
    assert (verdict.kind, verdict.sent) == ("server_error", True)


def test_botocores_real_errors_are_read_as_their_shapes() -> None:
    real = pytest.importorskip("botocore.exceptions", reason="botocore is not installed")
    response = {"Error": {"Code": "ThrottlingException"}, "ResponseMetadata": {"HTTPStatusCode": 429}}
    errors = {
        real.ClientError(response, "Converse"): ("rate_limited", True),
        real.EventStreamError({"Error": {"Code": "serviceUnavailableException"}}, "Converse"): ("overloaded", True),
        real.EndpointConnectionError(endpoint_url="http://x"): ("transport", False),
        real.ConnectTimeoutError(endpoint_url="http://x"): ("transport", False),
        real.ReadTimeoutError(endpoint_url="http://x"): ("transport", True),
        real.NoCredentialsError(): ("local", False),
    }
    for error, (kind, sent) in errors.items():
        verdict = judge(error, AWS)
        assert (verdict.kind, verdict.sent) == (kind, sent)


def test_coheres_real_errors_are_read_as_their_shapes() -> None:
    sse = pytest.importorskip("cohere.core.http_sse._exceptions", reason="cohere is not installed")
    api = pytest.importorskip("cohere.core.api_error")
    assert judge(sse.SSEError("no event stream"), COHERE).kind == "server_error"
    refused = judge(api.ApiError(status_code=429, headers={"retry-after": "4"}, body={"message": "slow down"}), COHERE)
    assert (refused.kind, refused.retry_after, refused.message) == ("rate_limited", 4.0, "slow down")

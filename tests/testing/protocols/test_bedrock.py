"""The dialect of Amazon Bedrock's Converse, read by boto3."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from hfs_providers.testing import (
    BadRequest,
    ContextTooLong,
    Forbidden,
    LoopbackServer,
    ModelGone,
    Ok,
    RateLimited,
    ServerError,
    Step,
    StreamError,
    Unauthorized,
)
from hfs_providers.testing.protocols.bedrock import BedrockDialect

boto3 = pytest.importorskip("boto3", reason="boto3 is not installed")

ID = "AKIAIOSFODNN7EXAMPLE"
HELLO = [{"role": "user", "content": [{"text": "hello"}]}]
SCHEMA = {"type": "object", "properties": {"country": {"type": "string"}}, "required": ["country"]}
TOOLS = {"tools": [{"toolSpec": {"name": "capital_of", "inputSchema": {"json": SCHEMA}}}]}


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer(dialects=[BedrockDialect("rock")]) as server:
        yield server


@pytest.fixture
def client(server: LoopbackServer) -> Any:
    from botocore.config import Config

    return boto3.client(
        "bedrock-runtime",
        region_name="us-east-1",
        endpoint_url=server.base_url("rock"),
        aws_access_key_id=ID,
        aws_secret_access_key="secret",
        config=Config(retries={"total_max_attempts": 1}, signature_version="v4"),
    )


def test_an_answer_in_one_piece(server: LoopbackServer, client: Any) -> None:
    server.script("rock", ID, [Ok(text="hi", usage=(10, 3), cached=4)])
    answer = client.converse(modelId="m.1-v1:0", messages=HELLO)
    assert (answer["output"]["message"]["content"], answer["stopReason"]) == ([{"text": "hi"}], "end_turn")
    usage = answer["usage"]
    assert (usage["inputTokens"], usage["cacheReadInputTokens"], usage["totalTokens"]) == (6, 4, 13)
    assert server.seen[0].model == "m.1-v1:0"


def test_a_stream_ends_with_its_usage(server: LoopbackServer, client: Any) -> None:
    server.script("rock", ID, [Ok(text="one two three", usage=(10, 3))])
    events = list(client.converse_stream(modelId="m-1", messages=HELLO)["stream"])
    deltas = [event["contentBlockDelta"]["delta"]["text"] for event in events if "contentBlockDelta" in event]
    assert (len(deltas) > 1, "".join(deltas)) == (True, "one two three")
    assert [next(iter(event)) for event in (events[0], *events[-2:])] == ["messageStart", "messageStop", "metadata"]
    assert events[-1]["metadata"]["usage"]["totalTokens"] == 13


def test_a_tool_and_its_result(client: Any) -> None:
    called = client.converse(modelId="m-1", messages=HELLO, toolConfig=TOOLS)["output"]["message"]
    call = called["content"][0]["toolUse"]
    assert (call["name"], call["input"]) == ("capital_of", {"country": "hello"})
    result = {"toolResult": {"toolUseId": call["toolUseId"], "content": [{"text": "Zenith"}]}}
    answer = client.converse(
        modelId="m-1", messages=[*HELLO, called, {"role": "user", "content": [result]}], toolConfig=TOOLS
    )
    assert "Zenith" in answer["output"]["message"]["content"][0]["text"]
    with pytest.raises(client.exceptions.ValidationException):
        client.converse(modelId="m-1", messages=[*HELLO, called], toolConfig=TOOLS)


@pytest.mark.parametrize(
    ("step", "code", "status"),
    [
        (Unauthorized(), "UnrecognizedClientException", 403),
        (Forbidden(), "AccessDeniedException", 403),
        (ModelGone(), "ResourceNotFoundException", 404),
        (BadRequest(), "ValidationException", 400),
        (ContextTooLong(), "ValidationException", 400),
        (RateLimited(), "ThrottlingException", 429),
        (ServerError(500), "InternalServerException", 500),
        (ServerError(503), "ServiceUnavailableException", 503),
    ],
    ids=lambda given: type(given).__name__ if isinstance(given, Step) else None,
)
def test_an_error_is_one_that_the_sdk_knows(
    server: LoopbackServer, client: Any, step: Step, code: str, status: int
) -> None:
    from botocore.exceptions import ClientError

    server.script("rock", "*", [step])
    with pytest.raises(ClientError) as caught:
        client.converse(modelId="m-1", messages=HELLO)
    response = caught.value.response
    assert (response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]) == (code, status)


def test_an_error_inside_a_stream(server: LoopbackServer, client: Any) -> None:
    from botocore.exceptions import EventStreamError

    server.script("rock", "*", [StreamError(chunks=1)])
    with pytest.raises(EventStreamError, match="modelStreamErrorException"):
        list(client.converse_stream(modelId="m-1", messages=HELLO)["stream"])

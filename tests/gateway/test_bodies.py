"""What is read and replaced in bodies and streams, whatever they look like."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfs_providers.calls.answers import UnusableAnswerError
from hfs_providers.contract.usage_fields import COMMON_FIELDS, Tokens
from hfs_providers.gateway.body import RequestBody
from hfs_providers.gateway.reading import ANTHROPIC_USAGE, StreamReader, check_whole
from hfs_providers.gateway.refusals import Refusal
from tests.gateway.served import DONE, USAGE, delta

NAMES = st.text(max_size=5) | st.sampled_from(["model", "stream", "a", 'a":1,"b'])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just('{"model":1},"a":"'),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)

at_any_load = settings(deadline=None, suppress_health_check=list(HealthCheck))


@at_any_load
@given(st.lists(st.tuples(NAMES, VALUES), max_size=6), st.booleans(), st.sampled_from([None, 1]))
def test_members_are_found_and_replaced_and_none_may_be_there_twice(
    members: list[tuple[str, Any]], ascii_only: bool, indent: int | None
) -> None:
    blank = "\n " if indent else ""
    text = ",".join(
        f"{blank}{json.dumps(name, ensure_ascii=ascii_only)}{blank}:{blank}{json.dumps(value, indent=indent)}{blank}"
        for name, value in members
    )
    data = f"{blank}{{{text}{blank}}}{blank}".encode("utf-8", "surrogatepass")
    if not _is_utf8(data):
        return
    whole = dict(members)
    if len(whole) < len(members):
        with pytest.raises(Refusal, match="twice"):
            RequestBody(data)
        return
    body = RequestBody(data)
    assert {name: json.loads(body.raw(name)) for name in whole} == whole
    changed = body.replaced({"model": b'"other"', "added": b"[1]"})
    assert json.loads(changed) == {**whole, "model": "other", "added": [1]}
    assert body.replaced({}) == data


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"nonsense",
        b'{"a":1',
        b'{"a":1}{"b":2}',
        b'{"a":"\xff"}',
        b'\xef\xbb\xbf{"a":1}',
        b'{"a":NaN}',
        b'{"a":' + b"[" * 5_000_000 + b"]" * 5_000_000 + b"}",
    ],
)
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        RequestBody(data)
    assert (refused.value.status, refused.value.code) == (400, "invalid_json")


STREAMS = {
    "chat": [b": wait\n\n", delta("a \n\n data: [DONE] "), delta("", "stop"), USAGE, DONE],
    "crlf": [
        event.replace(b"\n", b"\r\n") for event in (delta('"usage": {"error": 1}'), delta("", "stop"), USAGE, DONE)
    ],
    "responses": [
        b'event: response.created\ndata: {"type":"response.created","response":{"error":null,"usage":null}}\n\n',
        b'data: {"type":"response.completed","response":{"usage":{"input_tokens":1,"output_tokens":2,'
        b'"input_tokens_details":{"cached_tokens":0}}}}\n\n',
    ],
    "messages": [
        b'data: {"type":"message_start","message":{"usage":{"input_tokens":1,"output_tokens":1}}}\n\n',
        b'data: {"type":"message_delta","usage":{"output_tokens":2}}\n\n',
        b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
    ],
}
STREAMS["cr"] = [event.replace(b"\n", b"\r") for event in STREAMS["messages"]]


@at_any_load
@given(st.sampled_from(sorted(STREAMS)), st.lists(st.integers(1, 60), min_size=1), st.booleans())
def test_a_stream_is_read_the_same_however_it_is_cut(kind: str, sizes: list[int], strips: bool) -> None:
    events = STREAMS[kind]
    whole, reader, passed, at = b"".join(events), StreamReader(COMMON_FIELDS, strips), b"", 0
    while at < len(whole):
        size = sizes[at % len(sizes)]
        passed += reader.feed(whole[at : at + size])
        at += size
    passed += reader.close()
    assert reader.finished
    assert reader.usage == Tokens(1, 2, 3)
    left_out = [event for event in events if strips and b'"choices": []' in event]
    assert passed == b"".join(event for event in events if event not in left_out)


@pytest.mark.parametrize("event", [b'{"error": {"message": "no"}}', b'{"type": "error", "error": {"type": "x"}}'])
def test_an_error_in_a_stream_ends_it_and_is_not_passed_on(event: bytes) -> None:
    reader = StreamReader(COMMON_FIELDS, False)
    assert reader.feed(delta("a") + b"data: " + event + b"\n\n" + delta("b")) == delta("a")
    with pytest.raises(UnusableAnswerError):
        reader.close()


@pytest.mark.parametrize(
    ("events", "kind"),
    [((), "empty"), ((b": only a comment\n\n",), "empty"), ((delta("a"),), "interrupted"), ((b"data: {",), "empty")],
)
def test_a_stream_without_its_end_is_no_answer(events: tuple[bytes, ...], kind: str) -> None:
    reader = StreamReader(COMMON_FIELDS, False)
    for event in events:
        reader.feed(event)
    with pytest.raises(UnusableAnswerError) as failed:
        reader.close()
    assert failed.value.verdict is not None
    assert failed.value.verdict.kind == kind


def test_a_finish_reason_will_do_where_there_is_no_end_mark() -> None:
    reader = StreamReader(COMMON_FIELDS, False)
    assert (
        reader.feed(delta("a") + delta("", "stop").rstrip()) + reader.close() == delta("a") + delta("", "stop").rstrip()
    )


@pytest.mark.parametrize(
    ("usage", "tokens"),
    [
        ({"prompt_tokens": 5, "completion_tokens": 2}, Tokens(5, 2, 7)),
        ({"prompt_tokens": 5, "total_tokens": 5}, Tokens(5, 0, 5)),
        ({"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}, Tokens(5, 0, 5, 4)),
        ({"prompt_tokens": "many"}, Tokens()),
        (7, None),
        (None, None),
    ],
)
def test_usage_is_what_the_provider_counted_and_never_an_error(usage: Any, tokens: Tokens | None) -> None:
    assert (
        check_whole("chat/completions", json.dumps({"choices": [{}], "usage": usage}).encode(), COMMON_FIELDS) == tokens
    )


def test_anthropic_counts_its_cache_apart() -> None:
    usage = {"input_tokens": 5, "output_tokens": 2, "cache_read_input_tokens": 90, "cache_creation_input_tokens": 10}
    body = json.dumps({"content": [{"type": "text"}], "usage": usage}).encode()
    assert check_whole("messages", body, ANTHROPIC_USAGE) == Tokens(105, 2, 107, 90, 10)

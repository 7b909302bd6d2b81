"""Lines and messages of the wire protocol."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfs_providers.agents import wire
from hfs_providers.agents.wire import Lines, Refusal, RpcError, TooLong, decode, encode, read_call
from tests.agents.workers import nested

at_any_load = settings(deadline=None, suppress_health_check=list(HealthCheck))


def lengths(found: list[bytes | TooLong]) -> list[bytes | None]:
    return [None if isinstance(line, TooLong) else line for line in found]


class TestLines:
    @at_any_load
    @given(st.lists(st.binary(max_size=12).filter(lambda part: b"\n" not in part)), st.lists(st.integers(1, 7)))
    def test_are_the_same_however_they_arrive(self, parts: list[bytes], cuts: list[int]) -> None:
        data, whole = b"".join(part + b"\n" for part in parts), Lines(limit=9)
        at_once = lengths(list(whole.feed(data)))
        piecewise, lines = [], Lines(limit=9)
        for cut in [*cuts, len(data)]:
            piecewise += lengths(list(lines.feed(data[:cut])))
            data = data[cut:]
        assert piecewise == at_once == [part if len(part) < 9 else None for part in parts]

    def test_may_be_as_long_as_the_limit_with_their_end(self) -> None:
        assert lengths(list(Lines(limit=4).feed(b"abc\nabcd\nab\n"))) == [b"abc", None, b"ab"]

    def test_hold_no_more_than_the_limit_of_one_that_never_ends(self) -> None:
        lines = Lines(limit=10)
        for _ in range(100):
            assert list(lines.feed(b"x" * 7)) == []
        assert len(lines._held) <= 10
        assert lengths(list(lines.feed(b"\nok\n"))) == [None, b"ok"]


class TestMessages:
    @at_any_load
    @given(st.dictionaries(st.text(), st.text() | st.integers() | st.none() | st.lists(st.booleans())))
    def test_go_there_and_back_in_one_line(self, message: dict[str, object]) -> None:
        line = encode(message)
        assert line.count(b"\n") == 1
        assert decode(line) == message

    def test_may_hold_what_utf_8_cannot(self) -> None:
        assert decode(encode({"text": "\ud800"})) == {"text": "\ud800"}

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), "x" * wire.LINE_LIMIT, nested(100_000)])
    def test_that_cannot_be_said_are_refused(self, value: object) -> None:
        with pytest.raises(ValueError, match=r"JSON|limit"):
            encode({"value": value})

    @pytest.mark.parametrize("line", [b"{", b"\xff", b"[" * 100_000, b'{"a": NaN}', b"1" * 5000, b""])
    def test_that_are_no_json_are_one_kind_of_error(self, line: bytes) -> None:
        with pytest.raises(ValueError, match=r".+"):
            decode(line)


class TestCalls:
    def test_with_an_id_want_an_answer(self) -> None:
        call = read_call({"jsonrpc": "2.0", "id": None, "method": "health"})
        assert (call.answered, call.id, call.params) == (True, None, {})

    def test_without_one_want_none(self) -> None:
        assert not read_call({"jsonrpc": "2.0", "method": "health"}).answered

    @pytest.mark.parametrize(
        ("message", "id", "code"),
        [
            ([], None, -32600),
            ("text", None, -32600),
            (None, None, -32600),
            ({"id": 1, "method": "health"}, 1, -32600),
            ({"jsonrpc": "1.0", "id": 1, "method": "health"}, 1, -32600),
            ({"jsonrpc": "2.0", "id": "a"}, "a", -32600),
            ({"jsonrpc": "2.0", "id": 1, "method": 1}, 1, -32600),
            ({"jsonrpc": "2.0", "id": 1, "result": {}}, 1, -32600),
            ({"jsonrpc": "2.0", "id": True, "method": "health"}, None, -32600),
            ({"jsonrpc": "2.0", "id": [], "method": "health"}, None, -32600),
            ({"jsonrpc": "2.0", "id": "x" * 257, "method": "health"}, None, -32600),
            ({"jsonrpc": "2.0", "id": json.loads("1e999"), "method": "health"}, None, -32600),
            ({"jsonrpc": "2.0", "id": 1, "method": "health", "params": 1}, 1, -32600),
            ({"jsonrpc": "2.0", "id": 1, "method": "health", "params": [1]}, 1, -32602),
        ],
    )
    def test_that_are_none_say_what_to_answer(self, message: object, id: object, code: int) -> None:
        with pytest.raises(Refusal) as caught:
            read_call(message)
        assert (caught.value.id, caught.value.error.code, caught.value.answered) == (id, code, True)

    def test_a_notification_with_wrong_params_is_not_answered(self) -> None:
        with pytest.raises(Refusal) as caught:
            read_call({"jsonrpc": "2.0", "method": "health", "params": [1]})
        assert not caught.value.answered


def test_an_error_shows_its_code_and_data() -> None:
    error = RpcError(-32003, "no such session", {"session_id": "x"})
    assert str(error) == 'no such session (-32003): {"session_id": "x"}'
    assert wire.error_answer(1, error)["error"]["data"] == {"session_id": "x"}

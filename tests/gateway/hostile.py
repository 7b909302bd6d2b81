"""What is sent to a gateway by nobody who means well, and what may come back.

python -m tests.gateway.hostile --examples 5000
"""

from __future__ import annotations

import argparse
import json
import socket
import sys
from typing import Any

import httpx
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

BODY = b'{"model":"corp/m","messages":[{"role":"user","content":"hello"}]}'
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"

_SEEDS = (
    HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY,
    HEAD + b"transfer-encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY),
    b"GET /v1/models/corp/m HTTP/1.1\r\nhost: localhost\r\naccept: */*\r\n\r\n",
    HEAD.replace(b"chat/completions", b"messages")
    + b"anthropic-version: 2023-06-01\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n{}",
)
_PIECES = (
    *(b"\r\n", b"\n", b"\r", b"\x00", b"\xff", b" ", b":", b"0", b'"', b"{", b"[", b"\t", b"%", b"/", b"?", b"#"),
    *(b"content-length: 5\r\n", b"transfer-encoding: chunked\r\n", b"host: evil.example\r\n", b"origin: null\r\n"),
    *(b"connection: close\r\n", b"connection: upgrade\r\nupgrade: h2c\r\n", b"HTTP/1.0", b"HTTP/2.0", b"GET ", b"\\u"),
    *(b'"stream":true,', b'"model":5,', b"x" * 40_000, b"\r\n\r\n", b"ffffffffffffffff\r\n"),
)
ODD: tuple[Any, ...] = (
    *(5, -1, 10**400, 1e308, None, True, "x", "", "\ud800", [], {}, [5], [None], [[]], [{}]),
    *([{"role": 5, "content": 5}], [{"role": "user", "content": [5, {"type": 5}, {"type": "text", "text": 7}]}]),
)
"""Values of other types than most members have."""

_MEMBERS = (
    *("model", "messages", "input", "instructions", "system", "tools", "tool_choice", "stream", "stream_options"),
    *("max_tokens", "user", "metadata", "prompt_cache_key", "previous_response_id", "conversation", "n", "stop"),
)
_ENDPOINTS = ("chat/completions", "responses", "embeddings", "messages")


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A good request with a few pieces taken out, put in or doubled."""
    data = draw(st.sampled_from(_SEEDS))
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 20)))
        piece = draw(st.sampled_from(_PIECES) | st.binary(max_size=4) | st.just(data[at:end] * 2))
        data = data[:at] + piece + data[end:]
    return data


def check_answers(got: bytes) -> None:
    """Whether what came back on a connection is a series of answers, errors in the usual shape among them.

    Raises:
        AssertionError: it is not.
    """
    while got:
        head, _, got = got.partition(b"\r\n\r\n")
        line, _, rest = head.partition(b"\r\n")
        assert line.startswith(b"HTTP/1.1 "), line
        status, fields = int(line.split()[1]), rest.lower()
        if status == 100:
            continue
        assert status in (200, 400, 403, 404, 405, 408, 413, 415, 431, 501), (status, got[:300])
        if b"transfer-encoding: chunked" in fields:
            end = got.index(b"0\r\n\r\n") + 5
            got = got[end:]
            continue
        length = int(fields.partition(b"content-length: ")[2].split(b"\r\n")[0])
        body, got = got[:length], got[length:]
        if status >= 400 and body:
            error = json.loads(body)["error"]
            assert {"message", "type"} <= set(error), body


class OddRequests:
    """Requests with one member that is of another type than it should be.

    Args:
        url: of the gateway.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.wrong: list[str] = []

    def run(self) -> int:
        """Send them all; how many they are."""
        sent = 0
        with httpx.Client(timeout=20, headers={"content-type": "application/json"}) as client:
            for endpoint in _ENDPOINTS:
                for member in _MEMBERS:
                    for value in ODD:
                        body = json.dumps({"model": "corp/m", "messages": [], member: value})
                        got = client.post(f"{self._url}/v1/{endpoint}", content=body.encode())
                        sent += 1
                        if got.status_code not in (200, 400, 404) or not isinstance(got.json(), dict):
                            self.wrong.append(f"{endpoint} {body[:200]}: {got.status_code} {got.text[:200]}")
        return sent


def main() -> int:
    """Send mutated requests to a gateway that runs."""
    parser = argparse.ArgumentParser(prog="python -m tests.gateway.hostile", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--examples", type=int, default=5000)
    arguments = parser.parse_args()

    @settings(max_examples=arguments.examples, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(mutated())
    def holds(data: bytes) -> None:
        with socket.create_connection(("127.0.0.1", arguments.port), timeout=60) as connection:
            connection.sendall(data)
            connection.settimeout(0.2)
            got = b""
            try:
                while more := connection.recv(65536):
                    got += more
            except TimeoutError:
                # It waits for more, or keeps the connection.
                pass
            except ConnectionResetError:
                return
        check_answers(got)

    holds()
    return 0


if __name__ == "__main__":
    sys.exit(main())

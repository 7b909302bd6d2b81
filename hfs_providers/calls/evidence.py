"""Reads an error of an SDK or a transport into `Evidence`, by duck typing: no SDK is imported."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from hfs_providers.calls.retry_after import lower_headers
from hfs_providers.contract.error_rules import Evidence

MAX_MESSAGE = 2000
"""Characters of a provider's message that a verdict keeps."""

_MAX_CHAIN = 20
_MAX_BODY = 1_000_000
_NO_SDKS = {"hfs_providers", "pydantic", "pydantic_core", "typing_extensions"}


def evidence_of(link: BaseException, now: float) -> Evidence:
    """The answer that an SDK's error describes; `now` is the wall clock, in seconds since the epoch."""
    return evidence_in(body_of(link), now, status_of(link), headers_of(link), type_of(link)[1])


def evidence_in(
    body: object, now: float, status: int | None, headers: Mapping[str, list[str]] | None = None, sdk: str = ""
) -> Evidence:
    """The evidence of an answer; `now` is the wall clock, `sdk` the top-level module of the error's class."""
    error = _innermost(body)
    if status is None or status < 400:
        # An error event inside a stream, or in the body of a 200: the body's own status is the true one.
        inner = as_int(error.get("status_code")) or as_int(error.get("code"))
        status = inner if inner is not None and 400 <= inner < 600 else status
    return Evidence(status, error, headers or {}, sdk, body, now)


def chain_of(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    link: BaseException | None = error
    while isinstance(link, BaseException) and id(link) not in seen and len(seen) < _MAX_CHAIN:
        seen.add(id(link))
        yield link
        cause = link.__cause__
        link = cause if cause is not None else None if link.__suppress_context__ else link.__context__


def frames_of(link: BaseException) -> Iterator[tuple[str, str, Any]]:
    trace = link.__traceback__
    for _ in range(200):
        if trace is None:
            return
        frame = trace.tb_frame
        yield str(frame.f_globals.get("__name__", "")).partition(".")[0], frame.f_code.co_name, frame
        trace = trace.tb_next


def type_of(link: BaseException) -> tuple[str, str]:
    return type(link).__name__, root_of(type(link))


def modules_of(model_class: type[Any]) -> frozenset[str]:
    """The top-level modules of the classes that an Agno model class imports, among them its SDK."""
    homes = [vars(sys.modules[base.__module__]) for base in model_class.__mro__ if base.__module__ in sys.modules]
    known = {root_of(thing) for home in homes for thing in home.values() if isinstance(thing, type)}
    return frozenset(known - {root_of(base) for base in model_class.__mro__} - sys.stdlib_module_names - _NO_SDKS)


def root_of(kind: type[Any]) -> str:
    """The top-level module of a class."""
    return str(kind.__module__).partition(".")[0]


def get(thing: object, name: str) -> Any:
    try:
        return getattr(thing, name, None)
    except Exception:  # a property of an unknown object may raise anything
        return None


def as_int(value: object) -> int | None:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 6:
        return int(value)
    return None


def as_name(value: object) -> str | None:
    return value[:100] if isinstance(value, str) and value and not value.isdigit() else None


def as_mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def status_of(link: BaseException) -> int | None:
    response = get(link, "response")
    for value in (
        _of_aws(response, "HTTPStatusCode"),
        get(link, "status_code"),
        get(link, "code"),
        get(response, "status_code"),
        get(response, "status"),
        get(link, "status"),
    ):
        status = as_int(value)
        if status is not None and 100 <= status < 600:
            return status
    return None


def headers_of(link: BaseException) -> dict[str, list[str]]:
    response = get(link, "response")
    return lower_headers(get(response, "headers") or get(link, "headers") or _of_aws(response, "HTTPHeaders"))


def body_of(link: BaseException) -> object:
    """The decoded body, from any of the places where SDKs keep it. Never reads from the network, never awaits."""
    response = get(link, "response")
    if "Error" in as_mapping(response):
        return _aws_error(response)
    text: object = None
    for source, name in ((link, "body"), (link, "details"), (response, "content"), (response, "text")):
        value = get(source, name)
        if isinstance(value, (Mapping, list)):
            return value
        if isinstance(value, (str, bytes)) and len(value) <= _MAX_BODY:
            value = decoded(value)
            if not isinstance(value, str):
                return value
            # The openai SDK keeps only the `error` of a body. If that is a text, the code is in the whole body.
            text = value if text is None else text
    return text


def _of_aws(response: object, name: str) -> Any:
    """A part of the answer that botocore keeps as a dictionary in its errors."""
    return as_mapping(as_mapping(response).get("ResponseMetadata")).get(name)


def _aws_error(response: Mapping[str, Any]) -> object:
    """botocore's `Error` with the usual names. In a stream its code begins with a small letter."""
    error = as_mapping(response.get("Error"))
    code = error.get("Code")
    code = code[:1].upper() + code[1:] if isinstance(code, str) else None
    return {"error": {"code": code, "message": error.get("Message")}}


def decoded(value: str | bytes) -> object:
    """A body decoded from JSON, or as text if it is not JSON."""
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    if text.lstrip()[:1] not in ("{", "["):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _innermost(body: object) -> Mapping[str, Any]:
    """The innermost error object of a body: most servers wrap it in `error`."""
    for _ in range(4):
        if isinstance(body, list):
            body = body[0] if body else None
        inner = as_mapping(body).get("error")
        if not isinstance(inner, (Mapping, list)):
            break
        body = inner
    return as_mapping(body)


def message_of(evidence: Evidence, link: BaseException, more: Iterable[str] = ()) -> str:
    """The provider's message with the texts at the paths `more`, or that of `link` if the body has none."""
    said = evidence.error.get("message") or evidence.error.get("error")
    body = evidence.body
    if not isinstance(said, str) or not said:
        return body[:MAX_MESSAGE] if isinstance(body, str) and body.strip() else words_of(link)
    added = [text for path in more for text in evidence.values(path) if isinstance(text, str) and text]
    return ": ".join([said, *added])[:MAX_MESSAGE]


def words_of(error: object) -> str:
    """An error's own message."""
    try:
        said = get(error, "message")
        return (said if isinstance(said, str) and said else str(error))[:MAX_MESSAGE] or type(error).__name__
    except Exception:
        return type(error).__name__

"""One attempt of a call, for the code that runs below it: its log records are held back, and the responses that it
opens are noted.

Agno logs every failed request at ERROR, to stdout. While an attempt runs, such records are held back; those of the
attempt that ends the call are let through afterwards, scrubbed. The shared HTTP clients note the responses that they
open, so that a dropped stream can be closed explicitly.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any

from hfs_providers.contract.redaction import Redactor
from hfs_providers.contract.usage_row import Trace

_LOGGERS = ("agno", "agno-team", "agno-workflow")


class Attempt:
    """Enter it around each step that may log or open a response. It can be entered many times, but not nested."""

    __slots__ = ("_records", "_token", "learns", "responses", "trace")

    def __init__(self, trace: Trace | None = None) -> None:
        self.trace = trace or Trace()
        """The call that the requests sent in it belong to."""
        self.responses: list[Any] = []
        """Open responses and, if it `learns` from their headers, those that were read to their end."""
        self.learns = False
        self._records: list[logging.LogRecord] | None = None
        self._token: Token[Attempt | None] | None = None

    def __enter__(self) -> None:
        self._token = running.set(self)

    def __exit__(self, *_: object) -> None:
        assert self._token is not None
        running.reset(self._token)

    def hold(self, record: logging.LogRecord) -> None:
        """Keep a log record back."""
        self._records = [*(self._records or ()), record]

    def let_through(self, redactor: Redactor) -> None:
        """Print the held log records, without keys."""
        records, self._records = self._records, None
        for record in records or ():
            record.msg, record.args = redactor.scrub(record.getMessage()), ()
            record.exc_info = record.exc_text = None
            logging.getLogger(record.name).handle(record)


running: ContextVar[Attempt | None] = ContextVar("hfs_attempt", default=None)
"""The attempt that runs. To set it and to reset it is what entering an attempt does, at half the cost."""

settled: ContextVar[str | None] = ContextVar("hfs_settled", default=None)
"""The id of the call whose attempt is being judged now."""

answering: ContextVar[str | None] = ContextVar("hfs_answering", default=None)
"""The id of the key with which an entry of a chain answered last in this context."""


@contextmanager
def settling(call_id: str) -> Iterator[None]:
    """Inside it, changes of keys that the pool reports belong to that call."""
    token = settled.set(call_id)
    try:
        yield
    finally:
        settled.reset(token)


class _Hold(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        attempt = running.get()
        if attempt is None or record.levelno < logging.ERROR:
            return True
        attempt.hold(record)
        return False


_hold = _Hold("hfs-providers")


def install() -> None:
    """Put the filter on Agno's loggers. Safe to call twice."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_hold)

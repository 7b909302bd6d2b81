"""Keeps Agno from printing attempts that will be repeated, and keys out of what it prints.

Agno logs every failed request at ERROR, to stdout. While an attempt runs, such records are held back; those of the
attempt that ends the call are let through afterwards, scrubbed.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar

from hfs_providers.core.secret import Redactor

_LOGGERS = ("agno", "agno-team", "agno-workflow")
_held: ContextVar[list[logging.LogRecord] | None] = ContextVar("hfs_held_records", default=None)


class _Hold(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        held = _held.get()
        if held is None or record.levelno < logging.ERROR:
            return True
        held.append(record)
        return False


_hold = _Hold("hfs-providers")


class Quiet:
    """The held records of one attempt. Enter it around each step that may log; it can be entered many times."""

    __slots__ = ("_records", "_token")

    def __init__(self) -> None:
        self._records: list[logging.LogRecord] = []

    def __enter__(self) -> None:
        self._token = _held.set(self._records)

    def __exit__(self, *_: object) -> None:
        _held.reset(self._token)

    def let_through(self, redactor: Redactor) -> None:
        """Print what was held, without keys."""
        records, self._records = self._records, []
        for record in records:
            record.msg, record.args = redactor.scrub(record.getMessage()), ()
            record.exc_info = record.exc_text = None
            logging.getLogger(record.name).handle(record)


def install() -> None:
    """Put the filter on Agno's loggers. Safe to call twice."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_hold)

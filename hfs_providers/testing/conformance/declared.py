"""Checks of the error rules that the plugin declares (`errors`): the server plays each entry, and its verdict must be
the declared one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from hfs_providers import ProviderManager
from hfs_providers.authoring import ErrorRules, Evidence, Kind, Meaning
from hfs_providers.calls.verdicts import Verdict, judge
from hfs_providers.errors import KeysExhaustedError, ModelCallError
from hfs_providers.testing.conformance.base import Base, ask, needs
from hfs_providers.testing.scripts import Raw
from hfs_providers.testing.server import LoopbackServer

_WAIT = 400
_STATUSES = (None, 200, *range(400, 600))
_ODD: tuple[Any, ...] = (None, 0, "", "text", [], [None, "text"], {}, {"inner": None})


class DeclaredErrorChecks(Base):
    """See `ProviderConformance`."""

    def test_the_meanings_that_it_declares_are_known(self) -> None:
        for entry, meaning in _entries(self._rules()):
            assert isinstance(meaning, Meaning), f"{entry} is not a Meaning"
            assert meaning.kind in get_args(Kind), f"{entry} has the kind {meaning.kind!r}"
            assert meaning.scope in ("model", "key"), f"{entry} has the scope {meaning.scope!r}"

    def test_a_declared_code_means_what_it_says(
        self, manager: ProviderManager, server: LoopbackServer, keys: list[str]
    ) -> None:
        rules = self._rules()
        for path, table in [*rules.fields.items(), ("code", rules.codes), ("type", rules.codes)]:
            for value, meaning in table.items():
                verdict = self._played(manager, server, keys[0], 400, _at(path, value))
                _same(verdict, meaning, f"{path} {value!r}")
                assert verdict.code == value

    def test_a_declared_status_means_what_it_says(
        self, manager: ProviderManager, server: LoopbackServer, keys: list[str]
    ) -> None:
        for status, meaning in self._rules().statuses.items():
            _same(self._played(manager, server, keys[0], status, {}), meaning, f"status {status}")

    def test_a_declared_exception_means_what_it_says(self) -> None:
        rules = self._rules()
        for name, meaning in rules.exceptions.items():
            for module in rules.modules:
                error = type(name, (Exception,), {"__module__": f"{module}.errors"})("as declared")
                _same(judge(error, rules), meaning, f"exception {name}")

    @needs("retry_after")
    def test_a_declared_wait_header_is_read(
        self, manager: ProviderManager, server: LoopbackServer, keys: list[str]
    ) -> None:
        for name in self._rules().wait_headers:
            verdict = self._played(manager, server, keys[0], 429, {}, {name: str(_WAIT), "retry-after": "3"})
            assert verdict.retry_after == _WAIT, f"header {name}"

    @needs("retry_after")
    def test_a_declared_wait_in_the_body_is_read(
        self, manager: ProviderManager, server: LoopbackServer, keys: list[str]
    ) -> None:
        rules = self._rules()
        waits = [(path, f"{_WAIT}s") for path in rules.wait_fields]
        headers = [(path, {"Retry-After": str(_WAIT)}) for path in rules.header_fields]
        for path, value in [*waits, *headers]:
            verdict = self._played(manager, server, keys[0], 429, _at(path, value))
            assert verdict.retry_after == _WAIT, path

    def test_a_declared_text_is_a_part_of_the_message(
        self, manager: ProviderManager, server: LoopbackServer, keys: list[str]
    ) -> None:
        for path in self._rules().message_fields:
            verdict = self._played(manager, server, keys[0], 400, {"message": "first", **_at(path, "second")})
            assert "first" in verdict.message, path
            assert "second" in verdict.message, path

    def test_what_decides_takes_any_answer(self) -> None:
        rules = self._rules()
        if rules.decide is None:
            pytest.skip(f"{self.name} declares no function `decide`")
        names = {part for path in (*rules.fields, *rules.wait_fields, *rules.header_fields) for part in path.split(".")}
        for status in _STATUSES:
            for odd in _ODD:
                error = dict.fromkeys(names | {"code", "type", "message"}, odd)
                found = rules.decide(Evidence(status, error, {}, self.name, error, time.time()))
                assert found is None or isinstance(found, Meaning)

    def _rules(self) -> ErrorRules:
        rules = getattr(self.plugin, "errors", None)
        if not isinstance(rules, ErrorRules):
            pytest.skip(f"{self.name} declares no errors")
        return rules

    def _played(
        self,
        manager: ProviderManager,
        server: LoopbackServer,
        key: str,
        status: int,
        error: dict[str, Any],
        headers: dict[str, str] | None = None,
    ) -> Verdict:
        """The verdict on one answer of the provider."""
        body = {"error": {"message": "as declared", **error}}
        server.script(self.name, key, [Raw(status, body, headers or {})])
        key_id = f"{self.name}#1"
        self._wrapper(manager).pool.revive(key_id)
        model = manager.get_model(self.name, "declared", key_id=key_id, wait=False, max_retries=0)
        try:
            ask(model)
        except ModelCallError as failed:
            return failed.verdict
        except KeysExhaustedError as exhausted:
            return judge(exhausted.__cause__ or exhausted, self._rules())
        return Verdict("empty", status, None, "it answered")


def _entries(rules: ErrorRules) -> Iterator[tuple[str, Meaning]]:
    tables: list[tuple[str, Any]] = [
        *rules.fields.items(),
        ("code", rules.codes),
        ("status", rules.statuses),
        ("exception", rules.exceptions),
    ]
    for what, table in tables:
        for value, meaning in table.items():
            yield f"{what} {value!r}", meaning


def _at(path: str, value: Any) -> dict[str, Any]:
    """An error object that has a value at a path."""
    for name in reversed(path.split(".")):
        value = {name: value}
    found: dict[str, Any] = value
    return found


def _same(verdict: Verdict, meaning: Meaning, entry: str) -> None:
    scope = "key" if meaning.kind == "dead" else meaning.scope
    expected = (meaning.kind, scope, meaning.credits)
    assert (verdict.kind, verdict.scope, verdict.credits) == expected, f"{entry} does not give its meaning: {verdict}"

"""keycycle's statistics over leases."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from agno.models.message import Message

from hfs_providers import KeysExhaustedError, ProviderManager
from hfs_providers.testing import LoopbackServer, Unauthorized


@pytest.fixture
def server() -> Iterator[LoopbackServer]:
    with LoopbackServer() as server:
        yield server


@pytest.fixture
def wrapper(server: LoopbackServer) -> Iterator[Any]:
    with ProviderManager(env=server.env({"groq": 2})) as manager:
        yield manager.wrappers["groq"]


def ask(wrapper: Any, model_id: str) -> None:
    wrapper.get_model(model_id, affinity=None).response(messages=[Message(role="user", content="hello")])


def test_each_key_counts_what_it_sent(wrapper: Any, server: LoopbackServer) -> None:
    for _ in range(3):
        ask(wrapper, "m")
    stats = wrapper.manager.get_global_stats()
    assert [key.snapshot.rpm for key in stats.keys] == [2, 1]
    assert stats.total.total_requests == 3
    assert stats.total.tpd == sum(seen.tokens for seen in server.seen)


def test_a_key_is_broken_down_by_model(wrapper: Any) -> None:
    for model in ("a", "b", "a", "b"):
        ask(wrapper, model)
    first = wrapper.manager.get_key_stats(0)
    assert {model: snapshot.total_requests for model, snapshot in first.breakdown.items()} == {"a": 2}
    assert wrapper.manager.get_key_stats("groq#2").breakdown.keys() == {"b"}


def test_a_model_is_broken_down_by_key(wrapper: Any) -> None:
    ask(wrapper, "a")
    stats = wrapper.manager.get_model_stats("a")
    assert [(key.index, key.snapshot.total_requests) for key in stats.keys] == [(0, 1)]


def test_requests_that_failed_were_sent_and_count(wrapper: Any, server: LoopbackServer) -> None:
    server.script("groq", "*", [], then=Unauthorized())
    with pytest.raises(KeysExhaustedError):
        ask(wrapper, "m")
    assert wrapper.manager.get_global_stats().total.total_requests == 2


def test_what_was_not_used_has_no_snapshot(wrapper: Any) -> None:
    assert wrapper.manager.get_granular_stats(0, "never").snapshot is None


def test_an_unknown_key_has_no_statistics(wrapper: Any) -> None:
    assert wrapper.manager.get_key_stats("groq#9") is None


def test_keycycles_tables_are_printed_without_keys(
    wrapper: Any, server: LoopbackServer, capsys: pytest.CaptureFixture[str]
) -> None:
    ask(wrapper, "m")
    wrapper.print_global_stats()
    wrapper.print_key_stats(0)
    wrapper.print_model_stats("m")
    wrapper.print_granular_stats(0, "m")
    printed = capsys.readouterr().out
    assert "GLOBAL STATS: GROQ" in printed
    assert wrapper.pool.credentials[0].fingerprint in printed
    assert not any(credential.secret.reveal()[-6:] in printed for credential in wrapper.pool.credentials)

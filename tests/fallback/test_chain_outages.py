"""What an outage of the primary does to later turns: circuits, `restore`, and what is logged."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from hfs_providers.calls.circuit import Circuit
from hfs_providers.testing import LoopbackServer, RateLimited, ServerError
from tests.fallback.chains import WAYS, House, ask, house, server

__all__ = ["house", "server"]

DOWN = ServerError(503)


def fallen(house: House, turns: int = 3, **options: str) -> Any:
    """A chain whose primary has failed so often that its circuit is open."""
    house.script("groq", *[DOWN] * turns)
    chain = house.chain("groq", "cerebras", **options)
    for _ in range(turns):
        assert "[cerebras/" in ask(chain)
    return chain


@pytest.mark.parametrize("way", WAYS)
def test_always_asks_the_primary_whatever_its_circuit_says(house: House, way: str) -> None:
    chain = fallen(house, restore="always")
    assert "[groq/" in ask(chain, way)


def test_always_asks_a_dead_primary_once_a_turn_and_falls_back(house: House) -> None:
    house.script("groq", then=DOWN)
    chain = house.chain("groq", "cerebras", restore="always")
    for _ in range(5):
        assert "[cerebras/" in ask(chain)
    assert (house.asked("groq"), house.asked("cerebras")) == (5, 5)
    assert house.kinds().count("circuit_opened") == 1


def test_always_restores_the_primary_whatever_its_circuit_says(house: House) -> None:
    chain = fallen(house, restore="always")
    assert chain.restore_primary()
    assert not chain.is_fallback_active


def test_a_primary_whose_circuit_is_open_is_not_restored_otherwise(house: House) -> None:
    assert not fallen(house).restore_primary()


def test_a_circuit_is_closed_by_hand(house: House) -> None:
    chain = fallen(house)
    assert chain.close_circuit()
    assert not chain.close_circuit()
    assert chain.restore_primary()
    assert "[groq/" in ask(chain)
    assert house.kinds()[-2:] == ["circuit_closed", "primary_restored"]


def test_a_circuit_of_a_further_entry_is_closed_by_hand(house: House) -> None:
    fallen(house)
    assert house.chain("cerebras", "groq").close_circuit(1)
    with pytest.raises(IndexError):
        house.chain("cerebras", "groq").close_circuit(2)


def test_an_open_circuit_survives_a_restart_until_it_is_closed(server: LoopbackServer, tmp_path: Path) -> None:
    where = {"HFS_USAGE_DB": str(tmp_path / "usage.db")}
    first = House(server, **where)
    with first.manager:
        fallen(first)
    second = House(server, **where)
    with second.manager:
        chain = second.chain("groq", "cerebras")
        assert "[cerebras/" in ask(chain)
        assert chain.close_circuit()
    third = House(server, **where)
    with third.manager:
        assert "[groq/" in ask(third.chain("groq", "cerebras"))


@pytest.mark.parametrize("slept", [(0.0, 60.0), (60.0, 0.0), (60.0, -3600.0)])
def test_a_circuit_s_cooldown_ends_by_whichever_clock_says_so_first(slept: tuple[float, float]) -> None:
    now = {"monotonic": 1000.0, "wall": 1e9}
    circuit = Circuit(lambda: now["monotonic"], wall=lambda: now["wall"])
    for _ in range(3):
        circuit.fail()
    assert (circuit.cooldown(), circuit.enter()) == (60.0, False)
    now["monotonic"] += slept[0]
    now["wall"] += slept[1]
    assert (circuit.cooldown(), circuit.enter()) == (0.0, True)


def logged(caplog: pytest.LogCaptureFixture, level: int) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.name == "hfs_providers" and r.levelno == level]


class TestAnOutage:
    def test_is_warned_of_once(self, house: House, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG, "hfs_providers")
        house.script("groq", then=DOWN)
        chain = house.chain("groq", "cerebras")
        for _ in range(20):
            ask(chain)
        assert logged(caplog, logging.WARNING) == [
            "groq/llama-3.3-70b-versatile could not answer (Service Unavailable); falling back to cerebras/gpt-oss-120b"
        ]
        assert sum("falling back" in line for line in logged(caplog, logging.DEBUG)) == 19
        assert house.kinds().count("fallback_activated") == 20

    def test_of_keys_is_warned_of_once(self, house: House, caplog: pytest.LogCaptureFixture) -> None:
        house.script("groq", RateLimited(retry_after=40))
        chain = house.chain("groq", "cerebras")
        for _ in range(5):
            ask(chain)
        assert sum("falling back" in line for line in logged(caplog, logging.WARNING)) == 1

    def test_ends_with_an_answer(self, house: House, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "hfs_providers")
        house.script("groq", DOWN)
        chain = house.chain("groq", "cerebras")
        ask(chain)
        ask(chain)
        assert logged(caplog, logging.INFO)[-1] == "groq/llama-3.3-70b-versatile answers again"
        house.script("groq", DOWN)
        ask(chain)
        assert sum("falling back" in line for line in logged(caplog, logging.WARNING)) == 2

    def test_is_none_where_the_caller_asks_for_the_fallback(
        self, house: House, caplog: pytest.LogCaptureFixture
    ) -> None:
        assert house.chain("groq", "cerebras").activate_fallback()
        assert logged(caplog, logging.WARNING) == []

"""What a manager logs when it starts and when it ends."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest

from hfs_providers import ProviderManager

Make = Callable[..., Any]


def keys(provider: str, count: int = 1) -> dict[str, str]:
    name = provider.upper()
    numbered = {f"{name}_API_KEY_{n}": f"{provider}-mArKeD-{n:02d}-0123456789" for n in range(1, count + 1)}
    return {f"NUM_{name}": str(count), **numbered}


def broken(config: Any, services: Any) -> Any:
    raise RuntimeError("no")


@pytest.fixture
def said(fake_provider: Make, caplog: pytest.LogCaptureFixture) -> list[str]:
    """What is logged at INFO by a manager of three providers that work and one that does not."""
    caplog.set_level(logging.INFO, "hfs_providers")
    made = [fake_provider(name) for name in ("acme", "beta", "gamma")]
    made.append(fake_provider("delta", build_wrapper=broken))
    env = {name: value for each in ("acme", "beta", "gamma", "delta") for name, value in keys(each, 3).items()}
    env |= {"NUM_BETA": "1", "HFS_USAGE_DB": "off"}
    del env["BETA_API_KEY_2"], env["BETA_API_KEY_3"]
    with ProviderManager(env, plugins=made):
        pass
    return [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]


def test_each_provider_with_its_keys(said: list[str]) -> None:
    found = [line for line in said if line.startswith("Initialized ")]
    assert found == [
        "Initialized acme with 3 keys",
        "Initialized beta with 1 key",
        "Initialized gamma with 3 keys",
    ]


def test_how_many_are_healthy(said: list[str]) -> None:
    assert "Provider initialization complete: 3/4 providers healthy" in said


def test_a_provider_whose_keys_are_dead_is_not_healthy(caplog: pytest.LogCaptureFixture) -> None:
    with ProviderManager(keys("groq")) as manager:
        manager.wrappers["groq"].pool.retire("groq#1", "refused")
    caplog.set_level(logging.INFO, "hfs_providers")
    with ProviderManager(keys("groq")):
        pass
    assert "Provider initialization complete: 0/4 providers healthy" in caplog.text


def test_the_summary_has_its_heading(said: list[str]) -> None:
    assert any(line.startswith("Provider Status:\n  acme: configured=Yes") for line in said)


def test_that_nothing_is_persisted(said: list[str]) -> None:
    assert "Nothing is persisted: HFS_USAGE_DB is off" in said


def test_where_something_is_persisted_nothing_is_said_of_it(
    fake_provider: Make, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "hfs_providers")
    with ProviderManager(keys("acme"), plugins=[fake_provider("acme")]):
        pass
    assert "Nothing is persisted" not in caplog.text


def test_the_end_of_each_provider(said: list[str]) -> None:
    assert [line for line in said if line.endswith(" shut down")] == [
        f"{name} shut down" for name in ("acme", "beta", "gamma")
    ]


def test_nothing_is_asked_where_nobody_listens(fake_provider: Make) -> None:
    asked: list[str] = []

    def health(config: Any, wrapper: Any, live: bool) -> Any:
        asked.append(config.name)

    with ProviderManager(keys("acme"), plugins=[fake_provider("acme", health=health)]):
        pass
    assert asked == []

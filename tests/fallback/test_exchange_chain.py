"""Requests without an SDK along several models."""

from __future__ import annotations

import asyncio

from hfs_providers.calls.exchange import Exchange
from hfs_providers.calls.options import CallOptions
from hfs_providers.fallback.exchange_chain import ExchangeChain, ExchangeTarget
from tests.fallback.chains import House, house, server

__all__ = ["house", "server"]


def test_a_request_that_one_target_cannot_answer_goes_to_the_next(house: House) -> None:
    options = CallOptions(max_retries=0)
    targets = [
        ExchangeTarget(house.manager.wrappers[name].backend, "m", options)  # type: ignore[attr-defined]
        for name in ("groq", "gemini")
    ]
    asked: list[tuple[str, str]] = []

    async def send(target: ExchangeTarget, exchange: Exchange) -> str:
        asked.append((target.provider, exchange.credential.id))
        exchange.sending()
        if target.provider == "groq":
            exchange.refuse(503, {}, b"")
        return "an answer"

    answer = asyncio.run(ExchangeChain(targets, house.events.append).run(send, {}, 0))
    assert (answer, asked) == ("an answer", [("groq", "groq#1"), ("gemini", "gemini#1")])
    assert house.kinds() == ["fallback_activated"]

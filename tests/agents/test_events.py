"""Events and their subscribers."""

from __future__ import annotations

import asyncio

import pytest

from hfs_providers.agents import AgentEvent, Subscription
from hfs_providers.agents.events import Hub


def event(number: int) -> AgentEvent:
    return AgentEvent(kind="progress", at=float(number))


async def read(subscription: Subscription, count: int) -> list[float | str]:
    """The instants of the next events; of lost ones, how many."""
    found = [await anext(subscription) for _ in range(count)]
    return [f"lost {event.count}" if event.kind == "events_lost" else event.at for event in found]


def test_every_subscriber_gets_every_event_from_then_on() -> None:
    async def main() -> None:
        hub = Hub()
        early = hub.subscribe(10)
        hub.publish(event(1))
        late = hub.subscribe(10)
        hub.publish(event(2))
        assert await read(early, 2) == [1, 2]
        assert await read(late, 1) == [2]

    asyncio.run(main())


def test_a_slow_one_loses_the_oldest_is_told_how_many_and_stays() -> None:
    async def main() -> None:
        hub = Hub()
        slow, quick = hub.subscribe(3), hub.subscribe(100)
        for number in range(10):
            hub.publish(event(number))
        assert await read(slow, 4) == ["lost 7", 7, 8, 9]
        hub.publish(event(10))
        assert await read(slow, 1) == [10]
        assert await read(quick, 11) == list(range(11))

    asyncio.run(main())


def test_a_reader_waits_for_what_is_to_come() -> None:
    async def main() -> None:
        hub = Hub()
        subscription = hub.subscribe(3)
        reading = asyncio.create_task(read(subscription, 1))
        await asyncio.sleep(0)
        hub.publish(event(1))
        assert await reading == [1]

    asyncio.run(main())


def test_after_the_end_what_is_held_is_read_and_then_it_ends() -> None:
    async def main() -> None:
        hub = Hub()
        subscription = hub.subscribe(3)
        hub.publish(event(1))
        hub.close()
        assert [event.at async for event in subscription] == [1]
        assert [event async for event in hub.subscribe(3)] == []

    asyncio.run(main())


def test_whoever_has_left_gets_nothing_more() -> None:
    async def main() -> None:
        hub = Hub()
        with hub.subscribe(3) as subscription:
            hub.publish(event(1))
        hub.publish(event(2))
        assert [event.at async for event in subscription] == [1]

    asyncio.run(main())


def test_a_subscription_holds_something() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Hub().subscribe(0)

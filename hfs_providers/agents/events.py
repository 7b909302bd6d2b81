"""Events for any number of subscribers. A slow subscriber delays nobody."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from typing import Self

from hfs_providers.agents.contract import AgentEvent


class Subscription:
    """The events from now on, as an asynchronous iterator and a context manager.

    A subscriber that is too slow loses the oldest events, gets their number in an event `events_lost`, and stays
    subscribed.
    """

    def __init__(self, hub: Hub, size: int) -> None:
        self._hub = hub
        self._held: deque[AgentEvent] = deque()
        self._size = size
        self._lost = 0
        self._changed = asyncio.Event()
        self._closed = False

    def offer(self, event: AgentEvent) -> None:
        """Take an event. Called by the hub."""
        if len(self._held) == self._size:
            self._held.popleft()
            self._lost += 1
        self._held.append(event)
        self._changed.set()

    def close(self) -> None:
        """Accept no more events; those that are held can still be read."""
        self._closed = True
        self._hub.forget(self)
        self._changed.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AgentEvent:
        while not self._held:
            if self._closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        if self._lost:
            lost, self._lost = self._lost, 0
            message = f"{lost} events were lost: this reader is too slow"
            return AgentEvent(kind="events_lost", at=time.time(), count=lost, message=message)
        return self._held.popleft()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Hub:
    """Hands events on."""

    def __init__(self) -> None:
        self._subscriptions: list[Subscription] = []
        self._closed = False

    def subscribe(self, size: int) -> Subscription:
        """Subscribe. At most `size` events are held for a slow reader."""
        if size < 1:
            raise ValueError("a subscription holds at least one event")
        subscription = Subscription(self, size)
        self._subscriptions.append(subscription)
        if self._closed:
            subscription.close()
        return subscription

    def publish(self, event: AgentEvent) -> None:
        """Hand an event to every subscriber. Never waits."""
        for subscription in self._subscriptions:
            subscription.offer(event)

    def forget(self, subscription: Subscription) -> None:
        """Hand it no more events."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)

    def close(self) -> None:
        """End every subscription, now and from now on."""
        self._closed = True
        for subscription in list(self._subscriptions):
            subscription.close()

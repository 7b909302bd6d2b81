"""A stream, sync and async."""

import asyncio

from agno.agent import Agent

from hfs_providers import get_chain

agent = Agent(model=get_chain())


async def ask() -> None:
    async for event in agent.arun("Count to three.", stream=True):
        print(event.content or "", end="", flush=True)
    print()


for event in agent.run("Say hello.", stream=True):
    print(event.content or "", end="", flush=True)
print()
asyncio.run(ask())

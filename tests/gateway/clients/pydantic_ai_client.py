"""pydantic-ai: whole, streamed, a tool that is run, a schema."""

import asyncio
import json
import sys

from pydantic import BaseModel
from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

model = OpenAIChatModel("groq", provider=OpenAIProvider(base_url=sys.argv[1], api_key="unused"))


class Place(BaseModel):
    place: str


async def main() -> None:
    told = {"whole": (await Agent(model).run("hello")).output, "stream": ""}
    async with Agent(model).run_stream("hello") as streamed:
        async for part in streamed.stream_text(delta=True):
            told["stream"] += part
    agent = Agent(model)

    @agent.tool_plain
    def look(place: str) -> str:
        return f"seen {place}"

    told["tool"] = (await agent.run("hello")).output
    told["schema"] = (await Agent(model, output_type=Place).run("hello")).output.model_dump()
    print(json.dumps(told))


asyncio.run(main())

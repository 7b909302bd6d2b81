"""LangChain: whole, streamed, a tool, a schema."""

import json
import sys

from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel


class Place(BaseModel):
    place: str


@tool
def look(place: str) -> str:
    """Look at a place."""
    return place


model = ChatOpenAI(base_url=sys.argv[1], api_key="unused", model="groq", max_retries=0)
told = {"whole": model.invoke("hello").text, "stream": ""}
for chunk in model.stream("hello", stream_usage=True):
    told["stream"] += chunk.text
    if chunk.usage_metadata:
        told["usage"] = chunk.usage_metadata["total_tokens"]
told["tool"] = model.bind_tools([look]).invoke("hello").tool_calls[0]["args"]
told["schema"] = model.with_structured_output(Place).invoke("hello").model_dump()
print(json.dumps(told))

"""Checks of the plugin's rules for messages that other providers' models wrote (`messages`), through a chain."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest
from agno.models.message import Message

from hfs_providers import FallbackChain, ProviderManager
from hfs_providers.authoring import MessageRules
from hfs_providers.testing.conformance.base import Base, ask, needs

_CALLS: list[dict[str, Any]] = [
    {
        "id": f"call_{number}",
        "type": "function",
        "function": {"name": "capital_of", "arguments": json.dumps({"country": country})},
        "extra_content": {"of": "another provider"},
    }
    for number, country in enumerate(("Norway", "Chile"))
]
_SCHEMA = {
    "type": "json_schema",
    "json_schema": {
        "name": "City",
        "schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class DeclaredMessageChecks(Base):
    """See `ProviderConformance`."""

    @needs("tools")
    def test_its_models_take_the_tool_calls_of_others(self, manager: ProviderManager) -> None:
        for chain in self._chains(manager):
            answered = [
                Message(role="tool", tool_call_id=call["id"], tool_name="capital_of", content="Zenith")
                for call in _CALLS
            ]
            asked = Message(role="assistant", tool_calls=copy.deepcopy(_CALLS))
            messages = [Message(role="user", content="What are the capitals?"), asked, *answered]
            assert "Zenith" in str(chain.response(messages=messages).content)
            assert asked.tool_calls == _CALLS, "`tool_calls` changes its argument"

    def test_its_models_take_a_json_schema_as_it_says(self, manager: ProviderManager) -> None:
        for chain in self._chains(manager):
            assert "city" in json.loads(ask(chain, response_format=copy.deepcopy(_SCHEMA)))

    def _chains(self, manager: ProviderManager) -> Iterator[FallbackChain]:
        """A chain of each default model, which converts messages by the plugin's rules."""
        # Including what the family of its SDK adds.
        traits = getattr(getattr(self._wrapper(manager), "backend", None), "traits", self.plugin)
        rules: Any = getattr(traits, "messages", MessageRules())
        if rules == MessageRules():
            pytest.skip(f"{self.name} declares no rules for messages")
        for model in self._defaults():
            yield manager.get_chain(f"{self.name}/{model.id}")

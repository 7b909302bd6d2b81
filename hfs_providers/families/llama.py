"""The llama-api-client SDK, through `agno.models.meta:Llama`."""

from __future__ import annotations

from typing import Any, ClassVar

from hfs_providers.authoring import ErrorRules, Meaning
from hfs_providers.families.stainless import StainlessClients


class LlamaClients(StainlessClients):
    """Generated like openai's SDK, but answers and events of streams have other fields."""

    answers = "asked"
    defaults: ClassVar = {
        # Its errors have no codes. The model does not exist, or this key may not use it, or the address is wrong.
        "errors": ErrorRules(statuses={404: Meaning("model_gone", scope="key")}),
    }

    def usable(self, answer: Any) -> bool:
        return getattr(answer, "completion_message", None) is not None

    def ends(self, chunk: Any) -> bool:
        # One more event follows, with the usage.
        return bool(chunk.event.event_type == "complete")

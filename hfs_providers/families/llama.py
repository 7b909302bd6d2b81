"""The llama-api-client SDK, through `agno.models.meta:Llama`."""

from __future__ import annotations

from typing import Any, ClassVar

from hfs_providers.authoring import ErrorRules, Meaning
from hfs_providers.families.stainless import StainlessClients


class LlamaClients(StainlessClients):
    """Generated as openai's is; its answers and the events of its streams have other fields."""

    answers = "asked"
    defaults: ClassVar = {
        # Its errors have no codes: the model, or this key's access to it; a wrong address has the same status.
        "errors": ErrorRules(statuses={404: Meaning("model_gone", scope="key")}),
    }

    def usable(self, answer: Any) -> bool:
        return getattr(answer, "completion_message", None) is not None

    def ends(self, chunk: Any) -> bool:
        # One with the usage follows.
        return bool(chunk.event.event_type == "complete")

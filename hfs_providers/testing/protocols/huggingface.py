"""Hugging Face's router: https://huggingface.co/docs/inference-providers"""

from __future__ import annotations

from hfs_providers.testing.answers import Request
from hfs_providers.testing.refusals import Answer
from hfs_providers.testing.scripts import PaymentRequired, Step, Unauthorized
from hfs_providers.testing.spoken import OpenAIDialect


class HuggingFaceDialect(OpenAIDialect):
    """OpenAI's protocol. The hub's own errors are a text without a code."""

    def __init__(self, provider: str, keyless: bool = False) -> None:
        super().__init__(provider, key_prefix="hf_", keyless=keyless)

    def refuse(self, request: Request, step: Step) -> Answer | None:
        match step:
            case Unauthorized():
                return 401, {"error": "Invalid username or password."}, {}
            case PaymentRequired():
                said = "You have exceeded your monthly included credits for Inference Providers."
                return 402, {"error": said}, {}
        return super().refuse(request, step)

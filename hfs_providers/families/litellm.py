"""LiteLLM as a library, through `agno.models.litellm:LiteLLM`."""

from __future__ import annotations

import importlib
from collections.abc import AsyncIterator, Iterator
from typing import Any, ClassVar

from hfs_providers.authoring import Credential, ErrorRules
from hfs_providers.families.stainless import StainlessClients

_MAX_CHAIN = 20


class LiteLLMClients(StainlessClients):
    """LiteLLM accepts the key and the address with each call. If a model's id names none of its providers
    (`anthropic/...`), it uses OpenAI's protocol, over connections that all keys share; else its own connections.
    """

    settings = ("api_base",)
    url_field = "api_base"
    async_client_field = "client"
    answers = "asked"
    # Its errors wrap those of the openai SDK.
    defaults: ClassVar = {"errors": ErrorRules(modules=["openai"])}

    def _sdk(self) -> Any:
        return importlib.import_module("openai")

    def configure(self, bound: Any, credential: Credential, transport: Any) -> None:
        key = credential.secret.reveal() if credential.secret is not None else "none"
        address = credential.params.get("endpoint") or bound.api_base
        kind = "AsyncOpenAI" if hasattr(transport, "aclose") else "OpenAI"
        openai = getattr(self._sdk(), kind)(
            api_key=key, base_url=address, http_client=transport, max_retries=0, **self.provider.client_params
        )
        bound.client = _Client({"api_key": key, "api_base": address, "max_retries": 0}, openai)

    def async_client(self, bound: Any) -> Any:
        return bound.get_client()

    def usable(self, answer: Any) -> bool:
        return bool(answer.choices)

    def ends(self, chunk: Any) -> bool:
        return any(choice.finish_reason for choice in chunk.choices)


class _Client:
    """The part of the module `litellm` that the model class uses, for one key."""

    def __init__(self, given: dict[str, Any], openai: Any) -> None:
        self._given = given
        self._openai = openai
        self._litellm = _litellm()
        # Otherwise it prints to stdout how to get help, at each failed attempt.
        self._litellm.suppress_debug_info = True
        self._providers = {getattr(each, "value", each) for each in self._litellm.provider_list}

    @property
    def models(self) -> Any:
        """The models that the address lists."""
        return self._openai.models

    def completion(self, **request: Any) -> Any:
        try:
            answer = self._litellm.completion(**self._complete(request))
        except Exception as error:
            failed = error
        else:
            return self._chunks(answer) if request.get("stream") else answer
        raise _answered(failed)

    async def acompletion(self, **request: Any) -> Any:
        try:
            answer = await self._litellm.acompletion(**self._complete(request))
        except Exception as error:
            failed = error
        else:
            return self._achunks(answer) if request.get("stream") else answer
        raise _answered(failed)

    def _complete(self, request: dict[str, Any]) -> dict[str, Any]:
        named, slash, _ = request["model"].partition("/")
        if slash and named in self._providers and named != "openai":
            return {**request, **self._given}
        return {"custom_llm_provider": "openai", **request, **self._given, "client": self._openai}

    def _chunks(self, answer: Any) -> Iterator[Any]:
        try:
            for chunk in answer:
                if not _made_up(answer, chunk):
                    yield chunk
        except Exception as error:
            failed = error
        else:
            return
        raise _answered(failed)

    async def _achunks(self, answer: Any) -> AsyncIterator[Any]:
        try:
            async for chunk in answer:
                if not _made_up(answer, chunk):
                    yield chunk
        except Exception as error:
            failed = error
        else:
            return
        raise _answered(failed)


def _litellm() -> Any:
    return importlib.import_module("litellm")


def _made_up(answer: Any, chunk: Any) -> bool:
    """Whether LiteLLM itself added the end to a stream that was cut off."""
    return answer.received_finish_reason is None and any(choice.finish_reason for choice in chunk.choices)


def _answered(error: BaseException) -> BaseException:
    """The error that LiteLLM has rewritten: it has the answer's code and headers, or says that there was no answer."""
    link: BaseException | None = error
    for _ in range(_MAX_CHAIN):
        link = link.__cause__ or link.__context__ if link is not None else None
        if link is not None and type(link).__module__.partition(".")[0] in ("openai", "httpx", "aiohttp"):
            return link
    return error

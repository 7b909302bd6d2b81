"""Bypasses Agno's own retry loop.

Agno's loop classifies an error again, by its status and by words in its message, and raises another type instead of
ours. A call that needs none of Agno's retries bypasses the loop. If its error then asks for a retry with guidance, the
loop begins with that error.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import TYPE_CHECKING, Any

from agno.exceptions import ModelProviderError
from agno.exceptions import RetryableModelProviderError as GuidedRetry
from agno.models.base import Model

from hfs_providers.calls.model_errors import ModelCallError
from hfs_providers.clients.async_generators import first_of

if TYPE_CHECKING:
    from agno.models.response import ModelResponse

Seen = list[GuidedRetry] | None
"""The error of a call's first try. Agno's loop begins with it: its first `invoke` raises it."""


class AgnoRetries(Model):
    """Mixed into a rotating model, whose `invoke` and siblings take `seen`."""

    def _invoke_with_retry(self, **kwargs: Any) -> ModelResponse:
        if not self._needs_loop(kwargs):
            try:
                return self.invoke(**kwargs)
            except GuidedRetry as error:
                kwargs["seen"] = [error]
        with _OWN_ERRORS:
            return super()._invoke_with_retry(**kwargs)

    async def _ainvoke_with_retry(self, **kwargs: Any) -> ModelResponse:
        if not self._needs_loop(kwargs):
            try:
                return await self.ainvoke(**kwargs)
            except GuidedRetry as error:
                kwargs["seen"] = [error]
        with _OWN_ERRORS:
            return await super()._ainvoke_with_retry(**kwargs)

    def _invoke_stream_with_retry(self, **kwargs: Any) -> Iterator[ModelResponse]:
        if not self._needs_loop(kwargs):
            try:
                yield from self.invoke_stream(**kwargs)
                return
            except GuidedRetry as error:
                kwargs["seen"] = [error]
        with _OWN_ERRORS:
            yield from super()._invoke_stream_with_retry(**kwargs)

    async def _ainvoke_stream_with_retry(self, **kwargs: Any) -> AsyncIterator[ModelResponse]:
        if not self._needs_loop(kwargs):
            steps: Any = self.ainvoke_stream(**kwargs)
            try:
                step = await first_of(steps, None)
                if step is not None:
                    yield step
                async for step in steps:
                    yield step
                return
            except GuidedRetry as error:
                kwargs["seen"] = [error]
            finally:
                await steps.aclose()
        with _OWN_ERRORS:
            looped: Any = super()._ainvoke_stream_with_retry(**kwargs)
            async with aclosing(looped):
                step = await first_of(looped, None)
                while step is not None:
                    yield step
                    step = await anext(looped, None)

    def _needs_loop(self, kwargs: Mapping[str, Any]) -> bool:
        return bool(self.retries) or "retries_with_guidance_count" in kwargs


class _OwnErrors:
    """Raises our error if Agno has wrapped it in another, else the error itself; with its cause."""

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not isinstance(error, ModelProviderError):
            return
        own = error.__cause__ if isinstance(error.__cause__, ModelCallError) else error
        if own.__cause__ is own:
            # Agno raises an error that it does not retry `from` itself. The real cause is still its context.
            own.__cause__ = own.__context__
        raise own from own.__cause__


_OWN_ERRORS = _OwnErrors()

"""`/v1/messages/count_tokens`: the number of tokens in a request for messages, counted by its provider.

Counts are free, and the provider has separate limits for them. So a count needs a usable key, but it shows nothing
about that key, uses up no limit and no budget, and leaves no usage row. Only the first entry, which would answer the
messages, is asked: another model has another tokenizer, and a wrong count does more harm than none, because a program
without a count estimates it, or waits until the provider says that the context is full.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hfs_providers import ProviderManager
from hfs_providers.calls.answers import UnusableAnswerError
from hfs_providers.calls.exchange import RefusedRequestError
from hfs_providers.calls.model_errors import KeysExhaustedError, ModelCallError
from hfs_providers.calls.verdicts import judge
from hfs_providers.contract.errors import PoolExhaustedError
from hfs_providers.contract.http_api import Endpoint
from hfs_providers.fallback.exchange_chain import ExchangeTarget
from hfs_providers.gateway.body import RequestBody
from hfs_providers.gateway.clients import Terms
from hfs_providers.gateway.connection import UpstreamError
from hfs_providers.gateway.refusals import Refusal
from hfs_providers.gateway.relay import MOST_REFUSAL, asked_model, passed_down, passed_up
from hfs_providers.gateway.reply import Reply
from hfs_providers.gateway.routes import AskedModels, Routes, UnusableKeyError, Wires
from hfs_providers.gateway.upstream import Upstream
from hfs_providers.keys.leases import Lease


class _Count(msgspec.Struct):
    input_tokens: int


_COUNT = msgspec.json.Decoder(_Count)


class TokenCounts:
    """The endpoint."""

    endpoint: Endpoint = "messages/count_tokens"

    def __init__(self, manager: ProviderManager, upstream: Upstream, names: AskedModels) -> None:
        self._upstream = upstream
        self._names = names
        self.routes = Routes(manager, "messages")
        """The routes of the messages themselves."""
        self._wires: Mapping[str, Wires] = Routes(manager, self.endpoint).wires

    async def serve(self, data: bytes, headers: Mapping[bytes, bytes], reply: Reply, terms: Terms) -> None:
        """As `Relay.serve`."""
        body = RequestBody(data)
        target = self.routes.find(asked_model(body), terms.models).targets[0]
        if target.provider not in self._wires:
            raise Refusal(501, "endpoint_not_offered", f"{target.provider} does not count tokens.", param="model")
        self._names.asked(target)
        backend = target.backend
        model_id = backend.serving(target.id)
        sent = body.replaced({"model": msgspec.json.encode(model_id)})
        try:
            lease = await backend.pool.aacquire(model_id, 0, 0.0)
        except PoolExhaustedError as error:
            raise KeysExhaustedError(error) from None
        with lease:
            try:
                status, answered, content = await self._ask(target, lease, passed_up(self.endpoint, headers), sent)
            except (RefusedRequestError, UnusableAnswerError, UnusableKeyError, UpstreamError) as error:
                raise _failed(error, target, model_id, lease.key_id) from None
        await reply.whole(status, passed_down(answered, target.provider, model_id, lease.key_id), content)

    async def _ask(
        self, target: ExchangeTarget, lease: Lease, headers: bytes, body: bytes
    ) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
        origin, data = self._wires[target.provider].request(lease.credential, headers, body)
        response = await (await self._upstream.connect(origin)).ask(data)
        try:
            if not 200 <= response.status < 300:
                refusal = await response.beginning(MOST_REFUSAL)
                raise RefusedRequestError(response.status, response.headers, refusal)
            content = await response.read()
        finally:
            response.close()
        try:
            _COUNT.decode(content)
        except msgspec.DecodeError:
            raise UnusableAnswerError("server_error", "the answer is not a token count") from None
        return response.status, response.headers, content


def _failed(error: Exception, target: ExchangeTarget, model_id: str, key_id: str) -> ModelCallError:
    backend = target.backend
    verdict = judge(error, backend.traits.errors).scrubbed(backend.redactor.scrub)
    message = f"{target.provider}/{model_id}: {verdict.message}"
    return ModelCallError(message, provider=target.provider, model_id=model_id, verdict=verdict, key_id=key_id)

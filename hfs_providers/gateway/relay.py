"""One endpoint: forwards a request with a key, and passes the answer back while it arrives.

The request's body is forwarded unchanged except for its `model`; the provider's answer is returned byte for byte.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

import msgspec
from starlette.types import Receive

from hfs_providers import ProviderManager
from hfs_providers.calls.exchange import Exchange
from hfs_providers.contract.http_api import Endpoint
from hfs_providers.contract.records import Event
from hfs_providers.fallback.exchange_chain import ExchangeTarget
from hfs_providers.gateway.body import RequestBody
from hfs_providers.gateway.clients import Terms
from hfs_providers.gateway.connection import UpstreamResponse
from hfs_providers.gateway.reading import ANTHROPIC_USAGE, StreamReader, check_whole
from hfs_providers.gateway.refusals import CLOSE, RawHeaders, Refusal, header_value, refusal_of
from hfs_providers.gateway.reply import Reply
from hfs_providers.gateway.routes import TRANSLATED, AskedModels, Routes
from hfs_providers.gateway.translation import MessageStream, chat_request, message_answer
from hfs_providers.gateway.upstream import Upstream

Whole = tuple[int, RawHeaders, bytes]
"""Status, headers and body of an answer that is not streamed."""

PASSED_UP: Mapping[Endpoint, frozenset[bytes]] = {
    "chat/completions": frozenset(),
    "embeddings": frozenset(),
    "responses": frozenset({b"openai-beta"}),
    **dict.fromkeys(("messages", "messages/count_tokens"), frozenset({b"anthropic-version", b"anthropic-beta"})),
}
"""Headers of a request that go to the provider."""

_PASSED_DOWN = frozenset({b"content-type", b"request-id", b"x-request-id"})
_BYTES_OF_A_TOKEN = 4
# A larger body is mostly media, whose length does not show the number of tokens.
_MOST_ESTIMATED = 32_000
MOST_REFUSAL = 2**20
"""The most bytes of an error that are read."""
_ASK_FOR_USAGE = b'{"include_usage":true}'
_OPTIONS = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Relay:
    """An endpoint that forwards requests."""

    def __init__(
        self,
        manager: ProviderManager,
        upstream: Upstream,
        endpoint: Endpoint,
        names: AskedModels,
        emit: Callable[[Event], object],
    ) -> None:
        self.endpoint = endpoint
        self.routes = Routes(manager, endpoint, emit)
        self._upstream = upstream
        self._names = names

    async def serve(self, data: bytes, headers: Mapping[bytes, bytes], reply: Reply, terms: Terms) -> None:
        """Answer one request.

        Args:
            data: the request's body.
            headers: the request's headers that are needed.
            terms: what its client may do.

        Raises:
            Refusal: the request is wrong, or not allowed.
            HfsProvidersError: no provider has answered it.
        """
        body = RequestBody(data)
        route = self.routes.find(asked_model(body), terms.models)
        chat = None
        if self.routes.translated and any(target.provider in self.routes.translated for target in route.targets):
            try:
                chat = RequestBody(chat_request(body))
            except Refusal:
                # Providers with /v1/messages may accept what cannot be translated.
                if route.native is None:
                    raise
                route = route.native
        for target in route.targets:
            self._names.asked(target)
        passed = passed_up(self.endpoint, headers)
        tokens = min(len(data) // _BYTES_OF_A_TOKEN, _MOST_ESTIMATED)
        relayed = _Relayed(self, body, passed, reply, chat)
        try:
            with terms.request(tokens):
                if route.chain is None:
                    target = route.targets[0]
                    answer = await target.exchange(body, tokens).run(partial(relayed.attempt, target), announced=True)
                else:
                    answer = await route.chain.run(relayed.attempt, body, tokens)
        except Exception as error:
            if not reply.begun:
                raise
            await reply.more(_error_event(self.endpoint, error), last=True)
            return
        # Now the request is recorded and its key is free.
        if isinstance(answer, bytes):
            await reply.more(answer, last=True)
        else:
            await reply.whole(*answer)

    async def ask(self, target: ExchangeTarget, exchange: Exchange, headers: bytes, body: bytes) -> UpstreamResponse:
        """Send a request once. Returns a successful answer.

        Raises:
            RefusedRequestError: the answer is an error.
            UpstreamError: there is no answer.
        """
        origin, data = self.routes.wires[target.provider].request(exchange.credential, headers, body)
        connection = await self._upstream.connect(origin)
        exchange.sending()
        response = await connection.ask(data)
        if not 200 <= response.status < 300:
            try:
                exchange.refuse(response.status, response.headers, await response.beginning(MOST_REFUSAL))
            finally:
                response.close()
        exchange.received(response)
        self._names.answered(target, exchange.model_id)
        return response


class _Relayed:
    """One request on its way."""

    __slots__ = ("_asks_usage", "_body", "_chat", "_passed", "_relay", "_reply", "_streams")

    def __init__(self, relay: Relay, body: RequestBody, passed: bytes, reply: Reply, chat: RequestBody | None) -> None:
        self._relay = relay
        self._body = body
        self._chat = chat
        self._passed = passed
        self._reply = reply
        self._streams = body.raw("stream") == b"true"
        self._asks_usage = False
        if self._streams and relay.endpoint == "chat/completions":
            self._asks_usage = not _wants_usage(body.raw("stream_options"))

    async def attempt(self, target: ExchangeTarget, exchange: Exchange) -> Whole | bytes:
        """Send the request with one key. Returns a whole answer, or the end of a stream that was passed on."""
        if target.provider in self._relay.routes.translated:
            return await self._translated(target, exchange)
        adds_usage = self._asks_usage and target.backend.traits.http.usage_on_request
        values = {"model": msgspec.json.encode(exchange.model_id)}
        if adds_usage:
            values["stream_options"] = _with_usage(self._body.raw("stream_options"))
        response = await self._relay.ask(target, exchange, self._passed, self._body.replaced(values))
        usage_fields = ANTHROPIC_USAGE if self._relay.endpoint == "messages" else target.backend.traits.usage_fields
        try:
            headers = passed_down(response.headers, target.provider, exchange.model_id, exchange.credential.id)
            if self._streams and _is_stream(response):
                reader = StreamReader(usage_fields, adds_usage)
                return await self._pass_stream(exchange, response, headers, reader, None)
            body = await response.read()
            exchange.usage = check_whole(self._relay.endpoint, body, usage_fields)
            return response.status, headers, body
        finally:
            response.close()

    async def _translated(self, target: ExchangeTarget, exchange: Exchange) -> Whole | bytes:
        """As `attempt`, for a request for messages to a provider that has only chat completions."""
        assert self._chat is not None
        values = {"model": msgspec.json.encode(exchange.model_id)}
        if self._streams and target.backend.traits.http.usage_on_request:
            values["stream_options"] = _ASK_FOR_USAGE
        response = await self._relay.ask(target, exchange, b"", self._chat.replaced(values))
        usage_fields = target.backend.traits.usage_fields
        try:
            headers = passed_down(response.headers, target.provider, exchange.model_id, exchange.credential.id)
            if self._streams and _is_stream(response):
                reader = StreamReader(usage_fields, strips_usage=False)
                return await self._pass_stream(exchange, response, headers, reader, MessageStream())
            body = await response.read()
            exchange.usage = check_whole(TRANSLATED["messages"], body, usage_fields)
            return response.status, headers, message_answer(body)
        finally:
            response.close()

    async def _pass_stream(
        self,
        exchange: Exchange,
        response: UpstreamResponse,
        headers: RawHeaders,
        reader: StreamReader,
        translation: MessageStream | None,
    ) -> Whole | bytes:
        reply, held = self._reply, b""
        while reader.failure is None and (chunk := await response.chunk()):
            data = reader.feed(chunk)
            if translation is not None:
                data = translation.feed(data)
            exchange.usage = reader.usage
            if reader.finished:
                # The client may close its connection after the last event, so do not wait for the end of the answer.
                response.leave()
                return data if reply.begun else (response.status, headers, held + data)
            if reply.begun:
                if data:
                    await reply.more(data)
                continue
            # Comments are held back until the first event: while nothing has been passed on, another key may serve.
            held += data
            if reader.begun and reader.failure is None:
                exchange.passed_on()
                await reply.begin(response.status, headers, held)
        rest = reader.close()
        exchange.usage = reader.usage
        return rest if translation is None else translation.feed(rest) + translation.close()


def _is_stream(response: UpstreamResponse) -> bool:
    return (response.header(b"content-type") or b"").startswith(b"text/event-stream")


def asked_model(body: RequestBody) -> str:
    """The model that a request names. Raises Refusal if it names none."""
    name = body.text("model")
    if name is None:
        raise Refusal(400, "invalid_model", "The body needs a model, such as provider/model.", param="model")
    return name


def passed_up(endpoint: Endpoint, headers: Mapping[bytes, bytes]) -> bytes:
    """The request's headers that are sent to the provider, as lines."""
    return b"".join(b"%b: %b\r\n" % (name, headers[name]) for name in PASSED_UP[endpoint] if name in headers)


def passed_down(headers: RawHeaders, provider: str, model_id: str, key_id: str) -> RawHeaders:
    """The answer's headers that are sent to the client, and those that say who answered."""
    return [
        *(pair for pair in headers if pair[0] in _PASSED_DOWN),
        (b"x-hfs-provider", provider.encode()),
        (b"x-hfs-model", header_value(model_id)),
        (b"x-hfs-key", key_id.encode()),
    ]


def _error_event(endpoint: Endpoint, error: Exception) -> bytes:
    """The event that reports that a stream breaks off."""
    name = b"" if endpoint == "chat/completions" else b"event: error\n"
    return b"%bdata: %b\n\n" % (name, refusal_of(error).body(endpoint))


def _wants_usage(options: bytes) -> bool:
    try:
        return bytes(_OPTIONS.decode(options).get("include_usage", b"")) == b"true"
    except (msgspec.DecodeError, RecursionError):
        return False


def _with_usage(options: bytes) -> bytes:
    """`stream_options` that also request usage."""
    try:
        given = _OPTIONS.decode(options)
    except (msgspec.DecodeError, RecursionError):
        return _ASK_FOR_USAGE
    return msgspec.json.encode({**given, "include_usage": True})


async def read_body(receive: Receive, most: int, patience: float) -> bytes:
    """The body of a request, including the parts that have not arrived yet.

    Args:
        patience: seconds to wait for each part of it.

    Raises:
        Refusal: it is too large, or arrives too slowly.
        CancelledError: the client has gone.
    """
    parts: list[bytes] = []
    size = 0
    while True:
        try:
            async with asyncio.timeout(patience):
                message = await receive()
        except TimeoutError:
            raise Refusal(408, "request_timeout", "The body did not arrive in time.", headers=CLOSE) from None
        if message["type"] != "http.request":
            break
        parts.append(message["body"])
        size += len(message["body"])
        if size > most:
            raise too_large(most)
        if not message["more_body"]:
            return parts[0] if len(parts) == 1 else b"".join(parts)
    raise asyncio.CancelledError


def too_large(most: int) -> Refusal:
    """The refusal of a body with more than `most` bytes. Its rest is not read, so the connection must be closed."""
    return Refusal(413, "request_too_large", f"The body is larger than {most} bytes.", headers=CLOSE)

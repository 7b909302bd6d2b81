"""Errors of SDKs and transports by the names of their types, and the meaning of each name."""

from __future__ import annotations

from collections.abc import Mapping

# The top-level modules of transports.
TRANSPORT_ROOTS = frozenset(
    {"httpx", "httpcore", "httpx2", "httpcore2", "httpx_sse", "aiohttp", "requests", "urllib3", "anyio"}
)

# Errors of a transport, by type name, and whether the request can have reached the provider.
TRANSPORT: Mapping[str, bool] = {
    "ReadTimeout": True,
    "WriteTimeout": True,
    "ReadError": True,
    "WriteError": True,
    "CloseError": True,
    "NetworkError": True,
    "TimeoutException": True,
    "RemoteProtocolError": True,
    "ServerDisconnectedError": True,
    "ServerTimeoutError": True,
    "SocketTimeoutError": True,
    "ClientOSError": True,
    "ClientConnectionError": True,
    "ClientConnectionResetError": True,
    "ClientPayloadError": True,
    "ClosedResourceError": True,
    "BrokenResourceError": True,
    "EndOfStream": True,
    "ReadTimeoutError": True,
    "ProtocolError": True,
    "ChunkedEncodingError": True,
    "ConnectionError": True,
    "IncompleteRead": True,
    "APIConnectionError": True,
    "APITimeoutError": True,
    "HTTPClientError": True,
    "ConnectionClosedError": True,
    "ResponseStreamingError": True,
    "IncompleteReadError": True,
    "EndpointConnectionError": False,
    "ProxyConnectionError": False,
    "ConnectTimeout": False,
    "ConnectError": False,
    "PoolTimeout": False,
    "ProxyError": False,
    "ConnectionTimeoutError": False,
    "ClientConnectorError": False,
    "ClientConnectorDNSError": False,
    "ClientConnectorSSLError": False,
    "ClientConnectorCertificateError": False,
    "ClientProxyConnectionError": False,
    "ClientHttpProxyError": False,
    "ServerFingerprintMismatch": False,
    "NewConnectionError": False,
    "ConnectTimeoutError": False,
    "MaxRetryError": False,
    "SSLError": False,
}

# A transport's errors about an invalid request: nothing was sent, and a retry would not help.
LOCAL_TRANSPORT = frozenset({"LocalProtocolError", "UnsupportedProtocol", "InvalidURL", "InvalidUrlClientError"})

# Errors of the standard library that mean a transport error if they were raised inside a transport.
STDLIB_TRANSPORT: tuple[type[BaseException], ...] = (TimeoutError, ConnectionError)

# Errors of reading an answer. READ_FAILURES count only if they were raised inside one of READERS.
UNREADABLE = frozenset(
    {
        "JSONDecodeError",
        "UnicodeDecodeError",
        "DecodingError",
        "UnknownApiResponseError",
        "APIResponseValidationError",
        "ContentTypeError",
        "SSEError",
    }
)
READ_FAILURES = frozenset({"AttributeError", "TypeError", "IndexError", "KeyError", "ValidationError"})
READERS = frozenset(
    {"_parse_provider_response", "_parse_provider_response_delta", "_process_response", "_process_response_data"}
)
# Agno's functions that raise an error of their own for an error in an answer.
ANSWERED = frozenset({"invoke", "ainvoke"})

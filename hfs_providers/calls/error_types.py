"""Errors of SDKs and transports by the names of their types, and what each says by its name alone."""

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

# A transport's complaints about what it was given: nothing was sent, nothing will get better.
LOCAL_TRANSPORT = frozenset({"LocalProtocolError", "UnsupportedProtocol", "InvalidURL", "InvalidUrlClientError"})

# A standard library error that a transport lets through, where it was raised beneath one.
STDLIB_TRANSPORT: tuple[type[BaseException], ...] = (TimeoutError, ConnectionError)

# Errors of reading an answer, and the functions beneath which one of them is the answer's fault.
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
# Functions of Agno's that raise what an answer says as an error of their own.
ANSWERED = frozenset({"invoke", "ainvoke"})

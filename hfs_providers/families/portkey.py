"""The openai SDK for a gateway with its own header for the key: `agno.models.portkey:Portkey`."""

from __future__ import annotations

from typing import Any, ClassVar

from hfs_providers.authoring import Credential, HttpApi
from hfs_providers.families.stainless import StainlessClients


class PortkeyClients(StainlessClients):
    """`X_VIRTUAL_KEY_n` names the target to which the gateway routes requests with key number n."""

    settings = (*StainlessClients.settings, "virtual_key", "config")
    key_field = "portkey_api_key"
    defaults: ClassVar = {"http": HttpApi(key_header="x-portkey-api-key", key_prefix="")}

    def configure(self, bound: Any, credential: Credential, transport: Any) -> None:
        super().configure(bound, credential, transport)
        bound.virtual_key = credential.params.get("virtual_key", bound.virtual_key)

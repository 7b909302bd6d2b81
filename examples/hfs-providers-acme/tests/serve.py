"""Serve one agent run through the installed plugin: `python serve.py`."""

import sys

from agno.agent import Agent

from hfs_providers import ProviderManager
from hfs_providers.testing import LoopbackServer, OpenAIDialect

with (
    LoopbackServer(dialects=[OpenAIDialect("acme")]) as server,
    ProviderManager(env=server.env({"acme": 2})) as manager,
):
    answer = Agent(model=manager.get_model("acme"), telemetry=False).run("hello").content

sys.stdout.write(f"{answer}\n")
if answer != "[acme/acme-large] You said: hello":
    raise SystemExit("the plugin did not serve")

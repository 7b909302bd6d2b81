from hfs_providers_anthropic import plugin

from hfs_providers.testing import ProviderConformance


class TestAnthropic(ProviderConformance):
    plugin = plugin

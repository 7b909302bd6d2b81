from hfs_providers_mistral import plugin

from hfs_providers.testing import ProviderConformance


class TestMistral(ProviderConformance):
    plugin = plugin

from hfs_providers_acme import plugin

from hfs_providers.testing import ProviderConformance


class TestAcme(ProviderConformance):
    plugin = plugin

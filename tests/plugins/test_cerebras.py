from hfs_providers.plugins import cerebras
from hfs_providers.testing import ProviderConformance


class TestCerebras(ProviderConformance):
    plugin = cerebras.plugin

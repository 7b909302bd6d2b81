from hfs_providers.plugins import groq
from hfs_providers.testing import ProviderConformance


class TestGroq(ProviderConformance):
    plugin = groq.plugin

from hfs_providers.plugins import gemini
from hfs_providers.testing import ProviderConformance


class TestGemini(ProviderConformance):
    plugin = gemini.plugin

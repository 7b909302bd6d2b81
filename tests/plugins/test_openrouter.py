from hfs_providers.plugins import openrouter
from hfs_providers.testing import ProviderConformance


class TestOpenrouter(ProviderConformance):
    plugin = openrouter.plugin

from hfs_providers_mistral import plugin
from mistral_dialect import MistralDialect

from hfs_providers.testing import ProviderConformance


class TestMistral(ProviderConformance):
    plugin = plugin
    dialect = MistralDialect()

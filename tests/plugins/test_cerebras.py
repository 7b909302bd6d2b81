from tests.plugins.provider_suite import ProviderSuite


class TestCerebras(ProviderSuite):
    name = "cerebras"

from tests.plugins.provider_suite import ProviderSuite


class TestOpenrouter(ProviderSuite):
    name = "openrouter"

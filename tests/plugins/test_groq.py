from tests.plugins.provider_suite import ProviderSuite


class TestGroq(ProviderSuite):
    name = "groq"

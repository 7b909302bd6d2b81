from tests.plugins.provider_suite import ProviderSuite


class TestGemini(ProviderSuite):
    name = "gemini"

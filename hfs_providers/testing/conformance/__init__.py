"""`ProviderConformance`: the suite that every provider plugin must pass, including the built-in ones.

class TestAcme(ProviderConformance):
    plugin = hfs_providers_acme.plugin
"""

from __future__ import annotations

import pytest

# Before they are imported, so that their failed assertions show the compared values.
pytest.register_assert_rewrite(
    *(f"{__name__}.{room}" for room in ("answers", "base", "contract", "declared", "failures", "messages", "objects"))
)

from hfs_providers.testing.conformance.base import CAPABILITIES  # noqa: E402  see above
from hfs_providers.testing.conformance.suite import ProviderConformance  # noqa: E402
from hfs_providers.testing.conformance.whole_parses import keep_parses_whole  # noqa: E402

keep_parses_whole()

__all__ = ["CAPABILITIES", "ProviderConformance"]

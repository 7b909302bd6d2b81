"""What takes long: .ci/run asks for it with HFS_TEST_LONG=1, .ci/long for all of it with HFS_TEST_LONG=longest."""

from __future__ import annotations

import os

import pytest

LONG = bool(os.environ.get("HFS_TEST_LONG"))
LONGEST = os.environ.get("HFS_TEST_LONG") == "longest"

takes_long = pytest.mark.skipif(not LONG, reason="takes long; set HFS_TEST_LONG=1 to run it")
takes_longest = pytest.mark.skipif(not LONGEST, reason="takes longest; .ci/long runs it")

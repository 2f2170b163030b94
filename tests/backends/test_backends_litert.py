from __future__ import annotations

import pytest

from hwnas.backends.litert import LiteRtBackend
from hwnas.testing.backends import QuantisingBackendContract

pytestmark = [pytest.mark.environment, pytest.mark.timeout(1800)]


class TestLiteRt(QuantisingBackendContract):
    backend_type = LiteRtBackend
    kernel_times = False

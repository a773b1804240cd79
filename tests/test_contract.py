"""Both backends pass the contract that ships in the wheel."""

import pytest

from unifreeze.testing import CONTRACT


@pytest.mark.parametrize("check", CONTRACT, ids=lambda check: check.__name__)
def test_backend_passes(check, kit):
    check(kit)

"""Every layer class of both frameworks whose forward pass changes its state, frozen."""

from __future__ import annotations

import pytest

from tests.support.layer_states.page import PAGE, page, table


@pytest.mark.filterwarnings("ignore")
def test_no_layers_state_moves_and_no_output_changes_unsaid():
    rows = table()
    assert [str(row) for row in rows if row.wrong] == []
    found = {row.layer for row in rows}
    known = ("BatchNorm2d()", "InstanceNorm2d(", "BatchNorm2D(", "spectral_norm()", "Embedding(max")
    for name in known:
        assert any(name in layer for layer in found), name


@pytest.mark.filterwarnings("ignore")
def test_the_page_in_the_documentation_is_what_is_found():
    assert PAGE.read_text(encoding="utf-8") == page(table())

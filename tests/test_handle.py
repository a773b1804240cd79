"""What a handle does in either framework: what it leaves behind when it is removed."""

from __future__ import annotations

import pytest

import unifreeze as uf


@pytest.mark.parametrize("end", ["remove", "another plan"])
def test_a_gradient_that_came_while_frozen_is_not_added_to_the_next(kit, end):
    """A loop may ask for gradients of frozen parameters, or Paddle accumulate what a hook left."""
    backend, model = kit.backend, kit.plain.make()
    tensors = backend.objects(model)
    path = "blocks.0.first.weight"
    handle = uf.freeze(model, f"{path} | head")
    found = backend.from_array(backend.to_array(tensors[path]), tensors[path])
    backend.set_gradient(tensors[path], found)
    if end == "remove":
        handle.remove()
    else:
        uf.freeze(model, "head")
    assert backend.read(model)[path]
    assert backend.get_gradient(tensors[path]) is None


def test_removal_keeps_the_gradients_of_what_was_trained(kit):
    backend, model = kit.backend, kit.plain.make()
    tensors = backend.objects(model)
    path = "blocks.0.first.weight"
    handle = uf.freeze(model, "head")
    backend.set_gradient(
        tensors[path], backend.from_array(backend.to_array(tensors[path]), tensors[path])
    )
    handle.remove()
    assert backend.get_gradient(tensors[path]) is not None

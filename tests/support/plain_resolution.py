"""A plan resolved on a description: which parameters are frozen, and which layers hold still."""

from __future__ import annotations

import pytest

from tests.support.trees import conv, linear, module, norm, spec, stack
from unifreeze._plan import FreezePlan
from unifreeze._resolution import resolve_spec

PLAN = FreezePlan()


def frozen(plan, made):
    return set(resolve_spec(plan, made).frozen_paths)


def refuse(plan, made, error):
    with pytest.raises(error) as caught:
        resolve_spec(plan, made)
    return caught.value


def affineless_block():
    return module(
        "Block",
        a=linear(8, 8),
        bn=norm(8, statistics=True, affine=False),
        b=linear(8, 8),
    )


def affineless_net():
    return spec(
        module(
            "Net",
            stem=module("Stem", conv=conv(3, 8), bn=norm(8, statistics=True, affine=False)),
            blocks=stack(affineless_block(), affineless_block()),
            fc=linear(8, 2),
        )
    )

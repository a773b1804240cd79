"""Plans from lines of YAML, and the mistakes in them."""

from __future__ import annotations

import jsonschema

from unifreeze._plan import FreezePlan
from unifreeze._plan.document import json_schema

SCHEMA = jsonschema.Draft202012Validator(json_schema())


def read(*lines):
    return FreezePlan.from_yaml("\n".join(["unifreeze: 1", *lines]))

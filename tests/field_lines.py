"""The fields of sweeps and trials, a line each: type, default, bounds and description, as JSON Schema tells them.

After a field was changed on purpose: python -m tests.field_lines > tests/golden/fields.txt
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from raybench.sweep.resources import Resources
from raybench.sweep.schema import json_schema
from raybench.sweep.trial import Trial

LEFT_OUT = {"title", "examples"}  # pydantic's spelling of the field, and names, which come and go
OF_A_WHOLE = {"$defs", "properties", "title", "description"}


def field_lines() -> Iterator[str]:
    """`WHERE OWNER.FIELD {...}` of each field, and `WHERE OWNER {...}` of each record: in a file, and in an id."""
    wholes = (("file", json_schema()), ("file", Resources.model_json_schema()), ("id", Trial.model_json_schema()))
    for where, schema in wholes:
        for name, owner in {schema["title"]: schema, **schema.get("$defs", {})}.items():
            for field, rules in owner["properties"].items():
                yield f"{where} {name}.{field} {json.dumps(_plain(rules), sort_keys=True)}"
            rest = {key: value for key, value in owner.items() if key not in OF_A_WHOLE}
            yield f"{where} {name} {json.dumps(_plain(rest), sort_keys=True)}"


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {key: _plain(one) for key, one in value.items() if key not in LEFT_OUT}


if __name__ == "__main__":
    print("\n".join(field_lines()))

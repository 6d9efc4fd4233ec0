"""A list as a method's parameter is an axis: ``{name: m, params: {power: [1, 2]}}`` stands for two methods."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from raybench.sweep.mistakes import Mistake, Mistakes
from raybench.sweep.nodes import YamlNode

PLURALS = {"recipe": "recipes", "protocol": "protocols"}  # keys of a sweep whose list is an axis
PARAMS = ("params", "regularizer_params")


def spread_methods(root: YamlNode) -> YamlNode:
    """`root`, a sweep, with each method that has lists as parameters in place of all its combinations.

    An empty list is left as it is, to be reported as a mistake.
    """
    fields = root.fields
    if not fields:
        return root
    changed = dict(fields)
    if "methods" in fields:
        methods = fields["methods"]
        entries = methods.value if isinstance(methods.value, tuple) else (methods,)
        found = tuple(one for entry in entries for one in _combinations(entry))
        if found != tuple(entries):  # else as it was typed, for the places of mistakes
            changed["methods"] = methods.replaced(found)
    if "include" in fields:
        include = fields["include"]
        several = isinstance(include.value, tuple)
        changed["include"] = (
            include.replaced(tuple(map(spread_methods, include.value))) if several else spread_methods(include)
        )
    return root.replaced(changed)


def with_plurals(root: YamlNode) -> YamlNode:
    """`root`, a sweep, with lists of recipes and protocols under their plural key, and the first under the singular.

    Raises Mistakes when both keys are given.
    """
    changed = dict(root.fields)
    for single, plural in PLURALS.items():
        one, several = changed.get(single), changed.get(plural)
        if one is not None and several is not None:
            message = f"found {plural} beside it, expected one of the two"
            raise Mistakes([Mistake(one.file, one.line, (single,), message)])
        node = several or one
        if node is None or (several is None and not (isinstance(node.value, tuple) and node.value)):
            continue
        values = node.value if isinstance(node.value, tuple) else (node,)
        changed[plural] = node if isinstance(node.value, tuple) else node.replaced(values)
        changed.pop(single, None)
        if values and single == "protocol":
            changed[single] = values[0]
    return root.replaced(changed) if changed != root.fields else root


def _combinations(entry: YamlNode) -> Iterator[YamlNode]:
    """`entry` once for each combination of the values that its parameters list."""
    axes = [
        [(group, name, value) for value in node.value]
        for group in PARAMS
        if (params := entry.get(group)) is not None
        for name, node in params.fields.items()
        if isinstance(node.value, tuple) and node.value
    ]
    for chosen in itertools.product(*axes):
        one = dict(entry.fields)
        for group, name, value in chosen:
            one[group] = one[group].replaced({**one[group].fields, name: value})
        yield entry.replaced(one) if chosen else entry

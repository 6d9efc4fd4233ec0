"""Methods as people write them: ``cp(points=20)``, and a list as a parameter, which stands for several methods."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from raybench.sweep.method_label import EXPECTED, read_label
from raybench.sweep.mistakes import Mistake, Mistakes
from raybench.sweep.nodes import YamlNode, scalar

PLURALS = {"recipe": "recipes", "protocol": "protocols"}  # keys of a sweep whose list is an axis
PARAMS = ("params", "regularizer_params")


def spread_methods(root: YamlNode) -> YamlNode:
    """`root`, a sweep, with the parameters in a method's name spelt out, and each list of them as all combinations.

    An empty list is left as it is, to be reported as a mistake.
    """
    fields = root.fields
    if not fields:
        return root
    changed = dict(fields)
    if "methods" in fields:
        methods = fields["methods"]
        entries = methods.items
        found = tuple(one for entry in entries for one in _combinations(_spelt(entry)))
        if found != entries:  # else as it was typed, for the places of mistakes
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
    changed, mistakes = dict(root.fields), []
    for single, plural in PLURALS.items():
        one, several = changed.get(single), changed.get(plural)
        if one is not None and several is not None:
            message = f"found {plural} beside it, expected one of the two"
            mistakes.append(Mistake(one.file, one.line, (single,), message))
            continue
        node = several or one
        if node is None or (several is None and not (isinstance(node.value, tuple) and node.value)):
            continue
        values = node.value if isinstance(node.value, tuple) else (node,)
        changed[plural] = node if isinstance(node.value, tuple) else node.replaced(values)
        changed.pop(single, None)
        if values and single == "protocol":
            changed[single] = values[0]
    for part in ("include", "exclude"):
        if part in changed:
            whole = changed[part]
            many = isinstance(whole.value, tuple)
            changed[part] = whole.replaced(tuple(map(_plural, whole.value))) if many else _plural(whole)
    if mistakes:
        raise Mistakes(mistakes)
    return root.replaced(changed) if changed != root.fields else root


def _plural(part: YamlNode) -> YamlNode:
    """`part`, an inclusion or exclusion, with recipes and protocols under their plural key alone, as lists."""
    changed = {
        key if PLURALS.get(key) in part.fields else PLURALS.get(key, key): value for key, value in part.fields.items()
    }
    for key in PLURALS.values():
        if key in changed and not isinstance(changed[key].value, tuple):
            changed[key] = changed[key].replaced((changed[key],))
    return part.replaced(changed) if changed != part.fields else part


def _spelt(entry: YamlNode) -> YamlNode:
    """`entry` with the parameters that its name carries, ``cp(points=20)``, as its `params`; else unchanged.

    Raises Mistakes for brackets of another form, and for a parameter that stands in both places.
    """
    name = entry.get("name") or entry
    if not isinstance(name.value, str) or not set(name.value) & set("()"):
        return entry
    found = read_label(name.value)
    if found is None:
        message = f"found {name.value!r}, expected {EXPECTED}"
        raise Mistakes([Mistake(name.file, name.line, ("methods",), message)])
    plain, *given = found
    changed = {**entry.fields, "name": name.replaced(plain)}
    for group, params in zip(PARAMS, given, strict=True):
        own = changed.get(group, entry.replaced({}))
        if twice := [key for key in params if key in own.fields]:
            message = f"found {twice[0]!r} in {name.value!r} and in {group}, expected it once"
            raise Mistakes([Mistake(name.file, name.line, ("methods",), message)])
        if params:
            changed[group] = own.replaced({**own.fields, **{key: _read(value, name) for key, value in params.items()}})
    return entry.replaced(changed)


def _read(text: str, place: YamlNode) -> YamlNode:
    """The text of a parameter as a node: a scalar, or ``[0.5, 1]``, a list of them."""
    inner = text[1:-1] if text[:1] + text[-1:] == "[]" else None
    values = inner.split(",") if inner is not None else ()
    return place.replaced(tuple(place.replaced(scalar(one.strip())) for one in values) if values else scalar(text))


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

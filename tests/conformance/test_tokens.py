"""Every registered token method keeps its contract; so does a stranger's, and what breaks it is named."""

from dataclasses import dataclass

import pytest

from raybench import registry
from raybench.registry import Registry
from raybench.testing.conformance import check_file
from raybench.testing.token_conformance import check_token
from raybench.tokens.reducer import Stages, TokenReducer

REDUCERS = sorted(registry.token.entries())

PLUGIN = '''
"""The last patches go, in front of one block."""
from dataclasses import dataclass
from raybench.registry import token
from raybench.tokens.reducer import Stages, TokenReducer

class Cut(Stages):
    def __init__(self, left):
        super().__init__()
        self.left = left

    def before_block(self, block, tokens, flow):
        return (tokens[:, : self.left] if block == 1 else tokens), flow

@token("first-patches")
@dataclass(frozen=True)
class FirstPatches(TokenReducer):
    """The first patches stay."""
    train: str = "finetune"
    place = "block"

    def blocks(self, shape):
        return (1,)

    def removed(self, shape, amount):
        return (0, round(amount * (shape.patches - 1)), *[0] * (shape.depth - 2))

    def attach(self, shape, removed):
        return Cut(shape.prefix + shape.patches - removed[1])
'''


def test_all_token_methods_are_there():
    assert REDUCERS == ["cp-vit", "dynamicvit", "tome"]
    for name in REDUCERS:
        facts = registry.token.entry(name).facts
        assert facts["paper"]
        assert facts["needs"] in ("nothing", "fine-tuning")
        assert registry.CHOICE.entry(name).kinds["train"] in (("none", "finetune"), ("finetune", "none"))


@pytest.mark.parametrize("name", REDUCERS)
def test_token_method(name):
    check_token(registry.token.load(name)())


def test_a_strangers_token_method(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "token", Registry("token", registry.token.package))
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    assert check_file(path) == ["token reducer first-patches"]


@dataclass(frozen=True)
class Idle(TokenReducer):
    """Removes nothing, whatever it is asked for."""

    def removed(self, shape, amount):
        return (0,) * shape.depth

    def attach(self, shape, removed):
        return Stages()


@dataclass(frozen=True)
class Promises(Idle):
    """Says that tokens go, and keeps them."""

    def removed(self, shape, amount):
        return (int(amount * 8), *[0] * (shape.depth - 1))


@dataclass(frozen=True)
class Greedy(Promises):
    def removed(self, shape, amount):
        return (int(amount * 2 * shape.patches), *[0] * (shape.depth - 1))


@dataclass(frozen=True)
class Eager(Promises):
    def removed(self, shape, amount):
        return (1 + int(amount * 8), *[0] * (shape.depth - 1))


@pytest.mark.parametrize(
    ("reducer", "said"),
    [
        (Idle(), "removes no token"),
        (Promises(), "torch counts .* MACs, the cost model predicted"),
        (Greedy(), "removes more than `most` allows"),
        (Eager(), "removes tokens; expected none at 0"),
    ],
)
def test_broken_contracts_are_named(reducer, said):
    with pytest.raises(AssertionError, match=said):
        check_token(reducer)

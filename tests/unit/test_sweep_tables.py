"""The small parts of sweeps as tables: durations, sizes, bounds, labels, messages, variables of the environment."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Annotated

import annotated_types
import pytest
from pydantic import BaseModel, Field

from raybench import registry
from raybench.errors import UserError
from raybench.sweep import environment
from raybench.sweep.axes import as_tuple, mistake, named, refuse, without_x
from raybench.sweep.bounds import AUGMENTATIONS, model_in, range_of
from raybench.sweep.durations import EXPECTED, seconds_of
from raybench.sweep.method_label import method_label, read_label, with_params
from raybench.sweep.mistakes import Mistake, Mistakes, dotted, show
from raybench.sweep.recipe import TrainRecipe
from raybench.sweep.resources import STAGES, Resources
from raybench.sweep.target import amount
from tests.unit.sweeps import problems_of

DAY = 86400.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90), ("90s", 90), ("1.5m", 90), ("30min", 1800), ("2h", 7200), ("2d", 2 * DAY), ("1w", 7 * DAY),
        ("1h30m", 5400), ("1h 30m", 5400), (" 1 H 30 Min ", 5400), ("1d2h3m4s", DAY + 7384), ("0.5", 0.5),
        ("", None), ("0", None), ("0s", None), ("soon", None), ("1h30", None), ("1y", None), ("-5", None),
        ("5 m!", None), ("h", None), ("1.h", None), ("1,5h", None),
    ],
)  # fmt: skip
def test_durations_as_people_type_them(text, seconds) -> None:
    assert seconds_of(text) == seconds
    assert EXPECTED == "a duration such as 90, 30m, 1h or 2d"


@pytest.mark.parametrize(
    ("given", "read"),
    [
        (60, dict.fromkeys(STAGES, 60.0)),
        ("2h", dict.fromkeys(STAGES, 7200.0)),
        ({"base": "8h", "finetune": 0.5}, {"base": 28800.0, "finetune": 0.5}),
        ({}, {}),
        (3e7, dict.fromkeys(STAGES, 3e7)),
    ],
)
def test_time_limits_of_stages(given, read) -> None:
    assert Resources(timeout=given).timeout == read
    assert STAGES == ("base", "sparsify", "select", "surgery", "finetune", "measure", "publish")
    assert Resources().timeout == {}


LIMIT = "expected a duration such as 90, 30m, 1h or 2d, of at most a year"
WHOLE = "expected 0 to 1 or a whole number: a cell takes a share of one GPU or whole ones"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"timeout": 0}, [(f"found 0, {LIMIT}", ("timeout",))]),
        ({"timeout": -1}, [(f"found -1, {LIMIT}", ("timeout",))]),
        ({"timeout": 3.1e7}, [(f"found 31000000.0, {LIMIT}", ("timeout",))]),
        ({"timeout": True}, [(f"found True, {LIMIT}", ("timeout",))]),
        ({"timeout": None}, [(f"found None, {LIMIT}", ("timeout",))]),
        ({"timeout": "soon"}, [(f"found 'soon', {LIMIT}", ("timeout",))]),
        ({"timeout": {"base": "x"}}, [(f"found 'x', {LIMIT}", ("timeout", "base"))]),
        ({"timeout": {"bas": 1}}, [
            (f"unknown stage. Did you mean 'base'? Known: {', '.join(STAGES)}", ("timeout", "bas")),
        ]),
        ({"gpus": 1.5}, [(f"found 1.5, {WHOLE}", ("gpus",))]),
        ({"gpus": 2, "processes": 3}, [
            ("found 3 beside gpus: 2, expected 2 or none: each process has one GPU", ("processes",)),
        ]),
        ({"memory": "2 gigs"}, [("found '2 gigs', expected bytes or a size such as 512MiB or 2GiB", ("memory",))]),
        ({"memory": "1.2.3GB"}, [("found '1.2.3GB', expected bytes or a size such as 512MiB or 2GiB", ("memory",))]),
        ({"cpus": 0}, [("found 0, expected a number above 0 and at most 100000", ("cpus",))]),
    ],
)  # fmt: skip
def test_resources_that_cannot_be(fields, expected) -> None:
    assert problems_of(Resources, fields) == expected


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("7", 7), ("7B", 7), ("7b", 7), ("2KB", 2000), ("2MB", 2 * 10**6), ("2GB", 2 * 10**9), ("2KiB", 2048),
        ("2MiB", 2**21), ("2gib", 2**31), ("0.5 GiB", 2**29), (12, 12), (None, None),
    ],
)  # fmt: skip
def test_sizes_of_memory_in_every_unit(text, size) -> None:
    assert Resources(memory=text).memory == size
    assert Resources(gpus=1).gpus == 1


class Inner(BaseModel):
    count: Annotated[int, Field(ge=1, le=9)] = 1
    share: float | None = Field(default=None, gt=0, lt=0.5)
    sizes: tuple[Annotated[int, annotated_types.Le(7)], ...] = ()
    free: float = 0.0


class Outer(BaseModel):
    inner: Inner
    several: tuple[Inner, ...] | None = None
    word: str = ""


@pytest.mark.parametrize(
    ("loc", "words"),
    [
        (("inner", "count"), "of at least 1 and at most 9"),
        (("inner", "share"), "above 0 and below 0.5"),
        (("several", 2, "count"), "of at least 1 and at most 9"),
        (("inner", "sizes", 0), "of at most 7"),
        (("inner", "free"), ""),
        (("inner",), ""),
        (("nowhere",), ""),
        ((), ""),
    ],
)
def test_bounds_in_words(loc, words) -> None:
    assert range_of(Outer, loc) == words


def test_the_model_inside_a_type() -> None:
    assert model_in(Inner) is Inner
    assert model_in(tuple[Annotated[Inner, "x"], ...] | None) is Inner
    assert model_in(int | None) is None
    assert AUGMENTATIONS == {
        "classification": ("shift", "flip", "crop", "resized-crop"),
        "detection": ("mosaic", "hsv", "shift", "scale", "flip"),
    }


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"lr": True}, ("found true, expected a number", ("lr",))),
        ({"lr": "0.1"}, ("found '0.1', expected a number", ("lr",))),
        ({"epochs": False}, ("found false, expected a number", ("epochs",))),
        ({"epochs": 1.5}, ("found 1.5, expected a whole number", ("epochs",))),
        ({"lr": 0}, ("found 0, expected a number above 0 and at most 1000", ("lr",))),
        ({"lr": float("nan")}, ("found nan, expected a number above 0 and at most 1000", ("lr",))),
        ({"ema": float("inf")}, ("found inf, expected a finite number of at least 0 and below 1", ("ema",))),
        ({"optimizer": "adam"}, ("found 'adam', expected 'sgd' or 'adamw'. Did you mean 'adamw'?", ("optimizer",))),
        ({"amp": "maybe"}, ("found 'maybe', expected true or false", ("amp",))),
        ({"augment": 3}, ("found 3, expected a list", ("augment",))),
    ],
)  # fmt: skip
def test_messages_of_a_stage(fields, expected) -> None:
    assert problems_of(TrainRecipe, {"epochs": 1, "lr": 0.1} | fields) == [expected]


def test_messages_of_keys_and_places() -> None:
    known = ", ".join(sorted(TrainRecipe.model_fields))
    assert problems_of(TrainRecipe, {"epochs": 1, "lr": 1, "momentun": 1}) == [
        (f"unknown key. Did you mean 'momentum'? Known: {known}", ("momentun",))
    ]
    assert problems_of(TrainRecipe, {"epochs": 1}) == [("the key is missing; it is required", ("lr",))]
    assert problems_of(Outer, {"inner": {"count": 10}}) == [
        ("found 10, expected a number of at least 1 and at most 9", ("inner", "count"))
    ]
    assert problems_of(Outer, {"inner": 3}) == [("found 3, expected a mapping", ("inner",))]
    assert problems_of(Outer, {"inner": {}, "word": 3}) == [("found 3, expected text", ("word",))]
    assert [dotted(path) for path in (("a", 1, "b"), ("a",), (), (0, "a"))] == ["a[1].b", "a", "", "[0].a"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (False, "false"), ({}, "a mapping with no keys"), ({"a": 1, 2: 3}, "a mapping with a, 2"),
        ((), "an empty list"), ([1], "a list of 1"), ((1, 2), "a list of 2"), (3, "3"), ("x", "'x'"),
    ],
)  # fmt: skip
def test_values_in_messages(value, shown) -> None:
    assert show(value) == shown


def test_mistakes_are_printed_with_their_place_and_counted() -> None:
    file = Path("s.yaml")
    one, whole, nowhere = (
        Mistake(file, 3, ("a", 0), "x"), Mistake(file, 3, "", "y"), Mistake(file, None, ("b",), "z"),
    )  # fmt: skip
    assert [str(m) for m in (one, whole, nowhere)] == ["s.yaml:3: a[0]: x", "s.yaml:3: y", "s.yaml: b: z"]
    assert str(Mistakes([one])) == "s.yaml:3: a[0]: x"
    assert str(Mistakes([one, whole])) == "2 mistakes\ns.yaml:3: a[0]: x\ns.yaml:3: y"
    assert Mistakes([one, whole]).mistakes == (one, whole)


def test_mistakes_of_validators_carry_their_paths() -> None:
    assert mistake("m", "a", 1).context == {"message": "m", "at": ["a", 1]}
    assert (mistake("m").type, mistake("m").message()) == ("mistake", "m")
    refuse([])
    with pytest.raises(Exception, match="first") as error:
        refuse([("first", ("a",)), ("second", (1,))])
    assert error.value.context == {"message": "first", "at": ["a"], "more": [{"message": "second", "at": [1]}]}
    assert error.value.type == "mistake"


def test_short_forms_of_axes() -> None:
    assert (as_tuple([1, 2]), as_tuple((1,)), as_tuple("ab"), as_tuple(None)) == ((1, 2), (1,), ("ab",), (None,))
    assert (named("a"), named({"name": "b"})) == ({"name": "a"}, {"name": "b"})
    with pytest.raises(Exception, match="found 3, expected a name or a mapping with a name"):
        named(3)
    typed = ["2x", "2.5X", "2", "x", "2xx", "1e3x", 2, None]
    assert [without_x(one) for one in typed] == [2.0, 2.5, "2", "x", "2xx", "1e3x", 2, None]


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("lamp", ("lamp", {}, {})),
        ("a+b", ("a+b", {}, {})),
        (" a ( p = 1 , q = x ) + b ( r = 2 ) ", ("a+b", {"p": "1", "q": "x"}, {"r": "2"})),
        ("a()", ("a", {}, {})),
        ("a( )+b", ("a+b", {}, {})),
        ("a(p=[1, 2], q=3)", ("a", {"p": "[1, 2]", "q": "3"}, {})),
        ("a(p=b=c)", ("a", {"p": "b=c"}, {})),
        ("a(p=1,)", None), ("a(p)", None), ("a(=1)", None), ("a(p=)", None), ("a(p=1, p=2)", None), ("a(p=1", None),
        ("a+b+c", None), ("", None), ("a b", None), ("a+b(p)", None), ("a(p=1)x", None),
    ],
)  # fmt: skip
def test_labels_are_read(text, read) -> None:
    assert read_label(text) == read


def test_labels_are_written() -> None:
    values = {"a": 1, "b": 1.0, "c": 0.1, "d": 1e-7, "e": 0.30000000000000004, "f": False, "g": None, "h": "x"}
    assert with_params("n", values) == "n(a=1, b=1, c=0.1, d=1e-07, e=0.30000000000000004, f=false, g=null, h=x)"
    assert with_params("n", {}) == "n"
    default = registry.importance.entry("magnitude-l2").params["normalize"]
    own = {"name": "magnitude-l2", "params": {"normalize": default}}
    other = {"name": "magnitude-l2", "params": {"normalize": "max"}}
    strange = {"name": "nobodys", "params": {"p": 1}}
    bare = {"name": "lamp", "params": None}
    assert method_label({"importance": own, "regularizer": None}) == "magnitude-l2"
    assert method_label({"importance": other, "regularizer": strange}) == "magnitude-l2(normalize=max)+nobodys(p=1)"
    assert method_label({"importance": bare, "regularizer": None}) == "lamp"


def test_targets_in_words() -> None:
    assert (amount(2.0, None), amount(2.5, None), amount(2.0, 0.5)) == ("2x", "2.5x", "ratio 0.5")


COUNTED = {  # a variable of each family
    "cpu": [
        "ATEN_X", "DNNL_X", "ONEDNN_X", "MKL_X", "MKLDNN_X", "OMP_X", "GOMP_X", "KMP_X", "LIBOMP_X", "OPENBLAS_X",
        "BLIS_X", "GOTO_X", "NPY_DISABLE_CPU_FEATURES", "GLIBC_TUNABLES", "TORCH_MKLDNN_X", "TORCH_LINEAR_X",
        "TORCH_NNPACK", "TORCH_NNPACK_X",
    ],
    "cuda": [
        "NVIDIA_TF32_OVERRIDE", "CUBLAS_X", "CUBLASLT_X", "CUDNN_X", "TORCH_ALLOW_TF32_X", "TORCH_BLAS_X",
        "TORCH_CUDNN_X", "TORCH_LINALG_X", "TORCH_ROCM_X", "PYTORCH_TUNABLEOP_X", "PYTORCH_MIOPEN_X", "MIOPEN_X",
        "HIPBLASLT_X", "ROCBLAS_X",
    ],
}  # fmt: skip
NOT_COUNTED = [  # a variable of each harmless pattern
    "MKL_VERBOSE_X", "MKL_DEBUG_X", "DNNL_JIT_DUMP", "CUDNN_LOGINFO", "DNNL_JIT_PROFILE", "CUDNN_VERSION", "MKL_HOME",
    "MKL_ROOT", "MIOPEN_PATH", "MIOPEN_DIR", "PYTORCH_TUNABLEOP_FILENAME", "CUBLAS_CACHE", "OMP_STACKSIZE",
    "OMP_PROC_BIND", "OMP_PLACES", "KMP_AFFINITY", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME",
    "OMP_DISPLAY_ENV", "KMP_SETTINGS", "KMP_WARNINGS", "KMP_DUPLICATE_LIB_OK", "KMP_INIT_AT_FORK", "OMP_CANCELLATION",
    "OMP_TOOL", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_TARGET_OFFLOAD",
    "OMP_DEFAULT_DEVICE", "OMP_ALLOCATOR", "OMP_MAX_TASK_PRIORITY", "MKL_DISABLE_FAST_MM", "MKL_SERVICE_FORCE_INTEL",
    "MKL_MPI_PPN", "PATH", "XATEN_X", "NPY_CPU_FEATURES_X",
]  # fmt: skip


def test_every_family_of_variables_counts_and_every_harmless_pattern_does_not(monkeypatch) -> None:
    for name in environment.number_variables("cuda"):
        monkeypatch.delenv(name)
    every = [*COUNTED["cpu"], *COUNTED["cuda"], *NOT_COUNTED]
    for name in every:
        monkeypatch.setitem(environment.os.environ, name, f"of {name}")
    for name in ("MKL_EMPTY", "CUDNN_EMPTY"):
        monkeypatch.setitem(environment.os.environ, name, "")
    on_gpu = sorted(COUNTED["cpu"] + COUNTED["cuda"])
    assert list(environment.number_variables("cpu").items()) == [(n, f"of {n}") for n in sorted(COUNTED["cpu"])]
    assert list(environment.number_variables("cuda").items()) == [(n, f"of {n}") for n in on_gpu]


def test_what_is_said_of_variables(monkeypatch, recwarn) -> None:
    for name in environment.number_variables("cuda"):
        monkeypatch.delenv(name)
    assert environment.assignments({"A": "1", "B": None, "C": ""}) == "A=1 no B C="
    environment.warn_of_variables({})
    assert not recwarn
    environment.warn_of_variables({"A": "1"})
    assert [str(one.message) for one in recwarn] == [
        "A=1 in the environment can change numbers: it is part of every trial_id here. Unset it unless you mean it"
    ]
    assert (recwarn[0].category, recwarn[0].filename) == (UserWarning, __file__)
    monkeypatch.setenv("MKL_B", "2")
    monkeypatch.setenv("MKL_SAME", "3")
    environment.check_variables({"MKL_B": "2", "MKL_SAME": "3"}, "cpu")
    with pytest.raises(UserError) as error:
        environment.check_variables({"MKL_A": "1", "MKL_SAME": "3"}, "cpu")
    assert str(error.value) == (
        f"environment of {socket.gethostname()}: found no MKL_A MKL_B=2, expected MKL_A=1 no MKL_B, with which the "
        "cell was planned: it can change numbers. Set it on every node as where the sweep is started"
    )

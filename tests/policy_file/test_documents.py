"""Structs to JSON and back: what goes in comes out, and what does not fit is named with its path."""

from __future__ import annotations

import json
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from sb3_clanker.policy_file.documents import decode, encode, parse_json


class Leaf(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    count: int
    note: str | None = None


class Circle(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="circle"):
    radius: float


class Square(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="square"):
    side: int


class Everything(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    text: str = "ä \ud800 \n"
    whole: int = -3
    real: float = 0.1
    flag: bool = True
    nothing: None = None
    choice: Literal["a", "b"] = "b"
    maybe: int | None = 4
    maybe_choice: Literal["a", "b"] | None = "a"
    bound: float | tuple[float | None, ...] | None = (1.5, None)
    dims: tuple[int | str, ...] = ("batch", 3)
    texts: tuple[str, ...] = ("x", "y")
    leaves: tuple[Leaf, ...] = (Leaf(name="p", count=1), Leaf(name="q", count=2))
    table: tuple[tuple[int, ...], ...] = ((1, 2), (), (3,))
    numbers: dict[str, int]
    by_key: dict[str, Leaf]
    shapes: dict[str, Circle | Square]
    leaf: Leaf = Leaf(name="r", count=3)
    maybe_leaf: Leaf | None = Leaf(name="s", count=4)
    shape: Circle | Square = Square(side=5)


WHOLE = Everything(
    numbers={"one": 1, "": 0},
    by_key={"k": Leaf(name="t", count=5)},
    shapes={"round": Circle(radius=0.5), "edged": Square(side=1)},
)


def document(**changes: object) -> dict[str, Any]:
    """The whole of it as JSON, with some fields changed."""
    parsed: dict[str, Any] = json.loads(encode(WHOLE))
    return parsed | changes


def problem_of(value: object, cls: type[msgspec.Struct] = Everything) -> str:
    """What is said of a document that does not fit."""
    with pytest.raises(ValueError, match=r".") as raised:
        decode(cls, value)
    return str(raised.value)


def test_every_kind_of_annotation_survives_a_round_trip() -> None:
    assert decode(Everything, document()) == WHOLE


@pytest.mark.parametrize(
    "changes",
    [
        {"maybe": None},
        {"maybe_choice": None},
        {"bound": None},
        {"bound": 2.5},
        {"bound": ()},
        {"dims": ()},
        {"dims": (1, 2)},
        {"maybe_leaf": None},
        {"shape": Circle(radius=1.0)},
        {"numbers": {}},
        {"shapes": {}},
        {"flag": False, "choice": "a"},
    ],
    ids=str,
)
def test_every_alternative_of_a_union_survives_a_round_trip(changes: dict[str, Any]) -> None:
    value = replace(WHOLE, **changes)
    assert decode(Everything, json.loads(encode(value))) == value


def test_json_has_lists_for_tuples_and_objects_for_structs() -> None:
    assert json.loads(encode(Leaf(name="p", count=1))) == {"name": "p", "count": 1, "note": None}
    assert json.loads(encode(WHOLE))["leaves"][0] == {"name": "p", "count": 1, "note": None}
    assert encode(Circle(radius=0.5)) == '{"type": "circle", "radius": 0.5}'


def test_nothing_mutable_is_shared_with_the_document() -> None:
    source = document()
    value = decode(Everything, source)
    source["numbers"]["one"] = 2
    source["shapes"].clear()
    assert value == WHOLE


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -np.inf, np.float64("nan")], ids=repr)
def test_a_number_that_json_does_not_have_is_never_written(number: float) -> None:
    for value in (Circle(radius=number), replace(WHOLE, bound=(0.0, number)), replace(WHOLE, real=number)):
        with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
            encode(value)


def test_a_float_of_numpy_is_written_as_what_it_is() -> None:
    assert encode(Circle(radius=np.float64(0.1))) == '{"type": "circle", "radius": 0.1}'
    for other in (np.int64(1), np.float32(1)):
        with pytest.raises(TypeError, match=r"a (int64|float32) cannot be written as JSON"):
            encode(Circle(radius=other))  # type: ignore[arg-type]


def test_a_whole_number_is_read_as_a_float_where_a_float_belongs() -> None:
    value = decode(Everything, document(real=7, bound=[1, None]))
    assert isinstance(value.bound, tuple)
    assert (type(value.real), type(value.bound[0])) == (float, float)
    assert (value.real, value.bound) == (7.0, (1.0, None))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"text": 3}, "text: expected `str`, got `int`"),
        ({"text": None}, "text: expected `str`, got `null`"),
        ({"whole": 3.0}, "whole: expected `int`, got `float`"),
        ({"whole": "3"}, "whole: expected `int`, got `str`"),
        ({"whole": True}, "whole: expected `int`, got `bool`"),
        ({"real": "0.1"}, "real: expected `float`, got `str`"),
        ({"real": False}, "real: expected `float`, got `bool`"),
        ({"real": 10**400}, "real: number out of range"),
        ({"real": json.loads("1e999")}, "real: number out of range"),
        ({"bound": [0, json.loads("-1e999")]}, "bound: number out of range"),
        ({"shapes": {"s": {"type": "circle", "radius": json.loads("1e999")}}}, "shapes.s.radius: number out of range"),
        ({"flag": 1}, "flag: expected `bool`, got `int`"),
        ({"flag": None}, "flag: expected `bool`, got `null`"),
        ({"nothing": 0}, "nothing: expected `null`, got `int`"),
        ({"choice": "c"}, "choice: invalid enum value 'c'"),
        ({"choice": None}, "choice: expected `str`, got `null`"),
        ({"choice": ["a"]}, "choice: expected `str`, got `array`"),
        ({"maybe": "4"}, "maybe: expected `int | null`, got `str`"),
        ({"maybe": True}, "maybe: expected `int | null`, got `bool`"),
        ({"bound": "1"}, "bound: expected `float | array | null`, got `str`"),
        ({"bound": [1.0, "2"]}, "bound[1]: expected `float | null`, got `str`"),
        ({"dims": ["batch", 1.5]}, "dims[1]: expected `int | str`, got `float`"),
        ({"dims": "batch"}, "dims: expected `array`, got `str`"),
        ({"texts": ["x", "y", None]}, "texts[2]: expected `str`, got `null`"),
        ({"texts": {"0": "x"}}, "texts: expected `array`, got `object`"),
        ({"leaves": [{"name": "p", "count": "1"}]}, "leaves[0].count: expected `int`, got `str`"),
        ({"leaves": [7]}, "leaves[0]: expected `object`, got `int`"),
        ({"table": [[1], [2, "x"]]}, "table[1][1]: expected `int`, got `str`"),
        ({"numbers": []}, "numbers: expected `object`, got `array`"),
        ({"numbers": {"one": "1"}}, "numbers[...]: expected `int`, got `str`"),
        ({"by_key": {"k": {"name": 5, "count": 5}}}, "by_key[...].name: expected `str`, got `int`"),
        ({"leaf": {"name": "r", "count": 3, "size": 1}}, "leaf: object contains unknown field `size`"),
        ({"leaf": {"name": "r"}}, "leaf: object missing required field `count`"),
        ({"leaf": None}, "leaf: expected `object`, got `null`"),
        ({"maybe_leaf": 4}, "maybe_leaf: expected `object | null`, got `int`"),
        ({"shape": {"type": "hexagon"}}, "shape.type: invalid value 'hexagon'"),
        ({"shape": {"side": 5}}, "shape: object missing required field `type`"),
        ({"shape": {"type": "circle", "side": 5, "radius": 1.0}}, "shape: object contains unknown field `side`"),
        ({"shape": {"type": "square", "side": 0.5}}, "shape.side: expected `int`, got `float`"),
        ({"shapes": {"s": {"type": ["circle"]}}}, "shapes[...].type: expected `str`, got `list`"),
        ({"colour": 1}, "object contains unknown field `colour`"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named_with_its_path(changes: dict[str, object], problem: str) -> None:
    assert problem_of(document(**changes)) == problem


@pytest.mark.parametrize("name", list(document()))
def test_a_missing_field_is_named_though_it_has_a_default(name: str) -> None:
    incomplete = document()
    del incomplete[name]
    assert problem_of(incomplete) == f"object missing required field `{name}`"


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"leaf": {"name": "r", "count": 3}}, "leaf"),
        ({"leaves": [{"name": "p", "count": 1, "note": None}, {"name": "q", "count": 2}]}, "leaves[1]"),
        ({"by_key": {"k": {"name": "t", "count": 5}}}, "by_key.k"),
    ],
    ids=["field", "list", "object"],
)
def test_a_missing_field_within_is_named_with_its_path(changes: dict[str, object], path: str) -> None:
    assert problem_of(document(**changes)) == f"{path}: object missing required field `note`"


@pytest.mark.parametrize("value", [None, [], "text", 3, True], ids=repr)
def test_a_document_that_is_no_object_is_refused(value: object) -> None:
    assert problem_of(value, Leaf).startswith("expected `object`, got `")


def test_a_hostile_name_is_cut_in_the_message() -> None:
    long = "x" * 1_000_000
    for changes in ({long: 1}, {f"x - at `$.{long}": 1}, {"by_key": {long: {"name": "t", "count": 5}}}):
        assert len(problem_of(document(**changes))) < 500


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"a": NaN}', "NaN is not a JSON number"),
        ('{"a": [-Infinity]}', "-Infinity is not a JSON number"),
        ('{"a": {"b": 1, "b": 2}}', "the key 'b' stands twice in an object"),
        ("[" * 100_000, "it is nested too deeply"),
        ("{", "Expecting property name"),
        ("", "Expecting value"),
    ],
    ids=["NaN", "infinity", "twice", "nested", "cut", "empty"],
)
def test_what_is_not_quite_json_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_json(text)
    with pytest.raises(ValueError, match=problem):
        parse_json(text.encode())


def test_numbers_keep_every_digit() -> None:
    assert parse_json('{"a": [1, -2.5, 1e-320, 1e308]}') == {"a": [1, -2.5, 1e-320, 1e308]}

"""Dataclasses to JSON and back: what goes in comes out, and what does not fit is named with its path."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest

from sb3_clanker.policy_file.schema import from_json, to_json


@dataclass(frozen=True, kw_only=True)
class Leaf:
    name: str
    count: int


@dataclass(frozen=True, kw_only=True)
class Circle:
    type: Literal["circle"] = "circle"
    radius: float


@dataclass(frozen=True, kw_only=True)
class Square:
    type: Literal["square"] = "square"
    side: int


@dataclass(frozen=True, kw_only=True)
class Everything:
    text: str = "ä \ud800 \n"
    whole: int = -3
    real: float = 0.1
    flag: bool = True
    nothing: None = None
    choice: Literal["a", "b"] = "b"
    version: Literal[1, 2] = 2
    maybe: int | None = 4
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


@dataclass(frozen=True, kw_only=True)
class ChoiceOrNull:
    choice: Literal["a", "b"] | None


def read(cls: type[Any], document: object, path: str = "") -> tuple[Any, list[str]]:
    problems: list[str] = []
    return from_json(cls, document, problems, path), problems


def document(**changes: object) -> dict[str, Any]:
    """The whole of it as JSON, with some fields changed."""
    parsed: dict[str, Any] = json.loads(json.dumps(to_json(WHOLE)))
    return parsed | changes


def test_every_kind_of_annotation_survives_a_round_trip() -> None:
    assert read(Everything, document()) == (WHOLE, [])


@pytest.mark.parametrize(
    "changes",
    [
        {"maybe": None},
        {"bound": None},
        {"bound": 2.5},
        {"bound": ()},
        {"dims": ()},
        {"dims": (1, 2)},
        {"maybe_leaf": None},
        {"shape": Circle(radius=1.0)},
        {"numbers": {}},
        {"shapes": {}},
        {"flag": False, "choice": "a", "version": 1},
    ],
    ids=str,
)
def test_every_alternative_of_a_union_survives_a_round_trip(changes: dict[str, Any]) -> None:
    value = replace(WHOLE, **changes)
    assert read(Everything, json.loads(json.dumps(to_json(value)))) == (value, [])


def test_a_literal_within_a_union_survives_a_round_trip() -> None:
    assert read(ChoiceOrNull, {"choice": None}) == (ChoiceOrNull(choice=None), [])
    assert read(ChoiceOrNull, {"choice": "a"}) == (ChoiceOrNull(choice="a"), [])


def test_json_has_lists_for_tuples_and_objects_for_dataclasses() -> None:
    assert to_json(Leaf(name="p", count=1)) == {"name": "p", "count": 1}
    assert to_json({"a": (1, (Leaf(name="p", count=1),))}) == {"a": [1, [{"name": "p", "count": 1}]]}
    assert to_json(Circle(radius=0.5)) == {"type": "circle", "radius": 0.5}


def test_a_whole_number_is_read_as_a_float_where_a_float_belongs() -> None:
    value, problems = read(Everything, document(real=7, bound=[1, None]))
    assert problems == []
    assert (type(value.real), type(value.bound[0])) == (float, float)
    assert (value.real, value.bound) == (7.0, (1.0, None))


def test_a_number_too_large_for_a_float_is_a_problem() -> None:
    value, problems = read(Everything, document(real=10**400))
    assert value is None
    assert problems == ["real: expected a number of the size of a float64, got a larger one"]


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"text": 3}, "text: expected a string, got 3"),
        ({"text": None}, "text: expected a string, got None"),
        ({"whole": 3.0}, "whole: expected an integer, got 3.0"),
        ({"whole": "3"}, "whole: expected an integer, got '3'"),
        ({"whole": True}, "whole: expected an integer, got True"),
        ({"real": "0.1"}, "real: expected a number, got '0.1'"),
        ({"real": False}, "real: expected a number, got False"),
        ({"flag": 1}, "flag: expected true or false, got 1"),
        ({"flag": None}, "flag: expected true or false, got None"),
        ({"nothing": 0}, "nothing: expected null, got 0"),
        ({"choice": "c"}, "choice: expected 'a' or 'b', got 'c'"),
        ({"choice": None}, "choice: expected 'a' or 'b', got None"),
        ({"choice": ["a"]}, "choice: expected 'a' or 'b', got ['a']"),
        ({"version": True}, "version: expected 1 or 2, got True"),
        ({"version": 1.0}, "version: expected 1 or 2, got 1.0"),
        ({"maybe": "4"}, "maybe: expected an integer or null, got '4'"),
        ({"maybe": True}, "maybe: expected an integer or null, got True"),
        ({"bound": "1"}, "bound: expected a number or a list or null, got '1'"),
        ({"bound": [1.0, "2"]}, "bound[1]: expected a number or null, got '2'"),
        ({"dims": ["batch", 1.5]}, "dims[1]: expected an integer or a string, got 1.5"),
        ({"dims": "batch"}, "dims: expected a list, got 'batch'"),
        ({"texts": ["x", "y", None]}, "texts[2]: expected a string, got None"),
        ({"texts": {"0": "x"}}, "texts: expected a list, got {'0': 'x'}"),
        ({"leaves": [{"name": "p", "count": "1"}]}, "leaves[0].count: expected an integer, got '1'"),
        ({"leaves": [{"name": "p", "count": 1}, {"name": "q"}]}, "leaves[1].count: missing"),
        ({"leaves": [7]}, "leaves[0]: expected an object, got 7"),
        ({"table": [[1], [2, "x"]]}, "table[1][1]: expected an integer, got 'x'"),
        ({"numbers": []}, "numbers: expected an object, got []"),
        ({"numbers": {"one": "1"}}, "numbers['one']: expected an integer, got '1'"),
        ({"by_key": {"k": {"name": 5, "count": 5}}}, "by_key['k'].name: expected a string, got 5"),
        ({"leaf": {"name": "r", "count": 3, "size": 1}}, "leaf.size: unknown field"),
        ({"leaf": None}, "leaf: expected an object, got None"),
        ({"maybe_leaf": 4}, "maybe_leaf: expected Leaf or null, got 4"),
        ({"maybe_leaf": {"name": "s"}}, "maybe_leaf.count: missing"),
        ({"shape": {"type": "hexagon"}}, "shape: expected Circle or Square, got {'type': 'hexagon'}"),
        ({"shape": {"side": 5}}, "shape: expected Circle or Square, got {'type': None}"),
        ({"shape": {"type": "circle", "side": 5, "radius": 1.0}}, "shape.side: unknown field"),
        ({"shape": {"type": "square", "side": 0.5}}, "shape.side: expected an integer, got 0.5"),
        ({"shapes": {"s": {"type": ["circle"]}}}, "shapes['s']: expected Circle or Square, got {'type': ['circle']}"),
        ({"colour": 1}, "colour: unknown field"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_named_with_its_path(changes: dict[str, object], problem: str) -> None:
    assert read(Everything, document(**changes)) == (None, [problem])


@pytest.mark.parametrize("name", list(to_json(WHOLE)))
def test_a_missing_field_is_named(name: str) -> None:
    incomplete = document()
    del incomplete[name]
    assert read(Everything, incomplete) == (None, [f"{name}: missing"])


def test_every_problem_is_collected_at_once() -> None:
    broken = document(
        text=1,
        leaves=[{"name": 1, "count": "1"}, {"count": 2}],
        numbers={"one": None, "two": 2, "three": True},
        shape={"type": "circle", "radius": "r", "side": 1},
        colour="red",
    )
    del broken["whole"]
    value, problems = read(Everything, broken)
    assert value is None
    assert sorted(problems) == [
        "colour: unknown field",
        "leaves[0].count: expected an integer, got '1'",
        "leaves[0].name: expected a string, got 1",
        "leaves[1].name: missing",
        "numbers['one']: expected an integer, got None",
        "numbers['three']: expected an integer, got True",
        "shape.radius: expected a number, got 'r'",
        "shape.side: unknown field",
        "text: expected a string, got 1",
        "whole: missing",
    ]


@pytest.mark.parametrize("value", [None, [], "text", 3, True], ids=repr)
def test_a_document_that_is_no_object_is_a_problem_of_the_record(value: object) -> None:
    assert read(Leaf, value) == (None, [f"record: expected an object, got {value!r}"])


def test_a_path_that_is_given_leads_every_message() -> None:
    assert read(Leaf, {"name": 1}, "file") == (None, ["file.name: expected a string, got 1", "file.count: missing"])
    assert read(Leaf, 1, "file") == (None, ["file: expected an object, got 1"])


def test_problems_of_others_are_kept_and_spoil_nothing() -> None:
    problems = ["from before"]
    assert from_json(Leaf, {"name": "p", "count": 1}, problems) == Leaf(name="p", count=1)
    assert from_json(Leaf, {"name": "p"}, problems) is None
    assert problems == ["from before", "count: missing"]


def test_a_long_value_is_cut_in_the_message() -> None:
    _, problems = read(Everything, document(whole="x" * 1000))
    assert problems == [f"whole: expected an integer, got '{'x' * 27}...{'x' * 28}'"]

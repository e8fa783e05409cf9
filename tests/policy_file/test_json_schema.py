"""The JSON Schemas: up to date in docs/, true of real files, and strict with damaged ones."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import gymnasium as gym
import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack, VecNormalize

from sb3_clanker import ExportOptions, PolicyMetadata, export_policy
from sb3_clanker.cli.main import main
from sb3_clanker.policy_file.container import split_container
from sb3_clanker.policy_file.documents import json_schema
from sb3_clanker.policy_file.record import SCHEMA_VERSION
from sb3_clanker.policy_file.vectors import TestVectors
from tests.support import OBSERVATIONS
from tests.worlds import UNBOUNDED_OBSERVATION, make_env, make_model

NEWEST = Path(__file__).parent / f"version_{SCHEMA_VERSION}.onnx"
DOCS = Path(__file__).parents[2] / "docs"
Document: TypeAlias = Literal["record", "vectors"]
SCHEMAS: dict[Document, dict[str, Any]] = {
    "record": json_schema(PolicyMetadata),
    "vectors": json_schema(TestVectors),
}
FILES: dict[Document, str] = {"record": "policy-record.schema.json", "vectors": "test-vectors.schema.json"}


def _documents(folder: Path, model: Any, **options: Any) -> dict[Document, Any]:
    """The record and the test vectors of an export, as JSON."""
    model.learn(32)
    path = export_policy(model, folder / "policy.onnx", options=ExportOptions(test_vectors=3, **options)).path
    _, entries = split_container(path.read_bytes())
    return {
        "record": json.loads(entries["sb3_clanker"]),
        "vectors": json.loads((folder / "policy.vectors.json").read_bytes()),
    }


def _stacked() -> Any:
    env = VecFrameStack(VecNormalize(make_env(UNBOUNDED_OBSERVATION, spaces.Discrete(3))), n_stack=2)
    return make_model(PPO, env=env)


def _recurrent() -> Any:
    from sb3_contrib import RecurrentPPO

    return make_model(RecurrentPPO, policy="MlpLstmPolicy")


def _masked() -> Any:
    from sb3_contrib import MaskablePPO

    return make_model(MaskablePPO, action_space=spaces.MultiBinary(3))


POLICIES: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "everything": (
        lambda: make_model(PPO, UNBOUNDED_OBSERVATION, normalize=True),
        {
            "further_outputs": ("distribution", "value"),
            "observation_names": ["x", "y", "z"],
            "action_units": ["Nm", "Nm"],
            "control_period": 0.02,
            "max_latency_ms": 1e4,
            "metadata": {"robot": "arm-3"},
        },
    ),
    "of gymnasium": (lambda: make_model(PPO, env=DummyVecEnv([lambda: gym.make("CartPole-v1")])), {}),
    "dict": (lambda: make_model(PPO, OBSERVATIONS["Dict of anything"], policy="MultiInputPolicy"), {}),
    "image": (lambda: make_model(DQN, OBSERVATIONS["image"], spaces.Discrete(3), policy="CnnPolicy"), {}),
    "stacked": (_stacked, {}),
    "recurrent": (_recurrent, {}),
    "masked": (_masked, {}),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[Document, Any]]:
    known: dict[str, dict[Document, Any]] = {}

    def get(name: str) -> dict[Document, Any]:
        if name not in known:
            make, options = POLICIES[name]
            known[name] = _documents(tmp_path_factory.mktemp(name), make(), **options)
        return copy.deepcopy(known[name])

    return get


def _errors(document: Document, value: Any) -> list[str]:
    validator = jsonschema.Draft202012Validator(SCHEMAS[document])
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(value)]


@pytest.mark.parametrize("document", get_args(Document))
def test_the_schemas_in_docs_are_up_to_date(document: Document) -> None:
    path = DOCS / FILES[document]
    command = f"sb3-clanker schema {document} > docs/{path.name}"
    assert json.loads(path.read_text()) == SCHEMAS[document], f"make it anew: {command}"


@pytest.mark.parametrize("document", get_args(Document))
def test_the_command_line_prints_what_stands_in_docs(document: Document, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema", document]) == 0
    assert capsys.readouterr().out == (DOCS / FILES[document]).read_text()


@pytest.mark.parametrize("document", get_args(Document))
def test_the_schemas_are_json_schema(document: Document) -> None:
    schema = SCHEMAS[document]
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    jsonschema.Draft202012Validator.check_schema(schema)


@pytest.mark.parametrize("document", get_args(Document))
def test_every_field_is_explained(document: Document) -> None:
    schema = SCHEMAS[document]
    for name, part in {document: schema, **schema["$defs"]}.items():
        assert part["description"]
        for field, of_field in part["properties"].items():
            assert of_field.get("description"), f"{name}.{field}: no :ivar line in its docstring"
            assert "None" not in of_field["description"].split()
            assert "``" not in of_field["description"]


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("document", get_args(Document))
def test_real_documents_fit(exported: Callable[[str], dict[Document, Any]], name: str, document: Document) -> None:
    assert _errors(document, exported(name)[document]) == []


def test_between_them_the_real_records_use_every_definition(exported: Callable[[str], dict[Document, Any]]) -> None:
    """So that no part of the schema stands there untried."""
    unseen = set(SCHEMAS["record"]["$defs"])
    for definition in sorted(unseen):
        schema = copy.deepcopy(SCHEMAS["record"])
        schema["$defs"][definition] = {"not": {}}
        validator = jsonschema.Draft202012Validator(schema)
        if any(not validator.is_valid(exported(name)["record"]) for name in POLICIES):
            unseen.discard(definition)
    alone = {"CheckpointRecord", "PairedFile", "EvaluationRecord", "ObservationRanges", "ObservationRange"}
    assert unseen == alone, "an export alone pairs nothing, and nothing has evaluated or watched it; the rest is used"


def test_the_record_of_a_checkpoint_fits() -> None:
    _, entries = split_container(NEWEST.read_bytes())
    record = json.loads(entries["sb3_clanker"])
    assert _errors("record", record) == []
    assert record["checkpoint"]["algorithm_file"]
    assert record["training"]["evaluation"]
    assert record["observation_ranges"]["ranges"][0]["quantiles"]


DAMAGES: dict[str, tuple[Document, Callable[[Any], object], str]] = {
    "a missing field": ("record", lambda record: record.pop("algorithm"), "'algorithm' is a required property"),
    "an unknown field": ("record", lambda record: record.update(more=1), r"\('more' was unexpected\)"),
    "entries": ("record", lambda record: record.update(entries={}), r"\('entries' was unexpected\)"),
    "another version": ("record", lambda record: record.update(schema_version=4), r"schema_version: 3 was expected"),
    "a number as text": ("record", lambda record: record.update(opset_version="18"), "'18' is not of type 'integer'"),
    "an unknown role": (
        "record",
        lambda record: record["inputs"][0].update(role="x"),
        r"inputs\[0\]\.role: 'x' is not",
    ),
    "a space of no kind": (
        "record",
        lambda record: record["action_space"].update(type="Tuple"),
        "is not valid under any",
    ),
    "a space without a type": ("record", lambda record: record["action_space"].pop("type"), "is not valid under any"),
    "a field of another kind": ("record", lambda record: record["action_space"].update(n=3), "is not valid under any"),
    "no status": (
        "record",
        lambda record: record["normalization"].update(status="?"),
        "normalization.status: '\\?' is not",
    ),
    "a shape with null": (
        "record",
        lambda record: record["inputs"][0]["shape"].append(None),
        "None is not valid under",
    ),
    "no record": ("record", dict.clear, "is a required property"),
    "no cases": ("vectors", lambda vectors: vectors.pop("cases"), "'cases' is a required property"),
    "a type without a name": (
        "vectors",
        lambda vectors: vectors["inputs"][0].update(dtype="int8"),
        "'int8' is not one of",
    ),
    "an answer as text": (
        "vectors",
        lambda vectors: vectors["cases"][1]["outputs"]["action"].append("0"),
        r"cases\[1\]\.outputs\.action\[2\]: '0' is not of type 'number'",
    ),
    "a newer version": ("vectors", lambda vectors: vectors.update(format_version=2), "format_version: 1 was expected"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_documents_do_not_fit(exported: Callable[[str], dict[Document, Any]], name: str) -> None:
    document, damage, expected = DAMAGES[name]
    value = exported("everything")[document]
    damage(value)
    errors = "\n".join(_errors(document, value))
    assert re.search(expected, errors), errors


# Any Struct ---------------------------------------------------------------------------------------------------------


class Leaf(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type", tag="leaf"):
    """One leaf.

    :ivar size: in metres
    """

    size: float | None = None


class Tree(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tree, of ``leaves``.

    It has more lines.

    :ivar count: how many,
        None where nobody counted
    :ivar by_name: leaves by name
    """

    schema_version: int = 7
    count: int | None
    by_name: dict[str, tuple[Leaf, ...]]
    flag: bool = False
    entries: tuple[str, ...] = ()


def test_a_schema_follows_the_annotations() -> None:
    assert json_schema(Tree) == {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Tree",
        "description": "A tree, of `leaves`.",
        "type": "object",
        "properties": {
            "schema_version": {"const": 7},
            "count": {
                "description": "how many, null where nobody counted",
                "anyOf": [{"type": "integer"}, {"type": "null"}],
            },
            "by_name": {
                "description": "leaves by name",
                "type": "object",
                "additionalProperties": {"type": "array", "items": {"$ref": "#/$defs/Leaf"}},
            },
            "flag": {"type": "boolean"},
        },
        "required": ["schema_version", "count", "by_name", "flag"],
        "additionalProperties": False,
        "$defs": {
            "Leaf": {
                "title": "Leaf",
                "description": "One leaf.",
                "type": "object",
                "properties": {
                    "type": {"enum": ["leaf"]},
                    "size": {"description": "in metres", "anyOf": [{"type": "number"}, {"type": "null"}]},
                },
                "required": ["type", "size"],
                "additionalProperties": False,
            },
        },
    }

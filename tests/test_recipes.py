"""docs/recipes.md: each of its programs runs, and what it makes is as close to Stable-Baselines3 as its table says."""

from __future__ import annotations

import copy
import functools
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from zipfile import ZipFile

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_clanker import export_policy
from tests.consumers import conftest as consumers
from tests.worlds import draw

_TEXT = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text()
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_SECTIONS = dict(re.findall(r"^#+ ([^\n]*)\n(.*?)(?=^#+ |\Z)", _TEXT.replace("  # ", "  \0"), re.DOTALL | re.MULTILINE))
_PROGRAMS = {name: [code.replace("\0", "# ") for code in _BLOCK.findall(text)] for name, text in _SECTIONS.items()}
_BEFORE, _INPUTS = _PROGRAMS["Recipes for other formats"]

KINDS = {
    "PPO, VecNormalize": "box",
    "PPO, choices": "cartpole",
    "DQN, image": "image",
    "SAC, Dict": "dict",
    "RecurrentPPO": "recurrent",
    "MaskablePPO": "masked",
}
"""The columns of the table, and the policies that ``tests/consumers`` has of each kind."""
ONE_AT_A_TIME = ("ExecuTorch", "int8")
NOT_RUN = "CoreML"
MARKS: Mapping[str, list[pytest.MarkDecorator]] = {
    "AOTInductor": [pytest.mark.slow, pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")],
    **{name: [pytest.mark.recipes] for name in ("ExecuTorch", "OpenVINO", NOT_RUN)},
}


class Answers(NamedTuple):
    """Raw observations, what else goes in, and the actions of Stable-Baselines3."""

    observations: Any
    context: dict[str, Any]
    actions: np.ndarray


def _table() -> dict[tuple[str, str], float]:
    """What the table says, by recipe and column."""
    lines = [line for line in _TEXT.splitlines() if line.startswith("|")]
    head, _, *rows = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    return {(row[0], kind): float(cell) for row in rows for kind, cell in zip(head[1:], row[1:], strict=True)}


TABLE = _table()
RECIPES = list(dict.fromkeys(recipe for recipe, _ in TABLE))


@functools.cache
def _trained(kind: str) -> BaseAlgorithm:
    model: BaseAlgorithm = consumers.KINDS[KINDS[kind]]()
    return model.learn(64)


def _ask(kind: str, n: int) -> Answers:
    model, rng = _trained(kind), np.random.default_rng(n)
    env, context = model.get_vec_normalize_env(), dict[str, Any]()
    space = {"DQN, image": consumers.IMAGE, "SAC, Dict": consumers.DICT}.get(kind, model.observation_space)
    raw = draw(space, rng, n)
    if kind == "RecurrentPPO":
        state = tuple(rng.normal(size=(1, n, 16)).astype(np.float32) for _ in range(2))
        context = {"state": state, "episode_start": rng.random(n) < 0.3}
    elif kind == "MaskablePPO":
        masks = rng.random((n, 7)) < 0.5
        masks[:, [0, 3]] = True
        context = {"action_masks": masks}
    normalized = raw if env is None else env.normalize_obs(raw)
    return Answers(raw, context, model.predict(normalized, deterministic=True, **context)[0])


@pytest.fixture(params=KINDS, scope="module")
def begun(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the first program leaves behind, for one kind of policy, in a folder of its own."""
    folder = tmp_path_factory.mktemp("recipes")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.chdir(folder)
        patch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
        names = {"model": _trained(request.param), "kind": request.param}
        _run(_BEFORE, names)
        yield names


@pytest.fixture
def names(begun: dict[str, Any]) -> dict[str, Any]:
    """The same, for one recipe to go on with."""
    return dict(begun)


def _run(code: str, names: dict[str, Any]) -> None:
    exec(compile(code, "recipes.md", "exec"), names)  # noqa: S102 - our own


def _feeds(answers: Answers, names: dict[str, Any], one_at_a_time: bool) -> Iterator[None]:
    """Put into ``inputs`` and ``tensors`` what goes in: all at once, or one row after the other."""
    context = "".join(f", {name}=context[{name!r}]" for name in answers.context)
    names |= {"observations": answers.observations, "context": answers.context}
    _run(_INPUTS.replace("(observations)", f"(observations{context})"), names)
    if not one_at_a_time:
        yield
        return
    inputs, axes = names["inputs"], {spec.name: spec.shape.index("batch") for spec in names["module"].inputs}
    for row in range(len(answers.actions)):
        names["inputs"] = {name: np.take(array, [row], axes[name]) for name, array in inputs.items()}
        names["tensors"] = tuple(th.from_numpy(names["inputs"][name]) for name in axes)
        yield


def _difference(recipe: str, names: dict[str, Any], n: int) -> float:
    """The largest, in half-ranges; of choices, how many differ."""
    answers = _ask(names["kind"], n)
    actions = []
    for _ in _feeds(answers, names, recipe in ONE_AT_A_TIME):
        _run(_PROGRAMS[recipe][1], names)
        actions.append(np.asarray(names["action"]).copy())
    action = np.concatenate(actions).reshape(answers.actions.shape)
    assert len(np.unique(answers.actions, axis=0)) > min(n, 2) - 1, "the weights tell no actions apart"
    space = names["model"].action_space
    if isinstance(space, spaces.Box):
        half = (space.high.astype(np.float64) - space.low) / 2
        return float(np.abs((action - answers.actions) / half).max())
    return int((action != answers.actions).reshape(n, -1).any(axis=1).sum())


@pytest.mark.filterwarnings("ignore")  # other people's exporters warn of themselves
@pytest.mark.parametrize("recipe", [pytest.param(name, marks=MARKS.get(name, ())) for name in RECIPES])
def test_a_recipe_is_as_close_as_it_says(recipe: str, names: dict[str, Any]) -> None:
    _run(_PROGRAMS[recipe][0], names)
    for n in (1, 7, 100 if recipe in ONE_AT_A_TIME else 1000):
        found = _difference(recipe, names, n)
        assert found <= TABLE[recipe, names["kind"]]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.recipes
def test_what_is_not_run_is_converted(names: dict[str, Any]) -> None:
    (program,) = _PROGRAMS[NOT_RUN]
    _run(program, names)
    description = names["coremltools"].models.MLModel("policy.mlpackage", skip_model_load=True).get_spec().description
    assert [tensor.name for tensor in description.input] == [spec.name for spec in names["module"].inputs]
    assert {tensor.name for tensor in description.output} == {spec.name for spec in names["module"].outputs}
    assert "not run" in _SECTIONS[NOT_RUN]


@pytest.mark.parametrize("begun", ["PPO, VecNormalize"], indirect=True)
def test_another_policy_is_told_apart(names: dict[str, Any]) -> None:
    other = copy.deepcopy(names["module"])
    other.get_parameter("_actor.policy.action_net.bias").add_(1e-3)
    names["program"] = th.export.export(other, other.example_inputs(), dynamic_shapes=other.dynamic_shapes())
    _run(_PROGRAMS[".pt2"][0], names)
    assert _difference(".pt2", names, 2) > TABLE[".pt2", names["kind"]]


@pytest.mark.parametrize("begun", ["DQN, image"], indirect=True)
def test_a_pt2_needs_torch_alone_and_names_no_path(names: dict[str, Any]) -> None:
    _run(_PROGRAMS[".pt2"][0], names)
    with ZipFile("policy.pt2") as file:
        parts = {name: file.read(name) for name in file.namelist()}
    here = [str(path).encode() for path in (Path.cwd(), Path(__file__).parents[1], Path(sys.prefix))]
    assert not [name for name, data in parts.items() if any(path in data for path in here)]
    script = (
        "import sys; sys.modules |= dict.fromkeys(['sb3_clanker', 'stable_baselines3', 'gymnasium', 'onnx']); "
        "import torch; from torch import zeros, uint8; tensors = (zeros(3, 3, 36, 36, dtype=uint8),); "
    )
    code = script + _PROGRAMS[".pt2"][1].strip() + "; print(tuple(action.shape))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(3, 1)\n"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("begun", ["PPO, VecNormalize"], indirect=True)
def test_fp16_normalizes_in_float32(names: dict[str, Any]) -> None:
    model, far = names["model"], np.float32(1e5)  # which fp16 does not reach
    vec_normalize = copy.deepcopy(model.get_vec_normalize_env())
    vec_normalize.obs_rms.mean += far
    observations = draw(model.observation_space, np.random.default_rng(0), 100) + far
    expected = model.predict(vec_normalize.normalize_obs(observations), deterministic=True)[0]
    export_policy(model, "policy.onnx", vec_normalize=vec_normalize)
    try:
        for program in _PROGRAMS["fp16"]:
            names["inputs"] = {"obs": observations}
            _run(program, names)
    finally:
        export_policy(model, "policy.onnx")
    np.testing.assert_allclose(names["action"], expected, atol=2e-2)


def test_nothing_is_left_out() -> None:
    assert {kind for _, kind in TABLE} == set(KINDS)
    recipes = [name for name, programs in _PROGRAMS.items() if programs][1:]
    assert sorted(recipes) == sorted([*RECIPES, NOT_RUN])
    assert [len(_PROGRAMS[name]) for name in recipes if name != NOT_RUN] == [2] * (len(recipes) - 1)
    assert _TEXT.count("```") == 2 * sum(map(len, _PROGRAMS.values()))
    assert set(MARKS) <= set(recipes)

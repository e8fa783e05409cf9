"""TorchScript: what Stable-Baselines3 does, traced once, whole in torch alone, with nothing of this machine in it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
import warnings
import zipfile
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from msgspec.structs import replace
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

import sb3_clanker
from sb3_clanker import ExportOptions, OnnxPolicy, export_policy
from sb3_clanker.actor.actor import make_actor
from sb3_clanker.errors import FormatError, LatencyError, ValidationError
from sb3_clanker.export.exporter import Exporter, ProvenPolicy
from sb3_clanker.formats.torchscript import deprecated, open_policy, read_record
from sb3_clanker.run_folder.names import TORCHSCRIPT, TORCHSCRIPT_METADATA
from sb3_clanker.sb3.normalization import resolve_normalization
from sb3_clanker.writers import torchscript
from sb3_clanker.writers.torchscript import describe_bundle
from sb3_clanker.writers.trace import tracing
from sb3_clanker.writers.weights import WeightsWriter
from tests.integration.test_reading_side import BLOCKER
from tests.worlds import BOX_OBSERVATION, draw, make_model, predict_raw, spread

OBSERVATIONS = draw(BOX_OBSERVATION, np.random.default_rng(3), 33)
OPTIONS = ExportOptions(formats=("torchscript",), n_samples=8)


def _exporter(model: BaseAlgorithm, **options: Any) -> Exporter:
    return Exporter(model, resolve_normalization(model, "auto"), replaced(OPTIONS, **options))


def _policy(proven: ProvenPolicy) -> OnnxPolicy:
    return OnnxPolicy.from_runner(open_policy(proven.further[TORCHSCRIPT]), proven.metadata)


@pytest.fixture
def traces(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """What was traced, in order."""
    traces: list[object] = []
    jit: Any = th.jit
    trace = jit.trace

    def counted(actor: object, *args: Any, **kwargs: Any) -> object:
        traces.append(actor)
        return trace(actor, *args, **kwargs)

    monkeypatch.setattr(th.jit, "trace", counted)
    return traces


def test_it_is_traced_once_and_filled_with_live_weights(traces: list[object]) -> None:
    model = make_model(normalize=True)
    exporter = _exporter(model)
    for seed in range(3):
        spread(model, seed=seed)
        vec_normalize: Any = model.get_vec_normalize_env()
        vec_normalize.obs_rms.update(np.random.default_rng(seed).normal(seed, 2.0, (50, 3)))
        got = _policy(exporter.export()).predict(OBSERVATIONS)[0]
        np.testing.assert_allclose(got, predict_raw(model, OBSERVATIONS, vec_normalize), atol=1e-5)
    assert len(traces) == 1


def test_what_a_trace_bakes_in_is_traced_again(traces: list[object]) -> None:
    model = make_model(SAC)
    exporter = _exporter(model)
    exporter.export()
    policy: Any = model.policy
    policy.actor.latent_pi[1] = th.nn.Tanh()
    got = _policy(exporter.export()).predict(OBSERVATIONS)[0]
    np.testing.assert_allclose(got, predict_raw(model, OBSERVATIONS), atol=1e-6)
    assert len(traces) == 2


class _Counting(BaseFeaturesExtractor):
    """Counts its calls in a buffer, and normalizes by what it keeps in one."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, 3)
        self.register_buffer("n_calls", th.zeros(()))
        self.register_buffer("spread", th.ones(3), persistent=False)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        self.get_buffer("n_calls").add_(1)
        return observations / th.sqrt(self.get_buffer("spread") + 0.5)


def test_buffers_of_code_of_the_users_are_live_too(traces: list[object]) -> None:
    kwargs = {"features_extractor_class": _Counting, "net_arch": [8]}
    model: Any = make_model(DQN, action_space=spaces.Discrete(4), policy_kwargs=kwargs)
    exporter, answers = _exporter(model), set()
    for value in (1.0, 9.0, 0.1):
        model.policy.q_net.features_extractor.spread.fill_(value)
        got = _policy(exporter.export()).predict(OBSERVATIONS)[0]
        assert got.tolist() == predict_raw(model, OBSERVATIONS).tolist()
        answers.add(got.tobytes())
    assert (len(answers), len(traces)) == (3, 1)


def test_a_file_with_wrong_weights_is_refused_by_name_and_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = torchscript._Traced.fill
    monkeypatch.setattr(
        torchscript._Traced,
        "fill",
        lambda traced, tensors: fill(traced, {name: 1.01 * tensor for name, tensor in tensors.items()}),
    )
    with pytest.raises(ValidationError, match="stage torchscript: the file and Stable-Baselines3 disagree") as caught:
        export_policy(make_model(), tmp_path / "policy.onnx", options=OPTIONS)
    assert [stage.name for stage in caught.value.report.stages if not stage.passed] == ["torchscript"]
    assert caught.value.report.formats == {}
    assert list(tmp_path.iterdir()) == []


def test_a_trace_that_has_gone_stale_unnoticed_is_made_again(
    traces: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(SAC)
    exporter = _exporter(model)
    exporter.export()
    writer: Any = exporter._further[0]
    writer._traced.fill = lambda tensors: writer._traced._module  # keeps the weights that it has
    spread(model, seed=4)
    got = _policy(exporter.export()).predict(OBSERVATIONS)[0]
    np.testing.assert_allclose(got, predict_raw(model, OBSERVATIONS), atol=1e-6)
    assert len(traces) == 2


def test_an_export_that_failed_before_it_was_traced_again_spoils_none_after_it(
    traces: list[object], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model(SAC)
    layers = cast("Any", model.policy).actor.latent_pi
    layers.append(th.nn.Linear(16, 16))
    exporter = _exporter(model, formats=("weights", "torchscript"))
    exporter.export()
    del layers[-1]
    with monkeypatch.context() as patched:
        patched.setattr(WeightsWriter, "write", _refuse)
        with pytest.raises(FormatError):
            exporter.export()
    got = _policy(exporter.export()).predict(OBSERVATIONS)[0]
    np.testing.assert_allclose(got, predict_raw(model, OBSERVATIONS), atol=1e-6)
    assert len(traces) == 2


def _refuse(writer: object, original: object) -> Any:
    raise FormatError("weights", "it was refused once", "Try again.")


def test_it_has_to_agree_with_the_test_vectors_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Late:
        """Right as long as nobody asks for a batch of one too often."""

        def __init__(self, data: bytes) -> None:
            self._runner, self._n = open_policy(data), 0

        def run(self, names: list[str], inputs: dict[str, Any], /) -> list[Any]:
            self._n += all(len(array) == 1 for array in inputs.values())
            return [array + (self._n > 3) for array in self._runner.run(names, inputs)]

    monkeypatch.setattr("sb3_clanker.proof.stages.open_format", lambda _, data: Late(data))
    with pytest.raises(ValidationError, match="stage torchscript: The file does not agree with the test vectors"):
        _exporter(make_model(SAC), test_vectors=8).export()


def test_a_promise_of_latency_holds_for_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(SAC)
    report = _exporter(model, max_latency_ms=1e4).export().validation
    latency = report.formats["torchscript"].latency
    assert latency is not None
    assert 0 < latency.p50_ms <= latency.p99_ms <= latency.limit_ms
    measured: list[object] = []

    def measure(*args: Any) -> None:
        measured.append(args)
        raise LatencyError(latency)

    monkeypatch.setattr("sb3_clanker.proof.stages.measure_latency", measure)
    with pytest.raises(LatencyError):
        _exporter(model, max_latency_ms=1e4).export()
    assert len(measured) == 1


# What is in it ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dqn(tmp_path_factory: pytest.TempPathFactory) -> tuple[BaseAlgorithm, Path]:
    """A model, and its policy with a bundle beside it."""
    model = make_model(DQN, action_space=spaces.Discrete(4))
    path = tmp_path_factory.mktemp("dqn") / "lander.onnx"
    export_policy(model, path, options=OPTIONS)
    return model, path.parent / "lander_torchscript"


def test_nothing_of_this_machine_is_in_any_member(dqn: tuple[BaseAlgorithm, Path]) -> None:
    with zipfile.ZipFile(dqn[1] / "policy.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    assert not any(name.endswith(".debug_pkl") for name in members)
    places = [
        Path(sb3_clanker.__file__).parents[1],
        Path(sys.prefix),
        Path(th.__file__).parents[1],
        Path.home(),
        dqn[1],
    ]
    for name, content in members.items():
        for place in (b"site-packages", b".py\x00", *(str(place).encode() for place in places)):
            assert place not in content, name


def test_it_holds_no_network_that_no_action_comes_from(dqn: tuple[BaseAlgorithm, Path]) -> None:
    with zipfile.ZipFile(dqn[1] / "policy.pt") as archive:
        code = b"".join(archive.read(name) for name in archive.namelist() if name.endswith(".py"))
        n_bytes = sum(member.file_size for member in archive.infolist() if "/data/" in member.filename)
    policy: Any = dqn[0].policy
    assert b"q_net_target" not in code
    assert n_bytes == sum(4 * parameter.numel() for parameter in policy.q_net.parameters())


def test_its_parameters_have_the_names_of_stable_baselines3(dqn: tuple[BaseAlgorithm, Path]) -> None:
    jit: Any = th.jit
    with pytest.warns(DeprecationWarning, match="torch.jit.load"):
        module = jit.load(dqn[1] / "policy.pt")
    expected = {f"policy.{name}": tensor for name, tensor in dqn[0].policy.named_parameters() if "target" not in name}
    found = dict(module.named_parameters())
    assert found.keys() == expected.keys()
    assert all(th.equal(found[name], expected[name]) for name in expected)


def test_metadata_has_the_keys_that_an_execution_agent_reads(dqn: tuple[BaseAlgorithm, Path]) -> None:
    record = read_record((dqn[1] / "policy.pt").read_bytes())
    assert json.loads((dqn[1] / "metadata.json").read_text()) == {
        "algo": "DQN",
        "obs_shape": [3],
        "action_space": 4,
        "created": record.provenance.created,
        "run_name": "lander",
        "policy_id": record.digest,
        "version": sb3_clanker.__version__,
        "framework": "torchscript",
        "export_method": "trace",
    }
    assert record == sb3_clanker.read_metadata(dqn[1].with_name("lander.onnx"))


_BOX = {"type": "Box", "shape": [2], "dtype": "float32", "low": [-1.0, -2.0], "high": [1.0, 2.0]}
_DICT = spaces.Dict({"a b": spaces.Discrete(3), "joints": spaces.Box(-1.0, 1.0, (4,))})


@pytest.mark.parametrize(
    ("observation", "action", "obs_shape", "action_space"),
    [
        (spaces.Discrete(5), spaces.Discrete(3), [1], 3),
        (spaces.MultiBinary(4), spaces.MultiDiscrete([3, 2]), [4], {"type": "MultiDiscrete", "nvec": [3, 2]}),
        (spaces.Box(-1.0, 1.0, (2, 3)), spaces.MultiBinary(3), [2, 3], {"type": "MultiBinary", "n": 3}),
        (_DICT, spaces.Box(np.array([-1, -2], "f4"), np.array([1, 2], "f4")), {"a b": [1], "joints": [4]}, _BOX),
    ],
)
def test_metadata_describes_every_kind_of_space(
    observation: spaces.Space[Any],
    action: spaces.Space[Any],
    obs_shape: object,
    action_space: Any,
    dqn: tuple[BaseAlgorithm, Path],
) -> None:
    policy = "MultiInputPolicy" if isinstance(observation, spaces.Dict) else "MlpPolicy"
    actor = make_actor(make_model(PPO, observation, action, policy=policy).policy, {}, ExportOptions())
    record = read_record((dqn[1] / "policy.pt").read_bytes())
    bundle = describe_bundle(replace(record, inputs=actor.inputs, action_space=actor.action_space), "x")
    bundle = json.loads(json.dumps(bundle))
    assert bundle["obs_shape"] == obs_shape
    if isinstance(action_space, dict):
        assert action_space.items() <= bundle["action_space"].items()
    else:
        assert bundle["action_space"] == action_space


# Beside a training, and elsewhere -----------------------------------------------------------------------------------

_LOAD = """
import json
import torch

_, folder, observations_file = sys.argv
module = torch.jit.load(f"{folder}/policy.pt")
observations = torch.tensor(json.loads(open(observations_file).read()))
(actions,) = module(observations)
(single,) = module(observations[:1])
assert single.shape == (1, 1)
print(json.dumps({"actions": actions[:, 0].int().tolist(), "modules": sorted(sys.modules)}))
"""


def test_it_runs_where_torch_is_alone(dqn: tuple[BaseAlgorithm, Path], tmp_path: Path) -> None:
    (tmp_path / "observations.json").write_text(json.dumps(OBSERVATIONS.tolist()))
    blocker = BLOCKER.replace("'torch', ", "").replace('"torch", ', "")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", blocker + _LOAD, dqn[1], tmp_path / "observations.json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = json.loads(done.stdout)
    assert said["actions"] == predict_raw(dqn[0], OBSERVATIONS).tolist()
    assert not {"stable_baselines3", "sb3_clanker", "gymnasium", "onnx"} & {
        name.partition(".")[0] for name in said["modules"]
    }


def test_the_warnings_of_torch_are_its_own_and_others_pass(dqn: tuple[BaseAlgorithm, Path]) -> None:
    open_policy((dqn[1] / "policy.pt").read_bytes())  # where a warning is an error
    with pytest.warns(DeprecationWarning, match="torch.jit.load"):
        th.jit.load(io.BytesIO((dqn[1] / "policy.pt").read_bytes()))  # type: ignore[no-untyped-call]


def test_no_thread_leaves_another_with_its_filters_of_warnings() -> None:
    """They are the process's: what two threads change at once stays as one of them had it meanwhile."""
    before, inside, leave = list(warnings.filters), threading.Event(), threading.Event()

    def load() -> None:
        with deprecated():
            inside.set()
            leave.wait()

    thread = threading.Thread(target=load)
    with tracing():
        thread.start()
        inside.wait(0.05)
    leave.set()
    thread.join()
    assert list(warnings.filters) == before


def test_threads_may_export_at_once() -> None:
    models = [make_model(SAC) for _ in range(2)]
    for seed, model in enumerate(models):
        spread(model, seed=seed)
    proven: dict[int, list[ProvenPolicy]] = {0: [], 1: []}

    def export(index: int) -> None:
        exporter = _exporter(models[index])
        proven[index] += [exporter.export() for _ in range(2)]

    threads = [threading.Thread(target=export, args=(index,)) for index in proven]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, policies in proven.items():
        assert len(policies) == 2
        for each in policies:
            got = _policy(each).predict(OBSERVATIONS)[0]
            np.testing.assert_allclose(got, predict_raw(models[index], OBSERVATIONS), atol=1e-6)
            assert json.loads(each.further[TORCHSCRIPT_METADATA])["policy_id"] == each.metadata.digest

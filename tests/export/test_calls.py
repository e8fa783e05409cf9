"""export_policy and validate_policy: one call, one proven file, or a typed error and nothing written."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from sb3_contrib import CrossQ
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import SubprocVecEnv

from sb3_clanker import (
    ClankerError,
    ExportOptions,
    OnnxPolicy,
    UnknownNormalizationWarning,
    ValidationError,
    export_policy,
    read_metadata,
    validate_policy,
)
from sb3_clanker.errors import (
    GraphError,
    MissingFileError,
    NonFiniteWeightsError,
    NormalizationError,
    OptionError,
    PublicationError,
    UnsupportedOpsetError,
    UnsupportedPolicyError,
)
from sb3_clanker.export.exporter import Exporter
from sb3_clanker.sb3.normalization import Normalization
from sb3_clanker.writers.onnx import Graph
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, SpacesEnv, draw, make_env, make_model, predict_raw, spread


def _files(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))  # noqa: PTH208


def test_the_report_tells_what_was_done(tmp_path: Path) -> None:
    model = make_model()
    model.learn(32)
    report = export_policy(model, tmp_path / "deep" / "policy")
    assert report.path == tmp_path / "deep" / "policy.onnx"
    assert report.size == report.path.stat().st_size
    assert set(report.seconds) == {"trace", "fill", "validate", "write"}
    assert report.validation.passed
    metadata = read_metadata(report.path)
    assert metadata == report.metadata
    assert (metadata.algorithm, metadata.training.num_timesteps) == ("PPO", 32)
    assert metadata.policy_class == "stable_baselines3.common.policies.ActorCriticPolicy"
    assert metadata.cross_check == report.validation.cross_check
    assert metadata.provenance.versions["torch"] == th.__version__
    assert _files(report.path.parent) == ["policy.onnx"]


def test_the_model_is_left_as_it_was(tmp_path: Path) -> None:
    model = make_model(SAC, normalize=True)
    model.learn(40)
    model.policy.train()
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    generators = (th.get_rng_state(), np.random.get_state()[1].tolist())  # type: ignore[index]  # noqa: NPY002
    space = model.action_space.np_random.bit_generator.state
    export_policy(model, tmp_path / "policy")
    assert model.policy.training
    assert all(th.equal(before[name], tensor) for name, tensor in model.policy.state_dict().items())
    assert th.equal(generators[0], th.get_rng_state())
    assert generators[1] == np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    assert model.action_space.np_random.bit_generator.state == space


def test_the_callers_entries_are_in_the_file(tmp_path: Path) -> None:
    options = ExportOptions(metadata={"robot": "arm 3", "commit": "ü"})
    report = export_policy(make_model(), tmp_path / "policy.onnx", options=options)
    assert read_metadata(report.path).entries == {"robot": "arm 3", "commit": "ü"}


def test_the_same_weights_give_the_same_digest_free_content(tmp_path: Path) -> None:
    model = make_model()
    first, second = (export_policy(model, tmp_path / name).metadata for name in ("a", "b"))
    assert first.provenance.versions == second.provenance.versions
    assert first.cross_check == second.cross_check


def test_normalization_can_be_live_saved_given_or_denied(tmp_path: Path) -> None:
    model = make_model(normalize=True)
    model.learn(64)
    vec_normalize = model.get_vec_normalize_env()
    assert vec_normalize is not None
    vec_normalize.save(str(tmp_path / "saved.pkl"))
    observations = draw(BOX_OBSERVATION, np.random.default_rng(0), 20)
    folded, plain = predict_raw(model, observations, vec_normalize), predict_raw(model, observations)
    assert np.abs(folded - plain).max() > 1e-2
    sources: list[tuple[Any, Any, str]] = [
        ("auto", folded, "folded"),
        (vec_normalize, folded, "folded"),
        (tmp_path / "saved.pkl", folded, "folded"),
        (str(tmp_path / "saved.pkl"), folded, "folded"),
        (None, plain, "none"),
    ]
    for source, expected, status in sources:
        report = export_policy(model, tmp_path / "policy.onnx", vec_normalize=source)
        np.testing.assert_allclose(OnnxPolicy(report.path).predict(observations)[0], expected, atol=1e-5)
        assert report.metadata.normalization.status == status
    checkpoint = export_policy(
        model, tmp_path / "policy.onnx", vec_normalize=tmp_path / "saved.pkl"
    ).metadata.checkpoint
    assert checkpoint is not None
    assert checkpoint.statistics_file is not None


def test_a_loaded_model_finds_the_statistics_beside_its_zip(tmp_path: Path) -> None:
    model = make_model(normalize=True)
    model.learn(32)
    vec_normalize = model.get_vec_normalize_env()
    assert vec_normalize is not None
    model.save(tmp_path / "mine.zip")
    vec_normalize.save(str(tmp_path / "mine_vecnormalize.pkl"))
    loaded = PPO.load(tmp_path / "mine.zip", device="cpu")
    report = export_policy(loaded, tmp_path / "mine.onnx")
    observations = draw(BOX_OBSERVATION, np.random.default_rng(0), 20)
    expected = predict_raw(model, observations, vec_normalize)
    np.testing.assert_allclose(OnnxPolicy(report.path).predict(observations)[0], expected, atol=1e-5)
    files = report.metadata.checkpoint
    assert files is not None
    assert files.algorithm_file is not None
    assert files.statistics_file is not None
    assert (files.algorithm_file.name, files.statistics_file.name) == ("mine.zip", "mine_vecnormalize.pkl")
    assert validate_policy(report.path, loaded).passed


def test_the_zip_of_another_model_is_not_taken_for_its_own(tmp_path: Path) -> None:
    other = make_model(normalize=True)
    other.save(tmp_path / "mine.zip")
    vec_normalize = other.get_vec_normalize_env()
    assert vec_normalize is not None
    vec_normalize.save(str(tmp_path / "mine_vecnormalize.pkl"))
    spread(other)
    other.save(tmp_path / "elsewhere.zip")
    loaded = PPO.load(tmp_path / "elsewhere.zip", device="cpu")
    with pytest.warns(UnknownNormalizationWarning, match="It is unknown whether this policy was trained"):
        report = export_policy(loaded, tmp_path / "mine.onnx")
    assert report.metadata.normalization.status == "unknown"
    assert report.metadata.checkpoint is None


def test_validation_holds_a_file_against_a_model(tmp_path: Path) -> None:
    model = make_model()
    path = export_policy(model, tmp_path / "policy.onnx").path
    report = validate_policy(path, model)
    assert report.passed
    assert report.cross_check is not None
    spread(model, scale=0.01)
    with pytest.raises(ValidationError, match="stage cross_check: the file and Stable-Baselines3 disagree") as caught:
        validate_policy(path, model)
    assert caught.value.report.cross_check is not None


@pytest.mark.parametrize(
    ("values", "persistent"), [([-th.inf, 0.0], True), ([th.inf, -th.inf], True), ([th.nan, 0.0], False)]
)
def test_a_buffer_may_hold_what_is_no_sign_of_divergence(values: list[float], persistent: bool, tmp_path: Path) -> None:
    """A mask, bounds that nothing has reached yet, a cache that is not saved."""
    model = make_model()
    model.policy.register_buffer("kept", th.tensor(values), persistent)
    model.policy.register_buffer("counts", th.tensor([1, 2]))
    assert export_policy(model, tmp_path / "policy").validation.passed


def test_a_model_is_exported_after_its_environment_was_closed(tmp_path: Path) -> None:
    env = SubprocVecEnv([lambda: SpacesEnv(BOX_OBSERVATION, BOX_ACTION)])
    model = make_model(env=env)
    env.close()
    report = export_policy(model, tmp_path / "policy")
    assert report.metadata.environment == ("SubprocVecEnv",)


def test_a_warning_that_the_caller_made_an_error_stays_one(tmp_path: Path) -> None:
    model = make_model()
    model.save(tmp_path / "m.zip")
    loaded = PPO.load(tmp_path / "m.zip", device="cpu")
    with pytest.raises(UnknownNormalizationWarning, match="It is unknown whether"):
        export_policy(loaded, tmp_path / "x")


def _not_an_algorithm(tmp_path: Path) -> Any:
    return lambda: export_policy("PPO", tmp_path / "x")  # type: ignore[arg-type]


def _without_policy(tmp_path: Path) -> Any:
    env = make_env(BOX_OBSERVATION, BOX_ACTION)
    return lambda: export_policy(PPO("MlpPolicy", env, _init_setup_model=False), tmp_path / "x")


def _bad_source(tmp_path: Path) -> Any:
    return lambda: export_policy(make_model(), tmp_path / "x", vec_normalize=3)  # type: ignore[arg-type]


def _missing_statistics(tmp_path: Path) -> Any:
    return lambda: export_policy(make_model(), tmp_path / "x", vec_normalize=tmp_path / "none.pkl")


def _statistics_of_another_shape(tmp_path: Path) -> Any:
    other = make_model(observation_space=spaces.Box(-1.0, 1.0, (5,)), normalize=True)
    return lambda: export_policy(make_model(), tmp_path / "x", vec_normalize=other.get_vec_normalize_env())


def _operator_in_the_way(tmp_path: Path) -> Any:
    model = make_model(policy_kwargs={"activation_fn": th.nn.Mish})
    return lambda: export_policy(model, tmp_path / "x", options=ExportOptions(opset_version=17))


def _diverged(tmp_path: Path) -> Any:
    model = make_model()
    with th.no_grad():
        dict(model.policy.named_parameters())["action_net.weight"].fill_(float("inf"))
    return lambda: export_policy(model, tmp_path / "x")


def _diverged_statistics(tmp_path: Path) -> Any:
    model: Any = make_model(CrossQ)
    model.policy.critic.qf0[0].ra_mean[1] = th.nan
    return lambda: export_policy(model, tmp_path / "x")


def _another_float(tmp_path: Path) -> Any:
    model = make_model()
    model.policy.double()
    return lambda: export_policy(model, tmp_path / "x")


def _without_values(tmp_path: Path) -> Any:
    model: Any = make_model()
    model.policy.value_net.to("meta")
    return lambda: export_policy(model, tmp_path / "x")


def _no_weights_yet(tmp_path: Path) -> Any:
    model: Any = make_model()
    model.policy.value_net = th.nn.LazyLinear(1)
    return lambda: export_policy(model, tmp_path / "x")


def _folder_above(tmp_path: Path) -> Any:
    (tmp_path / "folder").mkdir()
    return lambda: export_policy(make_model(), tmp_path / "folder" / "..")


def _folder_in_the_way(tmp_path: Path) -> Any:
    (tmp_path / "x.onnx").mkdir()
    return lambda: export_policy(make_model(), tmp_path / "x")


def _file_for_a_folder(tmp_path: Path) -> Any:
    (tmp_path / "file").write_text("")
    return lambda: export_policy(make_model(), tmp_path / "file" / "x")


@pytest.mark.parametrize(
    ("arrange", "error", "builtin", "match"),
    [
        (_not_an_algorithm, UnsupportedPolicyError, TypeError, "Cannot export str: it is not a Stable-Baselines3"),
        (_without_policy, UnsupportedPolicyError, TypeError, "Cannot export PPO: it has no policy yet"),
        (_bad_source, OptionError, ValueError, 'vec_normalize=3 cannot be used: expected "auto", a VecNormalize'),
        (_missing_statistics, MissingFileError, FileNotFoundError, "there is no such file of VecNormalize statistics"),
        (_statistics_of_another_shape, NormalizationError, ValueError, r"have the shape \(5,\).*observes \(3,\)"),
        (_operator_in_the_way, UnsupportedOpsetError, ValueError, "cannot be written in opset 17: it needs Mish"),
        (_diverged, NonFiniteWeightsError, ValueError, "training has diverged"),
        (
            _diverged_statistics,
            NonFiniteWeightsError,
            ValueError,
            r"^critic\.qf0\.0\.ra_mean holds values that are not a number: training has diverged\. Go back to the "
            r"last good checkpoint\. If they are meant, register the buffer with persistent=False\.$",
        ),
        (
            _another_float,
            UnsupportedPolicyError,
            TypeError,
            r"Policy: RuntimeError: mat1 .* See whether model\.",
        ),
        (_without_values, UnsupportedPolicyError, TypeError, "Policy: NotImplementedError: Cannot copy out of meta"),
        (_no_weights_yet, UnsupportedPolicyError, TypeError, "Policy: ValueError: Attempted to use an uninitialized"),
        (_folder_above, PublicationError, OSError, r"\.\.: cannot be written: it is a folder"),
        (_folder_in_the_way, PublicationError, OSError, "it is a folder"),
        (_file_for_a_folder, PublicationError, OSError, "cannot be written"),
    ],
)
def test_bad_input_is_a_typed_error_and_nothing_is_written(
    arrange: Any, error: type[ClankerError], builtin: type[Exception], match: str, tmp_path: Path
) -> None:
    call = arrange(tmp_path)
    before = _files(tmp_path)
    with pytest.raises(error, match=match) as caught:
        call()
    assert isinstance(caught.value, ClankerError)
    assert isinstance(caught.value, builtin)
    assert _files(tmp_path) == before


def test_a_file_that_fails_its_proof_is_not_written_and_the_old_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model()
    path = export_policy(model, tmp_path / "policy.onnx").path
    before = path.read_bytes()
    monkeypatch.setattr(
        "sb3_clanker.actor.actor.Actor._finish", lambda actor, action: action.reshape(-1, actor.action_dim)
    )  # clipping removed
    with pytest.raises(ValidationError, match="disagree"):
        export_policy(model, path)
    assert path.read_bytes() == before
    assert _files(tmp_path) == ["policy.onnx"]


@pytest.mark.parametrize(
    ("tensor", "tamper"),
    [
        ("policy.action_net.weight", lambda values: values * 1.01),
        ("observation.0.normalize.mean_high", lambda values: values + 0.01),
        ("observation.0.normalize.deviation", lambda values: values * 1.01),
        ("action_high", lambda values: values * 1e6),
    ],
    ids=["a weight", "the mean of another instant", "the deviation of another instant", "no clipping"],
)
def test_a_sabotaged_file_is_never_published(
    tensor: str, tamper: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill = Graph.fill
    monkeypatch.setattr(
        Graph, "fill", lambda graph, live, entries: fill(graph, {**live, tensor: tamper(live[tensor])}, entries)
    )
    model = make_model(normalize=True)
    model.learn(32)
    with pytest.raises(ValidationError, match="stage cross_check: the file and Stable-Baselines3 disagree"):
        export_policy(model, tmp_path / "policy.onnx")
    assert _files(tmp_path) == []


class _Annealed(ActorCriticPolicy):
    """Keeps a plain number that training changes."""

    gain: float = 1.0

    def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
        return self.gain * super()._predict(observation, deterministic)


def test_a_policy_that_changes_beside_its_weights_is_traced_again() -> None:
    model = make_model(policy=_Annealed)  # type: ignore[arg-type]
    exporter = Exporter(model, Normalization(vec_normalize=None), ExportOptions())
    exporter.export()
    model.policy.__dict__["gain"] = 0.25
    proven = exporter.export()
    assert proven.validation.passed
    observations = draw(BOX_OBSERVATION, np.random.default_rng(0), 20)
    got = OnnxPolicy.from_bytes(proven.data).predict(observations)[0]
    np.testing.assert_allclose(got, predict_raw(model, observations), atol=1e-5)


def test_a_structure_that_changes_is_traced_again() -> None:
    model = make_model()
    exporter = Exporter(model, Normalization(vec_normalize=None), ExportOptions())
    exporter.export()
    model.policy.action_net = th.nn.Sequential(model.policy.action_net, th.nn.Linear(2, 2))  # type: ignore[arg-type]
    assert exporter.export().validation.passed


def test_a_policy_that_cannot_be_traced_is_a_typed_error(tmp_path: Path) -> None:
    class Branching(ActorCriticPolicy):
        def _predict(self, observation: Any, deterministic: bool = False) -> th.Tensor:
            return super()._predict(-observation if observation.sum() > 0 else observation, deterministic)

    with pytest.raises(GraphError, match="Branching cannot be traced"):
        export_policy(make_model(policy=Branching), tmp_path / "x")  # type: ignore[arg-type]
    assert _files(tmp_path) == []


def test_a_known_normalization_gives_no_warning(tmp_path: Path) -> None:
    model = make_model()
    model.save(tmp_path / "m.zip")
    loaded = PPO.load(tmp_path / "m.zip", device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert export_policy(loaded, tmp_path / "x", vec_normalize=None).metadata.normalization.status == "none"

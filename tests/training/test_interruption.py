"""SIGINT and SIGTERM during a training, each sent by the training itself at a chosen moment."""

from __future__ import annotations

import copy
import functools
import gc
import logging
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, VecNormalize

from sb3_clanker import OnnxCheckpointCallback, export_policy
from sb3_clanker.observations.ranges import Ranges
from sb3_clanker.run_folder.publication import Publication
from sb3_clanker.training.interruption import signals
from sb3_clanker.writers import trace as tracing
from tests.checkpoints import LOCK, NoExporter, names
from tests.integration.trainings import RisingEnv, assert_alike, assert_whole, make_eval_env
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, SpacesEnv, make_model

FINAL = ["final_model.onnx", "final_model.zip"]
INTERRUPT = functools.partial(signal.raise_signal, signal.SIGINT)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Whatever a test does, the handlers that Python starts with are there again."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # who runs tests in the background ignores it
    yield
    found = signal.signal(signal.SIGINT, before)
    assert (found, signal.getsignal(signal.SIGTERM)) == (signal.default_int_handler, signal.SIG_DFL)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where only the ``.zip`` matters."""
    monkeypatch.setattr("sb3_clanker.training.callback.Exporter", NoExporter)


class At(BaseCallback):
    """Does something at one event."""

    def __init__(self, event: str, action: Callable[[], object], step: int = 0) -> None:
        super().__init__()
        self._event, self._action, self._step = event, action, step

    def _at(self, event: str) -> None:
        if event == self._event and self.num_timesteps >= self._step:
            self._event = ""
            self._action()

    def _on_rollout_start(self) -> None:
        self._at("rollout start")

    def _on_step(self) -> bool:
        self._at("step")
        return True

    def _on_rollout_end(self) -> None:
        self._at("rollout end")

    def _on_training_end(self) -> None:
        self._at("training end")


class SignallingEnv(RisingEnv):
    """Does something in the middle of one step, once."""

    def __init__(self, action: Callable[[], object] = INTERRUPT, at: int = 5) -> None:
        super().__init__(BOX_OBSERVATION, BOX_ACTION)
        self._action, self._at, self.calls = action, at, 0

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.calls += 1
        if self.calls == self._at:
            self._action()
        return super().step(action)


def _env(env: SpacesEnv) -> VecEnv:
    return DummyVecEnv([lambda: Monitor(env)])


def _digest(model: BaseAlgorithm) -> list[bytes]:
    return [np.ascontiguousarray(tensor.detach().numpy()).tobytes() for tensor in model.policy.state_dict().values()]


def _saved(folder: Path, algorithm: type[BaseAlgorithm] = PPO) -> BaseAlgorithm:
    return algorithm.load(folder / "final_model.zip", device="cpu")


def _learn(model: BaseAlgorithm, callback: Any, timesteps: int = 64) -> KeyboardInterrupt:
    with pytest.raises(KeyboardInterrupt) as caught:
        model.learn(timesteps, callback=callback)
    return caught.value


# When ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", [PPO, SAC])
def test_a_signal_in_a_step_writes_the_final_at_once(algorithm: type[BaseAlgorithm], tmp_path: Path) -> None:
    env = SignallingEnv(at=25)
    model, callback = make_model(algorithm, env=VecNormalize(_env(env))), OnnxCheckpointCallback(tmp_path)
    _learn(model, callback)
    assert env.calls == 25
    assert model.num_timesteps == 24
    assert names(tmp_path) == [*FINAL, "final_model_vecnormalize.pkl"]
    assert assert_whole(tmp_path, algorithm)["matched"] == 1
    assert _saved(tmp_path, algorithm).num_timesteps == 24
    assert _digest(_saved(tmp_path, algorithm)) == _digest(model)


@pytest.mark.usefixtures("quick")
def test_nothing_of_the_training_is_left(tmp_path: Path) -> None:
    callback = OnnxCheckpointCallback(tmp_path)
    _learn(make_model(env=_env(SignallingEnv())), callback)
    assert not (tmp_path / LOCK).exists()
    assert len(callback.failures) == 1
    written = (tmp_path / "final_model.zip").read_bytes()
    callback.on_training_end()  # as RL Zoo does, which catches the KeyboardInterrupt
    assert (tmp_path / "final_model.zip").read_bytes() == written
    assert [name for name in vars(callback) if name.startswith(("on_training", "on_rollout"))] == []
    assert list(signals._trainings) == []


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("event", ["rollout start", "step", "rollout end", "training end"])
def test_a_signal_in_another_callback_writes_the_final(event: str, tmp_path: Path) -> None:
    for order in (1, -1):
        folder = tmp_path / str(order)
        callback = OnnxCheckpointCallback(folder)
        model = make_model()
        _learn(model, [At(event, INTERRUPT), callback][::order], 16)
        assert names(folder) == ["final_model.zip"]
        assert len(callback.failures) == 1
        assert _digest(_saved(folder)) == _digest(model)


@pytest.mark.usefixtures("quick")
def test_a_signal_during_an_evaluation_writes_the_final(tmp_path: Path) -> None:
    callback = OnnxCheckpointCallback(tmp_path, eval_env=_env(SignallingEnv()), eval_freq=10)
    model = make_model()
    _learn(model, callback)
    assert model.num_timesteps == 10
    assert names(tmp_path) == ["final_model.zip"]


class _SignalledUpdate(PPO):
    """Does something in the middle of its first update."""

    action = staticmethod(INTERRUPT)
    updates = 0

    def train(self) -> None:
        step = self.policy.optimizer.step

        def signalled(*args: Any, **kwargs: Any) -> Any:
            self.policy.optimizer.step = step  # type: ignore[method-assign]
            self.action()
            return step(*args, **kwargs)

        self.policy.optimizer.step = signalled  # type: ignore[method-assign]
        super().train()
        self.updates += 1


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("timesteps", [64, 16])
def test_an_update_is_finished_first(timesteps: int, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    env = SignallingEnv(action=lambda: None)
    model = make_model(_SignalledUpdate, env=_env(env), n_steps=16, batch_size=16)
    before = _digest(model)
    _learn(model, OnnxCheckpointCallback(tmp_path), timesteps)
    assert (model.updates, env.calls) == (1, 16)  # type: ignore[attr-defined]
    assert before != _digest(model) == _digest(_saved(tmp_path))
    assert "SIGINT: the final files are written after this update" in caplog.text


@pytest.mark.usefixtures("quick")
def test_a_second_signal_ends_an_update_at_once(tmp_path: Path) -> None:
    class Twice(_SignalledUpdate):
        @staticmethod
        def action() -> None:
            INTERRUPT()
            INTERRUPT()

    model = make_model(Twice, n_steps=16, batch_size=16)
    _learn(model, OnnxCheckpointCallback(tmp_path))
    assert model.updates == 0  # type: ignore[attr-defined]
    assert names(tmp_path) == []


def _in_commit(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object], at: int) -> None:
    """Do something in the middle of a publication, between its first and its second name."""
    commit, replace, count = Publication.commit, Path.replace, [0]

    def signalled(self: Publication) -> None:
        count[0] += 1

        def first(path: Path, target: Path) -> Path:
            monkeypatch.setattr(Path, "replace", replace)
            done = replace(path, target)
            action()
            return done

        if count[0] == at:
            monkeypatch.setattr(Path, "replace", first)
        commit(self)

    monkeypatch.setattr(Publication, "commit", signalled)


def test_a_write_of_ours_is_finished_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _in_commit(monkeypatch, INTERRUPT, at=1)
    env = SignallingEnv(action=lambda: None)
    callback = OnnxCheckpointCallback(tmp_path, eval_env=make_eval_env(normalize=False), eval_freq=10)
    _learn(make_model(env=_env(env)), callback)
    assert env.calls == 10
    assert names(tmp_path) == ["best_model.onnx", "best_model.zip", *FINAL]
    assert assert_whole(tmp_path)["matched"] == 2
    assert [report.path.stem for report in callback.reports] == ["best_model", "final_model"]


def test_a_signal_in_the_final_itself_writes_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _in_commit(monkeypatch, INTERRUPT, at=1)
    callback = OnnxCheckpointCallback(tmp_path)
    _learn(make_model(), callback, 16)
    assert assert_whole(tmp_path)["matched"] == 1
    assert len(callback.reports) == 1


@pytest.mark.parametrize("part", ["commit", "export"])
def test_a_second_signal_in_the_final_leaves_no_half_file(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if part == "commit":
        _in_commit(monkeypatch, INTERRUPT, at=1)
    else:
        monkeypatch.setattr("sb3_clanker.export.publish._record", lambda *args: INTERRUPT())  # the .zip is staged
    callback = OnnxCheckpointCallback(tmp_path)
    model = make_model()
    _learn(model, [At("step", INTERRUPT, 10), callback])
    assert names(tmp_path) == ["final_model.zip"]
    assert _saved(tmp_path).num_timesteps == 10
    assert callback.reports == []


# What is half done ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("waits", [True, False])
def test_statistics_are_never_saved_half_new(waits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean is set before the variance and the count."""

    def set_attribute(self: RunningMeanStd, name: str, value: object) -> None:
        object.__setattr__(self, name, value)
        if name == "mean" and before and armed.pop():
            INTERRUPT()

    armed, before = [True], list[Any]()
    monkeypatch.setattr(RunningMeanStd, "__setattr__", set_attribute)
    model = make_model(normalize=True)
    vec_normalize = model.get_vec_normalize_env()
    assert vec_normalize is not None
    look = At("step", lambda: before.append(copy.deepcopy(vec_normalize.obs_rms)), 10)
    if not waits:
        monkeypatch.setattr("sb3_clanker.training.interruption._indivisible", set())
    _learn(model, [look, OnnxCheckpointCallback(tmp_path)])
    saved, now = pickle.loads((tmp_path / "final_model_vecnormalize.pkl").read_bytes()).obs_rms, before[0]
    changed = [bool(np.any(getattr(saved, name) != getattr(now, name))) for name in ("mean", "var", "count")]
    assert changed == [True, waits, waits]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("waits", [True, False])
def test_a_target_network_is_never_saved_half_new(waits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DQN makes it in a rollout: each tensor is scaled, by 0 by default, before the new part is added."""
    model = make_model(DQN, action_space=spaces.Discrete(3), target_update_interval=10, train_freq=100)
    add = th.add

    def signalled(*args: Any, **kwargs: Any) -> th.Tensor:
        monkeypatch.setattr(th, "add", add)
        INTERRUPT()
        return add(*args, **kwargs)

    monkeypatch.setattr(th, "add", signalled)
    if not waits:
        monkeypatch.setattr("sb3_clanker.training.interruption._indivisible", set())
    _learn(model, OnnxCheckpointCallback(tmp_path))
    saved: Any = _saved(tmp_path, DQN).policy
    alike = [th.equal(one, other) for one, other in zip(saved.q_net.parameters(), saved.q_net_target.parameters())]  # noqa: B905
    assert all(alike) == waits


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("waits", [True, False])
def test_ranges_are_never_saved_half_new(waits: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a sample is drawn, its rows are counted, and in the buffer no more."""
    draw, record, records = Ranges._draw, Ranges.record, list[Any]()

    def signalled(self: Ranges, *rows: Any) -> None:
        monkeypatch.setattr(Ranges, "_draw", draw)
        INTERRUPT()
        draw(self, *rows)

    monkeypatch.setattr(Ranges, "_draw", signalled)
    monkeypatch.setattr(Ranges, "record", lambda self: records.append(record(self)))
    monkeypatch.setattr("sb3_clanker.observations.ranges._BUFFERED_ELEMENTS", 0)  # of 64 rows, the fewest
    if not waits:
        monkeypatch.setattr("sb3_clanker.training.interruption._indivisible", set())
    _learn(make_model(), OnnxCheckpointCallback(tmp_path), 96)
    assert [each.n_observations for each in records] == [65 if waits else 64]


def test_a_second_signal_ends_at_once_what_is_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def record(*args: object) -> None:
        INTERRUPT()
        INTERRUPT()

    monkeypatch.setattr("sb3_clanker.training.callback.record_exports", record)
    callback = OnnxCheckpointCallback(tmp_path, save_freq=10)
    _learn(make_model(), callback)
    assert names(tmp_path) == ["rl_model_10_steps.onnx", "rl_model_10_steps.zip"]


class _LockedHandler(logging.Handler):
    """Holds a lock that the same thread cannot have twice, as one does that puts records in a queue."""

    def __init__(self, action: Callable[[], object]) -> None:
        super().__init__()
        self._action, self._lock, self.messages = action, threading.Lock(), list[str]()

    def emit(self, record: logging.LogRecord) -> None:
        assert self._lock.acquire(timeout=10), "a signal handler waits for the code that it has interrupted"
        self.messages.append(record.getMessage())
        if record.getMessage() == "interrupt":
            self._action()
        self._lock.release()


@pytest.mark.usefixtures("quick")
def test_a_signal_while_something_is_logged_waits_for_the_lock(tmp_path: Path) -> None:
    logger, handler = logging.getLogger("sb3_clanker"), _LockedHandler(INTERRUPT)
    logger.addHandler(handler)
    try:
        _learn(make_model(), [At("step", lambda: logger.error("interrupt")), OnnxCheckpointCallback(tmp_path)])
    finally:
        logger.removeHandler(handler)
    assert handler.messages[0] == "interrupt"
    assert "final_model.onnx at 1 timesteps failed" in handler.messages[1]
    assert names(tmp_path) == ["final_model.zip"]


def test_a_signal_in_an_export_of_the_users_own_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace holds a lock of the process."""
    model = make_model()
    trace = tracing._trace

    def signalled(*args: Any) -> Any:
        monkeypatch.setattr(tracing, "_trace", trace)
        INTERRUPT()
        return trace(*args)

    def export() -> None:
        monkeypatch.setattr(tracing, "_trace", signalled)
        export_policy(model, tmp_path / "own.onnx")

    _learn(model, [At("step", export), OnnxCheckpointCallback(tmp_path / "run")])
    assert names(tmp_path) == ["own.onnx", "run"]
    assert assert_whole(tmp_path / "run")["matched"] == 1


def test_a_signal_in_the_save_of_another_callback_writes_the_final(tmp_path: Path) -> None:
    model = make_model()
    get_parameters = model.get_parameters
    callback = OnnxCheckpointCallback(tmp_path / "ours")

    def interrupted() -> Any:
        model.get_parameters = get_parameters  # type: ignore[method-assign]
        INTERRUPT()
        return get_parameters()

    def arm() -> None:
        model.get_parameters = interrupted  # type: ignore[method-assign]

    _learn(model, [callback, At("step", arm, 9), CheckpointCallback(10, str(tmp_path / "theirs"))])
    assert assert_whole(tmp_path / "ours")["matched"] == 1
    assert names(tmp_path / "theirs") == []


@pytest.mark.parametrize("of_torch", ["no_grad", "inference_mode"])
def test_the_modes_of_the_interrupted_code_do_not_matter(of_torch: str, tmp_path: Path) -> None:
    def interrupt() -> None:
        with getattr(th, of_torch)(), th.autocast("cpu", dtype=th.bfloat16), np.errstate(all="raise"):
            INTERRUPT()

    callback = OnnxCheckpointCallback(tmp_path, on_error="raise")
    interrupted = _learn(make_model(env=_env(SignallingEnv(interrupt))), callback)
    assert interrupted.__context__ is None
    assert_alike(tmp_path / "final_model.onnx")


# An environment that cannot be asked ---------------------------------------------------------------------------------


class _Mute(DummyVecEnv):
    """Its workers have died: whoever asks it for something might wait forever."""

    dead = False

    def _ask(self, *args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a dead environment is asked")

    def step_wait(self) -> Any:
        if self.dead:
            self._ask()
        return super().step_wait()

    def kill(self) -> None:
        """No method answers any more."""
        self.dead = True
        for method in ("reset", "get_attr", "set_attr", "has_attr", "env_method", "env_is_wrapped", "get_images"):
            setattr(self, method, self._ask)
        INTERRUPT()


@pytest.mark.parametrize(("algorithm", "moment"), [(PPO, "update"), (SAC, "step")])
def test_the_final_asks_a_dead_environment_for_nothing(
    algorithm: type[BaseAlgorithm], moment: str, tmp_path: Path
) -> None:
    vec_env: Any = _Mute([lambda: Monitor(SpacesEnv(BOX_OBSERVATION, BOX_ACTION))])
    callback = OnnxCheckpointCallback(tmp_path, on_error="raise")
    event = At("step" if moment == "step" else "rollout end", vec_env.kill, 22)
    interrupted = _learn(make_model(algorithm, env=VecNormalize(vec_env)), [event, callback])
    assert interrupted.__context__ is None
    assert assert_whole(tmp_path, algorithm)["matched"] == 1


# Who else ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_each_callback_of_a_training_writes_its_own(tmp_path: Path) -> None:
    callbacks = [OnnxCheckpointCallback(tmp_path / name) for name in ("a", "b")]
    model = make_model()
    _learn(model, [callbacks[0], At("step", INTERRUPT), callbacks[1]])
    assert [names(tmp_path / name) for name in ("a", "b")] == [["final_model.zip"]] * 2


@pytest.mark.usefixtures("quick")
def test_an_error_of_one_keeps_no_other_from_writing(tmp_path: Path) -> None:
    failing = OnnxCheckpointCallback(tmp_path / "a", on_error="raise")
    interrupted = _learn(make_model(), [failing, OnnxCheckpointCallback(tmp_path / "b"), At("step", INTERRUPT)])
    assert str(interrupted.__context__) == "nothing is exported here"
    assert [names(tmp_path / name) for name in ("a", "b")] == [["final_model.zip"]] * 2
    assert len(failing.failures) == 1


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("where", ["rollout", "update", "after"])
def test_a_training_within_a_training_writes_its_own_too(where: str, tmp_path: Path) -> None:
    outer = make_model()
    inner = make_model(_SignalledUpdate if where == "update" else PPO, n_steps=16, batch_size=16)
    callbacks: list[BaseCallback] = [OnnxCheckpointCallback(tmp_path / "inner")]
    if where == "rollout":
        callbacks.append(At("step", INTERRUPT))

    def train() -> None:
        inner.learn(16, callback=callbacks)
        INTERRUPT()

    _learn(outer, [OnnxCheckpointCallback(tmp_path / "outer"), At("step", train, 5)])
    assert (outer.num_timesteps, inner.num_timesteps) == (5, 1 if where == "rollout" else 16)
    for name, model in (("outer", outer), ("inner", inner)):
        assert names(tmp_path / name) == ["final_model.zip"]
        assert _digest(PPO.load(tmp_path / name / "final_model.zip", device="cpu")) == _digest(model)


@pytest.mark.usefixtures("quick")
def test_a_training_in_another_thread_sets_no_handler(tmp_path: Path) -> None:
    found: list[object] = []

    def look() -> None:
        found.extend(map(signal.getsignal, (signal.SIGINT, signal.SIGTERM)))

    learn = functools.partial(make_model().learn, 16, callback=[OnnxCheckpointCallback(tmp_path), At("step", look)])
    thread = threading.Thread(target=learn)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler, signal.SIG_DFL]


@pytest.mark.usefixtures("quick")
def test_a_fork_writes_nothing(tmp_path: Path) -> None:
    def fork() -> None:
        child = os.fork()
        if child == 0:
            try:
                INTERRUPT()
            except KeyboardInterrupt:
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0) == (child, 0)
        assert names(tmp_path) == []

    model = make_model().learn(16, callback=[OnnxCheckpointCallback(tmp_path), At("step", fork)])
    assert _saved(tmp_path).num_timesteps == model.num_timesteps == 16


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_handler_of_the_user_is_left_alone(when: str, tmp_path: Path) -> None:
    got: list[int] = []

    def own(number: int, frame: object) -> None:
        got.append(number)

    def set_own() -> None:
        signal.signal(signal.SIGINT, own)

    if when == "before":
        set_own()
    try:
        callbacks = [OnnxCheckpointCallback(tmp_path), At("rollout start", set_own), At("step", INTERRUPT, 5)]
        model = make_model().learn(16, callback=callbacks)
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert (got, model.num_timesteps) == ([signal.SIGINT], 16)


@pytest.mark.usefixtures("quick")
def test_a_handler_of_the_user_may_call_that_of_before(tmp_path: Path) -> None:
    got: list[int] = []

    def wrap() -> None:
        before: Any = signal.getsignal(signal.SIGINT)

        def own(number: int, frame: object) -> None:
            got.append(number)
            before(number, frame)

        signal.signal(signal.SIGINT, own)

    model = make_model()
    try:
        _learn(model, [OnnxCheckpointCallback(tmp_path), At("rollout start", wrap), At("step", INTERRUPT, 5)])
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    assert got == [signal.SIGINT]
    assert _saved(tmp_path).num_timesteps == 5


def _crash() -> None:
    raise RuntimeError("crashed")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("then", ["nothing", "another training", "the same algorithm"])
def test_a_training_that_crashed_writes_nothing_more(then: str, tmp_path: Path) -> None:
    model = make_model()
    callback = OnnxCheckpointCallback(tmp_path / "crashed")
    with pytest.raises(RuntimeError, match="crashed"):
        model.learn(16, callback=[callback, At("step", _crash, 5)])
    assert signal.getsignal(signal.SIGINT) == signals._handle
    if then == "nothing":
        with pytest.raises(KeyboardInterrupt):
            INTERRUPT()
    else:
        next_one = model if then == "the same algorithm" else make_model()
        _learn(
            next_one, [At("step", INTERRUPT, 3)] + [OnnxCheckpointCallback(tmp_path / "b")] * (next_one is not model)
        )
    assert names(tmp_path / "crashed") == []
    assert (callback.reports, callback.failures) == ([], [])


@pytest.mark.usefixtures("quick")
def test_an_update_that_fails_takes_its_signal_along(tmp_path: Path) -> None:
    class Failing(_SignalledUpdate):
        @staticmethod
        def action() -> None:
            INTERRUPT()
            _crash()

    with pytest.raises(RuntimeError, match="crashed"):
        make_model(Failing, n_steps=16, batch_size=16).learn(32, callback=OnnxCheckpointCallback(tmp_path / "a"))
    make_model().learn(32, callback=OnnxCheckpointCallback(tmp_path / "b"))
    model = make_model()
    _learn(model, [OnnxCheckpointCallback(tmp_path / "c"), At("step", INTERRUPT, 5)])
    assert [names(tmp_path / name) for name in "abc"] == [[], ["final_model.zip"], ["final_model.zip"]]
    assert model.num_timesteps == 5


@pytest.mark.usefixtures("quick")
def test_no_training_lives_for_a_handlers_sake(tmp_path: Path) -> None:
    def crash() -> None:
        with pytest.raises(RuntimeError, match="crashed"):
            make_model().learn(16, callback=[OnnxCheckpointCallback(tmp_path), At("step", _crash)])

    crash()
    gc.collect()
    assert list(signals._trainings) == []
    assert not (tmp_path / LOCK).exists()
    with pytest.raises(KeyboardInterrupt):
        INTERRUPT()


@pytest.mark.usefixtures("quick")
def test_without_a_final_a_signal_is_what_it_is(tmp_path: Path) -> None:
    found: list[object] = []
    look = At("step", lambda: found.append(signal.getsignal(signal.SIGINT)))
    make_model().learn(16, callback=[look, OnnxCheckpointCallback(tmp_path, save_freq=10, save_final=False)])
    assert found == [signal.default_int_handler]

"""A training's beginning and end, as callbacks anywhere below ``learn`` see them."""

from __future__ import annotations

import logging
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback, EveryNTimesteps

from sb3_clanker import OnnxCheckpointCallback
from sb3_clanker.errors import FolderInUseError
from sb3_clanker.run_folder.folder import TrainingFolder
from sb3_clanker.training.run import Training
from tests.checkpoints import LOCK, NoExporter, contents, names
from tests.worlds import BOX_ACTION, BOX_OBSERVATION, make_env, make_model


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sb3_clanker.training.callback.Exporter", NoExporter)


class Do(BaseCallback):
    """Does something at its first step, or when it is made known to the algorithm."""

    def __init__(self, action: Callable[[], object], *, at_init: bool = False) -> None:
        super().__init__()
        self._action, self._at_init = action, at_init

    def _init_callback(self) -> None:
        if self._at_init:
            self._action()

    def _on_step(self) -> bool:
        if not self._at_init and self.n_calls == 1:
            self._action()
        return True


class MadeBy(BaseCallback):
    """Makes another callback when training is already under way, and calls it from then on."""

    def __init__(self, when: str, make: Callable[[], BaseCallback]) -> None:
        super().__init__()
        self._when, self._make = when, make
        self._made: BaseCallback | None = None

    def _make_when(self, when: str) -> None:
        if self._made is None and when == self._when:
            self._made = self._make()
            self._made.init_callback(self.model)
            self._made.on_training_start(self.locals, self.globals)

    def _on_training_start(self) -> None:
        self._make_when("_on_training_start")

    def _on_rollout_start(self) -> None:
        self._make_when("_on_rollout_start")

    def _on_step(self) -> bool:
        self._make_when("_on_step")
        return self._made is None or self._made.on_step()

    def _on_training_end(self) -> None:
        if self._made is not None:
            self._made.on_training_end()


def _crash() -> None:
    raise RuntimeError("interrupted")


def _on_new_best(callback: BaseCallback) -> BaseCallback:
    env = make_env(BOX_OBSERVATION, BOX_ACTION)
    return EvalCallback(env, callback_on_new_best=callback, eval_freq=10, n_eval_episodes=1, verbose=0)


COMPOSITIONS: dict[str, Callable[[BaseCallback], Any]] = {
    "on its own": lambda callback: callback,
    "on new best": _on_new_best,
    "on new best, in lists": lambda callback: [_on_new_best(CallbackList([CallbackList([callback])]))],
    "every n timesteps": lambda callback: [EveryNTimesteps(10, callback)],
    "every n timesteps, in lists": lambda callback: EveryNTimesteps(10, CallbackList([CallbackList([callback])])),
    "made in the middle": lambda callback: MadeBy("_on_rollout_start", lambda: callback),
}


@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_the_lock_ends_with_the_training(composition: str, tmp_path: Path) -> None:
    held: list[bool] = []
    root = COMPOSITIONS[composition](OnnxCheckpointCallback(tmp_path))
    look = Do(lambda: held.append((tmp_path / LOCK).exists()))
    callbacks = root if composition == "on its own" else [look, *(root if isinstance(root, list) else [root])]
    make_model().learn(16, callback=callbacks)
    assert held == ([] if composition == "on its own" else [True])
    assert not (tmp_path / LOCK).exists()
    assert len(names(tmp_path)) == 1
    TrainingFolder(tmp_path).release()
    for callback in callbacks if isinstance(callbacks, list) else [callbacks]:
        assert not {"on_training_start", "on_training_end"} & set(vars(callback))


def test_failures_of_a_child_are_summed_up_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    callback = OnnxCheckpointCallback(tmp_path)
    monkeypatch.setattr(callback, "_write", lambda *args: _crash())
    with caplog.at_level(logging.ERROR, "sb3_clanker"):
        make_model().learn(16, callback=EveryNTimesteps(10, callback))
    assert caplog.messages[-1].startswith("1 of 1 exports failed; the last was rl_model_10_steps.onnx at 10 timesteps")


@pytest.mark.parametrize("when", ["_on_training_start", "_on_rollout_start", "_on_step"])
def test_a_callback_that_is_made_in_the_middle_moves_files_of_before_too(when: str, tmp_path: Path) -> None:
    for seed in range(2):
        made = MadeBy(when, lambda: OnnxCheckpointCallback(tmp_path, save_freq=8))
        make_model(scale=1 + seed).learn(16, callback=made)
        if seed == 0:
            before = contents(tmp_path)
    assert len(before) == 3
    assert contents(tmp_path / "previous_1") == before
    assert contents(tmp_path).keys() == before.keys()


@pytest.mark.parametrize("after_eval", [False, True])
def test_a_child_in_a_list_within_a_list_writes_at_each_event(after_eval: bool, tmp_path: Path) -> None:
    child = CallbackList([CallbackList([OnnxCheckpointCallback(tmp_path)])])
    env = make_env(BOX_OBSERVATION, BOX_ACTION)
    root = EvalCallback(env, callback_after_eval=child, eval_freq=10, n_eval_episodes=1, verbose=0)
    make_model().learn(32, callback=root if after_eval else EveryNTimesteps(10, child))
    assert names(tmp_path) == [f"rl_model_{steps}_steps.zip" for steps in (10, 20, 30)]


def test_failures_are_summed_up_for_the_training_that_they_are_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    callback = OnnxCheckpointCallback(tmp_path)
    model = make_model()
    with caplog.at_level(logging.ERROR, "sb3_clanker"):
        model.learn(16, callback=callback, reset_num_timesteps=False)
        assert "1 of 1 exports failed" in caplog.messages[-1]
        caplog.clear()
        monkeypatch.setattr(callback, "_write", lambda *args: None)
        model.learn(16, callback=callback, reset_num_timesteps=False)
        assert caplog.messages == []
        monkeypatch.undo()
        monkeypatch.setattr(callback, "_write", lambda *args: _crash())
        monkeypatch.setattr("sb3_clanker.training.callback.Exporter", NoExporter)
        model.learn(16, callback=callback, reset_num_timesteps=False)
    assert "1 of 1 exports failed; the last was final_model.onnx at 48" in caplog.messages[-1]
    assert len(callback.failures) == 2


def test_after_the_training_the_callback_can_be_pickled_again(tmp_path: Path) -> None:
    callback = OnnxCheckpointCallback(tmp_path, save_freq=8, keep_last=1)
    make_model().learn(16, callback=callback)
    assert cloudpickle.loads(cloudpickle.dumps(callback)).save_path == tmp_path


@pytest.mark.parametrize("same_model", [False, True])
def test_a_training_that_was_broken_off_gives_way_to_the_next_in_its_process(same_model: bool, tmp_path: Path) -> None:
    model, crashed = make_model(), OnnxCheckpointCallback(tmp_path)
    with pytest.raises(RuntimeError, match="interrupted"):
        model.learn(16, callback=[crashed, Do(_crash)])
    assert (tmp_path / LOCK).exists()
    following = OnnxCheckpointCallback(tmp_path)
    errors: list[BaseException] = []

    def learn() -> None:
        try:
            (model if same_model else make_model()).learn(16, callback=EveryNTimesteps(10, following))
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=learn)  # a notebook runs each cell in the same, a server in another
    thread.start()
    thread.join()
    assert errors == []
    assert names(tmp_path) == ["rl_model_10_steps.zip"]
    assert not (tmp_path / LOCK).exists()
    assert crashed._places == {}


def test_two_trainings_in_two_threads_refuse_each_other(tmp_path: Path) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def wait() -> None:
        begun.set()
        assert go_on.wait(60)

    first, second = make_model(), make_model()
    thread = threading.Thread(
        target=lambda: first.learn(16, callback=[OnnxCheckpointCallback(tmp_path), Do(wait)]), daemon=True
    )
    thread.start()
    assert begun.wait(60)
    try:
        with pytest.raises(FolderInUseError, match="another training"):
            second.learn(16, callback=OnnxCheckpointCallback(tmp_path))
        assert second.num_timesteps == 0
        assert (tmp_path / LOCK).exists()
    finally:
        go_on.set()
        thread.join()
    assert names(tmp_path) == ["final_model.zip"]
    assert not (tmp_path / LOCK).exists()


INTERRUPTED = """
import sys
from pathlib import Path
from sb3_clanker.run_folder.folder import TrainingFolder

folder = TrainingFolder(Path(sys.argv[1]))
raise KeyboardInterrupt
"""


def test_nothing_is_left_of_the_lock_after_a_keyboard_interrupt(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, tmp_path], capture_output=True, text=True, check=False)
    assert "KeyboardInterrupt" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("at_init", [True, False])
def test_a_training_that_fails_before_its_first_step_moves_nothing(at_init: bool, tmp_path: Path) -> None:
    make_model().learn(16, callback=OnnxCheckpointCallback(tmp_path))
    before = contents(tmp_path)
    fails: list[BaseCallback] = [OnnxCheckpointCallback(tmp_path)]
    fails.append(Do(_crash, at_init=True) if at_init else OnnxCheckpointCallback(tmp_path / "x", save_final=False))
    with pytest.raises((RuntimeError, ValueError), match=r"interrupted|nothing would ever be written"):
        make_model().learn(16, callback=fails)
    assert contents(tmp_path) == before
    assert not (tmp_path / "previous_1").exists()


def test_a_second_end_of_the_same_training_writes_nothing(tmp_path: Path) -> None:
    callback = OnnxCheckpointCallback(tmp_path)
    make_model().learn(16, callback=callback)
    before = contents(tmp_path)
    callback.on_training_end()  # as RL Zoo does
    assert contents(tmp_path) == before
    assert len(callback.failures) == 1


class Plain(BaseCallback):
    """One that can be pickled."""

    model: Any = None
    ended = 0

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self.ended += 1


def test_a_pickle_of_a_callback_knows_nothing_of_the_training() -> None:
    class Model: ...

    model = Model()
    callback = Plain()
    vars(callback)["model"] = None
    Plain.model = model
    try:
        training = Training.of(callback)
        ended: list[int] = []
        training.at_end(lambda: ended.append(callback.ended))
        pickled = pickle.dumps(callback)
    finally:
        Plain.model = None
    assert b"sb3_clanker" not in pickled
    copy = pickle.loads(pickled)
    copy.on_training_end()
    assert (copy.ended, callback.ended, ended) == (1, 0, [])
    callback.on_training_end()
    assert (callback.ended, ended) == (1, [1])


def test_a_users_own_stand_in_for_a_method_is_put_back(tmp_path: Path) -> None:
    callback, ended = OnnxCheckpointCallback(tmp_path), []

    def on_training_end() -> None:
        ended.append((tmp_path / LOCK).exists())

    vars(callback)["on_training_end"] = on_training_end
    make_model().learn(16, callback=callback)
    assert ended == [True]
    assert vars(callback)["on_training_end"] is on_training_end
    assert list(tmp_path.iterdir()) == []


def test_the_algorithm_can_be_saved_while_it_trains(tmp_path: Path) -> None:
    callback = OnnxCheckpointCallback(tmp_path / "run", save_final=False, save_freq=10)
    model, undisturbed = make_model(), make_model()
    undisturbed.learn(16)
    model.learn(16, callback=[callback, Do(lambda: model.save(tmp_path / "saved.zip"))])
    assert vars(model).keys() == vars(undisturbed).keys()
    assert vars(PPO.load(tmp_path / "saved.zip", device="cpu")).keys() <= vars(undisturbed).keys()

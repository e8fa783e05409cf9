"""Checkpoints that callbacks of Stable-Baselines3 begin, and that ours completes."""

from __future__ import annotations

import itertools
import logging
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle  # type: ignore[import-untyped]
import pytest
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    EvalCallback,
    EveryNTimesteps,
    StopTrainingOnRewardThreshold,
)

from sb3_clanker import OnnxCheckpointCallback
from sb3_clanker.errors import AlgorithmFileError, FolderInUseError, OptionError
from sb3_clanker.run_folder.folder import TrainingFolder
from sb3_clanker.training import follow
from tests.checkpoints import LOCK, NoExporter, names
from tests.integration.trainings import NaNOnceEnv, RisingEnv, make_eval_env
from tests.worlds import make_model

Written = list[tuple[str, str, list[str]]]
"""What ours wrote: the folder, the checkpoint, and the kinds of files that were there."""


@pytest.fixture(autouse=True)
def written(monkeypatch: pytest.MonkeyPatch) -> Written:
    """Nothing is exported: what matters here is what would be, and when."""
    every: Written = []

    def write(self: OnnxCheckpointCallback, folder: Path, checkpoint: Any, score: float | None, there: Any) -> None:
        assert all(path.is_file() for path in there.values())
        every.append((folder.name, checkpoint.stem, [kind.word or kind.suffix for kind in there]))

    monkeypatch.setattr("sb3_clanker.training.callback.Exporter", NoExporter)
    monkeypatch.setattr(OnnxCheckpointCallback, "_write", write)
    monkeypatch.setattr(follow, "_silent_trainings", itertools.count())
    return every


def evaluation(folder: Path | str | None, env: type[RisingEnv] = RisingEnv, **kwargs: Any) -> EvalCallback:
    """An evaluation of one episode every 16 calls, each a new best."""
    path = None if folder is None else str(folder)
    defaults = {"n_eval_episodes": 1, "eval_freq": 16, "verbose": 0, "best_model_save_path": path}
    return EvalCallback(make_eval_env(env), **defaults | kwargs)


def checkpoints(folder: Path | str, **kwargs: Any) -> CheckpointCallback:
    return CheckpointCallback(kwargs.pop("save_freq", 10), str(folder), **kwargs)


def learn(callbacks: Any, timesteps: int = 32, model: BaseAlgorithm | None = None, **kwargs: Any) -> BaseAlgorithm:
    model = model or make_model(normalize=True)
    model.learn(timesteps, callback=callbacks, **kwargs)
    return model


def numbered(folder: str, *steps: int, prefix: str = "rl_model", own: bool = False) -> Written:
    return [(folder, f"{prefix}_{step}_steps", [] if own else [".zip"]) for step in steps]


BEST: Written = [("run", "best_model", [".zip"])]
OWN_BEST: Written = [("run", "best_model", [])]
FINAL: Written = [("run", "final_model", [])]


# Who is followed -----------------------------------------------------------------------------------------------------

COMPOSITIONS: dict[str, Callable[[list[BaseCallback]], Any]] = {
    "last": lambda callbacks: callbacks,
    "first": lambda callbacks: callbacks[::-1],
    "in lists": lambda callbacks: [CallbackList([CallbackList(callbacks[:2])]), CallbackList(callbacks[2:])],
    "one below another": lambda callbacks: [
        callbacks[2],
        EveryNTimesteps(1, CallbackList([callbacks[0]])),
        callbacks[1],
    ],
}


@pytest.mark.parametrize("composition", COMPOSITIONS)
def test_best_checkpoints_and_final_are_written_where_and_when_the_others_write(
    composition: str, tmp_path: Path, written: Written
) -> None:
    ours, theirs = OnnxCheckpointCallback(), [checkpoints(tmp_path / "run"), evaluation(tmp_path / "run")]
    learn(COMPOSITIONS[composition]([*theirs, ours]))
    assert sorted(written[:-1]) == sorted([*BEST * 2, *numbered("run", 10, 20, 30)])
    assert written[-1:] == FINAL
    assert ours.save_path == tmp_path / "run"
    assert not any(vars(each).keys() & {"on_step", "init_callback"} for each in theirs)
    assert not (tmp_path / "run" / LOCK).exists()


def test_one_that_is_called_at_events_is_followed_at_those(tmp_path: Path, written: Written) -> None:
    learn([EveryNTimesteps(7, checkpoints(tmp_path / "run", save_freq=2)), OnnxCheckpointCallback()])
    assert written == [*numbered("run", 14, 28), *FINAL]


def test_each_writes_to_a_folder_of_its_own(tmp_path: Path, written: Written) -> None:
    callbacks = [
        checkpoints(tmp_path / "a", save_freq=20),
        checkpoints(tmp_path / "b", save_freq=15, name_prefix="v1.5"),
        checkpoints(tmp_path, save_freq=30, name_prefix="c/model"),
        evaluation(tmp_path / "run"),
        OnnxCheckpointCallback(),
    ]
    learn(callbacks)
    assert sorted(written) == sorted(
        [
            *numbered("a", 20),
            *numbered("b", 15, 30, prefix="v1.5"),
            *numbered("c", 30, prefix="model"),
            *BEST * 2,
            *FINAL,
        ]
    )


def test_what_else_a_checkpoint_callback_saves_is_there_too(tmp_path: Path, written: Written) -> None:
    kwargs = {"save_freq": 20, "save_vecnormalize": True, "save_replay_buffer": True}
    learn([checkpoints(tmp_path / "run", **kwargs), OnnxCheckpointCallback(save_final=False)])
    assert written == [("run", "rl_model_20_steps", [".zip", "vecnormalize"])]
    written.clear()
    ours = OnnxCheckpointCallback(save_final=False, overwrite=True)
    learn([checkpoints(tmp_path / "run", **kwargs), ours], model=make_model(SAC))
    assert (tmp_path / "run" / "rl_model_vecnormalize_20_steps.pkl").exists()  # of the training before
    assert written == [("run", "rl_model_20_steps", [".zip", "replay_buffer"])]


@pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")
def test_a_progress_bar_is_in_nobodys_way(tmp_path: Path, written: Written) -> None:
    learn([OnnxCheckpointCallback(), checkpoints(tmp_path / "run")], progress_bar=True)
    assert written == [*numbered("run", 10, 20, 30), *FINAL]


def test_a_masked_evaluation_and_one_of_the_users_own_are_followed(tmp_path: Path, written: Written) -> None:
    class Trial(MaskableEvalCallback):
        """As that of RL Zoo."""

        def _on_step(self) -> bool:
            super()._on_step()
            return self.n_calls < 20

    model = make_model(MaskablePPO, action_space=spaces.Discrete(3), normalize=True)
    env = make_eval_env(action_space=spaces.Discrete(3))
    trial = Trial(env, n_eval_episodes=1, eval_freq=16, verbose=0, best_model_save_path=str(tmp_path / "run"))
    learn([OnnxCheckpointCallback(), trial], 64, model)
    assert model.num_timesteps == 20
    assert written == [*BEST, *FINAL]


def test_a_relative_folder_is_where_the_other_writes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: Written
) -> None:
    class ChangeFolder(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == 15:
                monkeypatch.chdir(tmp_path / "b")
            return True

    (tmp_path / "a").mkdir()
    (tmp_path / "b" / "run").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a")
    ours = OnnxCheckpointCallback()
    learn([ChangeFolder(), checkpoints("run"), ours])
    assert written == [*numbered("run", 10, 20, 30), *FINAL]
    assert ours.save_path == tmp_path / "a" / "run"
    assert names(tmp_path / "b" / "run") == ["rl_model_20_steps.zip", "rl_model_30_steps.zip"]


# Children ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_list", [False, True])
def test_a_child_of_a_new_best_follows_its_parent(in_list: bool, tmp_path: Path, written: Written) -> None:
    ours = OnnxCheckpointCallback()
    child = CallbackList([CallbackList([ours])]) if in_list else ours
    learn([evaluation(tmp_path / "run", callback_on_new_best=child), checkpoints(tmp_path / "other")])
    assert written == BEST * 2
    assert ours.save_path == tmp_path / "run"


def test_a_child_of_an_evaluation_writes_where_its_parent_does(tmp_path: Path, written: Written) -> None:
    learn(evaluation(tmp_path / "run", callback_after_eval=OnnxCheckpointCallback()))
    assert written == numbered("run", 16, 32, own=True)


def test_a_child_of_another_event_follows_the_others_and_writes_at_the_event(tmp_path: Path, written: Written) -> None:
    learn([EveryNTimesteps(20, OnnxCheckpointCallback()), checkpoints(tmp_path / "run")])
    own = numbered("run", 20, own=True)
    assert written == [*numbered("run", 10), *own, *numbered("run", 20, 30)]  # whose .zip is the newer one


# Nobody to follow ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("as_list", [False, True])
def test_without_a_path_and_anybody_to_follow_nothing_begins(as_list: bool) -> None:
    model, ours = make_model(), OnnxCheckpointCallback()
    expected = "save_path=None cannot be used: expected a folder, or a callback to follow: an EvalCallback with"
    with pytest.raises(OptionError, match=expected):
        learn([ours, EveryNTimesteps(4, CallbackList([]))] if as_list else ours, model=model)
    assert model.num_timesteps == 0


@pytest.mark.parametrize("is_child", [False, True])
def test_evaluations_without_a_folder_write_nothing_and_this_is_said_once(
    is_child: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, written: Written
) -> None:
    def refuse(*args: object) -> None:
        raise RuntimeError("this policy cannot be exported")

    monkeypatch.setattr("sb3_clanker.training.callback.Exporter", refuse)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        ours = OnnxCheckpointCallback(on_error="raise", eval_env=make_eval_env(), save_freq=8)
        if is_child:
            ours = OnnxCheckpointCallback(on_error="raise")
        learn(evaluation(None, callback_on_new_best=ours) if is_child else [ours, evaluation(None)])
    assert written == []
    assert list(tmp_path.iterdir()) == []
    warnings = [record.message for record in caplog.records if record.levelno >= logging.WARNING]
    assert warnings == ["Nothing is exported: no EvalCallback of this training has a best_model_save_path."]
    assert ours.save_path is None


def test_an_evaluation_without_a_folder_beside_one_with(tmp_path: Path, written: Written) -> None:
    learn([evaluation(None), checkpoints(tmp_path / "run", save_freq=20), OnnxCheckpointCallback()])
    assert written == [*OWN_BEST, *numbered("run", 20), *OWN_BEST, *FINAL]


@pytest.mark.parametrize("is_child", [False, True])
def test_two_evaluations_that_both_decide_on_the_best_are_refused(is_child: bool, tmp_path: Path) -> None:
    model, run = make_model(normalize=True), tmp_path / "run"
    ours = OnnxCheckpointCallback(eval_env=make_eval_env())
    with pytest.raises(OptionError, match=r"eval_env='given' cannot be used: expected None, as an EvalCallback beside"):
        learn(
            evaluation(tmp_path / "run", callback_after_eval=ours)
            if is_child
            else [ours, evaluation(tmp_path / "run")],
            model=model,
        )
    assert model.num_timesteps == 0
    assert not (run / LOCK).exists()


def test_an_evaluation_of_our_own_beside_checkpoints_that_are_followed(tmp_path: Path, written: Written) -> None:
    ours = OnnxCheckpointCallback(eval_env=make_eval_env(), eval_freq=16, n_eval_episodes=1)
    learn([ours, checkpoints(tmp_path / "run", save_freq=20)])
    assert written == [*OWN_BEST, *numbered("run", 20), *OWN_BEST, *FINAL]


def test_a_folder_that_another_training_has_is_refused(tmp_path: Path) -> None:
    model, other = make_model(), TrainingFolder(tmp_path / "b")
    callbacks = [checkpoints(tmp_path / "a"), checkpoints(tmp_path / "b"), OnnxCheckpointCallback()]
    with pytest.raises(FolderInUseError, match="another training"):
        learn(callbacks, model=model)
    assert model.num_timesteps == 0
    other.release()
    learn(callbacks, model=model)
    assert names(tmp_path / "b") == [f"rl_model_{steps}_steps.zip" for steps in (10, 20, 30)]


# When something is new -----------------------------------------------------------------------------------------------


def test_a_mean_reward_that_is_no_number_is_no_best(tmp_path: Path, written: Written) -> None:
    learn([evaluation(tmp_path / "run", NaNOnceEnv), OnnxCheckpointCallback(save_final=False)], 48)
    assert written == BEST * 2


def test_a_best_that_another_callback_begins_anew_is_none(tmp_path: Path, written: Written) -> None:
    theirs = evaluation(tmp_path / "run")

    class BeginAnew(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == 20:
                theirs.best_mean_reward = float("-inf")
            return True

    learn([BeginAnew(), theirs, OnnxCheckpointCallback(save_final=False)])
    assert written == BEST * 2


def test_one_that_stops_the_training_has_its_checkpoint_completed(tmp_path: Path, written: Written) -> None:
    stop = StopTrainingOnRewardThreshold(1.0)
    model = learn([OnnxCheckpointCallback(), evaluation(tmp_path / "run", callback_on_new_best=stop)])
    assert model.num_timesteps == 16
    assert written == [*BEST, *FINAL]


@pytest.mark.parametrize("on_error", ["warn", "raise"])
def test_a_zip_of_another_instant_is_never_paired(on_error: Any, tmp_path: Path, written: Written) -> None:
    class WritesOnce(CheckpointCallback):
        def _checkpoint_path(self, checkpoint_type: str = "", extension: str = "") -> str:
            return str(Path(self.save_path) / f"{checkpoint_type}model.{extension}")

        def _on_step(self) -> bool:
            return self.n_calls > 10 or super()._on_step()

    ours = OnnxCheckpointCallback(save_final=False, on_error=on_error)
    callbacks = [WritesOnce(10, str(tmp_path / "run")), ours]
    expected = r"model\.zip: WritesOnce is followed, and has not written the policy of this instant there"
    if on_error == "raise":
        with pytest.raises(AlgorithmFileError, match=expected):
            learn(callbacks)
    else:
        learn(callbacks)
        assert [failure.num_timesteps for failure in ours.failures] == [20, 30]
        with pytest.raises(AlgorithmFileError, match=expected):
            raise ours.failures[0].error
    assert written == [("run", "model", [".zip"])]


class Perturb(BaseCallback):
    """Goes on with other weights, as population based training does after an evaluation."""

    def _on_step(self) -> bool:
        perturb(self.model)
        return True


def perturb(model: BaseAlgorithm) -> None:
    weights = {name: tensor + 0.5 for name, tensor in model.policy.state_dict().items()}
    model.policy.load_state_dict(weights)


class SavesAnother(CheckpointCallback):
    """Saves a policy of its own choice, such as an average, at the usual times."""

    def _on_step(self) -> bool:
        if self.n_calls % self.save_freq == 0:
            make_model(scale=2.0).save(self._checkpoint_path(extension="zip"))
        return True


def replaced(folder: Path) -> CheckpointCallback:
    """One whose method the user has replaced."""
    callback = checkpoints(folder)
    vars(callback)["_on_step"] = lambda: SavesAnother._on_step(callback)  # type: ignore[arg-type]
    return callback


OTHERS: dict[str, Callable[[Path], BaseCallback]] = {
    "changed by a child of each evaluation": lambda folder: evaluation(folder, callback_after_eval=Perturb()),
    "changed by a child of each new best": lambda folder: evaluation(folder, callback_on_new_best=Perturb()),
    "saved by a class of the user's": lambda folder: SavesAnother(10, str(folder)),
    "saved by a method of the user's": replaced,
}


@pytest.mark.parametrize("other", OTHERS)
def test_another_policy_that_is_written_at_this_instant_is_never_paired(
    other: str, tmp_path: Path, written: Written
) -> None:
    ours = OnnxCheckpointCallback(save_final=False)
    learn([OTHERS[other](tmp_path / "run"), ours])
    assert ours.failures
    assert written == []


def test_what_only_stable_baselines3_has_to_do_with_is_not_read_again(
    tmp_path: Path, written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(follow, "holds_policy_of", None)
    learn([OnnxCheckpointCallback(), evaluation(tmp_path / "run"), checkpoints(tmp_path / "run")])
    assert written == [*numbered("run", 10), *BEST, *numbered("run", 20, 30), *BEST, *FINAL]


def test_names_that_both_write_are_of_one_instant(tmp_path: Path, written: Written) -> None:
    ours = OnnxCheckpointCallback(save_freq=10, save_final=False)
    learn([ours, checkpoints(tmp_path / "run", save_freq=20)])
    own = numbered("run", 10, 20, 30, own=True)
    assert written == [*own[:2], *numbered("run", 20), own[2]]


def test_two_of_ours_both_complete(tmp_path: Path, written: Written) -> None:
    theirs = checkpoints(tmp_path / "run", save_freq=20)
    learn([OnnxCheckpointCallback(), theirs, OnnxCheckpointCallback(save_final=False)])
    assert written == [*numbered("run", 20) * 2, *FINAL]
    assert "on_step" not in vars(theirs)


def test_settings_that_write_nothing_but_what_others_begin_are_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    learn([checkpoints(tmp_path / "run"), OnnxCheckpointCallback(save_final=False)])
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


# One training after the other ----------------------------------------------------------------------------------------


def _crash_at(call: int) -> BaseCallback:
    class Crash(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == call:
                raise RuntimeError("interrupted")
            return True

    return Crash()


@pytest.mark.parametrize("same_model", [True, False])
@pytest.mark.parametrize("with_ours", [True, False])
def test_after_a_crash_nothing_is_left_of_us(
    with_ours: bool, same_model: bool, tmp_path: Path, written: Written
) -> None:
    theirs, ours, model = checkpoints(tmp_path / "run"), OnnxCheckpointCallback(), make_model(normalize=True)
    with pytest.raises(RuntimeError, match="interrupted"):
        learn([theirs, ours, _crash_at(15)], model=model)
    assert written == numbered("run", 10)
    written.clear()
    following = [OnnxCheckpointCallback()] if with_ours else []
    learn([theirs, *following], model=model if same_model else None)
    assert written == ([*numbered("run", 5, 15, 25), *FINAL] if with_ours else [])
    assert not vars(theirs).keys() & {"on_step", "init_callback"}
    assert ours._places == {}
    assert not (tmp_path / "run" / LOCK).exists()


def test_one_that_raises_ends_the_training_as_without_us(tmp_path: Path, written: Written) -> None:
    theirs = evaluation(tmp_path / "run", callback_after_eval=_crash_at(2))
    with pytest.raises(RuntimeError, match="interrupted"):
        learn([theirs, OnnxCheckpointCallback()])
    assert written == BEST


def test_the_next_learn_goes_on_with_the_best_that_the_evaluation_remembers(tmp_path: Path, written: Written) -> None:
    callbacks = [evaluation(tmp_path / "run"), checkpoints(tmp_path / "run"), OnnxCheckpointCallback()]
    model = learn(callbacks)
    written.clear()
    learn(callbacks, model=model, reset_num_timesteps=False)
    assert sorted(written) == sorted([*BEST * 2, *numbered("run", 40, 50, 60), *FINAL])
    best = (tmp_path / "run" / "best_model.zip").read_bytes()
    callbacks[0].eval_freq = 10**6  # type: ignore[attr-defined]
    for again in (model, make_model(normalize=True)):  # the same algorithm from the beginning, and another one
        learn(callbacks, model=again)
        assert (tmp_path / "run" / "best_model.zip").read_bytes() == best
    moved = {path.name for path in (tmp_path / "run").glob("previous_*/*")}
    assert "rl_model_10_steps.zip" in moved
    assert "best_model.zip" not in moved


def test_what_begins_anew_moves_what_the_others_would_overwrite(tmp_path: Path) -> None:
    for _ in range(2):
        learn([evaluation(tmp_path / "a"), checkpoints(tmp_path / "b"), OnnxCheckpointCallback()])
    assert names(tmp_path / "a") == ["best_model.zip", "previous_1"]
    assert names(tmp_path / "a" / "previous_1") == ["best_model.zip"]
    assert names(tmp_path / "b") == ["previous_1", *(f"rl_model_{steps}_steps.zip" for steps in (10, 20, 30))]
    assert names(tmp_path / "b" / "previous_1") == [f"rl_model_{steps}_steps.zip" for steps in (10, 20, 30)]


def test_a_pickle_of_one_that_is_followed_knows_nothing_of_us(tmp_path: Path, written: Written) -> None:
    pickled: list[bytes] = []

    class Pickle(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == 12:
                theirs.model, theirs.locals, theirs.globals = None, {}, {}  # type: ignore[assignment]
                pickled.append(pickle.dumps(theirs))
                theirs.init_callback(self.model)  # the training goes on: this does not end it
            return True

    theirs = checkpoints(tmp_path / "run")
    learn([theirs, OnnxCheckpointCallback(), Pickle()])
    assert written == [*numbered("run", 10, 20, 30), *FINAL]
    assert b"sb3_clanker" not in pickled[0]
    copy = pickle.loads(pickled[0])
    written.clear()
    learn([copy])
    assert written == []
    assert copy.n_calls == 12 + 32


def test_all_callbacks_can_be_pickled_in_the_middle_of_a_training(tmp_path: Path, written: Written) -> None:
    copies: list[list[BaseCallback]] = []

    class Pickle(BaseCallback):
        def _on_step(self) -> bool:
            if self.n_calls == 12:
                copies.append(cloudpickle.loads(cloudpickle.dumps(callbacks)))
            return True

    callbacks = [checkpoints(tmp_path / "run"), OnnxCheckpointCallback()]
    learn([*callbacks, Pickle()])
    expected = [*numbered("run", 10, 20, 30), *FINAL]
    assert written == expected
    written.clear()
    learn(copies[0])
    assert written == [*numbered("run", 8, 18, 28), *FINAL]

"""``policy_card``: a policy file as one page of HTML."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from sb3_clanker.card.wording import number
from sb3_clanker.dependencies import required_for
from sb3_clanker.errors import OptionError
from sb3_clanker.paths import local_path
from sb3_clanker.play.environment import Playable
from sb3_clanker.policy_file.reading import PolicyFile, read_policy_file
from sb3_clanker.public import public
from sb3_clanker.run_folder.names import CARD
from sb3_clanker.run_folder.publication import Publication

if TYPE_CHECKING:
    import jinja2

    from sb3_clanker.card.replay import Played

_MOST_EPISODES = 1000
_N_ACTIONS = 5000
_INSTALL = "pip install jinja2"


@public
def policy_card(
    path: str | Path,
    *,
    run_folder: str | Path | None = None,
    env: str | Playable | None = None,
    episodes: int = 0,
    video: bool = False,
) -> str:
    """Say on one page of HTML what a policy is, how good, how it was proven, and what it has never seen.

    The page is one file without scripts that asks the network for nothing. Whatever is in the record, it is bounded:
    under 300 KB, without a replay. The policy is run for it, for a second at most; without
    ``episodes`` no environment is.

    Needs jinja2 beside the light install, with ``episodes`` gymnasium and, for a replay, pillow.

    :param path: an ``.onnx`` file of this package
    :param run_folder: where the log of evaluations lies, ``evaluations.npz``; None is the folder of the file. Without a
        log, the curve is that of the records of the policies beside the file.
    :param env: the environment of the episodes: its id, or one of your own; None makes that of the record anew
    :param episodes: how many to play, on seeds from 0 on, with deterministic actions. They stand in place of drawn
        observations in the histogram of actions, and the first is a replay where the environment gives pictures
    :param video: whether the replay is an MP4 (needs imageio-ffmpeg) rather than a GIF
    :return: the page
    :raises OptionError: ``episodes`` is out of its range, or ``env`` or ``video`` is given without it
    :raises MissingFileError: there is no such file
    :raises PolicyFileError: not a policy of this package, or damaged
    :raises UnfitEnvironmentError: the environment cannot be made as it was in training, or does not fit the policy
    :raises MissingDependencyError: a package is not installed

    >>> Path("best_model.card.html").write_text(policy_card("best_model.onnx"))  # doctest: +SKIP
    """
    path = local_path(path)
    folder = path.parent if run_folder is None else local_path(run_folder, "run_folder")
    if isinstance(episodes, bool) or not isinstance(episodes, int) or not 0 <= episodes <= _MOST_EPISODES:
        raise OptionError("episodes", episodes, f"a whole number from 0 to {_MOST_EPISODES:,}")
    if episodes == 0 and (env is not None or video):
        raise OptionError("episodes", episodes, "a positive number, as an environment or a video is asked for")
    return _render(read_policy_file(path), path, folder, env, episodes, video=video)


def write_card(path: Path, card: str) -> None:
    """Write a card to a file, whole or not at all.

    :raises PublicationError: it cannot be written
    """
    with Publication(path.parent, durable=False) as publication:
        publication.stage(path.name, lambda file: file.write(card.encode("utf-8", "backslashreplace")))
        publication.commit()


def card_path(path: Path) -> Path:
    """Where the card of a policy file lies."""
    return path.with_name(CARD.name(path.stem))


def _render(
    file: PolicyFile, path: Path, run_folder: Path, env: str | Playable | None, episodes: int, *, video: bool
) -> str:
    with required_for("A policy card", _INSTALL):
        from sb3_clanker.card.page import make_page

    played = _play(file, env, episodes, video=video) if episodes else None
    return _template().render(make_page(file, path, run_folder, played))


def _play(file: PolicyFile, env: str | Playable | None, episodes: int, *, video: bool) -> Played:
    from sb3_clanker.card.replay import Played, make_replay, n_frames, shrink
    from sb3_clanker.play.episodes import play_episodes
    from sb3_clanker.runtime.policy import OnnxPolicy

    policy = OnnxPolicy.from_file(file)
    n_pictures = n_frames(video=video)
    done = play_episodes(policy, env, range(episodes), n_kept=_N_ACTIONS, n_frames=n_pictures, shrink=shrink)
    caption = f"The first episode that was played for this card (seed 0, return {number(float(done.returns[0]))})"
    return Played(
        returns=done.returns,
        actions=done.actions.reshape(len(done.actions), -1),
        replay=make_replay(done.frames, int(done.lengths[0]) + 1, done.frames_per_second, caption, video=video),
    )


@functools.cache
def _template() -> jinja2.Template:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("sb3_clanker", "card"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("card.html")

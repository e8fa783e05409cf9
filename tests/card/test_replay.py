"""Replays: of bounded size, whatever an environment draws."""

from __future__ import annotations

import base64
import io
import sys

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sb3_clanker import MissingDependencyError
from sb3_clanker.card import replay
from sb3_clanker.card.replay import make_replay

Frames = list[NDArray[np.uint8]]


def _frames(n: int, height: int = 30, width: int = 41) -> Frames:
    """A bright bar that wanders over noise."""
    frames = list(np.random.default_rng(0).integers(0, 100, (n, height, width, 3), dtype=np.uint8))
    for i, frame in enumerate(frames):
        frame[:, i % width] = 255
    return frames


def _data(source: str, kind: str) -> bytes:
    prefix = f"data:{kind};base64,"
    assert source.startswith(prefix)
    return base64.b64decode(source.removeprefix(prefix))


def test_a_gif_plays_as_fast_as_the_environment() -> None:
    made = make_replay(_frames(250), 500, 50.0, "An episode", video=False)
    assert made is not None
    assert (made.is_video, made.width, made.height) == (False, 40, 30)
    assert made.caption == "An episode: the first 250 of its 500 pictures, 5 seconds of the environment."
    with Image.open(io.BytesIO(_data(made.source, "image/gif"))) as picture:
        assert getattr(picture, "n_frames", 1) == 84  # every third
        assert picture.info["duration"] == 60


def test_a_gif_that_would_be_large_has_fewer_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay, "_LARGEST_GIF", 300_000)
    made = make_replay(_frames(40, 700, 600), 40, None, "An episode", video=False)
    assert made is not None
    assert (made.width, made.height) == (274, 320)
    data = _data(made.source, "image/gif")
    assert len(data) <= 300_000
    with Image.open(io.BytesIO(data)) as picture:
        assert 1 <= getattr(picture, "n_frames", 1) < 40


def test_a_video_is_one() -> None:
    made = make_replay(_frames(20, 31, 33), 20, 10.0, "An episode", video=True)
    assert made is not None
    assert (made.is_video, made.width, made.height) == (True, 32, 30)
    assert _data(made.source, "video/mp4")[4:8] == b"ftyp"


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 4), (4, 4, 4), (4, 0, 3)])
def test_what_is_no_picture_is_not_shown(shape: tuple[int, ...]) -> None:
    assert make_replay([np.zeros(shape, np.uint8)], 1, 30.0, "An episode", video=False) is None


def test_pictures_may_change_their_size() -> None:
    made = make_replay([*_frames(2), *_frames(2, 64, 64), *_frames(1, 1, 3000)], 5, 30.0, "An episode", video=False)
    assert made is not None
    assert (made.width, made.height) == (40, 30)


@pytest.mark.parametrize(
    ("package", "video", "install"),
    [("PIL", False, "pip install pillow"), ("imageio_ffmpeg", True, r"pip install 'sb3-clanker\[video\]'")],
)
def test_what_is_missing_is_named(package: str, video: bool, install: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingDependencyError, match=f"A replay.*{install}"):
        make_replay(_frames(1), 1, 30.0, "An episode", video=video)

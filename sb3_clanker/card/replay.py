"""Episodes that are played for a card, and the first of them as a moving picture."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sb3_clanker.card.wording import number
from sb3_clanker.dependencies import required_for

if TYPE_CHECKING:
    from PIL.Image import Image

_WIDEST, _HIGHEST = 320, 320
_MOST_FRAMES_OF_GIF = 100
_MOST_FRAMES_OF_VIDEO = 1000
_LARGEST_GIF = 1_200_000
_COLOURS, _FAST_OCTREE = 64, 2
VIDEO = "pip install 'sb3-clanker[video]'"


@dataclass(frozen=True, kw_only=True)
class Replay:
    """A moving picture.

    :ivar source: all of it, as a ``data:`` URL
    :ivar is_video: whether it is MP4; else it is GIF
    :ivar width: in pixels
    :ivar height: in pixels
    :ivar caption: what it shows
    """

    source: str
    is_video: bool
    width: int
    height: int
    caption: str


@dataclass(frozen=True, kw_only=True)
class Played:
    """Episodes that were played for a card.

    :ivar returns: the return of each, shape (n,)
    :ivar actions: actions in them, shape (n, width of an action)
    :ivar replay: the first of them, None where the environment gives no pictures
    """

    returns: NDArray[np.float64]
    actions: NDArray[np.float64]
    replay: Replay | None


def n_frames(*, video: bool) -> int:
    """How many pictures of an episode are wanted."""
    return _MOST_FRAMES_OF_VIDEO if video else 3 * _MOST_FRAMES_OF_GIF


def shrink(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture that is not larger than a replay needs it: hundreds are kept."""
    from PIL import Image

    return np.asarray(_fit(Image.fromarray(frame))) if _is_usable(frame) else frame


def make_replay(
    frames: Sequence[NDArray[np.uint8]], n_all: int, per_second: float | None, caption: str, *, video: bool
) -> Replay | None:
    """A moving picture of bounded size.

    :param frames: pictures of an episode from its beginning, uint8 of shape (height, width, 3)
    :param n_all: how many the episode has
    :param per_second: how many there are in a second; None is 30
    :param video: whether it is MP4, which needs imageio-ffmpeg; else it is GIF, of every so many-th picture
    :return: None where there are no pictures
    :raises MissingDependencyError: pillow, or imageio-ffmpeg, is not installed
    """
    with required_for("A replay", "pip install pillow"):
        from PIL import Image
    usable = [frame for frame in frames if _is_usable(frame)]
    if not usable:
        return None
    rate = per_second if per_second is not None and 0 < per_second < 1000 else 30.0
    every = 1 if video else -(-len(usable) // _MOST_FRAMES_OF_GIF)
    pictures = [_fit(Image.fromarray(frame)) for frame in usable[::every]]
    size = pictures[0].size
    pictures = [picture if picture.size == size else picture.resize(size) for picture in pictures]
    data = _mp4(pictures, rate) if video else _gif(pictures, rate / every)
    kind = "video/mp4" if video else "image/gif"
    part = "" if len(usable) >= n_all else f"the first {number(len(usable))} of its {number(n_all)} pictures, "
    return Replay(
        source=f"data:{kind};base64,{base64.b64encode(data).decode()}",
        is_video=video,
        width=size[0],
        height=size[1],
        caption=f"{caption}: {part}{number(len(usable) / rate, 3)} seconds of the environment.",
    )


def _is_usable(frame: NDArray[np.uint8]) -> bool:
    return frame.ndim == 3 and frame.shape[2] == 3 and 0 not in frame.shape


def _fit(picture: Image) -> Image:
    """Not larger than a card has room for; even, as a video must be."""
    scale = min(1.0, _WIDEST / picture.width, _HIGHEST / picture.height)
    width, height = (max(2, int(size * scale) // 2 * 2) for size in picture.size)
    return picture if picture.size == (width, height) else picture.resize((width, height))


def _gif(pictures: Sequence[Image], rate: float) -> bytes:
    """A GIF that plays as fast as the environment, of fewer pictures where it would be too large."""
    some = [picture.quantize(_COLOURS, method=_FAST_OCTREE) for picture in pictures]
    while True:
        file = io.BytesIO()
        duration = max(20, round(1000 / rate))
        some[0].save(file, "GIF", save_all=True, append_images=some[1:], duration=duration, loop=0)
        if file.tell() <= _LARGEST_GIF or len(some) == 1:
            return file.getvalue()
        some, rate = some[::2], rate / 2


def _mp4(pictures: Sequence[Image], rate: float) -> bytes:
    """An MP4 by the program that imageio-ffmpeg brings."""
    with required_for("A replay as a video", VIDEO):
        import imageio_ffmpeg
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        path = Path(folder) / "replay.mp4"
        writer = imageio_ffmpeg.write_frames(
            str(path),
            pictures[0].size,
            fps=rate,
            codec="libx264",
            macro_block_size=2,
            output_params=["-an", "-movflags", "+faststart"],
        )
        writer.send(None)
        for picture in pictures:
            writer.send(np.asarray(picture).tobytes())
        writer.close()
        return path.read_bytes()

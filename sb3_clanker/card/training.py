"""Cards of a training: made after the files that they are of, for next to none of its time."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from pathlib import Path

from sb3_clanker.card.card import card_path, policy_card, write_card
from sb3_clanker.paths import is_file
from sb3_clanker.run_folder.names import BEST, FINAL

_logger = logging.getLogger("sb3_clanker")

_SHARE = 0.01
"""The part of the time of a training that cards may take before its end."""
_SECONDS = 0.3
"""How long the first of them is thought to take."""


class Cards:
    """The cards of the best and the final policy of a training.

    A card is made at once where all of them take no more than a hundredth of the training's time; else with a later
    one, or at the end. Until then there is none: no card lies beside a policy that it is not of.

    :param wanted: whether there are to be any
    """

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self.begin(None)

    def begin(self, run_folder: Path | None) -> None:
        """A training begins.

        :param run_folder: where the log of its evaluations is written; None is the folder of each file
        """
        self._run_folder = run_folder
        self._due: dict[Path, None] = {}
        self._began = time.monotonic()
        self._spent, self._cost = 0.0, _SECONDS

    def add(self, path: Path) -> None:
        """A policy file has just got its name; those of numbered checkpoints have no cards."""
        if not self._wanted or path.stem not in (BEST.stem, FINAL.stem):
            return
        with suppress(OSError):
            card_path(path).unlink(missing_ok=True)
        self._due[path] = None
        if self._spent + self._cost * len(self._due) <= _SHARE * (time.monotonic() - self._began):
            self.write()

    def write(self) -> None:
        """Make what has not been made yet; what fails is logged, and training goes on."""
        while self._due:
            path, start = next(iter(self._due)), time.monotonic()
            del self._due[path]
            if not is_file(path):  # a training that was broken off may end much later
                continue
            try:
                write_card(card_path(path), policy_card(path, run_folder=self._run_folder))
            except Exception as error:  # whatever it is, the policy is there, and its card can be made later
                _logger.error("The policy card of %s was not written. %s: %s", path, type(error).__name__, error)
            self._cost = time.monotonic() - start
            self._spent += self._cost

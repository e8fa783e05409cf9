"""Every error and warning of the package.

One root, :class:`ClankerError`. Each leaf is also the built-in it refines, so that ``except ValueError`` written
before this package was installed goes on working. A leaf takes the facts, keeps them as attributes and builds the
message from them: what was got, what was expected, what to do about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sb3_clanker.errors.export import *
from sb3_clanker.errors.files import *
from sb3_clanker.errors.play import *
from sb3_clanker.errors.policy_file import *
from sb3_clanker.errors.root import *
from sb3_clanker.errors.warnings import *
from sb3_clanker.public import public

if not TYPE_CHECKING:  # type checkers take the names from the imports
    __all__ = [
        public(value).__name__
        for value in list(vars().values())
        if isinstance(value, type) and issubclass(value, (ClankerError, ClankerWarning))
    ]

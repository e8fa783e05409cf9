"""What a caller may choose about an export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sb3_clanker.errors import OptionError, UnsupportedOpsetError
from sb3_clanker.metadata import check_entries

SUPPORTED_OPSETS = range(17, 24)


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """Options of an export, checked when they are made.

    :param opset_version: the opset of the file, 17 to 23, kept exactly. The IR version is the oldest that allows it
        (8 for 17 and 18), so that as many runtimes as possible read the file.
    :param atol: largest difference that the cross-check lets pass, absolute. Box actions are compared in units of half
        their range (or of the largest action, where the policy uses less of it), so that one tolerance fits a joint of
        ±0.1 rad and a motor of ±1000 N.
    :param rtol: the same, relative to the magnitude of the action in these units
    :param n_samples: how many random observations the cross-check tries beside those that training saw and the bounds
        of the space; None (the default) chooses by the size of the network
    :param channels_last: whether the file takes images as height, width, channels, as cameras give them; by default it
        takes them as channels, height, width, as Stable-Baselines3 trains on them
    :param metadata: the caller's own entries, stored in the file as flat keys
    :raises OptionError: a value is out of its range
    :raises UnsupportedOpsetError: ``opset_version`` is not one of the supported
    :raises ReservedMetadataKeyError: a key of ``metadata`` is kept for the format

    >>> ExportOptions(opset_version=17, metadata={"robot": "arm-3"}).opset_version
    17
    """

    opset_version: int = 18
    atol: float = 1e-5
    rtol: float = 1e-5
    n_samples: int | None = None
    channels_last: bool = False
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if type(self.opset_version) is not int or self.opset_version not in SUPPORTED_OPSETS:
            raise UnsupportedOpsetError(self.opset_version, SUPPORTED_OPSETS)
        for option in ("atol", "rtol"):
            value = getattr(self, option)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise OptionError(option, value, "a number of at least 0 and below 1")
        if self.n_samples is not None and (type(self.n_samples) is not int or self.n_samples < 1):
            raise OptionError("n_samples", self.n_samples, "a positive integer, or None")
        if not isinstance(self.channels_last, bool):
            raise OptionError("channels_last", self.channels_last, "True or False")
        object.__setattr__(self, "metadata", dict(check_entries(self.metadata)))

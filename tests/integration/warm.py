"""Imported once by the process that others are forked from: a first export imports much, and they need not again."""

from __future__ import annotations

import torch as th

from sb3_clanker import ExportOptions
from sb3_clanker.export.exporter import Exporter
from sb3_clanker.sb3.normalization import Normalization
from sb3_clanker.writers.formats import FURTHER_FORMATS
from tests.worlds import make_model

th.set_num_threads(1)
Exporter(make_model(), Normalization(vec_normalize=None), ExportOptions(formats=tuple(FURTHER_FORMATS))).export()

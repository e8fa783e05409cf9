"""``sb3-clanker schema``: the JSON Schema of what is in a file."""

from __future__ import annotations

import argparse
import json

import msgspec

from sb3_clanker.cli.arguments import Commands
from sb3_clanker.cli.text import say
from sb3_clanker.policy_file.documents import json_schema
from sb3_clanker.policy_file.record import PolicyMetadata
from sb3_clanker.policy_file.vectors import TestVectors

_DOCUMENTS: dict[str, type[msgspec.Struct]] = {"record": PolicyMetadata, "vectors": TestVectors}


def add_schema(commands: Commands) -> None:
    """Add the verb."""
    parser = commands.add_parser("schema", help="print the JSON Schema of a record, or of test vectors")
    parser.add_argument("document", choices=_DOCUMENTS, help="which of the two")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    say(json.dumps(json_schema(_DOCUMENTS[options.document]), indent=2))

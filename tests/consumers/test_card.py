"""Policy cards in Chromium: they ask for nothing, fit a phone, and are dark where the reader wants it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sb3_clanker import PolicyMetadata, policy_card, read_metadata
from tests.card.records import EXAMPLE, rewrite
from tests.card.test_hostile import hostile
from tests.consumers.test_web import WEB
from tests.consumers.tools import require_path, require_tool

HERE = Path(__file__).parent


@pytest.mark.parametrize("record", [lambda: read_metadata(EXAMPLE), hostile], ids=["example", "hostile"])
def test_a_card_asks_for_nothing_and_fits_a_phone(record: Callable[[], PolicyMetadata], tmp_path: Path) -> None:
    require_path(WEB / "node_modules", "npm ci --prefix examples/web")
    node = require_tool("node", "apt-get install nodejs")
    chromium = require_tool("chromium", "apt-get install chromium")
    page = tmp_path / "p.card.html"
    page.write_text(policy_card(rewrite(tmp_path / "p.onnx", metadata=record())), encoding="utf-8")
    command: list[str | Path] = [node, HERE / "card_page.mjs", chromium, page]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["others"] == []
    assert found["errors"] == []
    assert {name: each["excess"] for name, each in found["seen"].items()} == {"light": 0, "dark": 0, "phone": 0}
    assert found["seen"]["light"]["paper"] != found["seen"]["dark"]["paper"]
    assert found["seen"]["light"]["ink"] != found["seen"]["dark"]["ink"]

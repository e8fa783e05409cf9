"""What the README says is what the tests prove."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import sb3_clanker
from sb3_clanker.cli.main import main
from tests.support import support_table

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_support_table_is_that_of_the_tests() -> None:
    match = re.search(r"<!-- support table: begin -->\n(.*?)\n<!-- support table: end -->", README, re.DOTALL)
    assert match is not None
    assert match[1] == support_table()


def test_every_name_that_it_imports_is_public() -> None:
    imported = re.findall(r"^from sb3_clanker import (.+)$", README, re.MULTILINE)
    assert imported
    assert {name.strip() for line in imported for name in line.split(",")} <= set(dir(sb3_clanker))


def test_every_option_of_the_command_line_exists(capsys: pytest.CaptureFixture[str]) -> None:
    for line in re.findall(r"^sb3-clanker (.+)$", README, re.MULTILINE):
        with pytest.raises(SystemExit) as stopped:
            main([line.split()[0], "--help"])
        assert stopped.value.code == 0
        text = capsys.readouterr().out
        assert all(option in text for option in re.findall(r"--[a-z]+", line)), line

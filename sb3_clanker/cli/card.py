"""``sb3-clanker card``: a policy as one page for people."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

from sb3_clanker.card.card import card_path, policy_card, write_card
from sb3_clanker.cli.arguments import Commands
from sb3_clanker.cli.text import say
from sb3_clanker.display import printable

_N_EPISODES = 10
_HEAD = 256


def add_card(commands: Commands) -> None:
    """Add the verb."""
    parser = commands.add_parser(
        "card",
        help="write a page of HTML: what a policy is, how good, and what it has never seen",
        description="The policy is run for it; its environment only with --env, --episodes or --video.",
    )
    parser.add_argument("path", type=Path, metavar="POLICY.onnx")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the page (default: POLICY.card.html beside it)")
    parser.add_argument(
        "--run-folder", type=Path, metavar="DIR", help="where evaluations.npz lies (default: beside the policy)"
    )
    parser.add_argument(
        "--env", nargs="?", const="", metavar="ID", help="play episodes in this environment (default: its own)"
    )
    parser.add_argument("--episodes", type=int, metavar="N", help=f"how many (default: {_N_EPISODES})")
    parser.add_argument("--video", action="store_true", help="replay the first as MP4 rather than GIF")
    parser.set_defaults(run=_run, check=functools.partial(_check, parser))


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if options.out is not None and not _is_replaceable(options.out):
        parser.error(f"--out {printable(str(options.out))} is there, and is no page of HTML")
    if options.run_folder is not None and not options.run_folder.is_dir():
        parser.error(f"--run-folder {printable(str(options.run_folder))} is no folder")


def _is_replaceable(path: Path) -> bool:
    """Whether a page may take the place of what is there: the policy and its files are in no danger of a slip."""
    if not path.is_file():
        return True
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return False
    return not head or head.lstrip().lower().startswith(b"<!doctype html")


def _run(options: argparse.Namespace) -> None:
    plays = options.env is not None or options.video or options.episodes is not None
    episodes = options.episodes if options.episodes is not None else _N_EPISODES if plays else 0
    page = policy_card(
        options.path, run_folder=options.run_folder, env=options.env or None, episodes=episodes, video=options.video
    )
    out = card_path(options.path) if options.out is None else options.out
    write_card(out, page)
    say(printable(f"{out}: {len(page.encode()):,} bytes"))

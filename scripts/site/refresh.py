"""Bring a page of docs/ up to date: run the commands that it shows, and take its pictures anew.

    python scripts/site/refresh.py docs/walkthrough.md

A block of kind `console` begins with a line `$ COMMAND`; what follows it becomes what the command prints. A
picture `![...](FILE "PAGE WIDTHxHEIGHT")` becomes what Chromium shows of PAGE, a path from the root, with an
anchor where it is not to begin at the top. The commands are run in the root of the repository, one after the
other, and must succeed.
"""

import base64
import contextlib
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.append(str(ROOT / "tests" / "support"))
from browser import ABSENT, Browser  # noqa: E402

BLOCK = re.compile(r"(?<=^```console\n)\$ (?P<command>.+)\n(?P<said>[\s\S]*?)(?=^```$)", re.MULTILINE)
PICTURE = re.compile(r'!\[[^\]]*\]\((?P<file>\S+) "(?P<page>\S+) (?P<width>\d+)x(?P<height>\d+)"\)')


def refresh(page: Path) -> None:
    """Rewrite a page. Raises CalledProcessError where a command fails."""
    text = BLOCK.sub(lambda block: f"$ {block['command']}\n{said(block['command'])}", page.read_text())
    page.write_text(text)
    with tempfile.TemporaryDirectory() as profile, contextlib.closing(Browser(Path(profile))) as browser:
        for picture in PICTURE.finditer(text):
            take(browser, picture, page.parent / picture["file"])


def said(command: str) -> str:
    """What a command prints, in the environment of this Python, with paths from the root on."""
    print(f"$ {command}", flush=True)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "DICE_PYTHON": sys.executable}
    shell = ["bash", "-c", command]
    ran = subprocess.run(shell, cwd=ROOT, env=env, check=True, capture_output=True, text=True)
    lines = ran.stdout.replace(f"{ROOT}/", "").rstrip("\n").split("\n")
    return "".join(f"{line.rstrip()}\n" for line in lines)


def take(browser: Browser, picture: re.Match[str], target: Path) -> None:
    """Take a picture of a page, in a window of the size given."""
    page, _, anchor = picture["page"].partition("#")
    browser.open(ROOT / page, int(picture["width"]), int(picture["height"]))
    if anchor:
        browser.evaluate(f"document.getElementById({anchor!r}).scrollIntoView({{behavior: 'instant'}})")
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(base64.b64decode(browser.call("Page.captureScreenshot")["data"]))
    print(target, flush=True)


if __name__ == "__main__":
    if ABSENT:
        sys.exit(f"error: pictures need {ABSENT}")
    refresh(Path(sys.argv[1]).resolve())

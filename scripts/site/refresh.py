"""Bring a page of docs/ up to date: run the commands that it shows, and take its pictures anew.

    python scripts/site/refresh.py docs/walkthrough.md

A block of kind `console` begins with a line `$ COMMAND`; what follows it becomes what the command prints. A
picture `![...](FILE "PAGE WIDTHxHEIGHT")` becomes what Chromium shows of PAGE, a path from the root, with an
anchor where it is not to begin at the top. The commands are run in the root of the repository, one after the
other, and must succeed.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"(?<=^```console\n)\$ (?P<command>.+)\n(?P<said>[\s\S]*?)(?=^```$)", re.MULTILINE)
PICTURE = re.compile(r'!\[[^\]]*\]\((?P<file>\S+) "(?P<page>\S+) (?P<width>\d+)x(?P<height>\d+)"\)')


def refresh(page: Path) -> None:
    """Rewrite a page. Raises CalledProcessError where a command or the browser fails."""
    text = BLOCK.sub(lambda block: f"$ {block['command']}\n{said(block['command'])}", page.read_text())
    for picture in PICTURE.finditer(text):
        take(picture, page.parent / picture["file"])
    page.write_text(text)


def said(command: str) -> str:
    """What a command prints, without a terminal's colours."""
    print(f"$ {command}", flush=True)
    ran = subprocess.run(["bash", "-c", command], cwd=ROOT, check=True, capture_output=True, text=True)
    return ran.stdout.rstrip("\n") + "\n"


def take(picture: re.Match[str], target: Path) -> None:
    """Take a picture of a page, in a window of the size given."""
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        sys.exit("error: a picture needs Chromium (Debian: apt-get install chromium)")
    target.parent.mkdir(exist_ok=True)
    window = [f"--window-size={picture['width']},{picture['height']}", "--hide-scrollbars"]
    shot = ["--headless", "--no-sandbox", f"--screenshot={target}", (ROOT / picture["page"]).as_uri()]
    shot[-1] = shot[-1].replace("%23", "#")  # the anchor
    subprocess.run([browser, *window, *shot], check=True, capture_output=True)
    print(target, flush=True)


if __name__ == "__main__":
    refresh(Path(sys.argv[1]).resolve())

"""Pages of docs/ whose commands and pictures a script brings up to date."""

import subprocess
import sys

import pytest
from browser import ABSENT

from dice.recipe.paths import ROOT

SCRIPT = ROOT / "scripts" / "site" / "refresh.py"
PAGE = """# A page

```console
$ echo new; echo lines
old
```

```bash
echo not run
```

![The test page](pictures/page.png "dice/tools/report/templates/report.html 400x300")
"""


def refreshed(tmp_path, text):
    page = tmp_path / "page.md"
    page.write_text(text)
    ran = subprocess.run([sys.executable, str(SCRIPT), str(page)], capture_output=True, text=True)
    return ran, page.read_text()


@pytest.mark.slow
@pytest.mark.skipif(ABSENT is not None, reason=f"needs {ABSENT}")
def test_what_commands_print_and_pictures_are_made_anew(tmp_path):
    ran, page = refreshed(tmp_path, PAGE)
    assert ran.returncode == 0, ran.stderr
    assert page == PAGE.replace("old\n", "new\nlines\n")
    assert (tmp_path / "pictures" / "page.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.skipif(ABSENT is not None, reason=f"needs {ABSENT}")
def test_a_command_that_fails_leaves_the_page_as_it_was(tmp_path):
    text = PAGE.replace("echo new; echo lines", "exit 3")
    ran, page = refreshed(tmp_path, text)
    assert ran.returncode != 0 and "exit status 3" in ran.stderr
    assert page == text

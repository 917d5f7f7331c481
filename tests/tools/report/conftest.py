"""A browser, and a report to open in it."""

import pytest
from browser import Browser
from read_page import make_run

from dice.tools.report import write_report


@pytest.fixture(scope="package")
def made(tmp_path_factory):
    run = make_run(tmp_path_factory.mktemp("report"), "tiny")
    write_report(run)
    return run


@pytest.fixture(scope="package")
def page(made):
    return made.path / "report.html"


@pytest.fixture(scope="package")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()

"""Models of several families, made when the first test asks for one."""

import functools

import pytest


@pytest.fixture(scope="session")
def families(tmp_path_factory):
    """Makes the random model of a family, once; returns its folder."""
    from model_families import make_family

    return functools.cache(lambda name: make_family(name, tmp_path_factory.mktemp(name)))

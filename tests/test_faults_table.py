"""benchmarks/FAULTS.md says what the tests of faults say."""

import pytest

from tests.conftest import FAULTS, ITEMS, faults_table


def test_the_table_of_faults_is_that_of_the_tests(request):
    if request.config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        pytest.skip("needs the whole collection: no path on the command line")
    assert FAULTS.read_text() == faults_table(request.config.stash[ITEMS])

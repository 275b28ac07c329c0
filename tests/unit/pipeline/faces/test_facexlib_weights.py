import hashlib

import pytest
import torch
from torch import nn

from infra.errors import WeightsError
from pipeline.faces import facexlib_weights
from pipeline.faces.facexlib_weights import FILES, WeightFile, fetch_weights, load_weights


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def known(tmp_path, monkeypatch):
    """A weight file of a tiny network in a folder, known to the table; its own address does not answer."""
    path = tmp_path / "mirror" / "tiny.pth"
    path.parent.mkdir()
    torch.save({f"module.{k}": v for k, v in nn.Linear(2, 3).state_dict().items()}, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(FILES, "tiny", WeightFile("http://127.0.0.1:9/tiny.pth", digest, "none"))
    return path


def test_a_mirror_folder_serves_and_the_copy_is_kept(known):
    first = fetch_weights("tiny", (str(known.parent),))
    known.unlink()
    assert fetch_weights("tiny", ()) == first
    net = nn.Linear(2, 3)
    load_weights(net, first)
    assert first.parent == facexlib_weights.weights_folder()


def test_weights_that_cannot_be_had_give_one_sentence_with_the_cure(known):
    known.write_bytes(b"something else")
    with pytest.raises(WeightsError, match=r"tiny\.pth could not be had .* put the file with sha256") as caught:
        fetch_weights("tiny", (str(known.parent),))
    assert "\n" not in str(caught.value)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    import pickle

    class Hostile:
        def __reduce__(self):
            return (tmp_path.joinpath("owned").touch, ())

    path = tmp_path / "hostile.pth"
    path.write_bytes(pickle.dumps({"weight": Hostile()}))
    with pytest.raises(WeightsError, match="does not hold"):
        load_weights(nn.Linear(2, 3), path)
    assert not tmp_path.joinpath("owned").exists()


def test_weights_of_another_network_are_refused(known):
    with pytest.raises(WeightsError, match="Linear"):
        load_weights(nn.Linear(5, 5), known)


def test_every_file_has_a_full_digest_and_a_licence():
    for file in FILES.values():
        assert len(bytes.fromhex(file.sha256)) == 32
        assert "non-commercial" in file.licence
        assert file.address.startswith("https://github.com/xinntao/facexlib/releases/")

"""A csv of your own: which kind it is, whom its lines belong to, and one sentence for each way to get it wrong."""

import pytest

from infra.errors import ConfigError, DatasetError
from model.adapt.custom import custom_task, read_csv, rows_by_clip
from model.adapt.task import LabelError

KEY = "0123456789abcdef-t0000-f0000064-01234567"


def _file(tmp_path, text):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    return read_csv(path)


@pytest.mark.parametrize(
    ("text", "kind", "outputs", "targets"),
    [
        ("path,smile\na,0\nb,1\n", "binary", ("smile",), [(0.0,), (1.0,)]),
        ("path,word\na,yes\nb,no\nc,yes\n", "multiclass", ("no", "yes"), [(1.0,), (0.0,), (1.0,)]),
        ("path,n\na,10\nb,9\nc,2\n", "multiclass", ("2", "9", "10"), [(2.0,), (1.0,), (0.0,)]),
        ("path,n\na,1\nb,1.0\nc,01\nd,2\n", "multiclass", ("1", "2"), [(0.0,), (0.0,), (0.0,), (1.0,)]),
        ("path,w\na,1\nb,1.0\nc,x\n", "multiclass", ("1", "1.0", "x"), [(0.0,), (1.0,), (2.0,)]),
        ("path,x,y\na,0,1\nb,1,1\n", "multilabel", ("x", "y"), [(0.0, 1.0), (1.0, 1.0)]),
        ("path,age\na,31.5\nb,20\n", "regression", ("age",), [(31.5,), (20.0,)]),
    ],
)
def test_the_kind_is_seen_from_the_columns(tmp_path, text, kind, outputs, targets):
    """Catches classes sorted as text (10 before 2), numbers taken for classes, and one number written in three ways."""
    file = _file(tmp_path, text)
    task = custom_task(file)
    assert (task.kind, task.outputs) == (kind, outputs)
    assert [task.read(row.labels) for row in file.rows] == targets


def test_a_path_is_a_name_its_end_a_digest_or_a_clip(tmp_path):
    clips = [(KEY, "v" * 64, "set/a.mp4"), (KEY[:-1] + "8", "v" * 64, "set/a.mp4"), ("k2", "w" * 64, "set/b.mp4")]
    file = _file(tmp_path, f"path,x\na.mp4,0\n{KEY},1\n{'w' * 64},1\nc.mp4,0\n")
    joined, orphans = rows_by_clip(file.rows, clips)
    assert {key: row.labels["x"] for key, row in joined.items()} == {KEY: "1", KEY[:-1] + "8": "0", "k2": "1"}
    assert orphans == ["c.mp4"]
    with pytest.raises(DatasetError, match="which 2 videos end in"):
        rows_by_clip(file.rows, [("k1", "v" * 64, "one/a.mp4"), ("k2", "w" * 64, "two/a.mp4")])
    for other in ("set/a.mp4", "v" * 64, "./a.mp4"):  # a contradiction, of which the last line would win
        with pytest.raises(DatasetError, match=r"^lines 2 and 3 name one video \(a.mp4 and "):
            rows_by_clip(_file(tmp_path, f"path,x\na.mp4,0\n{other},1\n").rows, clips)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name,x\na,1\n", "no column 'path'"),
        ("path,split\na,train\n", "no label column"),
        ("path,x\n", "no line below"),
        ("path,x\na,1\na,0\n", "lines 2 and 3"),
        ("path,x\na,1,2\n", "another number of columns"),
        ("path,x,split\na,1,dev\n", "known are train, val, test"),
        ("path,x,x\na,1,2\n", "a column twice"),
    ],
)
def test_a_csv_that_cannot_be_meant_is_one_sentence(tmp_path, text, says):
    with pytest.raises(ConfigError, match=says):
        _file(tmp_path, text)


def test_no_csv_at_all_and_bytes_that_are_no_text(tmp_path):
    with pytest.raises(ConfigError, match=r"does not exist; set data\.labels"):
        read_csv(tmp_path / "none.csv")
    (tmp_path / "b.csv").write_bytes(b"path,x\n\xff\xfe,1\n")
    with pytest.raises(ConfigError, match="no csv in UTF-8"):
        read_csv(tmp_path / "b.csv")


def test_a_kind_that_does_not_fit_and_labels_that_say_nothing(tmp_path):
    file = _file(tmp_path, "path,x,y\na,0,1\nb,1,0\n")
    with pytest.raises(ConfigError, match="a regression task cannot have"):
        custom_task(file, "regression")
    with pytest.raises(ConfigError, match="needs 0 and 1"):
        custom_task(_file(tmp_path, "path,x\na,yes\nb,no\n"), "binary")
    task = custom_task(_file(tmp_path, "path,x\na,1.5\nb,nan\n"), "regression")
    with pytest.raises(LabelError, match="nan"):
        task.read({"x": "nan"})


@pytest.mark.parametrize(
    ("values", "kind", "outputs"),
    [
        (["0", "1", "2", "3", "4", "nan", "-inf"], "multiclass", ("0", "1", "2", "3", "4")),
        (["yes", "no", "NaN"], "multiclass", ("no", "yes")),
        (["0", "1", "inf"], "binary", ("x",)),
    ],
)
def test_a_value_that_is_not_finite_is_no_class(tmp_path, values, kind, outputs):
    """Catches a head with an output 'nan' that no clip bears, and 0 and 1 refused for the nan beside them."""
    file = _file(tmp_path, "path,x\n" + "".join(f"{i},{value}\n" for i, value in enumerate(values)))
    task = custom_task(file)
    assert (task.kind, task.outputs) == (kind, outputs)
    with pytest.raises(LabelError, match=f"'x' is {float(values[-1])}|'x' is {values[-1]}"):
        task.read({"x": values[-1]})

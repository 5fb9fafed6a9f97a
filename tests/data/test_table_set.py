"""Tables: which column becomes what, and what is refused."""

import re

import numpy as np
import pandas as pd
import pytest

from cnn_l1.config import packages
from cnn_l1.config.data_settings import DataConfig
from cnn_l1.config.loading import ConfigError
from cnn_l1.data import sets, table_set

COUNT = 40


def table(**changed):
    """Forty rows: a number, a whole number, a boolean, a color, and a price."""
    random = np.random.default_rng(0)
    columns = {
        "size": random.normal(size=COUNT).round(3),
        "rooms": random.integers(1, 6, COUNT),
        "lift": random.integers(0, 2, COUNT).astype(bool),
        "color": np.array(["red", "green", "blue"])[np.arange(COUNT) % 3],
        "price": random.normal(size=COUNT).round(3),
    } | changed
    return pd.DataFrame({name: column for name, column in columns.items() if column is not None})


def config_of(folder, frame, suffix=".csv", target="price", **settings):
    path = folder / f"mine{suffix}"
    if isinstance(frame, str):
        path.write_text(frame)
    elif suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_csv(path, index=False)
    return DataConfig(name="table", path=str(path), target=target, **settings)


def read(folder, frame, suffix=".csv", **settings):
    return table_set.read(config_of(folder, frame, suffix, **settings))


def refusal(folder, frame, suffix=".csv", **settings):
    with pytest.raises(ConfigError) as caught:
        sets.load(config_of(folder, frame, suffix, **settings), seed=0)
    message = str(caught.value)
    assert "\n" not in message
    assert ". Received: " in message
    return message


def rows_of(own):
    """All rows with their targets, sorted by target."""
    inputs = np.concatenate([own.train.inputs, own.test.inputs])
    targets = np.concatenate([own.train.targets, own.test.targets])
    order = np.argsort(targets, kind="stable")
    return inputs[order], targets[order]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_columns_become_features(tmp_path, suffix):
    frame = table()
    own = read(tmp_path, frame, suffix)
    assert own.about.feature_names == (
        "size", "rooms", "lift", "color=blue", "color=green", "color=red",
    )  # fmt: skip
    assert (own.about.kind, own.about.input_shape, own.test.size) == ("values", (6,), 8)
    frame = frame.sort_values("price")
    expected = np.stack(
        [frame["size"], frame["rooms"], frame["lift"]]
        + [frame["color"] == color for color in ("blue", "green", "red")],
        axis=1,
    ).astype("float32")
    inputs, targets = rows_of(own)
    np.testing.assert_array_equal(inputs, expected)
    np.testing.assert_array_equal(targets, frame["price"].astype("float32"))
    assert (inputs.dtype, targets.dtype) == ("float32", "float32")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(
    ("target", "names"),
    [("lift", ("False", "True")), ("color", ("blue", "green", "red")), ("rooms", tuple("12345"))],
)
def test_classes_are_named_by_their_values(tmp_path, target, names, suffix):
    frame = table()
    own = read(tmp_path, frame, suffix, target=target)
    assert (own.about.kind, own.about.class_names) == ("classes", names)
    for split in (own.train, own.test):
        prices = split.inputs[:, own.about.feature_names.index("price")]
        rows = [np.abs(frame["price"] - price).argmin() for price in prices]
        expected = [names.index(str(frame[target][row])) for row in rows]
        assert split.targets.tolist() == expected
        assert split.targets.dtype == "int64"


def test_whole_numbers_of_many_values_are_values(tmp_path):
    frame = table(price=np.arange(COUNT) % 21 * 5)
    own = read(tmp_path, frame)
    assert (own.about.kind, own.train.targets.dtype) == ("values", "float32")
    few = table(price=np.arange(COUNT) % 20)
    assert len(read(tmp_path, few, test_fraction=0.5).about.class_names) == 20
    # Numbers in order, not text: 10 is after 9.
    dozen = read(tmp_path, table(price=np.arange(COUNT) % 12), test_fraction=0.5)
    assert dozen.about.class_names[8:] == ("8", "9", "10", "11")


def test_several_targets(tmp_path):
    own = read(tmp_path, table(), target=("price", "rooms"))
    assert (own.about.kind, own.about.target_count) == ("values", 2)
    assert own.train.targets.shape == (32, 2)
    message = refusal(tmp_path, table(), target=("price", "color"))
    assert re.search(r"data\.target: expected numbers in column 'color' of .*: text", message)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators(tmp_path, separator):
    table().to_csv(tmp_path / "m.csv", index=False, sep=separator)
    config = DataConfig(name="table", path=str(tmp_path / "m.csv"), target="price")
    assert table_set.read(config).about.feature_names[:2] == ("size", "rooms")


def test_categories_are_those_of_the_training_rows(tmp_path):
    for row in range(COUNT):  # whichever rows the test takes, one of these is in it
        colors = ["red", "green"] * (COUNT // 2)
        colors[row] = "rare"
        own = read(tmp_path, table(color=colors))
        if "color=rare" not in own.about.feature_names:
            assert own.about.feature_names[-2:] == ("color=green", "color=red")
            assert (own.test.inputs[:, -2:].sum(axis=1) == 0).sum() == 1
            assert (own.train.inputs[:, -2:].sum(axis=1) == 1).all()
            return
    pytest.fail("no row is in the test")


def test_the_same_test_for_every_seed_and_equal_rows_on_one_side(tmp_path):
    frame = pd.concat([table(), table()]).sort_values("price")
    frame["price"] = np.arange(2 * COUNT) + 0.5  # equal inputs, other targets
    config = config_of(tmp_path, frame)
    one, other = sets.load(config, seed=0), sets.load(config, seed=1)
    np.testing.assert_array_equal(one.load_test().inputs, other.load_test().inputs)
    parts = [
        {row.tobytes() for row in split.inputs}
        for split in (one.train, one.validation, one.load_test())
    ]
    assert sum(map(len, parts)) == COUNT


def test_rows_left_out_are_counted(tmp_path, capsys):
    frame = table()
    frame["rooms"] = frame["rooms"].astype("Int64")
    frame.loc[3, "size"] = None
    frame.loc[3, "rooms"] = None
    frame.loc[7, "rooms"] = None
    own = read(tmp_path, frame, skip_broken=True)
    assert capsys.readouterr().out == (
        "Left out: 2 of 40 rows: 2 with a missing value (first: row 4, column 'size')\n"
    )
    assert own.train.size + own.test.size == 38
    # Whole numbers stay such, though some are missing.
    assert read(tmp_path, frame, target="rooms", skip_broken=True).about.class_names == tuple(
        "12345"
    )
    message = refusal(tmp_path, frame)
    assert "nothing in row 4, column 'size'" in message
    assert "data.skip_broken" in message


def test_odd_values_among_numbers(tmp_path, capsys):
    sizes = table()["size"].astype(str).tolist()
    sizes[5] = "?"
    message = refusal(tmp_path, table(size=sizes))
    assert "'?' in row 6, column 'size'" in message
    own = read(tmp_path, table(size=sizes), skip_broken=True)
    assert "1 with a value that is no number (first: row 6" in capsys.readouterr().out
    assert own.about.feature_names[0] == "size"
    expected = np.delete(table()["size"], 5).astype("float32")
    found = np.concatenate([own.train.inputs[:, 0], own.test.inputs[:, 0]])
    np.testing.assert_array_equal(np.sort(found), np.sort(expected))


def test_constant_columns_are_told(tmp_path, capsys):
    own = read(tmp_path, table(rooms=3, color="red"))
    assert own.about.feature_names == ("size", "rooms", "lift", "color=red")
    assert capsys.readouterr().out == "Constant in the training rows: rooms, color=red\n"


WORDS = np.random.default_rng(1).permutation(COUNT).astype(str)
DATES = pd.date_range("2024-01-01", periods=COUNT)
BAD = {
    "target": ({}, {"target": "prise"},
               r"data\.target: .*mine\.csv \(size, .*: 'prise'\. Did you mean 'price'"),
    "ignore": ({}, {"ignore": ("sise",)}, r"data\.ignore: .*: 'sise'\. Did you mean 'size'"),
    "both": ({}, {"ignore": ("price",)}, r"data\.target: .* none of data\.ignore.*: 'price'"),
    "no feature": ({}, {"ignore": ("size", "rooms", "lift", "color")}, "a feature beside"),
    "row number": ({"size": range(COUNT)}, {}, r"'size' \(the number of the row\): put"),
    "id": ({"user_id": np.random.default_rng(0).permutation(COUNT)}, {}, r"'user_id' \(an id"),
    "dates": ({"when": DATES.strftime("%Y-%m-%d")}, {}, r"'when' \(dates\)"),
    "german dates": ({"when": DATES.strftime("%d.%m.%Y")}, {}, r"'when' \(dates\)"),
    "text": ({"note": [f"a {word}" for word in WORDS]}, {}, r"'note' \(ids or free text"),
    "many": ({"note": [f"a {int(w) % 30}" for w in WORDS]}, {}, "text: 30 distinct values in 40"),
    "two": ({"note": [f"a {word}" for word in WORDS], "when": DATES.astype(str)}, {},
            r"'note' \(.*\), 'when' \(dates\): put"),
    "empty": ({"size": None, "nothing": [None] * COUNT}, {}, r"'nothing' \(no value in it\)"),
    "infinite": ({"size": [np.inf] + [0.5, 1.5, 2.5] * 13}, {}, "'inf' in row 1, column 'size'"),
    "too large": ({"size": [1e300] + [0.5, 1.5, 2.5] * 13}, {}, r"float32 holds in column 'size'"),
    "rare": ({"color": ["red"] + ["green", "blue", "green"] * 13}, {"target": "color"},
             r"data\.target: .*in column 'color' of .*: one example of class 'red'"),
    "one class": ({"color": "red"}, {"target": "color"}, "two classes .*: the class 'red' alone"),
    "date target": ({}, {"target": "when"}, "columns of"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_refusals(tmp_path, name):
    changed, settings, expected = BAD[name]
    message = refusal(tmp_path, table(**changed), **settings)
    assert re.search(expected, message), message


def test_types_that_only_parquet_has(tmp_path):
    frame = table(when=DATES, color=pd.Categorical(table()["color"]))
    message = refusal(tmp_path, frame, ".parquet")
    assert "'when' (dates)" in message
    assert "color" not in message.partition("Received")[2]
    own = read(tmp_path, frame, ".parquet", ignore=("when",))
    assert own.about.feature_names[-3:] == ("color=blue", "color=green", "color=red")
    assert re.search(
        "numbers, text or booleans in column 'when' of .*: date",
        refusal(tmp_path, frame, ".parquet", target="when"),
    )
    assert "values of type ndarray" in refusal(tmp_path, table(size=[[1, 2]] * COUNT), ".parquet")


FILES = {
    "a,b\n1,2\n3,4,5\n": r"a CSV \(UTF-8, with a header\) file.*mine\.csv \(",
    "a,a\n1,2\n": "columns of different names in .*: 'a' twice",
    "a,b\n": "rows below the header of .*: none",
    "": r"a CSV .* file\. Received: .*mine\.csv",
    "a,b\n1,2\n3\n": "nothing in row 2, column 'b'",
}


@pytest.mark.parametrize("content", FILES)
def test_files_that_cannot_be_read(tmp_path, content):
    message = refusal(tmp_path, content, target="a")
    assert message.startswith("data.path: expected ")
    assert re.search(FILES[content], message), message


def test_files_of_other_bytes(tmp_path):
    config = config_of(tmp_path, "", ".parquet")
    with pytest.raises(
        ConfigError, match=r"data\.path: expected a Parquet file\. Received: .*mine"
    ):
        table_set.read(config)
    (tmp_path / "mine.csv").write_bytes(b"a,b\n1,\xff\xfe\n")
    config = DataConfig(name="table", path=str(tmp_path / "mine.csv"), target="a")
    with pytest.raises(ConfigError, match=r"a CSV \(UTF-8, with a header\) file"):
        table_set.read(config)
    (tmp_path / "mine.csv").unlink()
    with pytest.raises(ConfigError, match=r"a readable CSV or Parquet .*No such file"):
        table_set.read(config)


@pytest.mark.parametrize(
    ("suffix", "gone", "expected"),
    [
        (".csv", ["pandas"], r"\(pip install 'cnn_l1\[table\]'\)\. Received: no pandas"),
        (".parquet", ["pandas", "pyarrow"], "Received: no pandas, no pyarrow"),
        (".parquet", ["pyarrow"], "Received: no pyarrow"),
        (".csv", ["pyarrow"], None),
    ],
)
def test_missing_packages(tmp_path, monkeypatch, suffix, gone, expected):
    config = config_of(tmp_path, table(), suffix)
    monkeypatch.setattr(packages, "_is_installed", lambda name: name not in gone)
    if expected is None:
        assert table_set.read(config).train.size == 32
        return
    with pytest.raises(ConfigError, match=expected):
        table_set.read(config)

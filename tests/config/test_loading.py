"""Every rule of a config: what it refuses, in which words, and what it takes."""

import inspect
import json
import os
import pathlib
import re
import subprocess
import sys
import typing

import pydantic
import pytest
import yaml

from cnn_l1.config import loading as configs
from cnn_l1.config.loading import ConfigError
from cnn_l1.config.training_settings import OPTIMIZER_SETTINGS, OptimizerConfig, PenaltyConfig

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SHIPPED = sorted((REPOSITORY / "configs").glob("*.yaml"))
EDITOR_LINE = "# yaml-language-server: $schema=schema.json"
CONV = "{type: conv, filters: 3}"


@pytest.fixture
def write(tmp_path):
    def write_file(text):
        path = tmp_path / "run.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def refusal(path, overrides=()):
    with pytest.raises(ConfigError) as caught:
        configs.load(path, overrides)
    return str(caught.value)


def in_section(section, settings):
    return f"name: a\n{section}: {{{settings}}}\n"


def in_block(block):
    return f"name: a\nmodel: {{blocks: [{CONV}, {block}]}}\n"


# Text of the file; dotted key; what was expected; what was received.
REFUSED = {
    "unknown key at top level": (
        "name: a\ntrainning: 3\n",
        ("trainning: unknown key", "Expected one of: baseline, data,", "trainning=3"),
        ("Did you mean 'training'?",),
    ),
    "unknown key that resembles none": (
        "name: a\nzzz: 3\n",
        ("zzz: unknown key", "Expected one of: ", "zzz=3"),
        (),
    ),
    "unknown key in a section": (
        in_section("training", "epoch: 3"),
        ("training.epoch: unknown key", "Expected one of: batch_size,", "epoch=3"),
        ("Did you mean 'epochs'?",),
    ),
    "unknown key in a section of a section": (
        "name: a\noptimizer: {schedule: {nme: linear}}\n",
        ("optimizer.schedule.nme: unknown key", "final_fraction, name", "nme='linear'"),
        ("Did you mean 'name'?",),
    ),
    "unknown key in a block": (
        in_block("{type: pool, pool_sise: 3}"),
        ("model.blocks.1.pool_sise: unknown key", "kind, name, padding, pool_size", "pool_sise=3"),
        ("Did you mean 'pool_size'?",),
    ),
    "unknown key that is the name of a block": (
        in_block("{type: dense, units: 3, conv: 4}"),
        ("model.blocks.1.conv: unknown key", "activation, name, type, units", "conv=4"),
        (),
    ),
    "wrong type": (
        in_section("training", "epochs: 1.5"),
        ("training.epochs: ", "expected a valid integer", "1.5 (a number)"),
        (),
    ),
    "wrong type of a section": (
        "name: a\ntraining: 3\n",
        ("training: ", "expected an object", "3 (a whole number)"),
        (),
    ),
    "wrong type of a block": (
        in_block("3"),
        ("model.blocks.1: ", "expected an object", "3 (a whole number)"),
        (),
    ),
    "wrong type behind a layer called int": (
        "name: a\npenalty: {layers: {int: x}}\n",
        ("penalty.layers.int: ", "expected a valid number", "'x' (text)"),
        (),
    ),
    "true for an int": (
        "name: a\nseed: true\n",
        ("seed: ", "expected a valid integer", "True (true/false)"),
        (),
    ),
    "true for a number": (
        in_section("penalty", "l1_strength: true"),
        ("penalty.l1_strength: ", "expected a valid number", "True (true/false)"),
        (),
    ),
    "1 for true": (
        "name: a\nbaseline: 1\n",
        ("baseline: ", "expected a valid boolean", "1 (a whole number)"),
        (),
    ),
    "text for a number": (
        in_section("optimizer", "learning_rate: '3'"),
        ("optimizer.learning_rate: ", "expected a valid number", "'3' (text)"),
        (),
    ),
    "number for text": (
        "name: 3\n",
        ("name: ", "expected a valid string", "3 (a whole number)"),
        (),
    ),
    "negative strength": (
        in_section("penalty", "l1_strength: -1e-3"),
        ("penalty.l1_strength: ", "expected greater than or equal to 0", "-0.001"),
        (),
    ),
    "negative strength of a layer": (
        "name: a\npenalty: {layers: {'conv*': -1}}\n",
        ("penalty.layers.conv*: ", "expected greater than or equal to 0", "-1"),
        (),
    ),
    "NaN": (
        in_section("penalty", "l1_strength: .nan"),
        ("penalty.l1_strength: ", "expected a finite number", "nan"),
        (),
    ),
    "infinity": (
        in_section("optimizer", "learning_rate: .inf"),
        ("optimizer.learning_rate: ", "expected a finite number", "inf"),
        (),
    ),
    "negative infinity": (
        in_section("thresholding", "threshold: -.inf"),
        ("thresholding.threshold: ", "expected a finite number", "-inf"),
        (),
    ),
    "number out of range by overflow": (
        in_section("optimizer", "learning_rate: 1e999"),
        ("optimizer.learning_rate: ", "expected a finite number", "inf"),
        (),
    ),
    "unknown literal": (
        in_section("optimizer", "name: adm"),
        ("optimizer.name: ", "expected 'sgd', 'rmsprop', 'adam'", "'adm'"),
        ("Did you mean 'adam'?",),
    ),
    "unknown literal in a list": (
        in_section("export", "formats: [float32, int9]"),
        ("export.formats.1: ", "expected 'saved_model', 'float32', 'float16'", "'int9'"),
        ("Did you mean 'int8'?",),
    ),
    "unknown block": (
        in_block("{type: covn, filters: 3}"),
        ("model.blocks.1: ", "expected 'conv', 'depthwise'", "'covn'"),
        ("Did you mean 'conv'?",),
    ),
    "block without a type": (
        in_block("{filters: 3}"),
        ("model.blocks.1: ", "expected a mapping with a type", "{'filters': 3}"),
        (),
    ),
    "units neither a number nor classes": (
        in_block("{type: dense, units: clases}"),
        ("model.blocks.1.units: ", "expected 'classes'", "'clases'"),
        ("Did you mean 'classes'?",),
    ),
    "key given twice": (
        "name: a\ntraining:\n  epochs: 3\n  epochs: 4\n",
        ("line 4, column 3", "expected YAML", "found the key 'epochs' twice"),
        (),
    ),
    "key that is no text": (
        "name: a\n1: 2\n",
        ("line 2, column 1", "expected YAML", "expected text as a key, found 1"),
        (),
    ),
    "no YAML": (
        "name: a\n  b: [\n",
        ("line 2, column 4", "expected YAML", "mapping values are not allowed here"),
        (),
    ),
    "tag of Python": (
        "name: !!python/name:os.system a\n",
        ("line 1, column 7", "expected YAML", "could not determine a constructor"),
        (),
    ),
    "empty file": ("", ("", "expected a mapping of settings", "nothing"), ()),
    "only a comment": ("# later\n", ("", "expected a mapping of settings", "nothing"), ()),
    "list at top level": ("- a\n", ("", "expected a mapping of settings", "a list (['a'])"), ()),
    "no name": ("seed: 1\n", ("name: ", "expected a value", "nothing"), ()),
    "bad name": (
        "name: a/b\n",
        ("name: ", "expected text that matches ^[A-Za-z0-9]", "'a/b'"),
        (),
    ),
    "name of a hidden folder": (
        "name: .a\n",
        ("name: ", "expected text that matches ^[A-Za-z0-9]", "'.a'"),
        (),
    ),
    "ramp as long as the training": (
        in_section("training", "epochs: 3, ramp_epochs: 3"),
        ("training: ", "ramp_epochs must be less than epochs (3), not 3", "'ramp_epochs': 3"),
        (),
    ),
    "ramp with subgradient": (
        in_section("training", "method: subgradient, ramp_epochs: 1"),
        ("training: ", "ramp_epochs must be 0 for method 'subgradient'", "'ramp_epochs': 1"),
        (),
    ),
    "blocks with lenet5": (
        f"name: a\nmodel: {{name: lenet5, blocks: [{CONV}]}}\n",
        ("model: ", "blocks must be left out unless name is 'cnn', not 'lenet5'", "'blocks':"),
        (),
    ),
    "settings of pointwise with resnet8": (
        "name: a\nmodel: {name: resnet8, pointwise: {width: 4}}\n",
        ("model: ", "pointwise must be left out unless name is 'pointwise', not 'resnet8'", "4"),
        (),
    ),
    "no blocks": (
        in_section("model", "blocks: []"),
        ("model: ", "blocks must have at least one block", "{'blocks': []}"),
        (),
    ),
    "l2 without l1l2": (
        in_section("penalty", "l2_strength: 0.1"),
        ("penalty: ", "l2_strength must be 0 unless name is 'l1l2', not 'l1'", "0.1"),
        (),
    ),
    "l1_ratio without group_l1": (
        in_section("penalty", "l1_ratio: 0.1"),
        ("penalty: ", "l1_ratio must be 0 unless name is 'group_l1', not 'l1'", "0.1"),
        (),
    ),
    "shape of l1l2": (
        in_section("penalty", "name: l1l2, shape: mcp"),
        ("penalty: ", "shape must be 'l1' unless name is 'l1' or 'group_l1', not 'l1l2'", "mcp"),
        (),
    ),
    "shape of no penalty": (
        in_section("penalty", "name: none, shape: log"),
        ("penalty: ", "shape must be 'l1' unless name is 'l1' or 'group_l1', not 'none'", "log"),
        (),
    ),
    "reweighted channels": (
        in_section("penalty", "name: group_l1, shape: reweighted"),
        ("penalty: ", "shape must not be 'reweighted' for name 'group_l1'", "reweighted"),
        (),
    ),
    "reweighted by subgradient": (
        "name: a\npenalty: {shape: reweighted}\ntraining: {method: subgradient}\n",
        ("", "shape reweighted needs training.method proximal, not 'subgradient'", "reweighted"),
        (),
    ),
    "unknown shape": (
        in_section("penalty", "shape: scad"),
        ("penalty.shape: ", "expected 'l1', 'transformed', 'mcp', 'log' or 'reweighted'", "scad"),
        (),
    ),
    "scale of l1": (
        in_section("penalty", "scale: 0.2"),
        ("penalty: ", "scale must be left out for shape 'l1', which does not bend", "0.2"),
        (),
    ),
    "scale of 0": (
        in_section("penalty", "shape: log, scale: 0"),
        ("penalty.scale: ", "expected greater than 0", "0"),
        (),
    ),
    "biases of group_l1": (
        in_section("penalty", "name: group_l1, biases: true"),
        ("penalty: ", "biases must be false for name 'group_l1', which says", "group_l1"),
        (),
    ),
    "momentum with adam": (
        in_section("optimizer", "name: adam, momentum: 0.9"),
        ("optimizer: ", "momentum is no setting of 'adam', which takes: beta_1,", "0.9"),
        (),
    ),
    "setting of an optimizer that has none": (
        in_section("optimizer", "name: ftrl, epsilon: 1e-7"),
        ("optimizer: ", "epsilon is no setting of 'ftrl', which takes: none of its own", "1e-07"),
        (),
    ),
    "two clips": (
        in_section("optimizer", "clipnorm: 1.0, clipvalue: 2.0"),
        ("optimizer: ", "at most one of clipnorm and clipvalue may be set", "'clipvalue': 2.0"),
        (),
    ),
    "no threshold": (
        in_section("thresholding", "start_epochs: 1"),
        ("thresholding: ", "exactly one of threshold and relative_threshold", "'start_epochs': 1"),
        (),
    ),
    "two thresholds": (
        in_section("thresholding", "threshold: 0.1, relative_threshold: 0.2"),
        ("thresholding: ", "exactly one of threshold and relative_threshold", "0.2"),
        (),
    ),
    "every without start": (
        in_section("thresholding", "threshold: 0.1, every_epochs: 2"),
        ("thresholding: ", "every_epochs needs start_epochs", "'every_epochs': 2"),
        (),
    ),
    "image size of one number": (
        in_section("data", "image_size: [8]"),
        ("data.image_size.1: ", "expected a value", "nothing"),
        (),
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusal_names_file_key_expected_and_received(case, write):
    text, (key, expected, received), hints = REFUSED[case]
    path = write(text)
    message = refusal(path)
    assert message.startswith(str(path))
    assert key in message
    assert expected in message
    assert received in message.partition("Received: ")[2]
    assert all(hint in message for hint in hints)
    assert ("Did you mean" in message) == bool(hints)


def test_every_fault_is_named_at_once(write):
    path = write("name: a\nseed: -1\ntraining: {epochs: -1}\n")
    lines = refusal(path).splitlines()
    assert [line.split(": ")[1] for line in lines] == ["seed", "training.epochs"]


def test_value_that_json_lacks(write):
    path = write("name: a\nexpected_result: 2020-01-01\n")
    assert f"{path}: expected plain YAML values. Received: " in refusal(path)


def test_missing_file(tmp_path):
    path = tmp_path / "none.yaml"
    assert refusal(path) == (
        f"{path}: expected a readable YAML file. Received: No such file or directory"
    )


def test_folder_as_file(tmp_path):
    assert f"{tmp_path}: expected a readable YAML file. Received: " in refusal(tmp_path)


def test_file_that_is_not_utf8(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_bytes(b"name: \xff\n")
    assert f"{path}: expected a YAML file in UTF-8" in refusal(path)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E-3", 1e-3),
        ("1.e-3", 1e-3),
        ("1.5e-3", 1.5e-3),
        (".5e-3", 0.5e-3),
        ("+1e3", 1e3),
        ("2e0", 2.0),
        ("0.001", 1e-3),
        ("3", 3.0),
    ],
)
def test_numbers_in_scientific_notation(text, value, write):
    path = write(in_section("optimizer", f"learning_rate: {text}"))
    assert configs.load(path).optimizer.learning_rate == value


@pytest.mark.parametrize("text", ["1e", "e-3", "1e-", "1e-3x"])
def test_text_that_only_resembles_a_number(text, write):
    path = write(in_section("optimizer", f"learning_rate: {text}"))
    assert "optimizer.learning_rate: expected a valid number" in refusal(path)


def test_defaults(write):
    config = configs.load(write("name: a\n"))
    assert config == configs.Config(name="a")
    assert config.model.blocks is None
    assert config.thresholding is None


def test_frozen(write):
    config = configs.load(write("name: a\n"))
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config.seed = 1
    with pytest.raises(pydantic.ValidationError, match="frozen"):
        config.training.epochs = 1


FULL = """
name: full
seed: 3
data: {image_size: [16, 12], in_memory: false, augmentation: {flip: true}}
model:
  blocks:
  - {type: conv, filters: 4, name: first}
  - {type: depthwise}
  - {type: batch_norm}
  - {type: activation}
  - {type: pool, kind: average}
  - {type: dropout, rate: 0.2}
  - {type: flatten}
  - {type: dense, units: 5}
  - {type: dense, units: classes, activation: linear}
penalty: {name: l1l2, l2_strength: 1e-5, layers: {"conv*": 1e-4, first: 0.1}}
optimizer: {name: sgd, momentum: 0.9, schedule: {name: linear}}
thresholding: {relative_threshold: 0.25, start_epochs: 1, every_epochs: 2}
export: {formats: [int8]}
expected_result: "96 % ± 1 %, λ = 1e-4"
"""


@pytest.mark.parametrize("text", ["name: a\n", FULL])
def test_dump_and_load_round_trip(text, tmp_path, write):
    config = configs.load(write(text))
    again = tmp_path / "again.yaml"
    again.write_text(configs.dump(config), encoding="utf-8")
    assert configs.load(again) == config
    # The order of patterns decides: the first match wins.
    assert list(configs.load(again).penalty.layers) == list(config.penalty.layers)


def set_to(path, *overrides):
    return configs.load(path, overrides)


def test_override_nested(write):
    config = set_to(write(FULL), "optimizer.schedule.name=cosine", "seed=5")
    assert (config.optimizer.schedule.name, config.seed) == ("cosine", 5)
    assert config.optimizer.momentum == 0.9


def test_override_in_a_list(write):
    config = set_to(write(FULL), "model.blocks.0.filters=7", "export.formats.0=float32")
    assert config.model.blocks[0].filters == 7
    assert config.export.formats == ("float32",)


def test_override_of_a_pattern(write):
    assert set_to(write("name: a\n"), "penalty.layers={'conv*': 1E-3}").penalty.layers == {
        "conv*": 1e-3
    }


@pytest.mark.parametrize("text", ["name: a\n", "name: a\nthresholding:\n"])
def test_override_starts_a_section_that_is_missing(text, write):
    assert set_to(write(text), "thresholding.threshold=1e-3").thresholding.threshold == 1e-3


def test_overrides_apply_in_order(write):
    assert set_to(write("name: a\n"), "seed=1", "seed=2").seed == 2
    section = set_to(write("name: a\n"), "training.epochs=7", "training={batch_size: 4}").training
    assert (section.epochs, section.batch_size) == (30, 4)


def test_override_with_an_equals_sign_in_its_value(write):
    assert set_to(write("name: a\n"), "expected_result='a=b'").expected_result == "a=b"


@pytest.mark.parametrize(
    ("override", "kept"),
    [
        ("seed=3", True),
        ("baseline=false", True),
        ("export.formats=[int8]", True),
        ("measure.split=validation", True),
        ("training.epochs=3", False),
        ("penalty.l1_strength=0.5", False),
    ],
)
def test_an_expected_result_is_of_its_own_settings(write, override, kept):
    config = set_to(write("name: a\nexpected_result: 97%\n"), override)
    assert config.expected_result == ("97%" if kept else "")
    key, _, value = override.partition("=")
    changed = configs.with_settings(
        configs.load(write("name: a\nexpected_result: 97%\n")), {key: yaml.safe_load(value)}
    )
    assert changed.expected_result == ("97%" if kept else "")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seed", "--set: expected key=value. Received: 'seed'"),
        ("=3", "--set: expected key=value. Received: '=3'"),
        ("a..b=3", "--set: expected key=value. Received: 'a..b=3'"),
        ("name.x=3", "--set name.x: expected a section at 'name'. Received: the value 'full'"),
        ("model.blocks.9.units=3", "--set model.blocks.9.units: expected an index below 9."),
        ("model.blocks.x.units=3", "expected an index below 9. Received: 'x'"),
        ("model.blocks.²=3", "expected an index below 9. Received: '²'"),
        ("training.epochs=[1", "--set training.epochs, line 1, column 3: expected YAML."),
        ("training.epoch=1", "training.epoch: unknown key."),
        ("training.epochs=", "training.epochs: expected a valid integer. Received: None"),
        ("seed=true", "seed: expected a valid integer. Received: True"),
    ],
)
def test_override_refused(override, message, write):
    assert message in refusal(write(FULL), [override])


def test_shapes_and_their_scale_are_those_of_the_code(write):
    from cnn_l1.sparsity.shapes import DEFAULT_SCALE, SHAPES

    shapes = (*SHAPES, "reweighted")
    assert typing.get_args(PenaltyConfig.model_fields["shape"].annotation) == shapes
    for shape in shapes:
        config = configs.load(write(in_section("penalty", f"shape: {shape}")))
        assert config.penalty.scale == (None if shape == "l1" else DEFAULT_SCALE)
        again = configs.load(write(configs.dump(config)))
        assert again.penalty == config.penalty


def test_optimizer_settings_are_those_of_keras():
    keras = pytest.importorskip("keras")
    own = {"momentum", "nesterov", "rho", "beta_1", "beta_2", "epsilon"}
    common = {"weight_decay", "clipnorm", "global_clipnorm", "clipvalue"}
    common |= {"gradient_accumulation_steps", "learning_rate"}
    names = set(OptimizerConfig.model_json_schema()["properties"]["name"]["enum"])
    assert names == set(OPTIMIZER_SETTINGS)
    classes = {n.lower(): c for n, c in vars(keras.optimizers).items() if inspect.isclass(c)}
    for name in names:
        takes = set(inspect.signature(classes[name]).parameters)
        assert takes & own == OPTIMIZER_SETTINGS[name], name
        assert common <= takes, name


@pytest.mark.parametrize("name", sorted(OPTIMIZER_SETTINGS))
def test_learning_rate_left_out_is_the_optimizers(name, write):
    keras = pytest.importorskip("keras")
    classes = {n.lower(): c for n, c in vars(keras.optimizers).items() if inspect.isclass(c)}
    keras_default = inspect.signature(classes[name]).parameters["learning_rate"].default
    expected = {"sgd": 0.1, "adam": 3e-3}.get(name, keras_default)
    path = write("name: short\n")
    for overrides in ([], ["optimizer.learning_rate=null"]):
        config = configs.load(path, [f"optimizer.name={name}", *overrides])
        assert config.optimizer.learning_rate == expected
        dumped = yaml.safe_load(configs.dump(config))
        assert dumped["optimizer"]["learning_rate"] == expected
    given = configs.load(path, [f"optimizer.name={name}", "optimizer.learning_rate=3e-4"])
    assert given.optimizer.learning_rate == 3e-4


def test_a_config_for_elsewhere_has_no_folders(write):
    overrides = ["data.data_dir=/home/me/data", "model.initial_weights=/home/me/runs/a/model.keras"]
    config = configs.load(write("name: short\n"), overrides)
    whole, elsewhere = (yaml.safe_load(configs.dump(config, folders=f)) for f in (True, False))
    assert whole["data"]["data_dir"] == "/home/me/data"
    assert elsewhere["data"].pop("data_dir") is None
    assert elsewhere["model"].pop("initial_weights") == "a/model.keras"
    del whole["data"]["data_dir"], whole["model"]["initial_weights"]
    assert elsewhere == whole
    bare = configs.load(write("name: short\n"))
    assert configs.dump(bare, folders=False) == configs.dump(bare)


def test_learning_rate_by_default():
    assert OptimizerConfig().learning_rate == 3e-3


@pytest.mark.parametrize("name", sorted(OPTIMIZER_SETTINGS))
def test_every_optimizer_is_constructible(name):
    keras = pytest.importorskip("keras")
    from cnn_l1.models import optimizer

    settings = {n: 0.5 for n in OPTIMIZER_SETTINGS[name] if n != "nesterov"}
    config = OptimizerConfig(name=name, **settings, clipnorm=1.0, weight_decay=1e-4)
    optimizer = optimizer.make_optimizer(config, 1e-2, steps=10)
    assert isinstance(optimizer, keras.optimizers.Optimizer)
    assert type(optimizer).__name__.lower() == name
    for setting, value in settings.items():
        assert optimizer.get_config()[setting] == value


def test_schema_file_is_that_of_the_code():
    path = REPOSITORY / "configs" / "schema.json"
    assert path.read_text(encoding="utf-8") == configs.json_schema(), (
        "configs/schema.json is not that of cnn_l1/config/settings.py. Write it again: "
        "python -m cnn_l1.config > configs/schema.json"
    )


def test_schema_has_a_description_for_the_settings():
    schema = json.loads(configs.json_schema())
    l1_strength = schema["$defs"]["PenaltyConfig"]["properties"]["l1_strength"]
    assert "λ" in l1_strength["description"]


def test_configs_are_shipped():
    assert SHIPPED


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_shipped_config(path):
    config = configs.load(path)
    assert config.expected_result.strip(), f"configs/{path.name}: expected_result is empty"
    assert path.read_text(encoding="utf-8").splitlines()[0] == EDITOR_LINE


@pytest.mark.parametrize("module", ["cnn_l1", "cnn_l1.config.loading"])
def test_import_without_tensorflow(module):
    code = (
        f"import sys, {module}\n"
        "print([m for m in ('tensorflow', 'keras', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("export.formats=int8", "export.formats: expected a list, e.g. ['int8']. Received: 'int8'"),
        ("fine_tuning=null", "fine_tuning: to switch it off, set fine_tuning.epochs to 0."),
        ("penalty=null", "penalty: to switch it off, set penalty.name to none."),
        ("target={board: pico, by_epochs: 2}", "target.board: expected one of arduino_uno_r4, "),
        ("target={board: raspberry_pi_pic, by_epochs: 2}", "did you mean 'raspberry_pi_pico'?"),
        ("target={sparsity: 0.9}", "Also set it, e.g. to three quarters of training.epochs"),
        ("target={sparsity: 0.9, by_epochs: 2}", "remove `thresholding` and set training.ramp_"),
    ],
)
def test_errors_say_what_to_do(override, told):
    with pytest.raises(ConfigError, match=re.escape(told)):
        configs.load(REPOSITORY / "configs" / "cnn.yaml", [override])

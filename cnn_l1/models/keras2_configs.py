"""What Keras 1 and 2 wrote into a model's config otherwise than Keras 3 reads it."""

import copy
import dataclasses
import inspect
from typing import Any

import keras

from cnn_l1.errors import CnnL1Error

ANY: Any = object()

# Settings that Keras 3 has no more, by class: they go if their value is one of these, with
# which the layer does what Keras 3's does.
_GROUPS = {"groups": (1,)}
_UNUSED_KERNEL = {
    "kernel_initializer": (ANY,),
    "kernel_regularizer": (None,),
    "kernel_constraint": (None,),
}
_RECURRENT: dict[str, tuple] = {"time_major": (False,)}
_DROPOUT: dict[str, tuple] = {"noise_shape": (None,), "trainable": (True, False)}
_SHAPES = {"query_shape": (ANY,), "key_shape": (ANY,), "value_shape": (ANY,)}
REMOVED: dict[str, dict[str, tuple]] = {
    "DepthwiseConv1D": _GROUPS,
    "DepthwiseConv2D": _GROUPS,
    "SeparableConv1D": _GROUPS | _UNUSED_KERNEL,
    "SeparableConv2D": _GROUPS | _UNUSED_KERNEL,
    "Conv1DTranspose": _GROUPS,
    "Conv2DTranspose": _GROUPS,
    "Conv3DTranspose": _GROUPS,
    **dict.fromkeys(("RNN", "LSTM", "GRU", "SimpleRNN"), _RECURRENT),
    **dict.fromkeys(("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D"), _RECURRENT),
    **dict.fromkeys(("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"), _DROPOUT),
    "MultiHeadAttention": _SHAPES | {"softmax_robust_masking": (False,)},
    "Discretization": {"trainable": (True, False)},
    # Keras 3 reads the text as the function of this name.
    "Attention": {"score_mode": ("dot",)},
    "BatchNormalization": {"renorm": (False,), "virtual_batch_size": (None,), "fused": (ANY,)},
}
# Settings that a later Keras 3 has again: a file of Keras 3 keeps them where it is there.
RETURNED = {
    "BatchNormalization": {"renorm"}
    & inspect.signature(keras.layers.BatchNormalization).parameters.keys()
}
RENAMED_CLASSES = {"Model": "Functional", "BatchNormalizationV1": "BatchNormalization"}
# Activations of the same name that compute something else.
OTHER_FUNCTIONS = {
    "hard_sigmoid": "max(0, min(1, 0.2x + 0.5)), which in Keras 3 is relu6(x + 3) / 6",
}
OTHER_LAYERS = {
    "RandomCrop": "crops or resizes in inference too, which Keras 3's does not",
}
ACTIVATION_SETTINGS = ("activation", "recurrent_activation")
# They take their first state as a keyword; Keras 2 wrote it beside the input.
WITH_STATES = ("RNN", "LSTM", "GRU", "SimpleRNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
MODELS = ("Functional", "Sequential", "Model")
OPTIMIZER_SETTINGS = {"is_legacy_optimizer": (ANY,), "jit_compile": (ANY,), "decay": (0, 0.0, None)}


class OldConfigError(CnnL1Error, ValueError):
    """A setting of an old config that Keras 3 cannot do."""


@dataclasses.dataclass(frozen=True)
class Mend:
    """One difference that was mended.

    Attributes:
        layer: Name and class of the layer, e.g. `"conv_1 (DepthwiseConv2D)"`.
        change: What was changed, e.g. `"groups=1 left out"`.
    """

    layer: str
    change: str


def mend_model(config: dict, version: str) -> tuple[dict, list[Mend]]:
    """A model's config as Keras 3 reads it, and what was mended.

    Args:
        config: Of a model, as the file has it: `{"class_name": …, "config": …}`.
        version: The Keras that wrote it, e.g. `"2.11.0"`; `""` if the file does not tell.

    Raises:
        OldConfigError: If a layer has a setting with which Keras 3 cannot compute the same.
    """
    mended = copy.deepcopy(config)
    mender = _Mender(is_old=not version.startswith("3"))
    mender.visit(mended, "the model")
    return mended, mender.mends


def mend_training(config: dict) -> tuple[dict, list[Mend]]:
    """A training config, of optimizer, loss and metrics, as Keras 3 reads it."""
    mended = copy.deepcopy(config)
    mender = _Mender(is_old=True)
    mender.visit_training(mended, "")
    return mended, mender.mends


class _Mender:
    def __init__(self, is_old: bool):
        self.is_old = is_old
        self.mends: list[Mend] = []

    def note(self, layer: str, change: str) -> None:
        self.mends.append(Mend(layer, change))

    def visit(self, node: Any, place: str) -> None:
        """Mend all layers in a config, inner ones first."""
        if isinstance(node, list):
            for item in node:
                self.visit(item, place)
        if not isinstance(node, dict):
            return
        name, settings = node.get("class_name"), node.get("config")
        if isinstance(name, str) and isinstance(settings, (dict, list)):
            inner = settings.get("name") if isinstance(settings, dict) else None
            place = f"{inner or node.get('name') or 'the model'} ({name})"
            self.layer(node, place)
        for value in node.values():
            self.visit(value, place)

    def layer(self, node: dict, place: str) -> None:
        name, settings = node["class_name"], node["config"]
        if str(node.get("module", "")).startswith("tf_keras."):
            node["module"] = "keras" + node["module"][len("tf_keras") :]
        if name in RENAMED_CLASSES and self.is_old:
            node["class_name"] = name = RENAMED_CLASSES[name]
        if name in MODELS and str(node.get("module", "")).startswith("keras.src.engine"):
            node["module"] = "keras.src.models" if name == "Functional" else "keras"
            if name == "Functional":
                node["module"] = "keras.src.models.functional"
        if name == "Sequential" and isinstance(settings, list):  # Keras 1 and early 2
            node["config"] = settings = {"name": "sequential", "layers": settings}
            self.note(place, "its list of layers put under a name")
        if not isinstance(settings, dict):
            return
        for key, accepted in REMOVED.get(name, {}).items():
            if self.is_old or key not in RETURNED.get(name, ()):
                self.leave_out(settings, key, accepted, place)
        if "module" in node and name != "InputLayer" and self.is_old:
            # The input layer beside it has the shape.
            settings.pop("batch_input_shape", None)
            axis = settings.get("axis")
            if isinstance(axis, list) and len(axis) == 1 and name == "BatchNormalization":
                settings["axis"] = int(axis[0])
        if name.startswith("Random"):
            self.leave_out(settings, "rng_type", (ANY,), place)
        self.policy(settings, place)
        if self.is_old:
            if name in OTHER_LAYERS:
                raise OldConfigError(
                    f"{place}: expected a layer that does in Keras 3 what it did. "
                    f"Received: one that {OTHER_LAYERS[name]}"
                )
            for key in ACTIVATION_SETTINGS:
                self.activation(settings.get(key), key, place)
            if name in MODELS and isinstance(settings.get("layers"), list):
                self.count_calls_from_zero(settings, place)
        if name in MODELS and isinstance(settings.get("layers"), list):
            self.slashes(settings)
            self.tensors_as_keywords(settings)

    def leave_out(self, settings: dict, key: str, accepted: tuple, place: str) -> None:
        if key not in settings:
            return
        value = settings[key]
        if not any(one is ANY or (value == one and type(value) is type(one)) for one in accepted):
            expected = " or ".join(f"{key}={one!r}" for one in accepted)
            if key in ("groups", "time_major", "renorm", "virtual_batch_size"):
                raise OldConfigError(
                    f"{place}: expected {expected}, all that Keras 3 can do. "
                    f"Received: {key}={value!r}"
                )
            return
        del settings[key]
        if key not in ("trainable", "noise_shape"):
            self.note(place, f"{key}{'' if ANY in accepted else f'={value!r}'} left out")

    def policy(self, settings: dict, place: str) -> None:
        dtype = settings.get("dtype")
        if isinstance(dtype, dict) and dtype.get("class_name") in ("Policy", "PolicyV1"):
            settings["dtype"] = dtype["config"]["name"]
            self.note(place, f"dtype policy {settings['dtype']} given by its name")

    def activation(self, value: Any, key: str, place: str) -> None:
        name = value.get("config") if isinstance(value, dict) else value
        if isinstance(name, str) and name in OTHER_FUNCTIONS:
            raise OldConfigError(
                f"{place}: expected a function that Keras 3 has under its old name. "
                f"Received: {key}={name!r}, then {OTHER_FUNCTIONS[name]}. Load it with the "
                "Keras that wrote it, or train it again with another activation"
            )

    def count_calls_from_zero(self, settings: dict, place: str) -> None:
        """Keras 2 counts the calls of a model inside a model from 1, Keras 3 from 0."""
        nested = {
            layer.get("name") or layer["config"].get("name")
            for layer in settings["layers"]
            if layer.get("class_name") in MODELS and isinstance(layer.get("config"), dict)
        }
        references = [r for r in _references(settings) if r[0] in nested]
        for name in nested:
            own = [reference for reference in references if reference[0] == name]
            if own and min(reference[1] for reference in own) > 0:
                for reference in own:
                    reference[1] -= 1
                self.note(f"{name} (a model in {place})", "its calls counted from 0")

    def tensors_as_keywords(self, settings: dict) -> None:
        """Keras 3 reads a tensor as a keyword, as attention's `value`, in its own form only."""
        layers = {layer.get("name") for layer in settings["layers"]}

        def is_reference(value: Any) -> bool:
            return (
                isinstance(value, list)
                and len(value) in (3, 4)
                and isinstance(value[0], str)
                and value[0] in layers
                and all(type(number) is int for number in value[1:3])
            )

        def tensor(reference: list) -> dict:
            # The shape is not read, but must be there.
            history = {"shape": [None], "dtype": "float32", "keras_history": reference[:3]}
            return {"class_name": "__keras_tensor__", "config": history}

        def converted(value: Any) -> Any:
            if is_reference(value):
                return tensor(value)
            if isinstance(value, list):
                return [converted(item) for item in value]
            return value

        for layer in settings["layers"]:
            calls = layer.get("inbound_nodes") or []
            if calls and self.is_old:
                layer.pop("build_config", None)  # its calls build it
            for number, call in enumerate(calls):
                if not isinstance(call, list) or not all(is_reference(one) for one in call):
                    continue
                keywords = {k: v for one in call if len(one) == 4 for k, v in one[3].items()}
                new = {name: converted(value) for name, value in keywords.items()}
                inputs = [tensor(one) for one in call]
                if self.is_old and layer.get("class_name") in WITH_STATES and len(inputs) > 1:
                    new["initial_state"] = inputs[1:]
                    inputs = inputs[:1]
                if new == keywords:
                    continue
                calls[number] = {
                    "args": inputs if len(inputs) == 1 else [inputs],
                    "kwargs": new,
                }
                name = f"{layer.get('name')} ({layer.get('class_name')})"
                self.note(name, "tensors given as keywords")

    def slashes(self, settings: dict) -> None:
        """Keras 3 allows no slash in a layer's name."""
        names = {}
        for layer in settings["layers"]:
            for owner in (layer, layer.get("config")):
                old = owner.get("name") if isinstance(owner, dict) else None
                if isinstance(old, str) and "/" in old:
                    owner["name"] = old.replace("/", "_")
                    names[old] = owner["name"]
        for reference in _references(settings):
            reference[0] = names.get(reference[0], reference[0])
        for old, new in names.items():
            self.note(old, f"renamed {new}")

    def visit_training(self, node: Any, place: str) -> None:
        if isinstance(node, list):
            for item in node:
                self.visit_training(item, place)
        if not isinstance(node, dict):
            return
        name, settings = node.get("class_name"), node.get("config")
        if isinstance(name, str) and isinstance(settings, dict):
            place = name
            if settings.get("reduction") == "auto":
                settings["reduction"] = "sum_over_batch_size"
                self.note(place, "reduction='auto' became 'sum_over_batch_size'")
            if isinstance(settings.get("fn"), str) and name != "MeanMetricWrapper":
                del settings["fn"]  # the loss itself says it
            if "lr" in settings:
                settings["learning_rate"] = settings.pop("lr")
                self.note(place, "lr became learning_rate")
            if "learning_rate" in settings:
                node["class_name"] = name.removeprefix("Custom>")
                if node.get("module") == "keras.optimizers.legacy":
                    node["module"] = "keras.optimizers"
                for key, accepted in OPTIMIZER_SETTINGS.items():
                    value = settings.get(key)
                    if key in settings and (ANY in accepted or value in accepted):
                        del settings[key]
        for value in node.values():
            self.visit_training(value, place)


def _references(settings: dict) -> list[list]:
    """The `[layer, call, output, …]` lists by which a model's config refers to calls."""
    found: list[list] = []

    def search(node: Any) -> None:
        is_reference = (
            isinstance(node, list)
            and len(node) >= 3
            and isinstance(node[0], str)
            and all(isinstance(number, int) for number in node[1:3])
        )
        if is_reference:
            found.append(node)
        if isinstance(node, (list, dict)):
            for item in node.values() if isinstance(node, dict) else node:
                search(item)

    for key in ("input_layers", "output_layers"):
        search(settings.get(key))
    for layer in settings["layers"]:
        search(layer.get("inbound_nodes"))
    return found

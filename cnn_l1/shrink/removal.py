"""Physical channel removal: smaller shapes, the same output.

    python -m cnn_l1.shrink MODEL.keras --output SMALL.keras

`plan_shrink` finds every channel that the output does not depend on; `apply_shrink`
builds a plain Keras model without them. A channel is removed if it is unused, or if its
output is always one number, which is then added to the next layers' biases.
"""

from typing import Any

import keras
import numpy as np

from cnn_l1.graph.channel_labels import Analysis, Array
from cnn_l1.graph.fingerprints import difference, fingerprint
from cnn_l1.graph.layer_copies import (
    CopyError,
    copy_operation,
    copy_weights,
    held_arrays,
    settle,
)
from cnn_l1.graph.reading import Call, GraphError, new_input, read_graph
from cnn_l1.shrink.layer_changes import LayerChanges
from cnn_l1.shrink.planning import LayerPlan, ShrinkError, ShrinkPlan, plan_shrink

__all__ = [
    "LayerPlan",
    "ShrinkError",
    "ShrinkPlan",
    "apply_shrink",
    "check_same_output",
    "plan_shrink",
]

TOLERANCE = 1e-4  # of the largest output


def apply_shrink(model: Any, plan: ShrinkPlan) -> Any:
    """Build the smaller model that a plan describes.

    Args:
        model: The model that was planned, its weights unchanged since.
        plan: The `ShrinkPlan`.

    Returns:
        A new Functional `keras.Model`, uncompiled, nested models opened. For every
            input it gives what `model` gives, up to the rounding of sums in float32.

    Raises:
        ShrinkError: If the plan was made for another model or other weights, or a
            layer cannot be made anew from its config.
    """
    try:
        changes = difference(plan._fingerprint, fingerprint(read_graph(model)))
    except GraphError as error:
        raise ShrinkError(str(error)) from None
    if changes:
        raise ShrinkError(
            "Expected the model that was planned, with the same layers and weights. Received: "
            f"{model.name!r}, where {changes}. Call plan_shrink on it again."
        )
    analysis = plan._analysis
    tensors = {value: new_input(value) for value in analysis.graph.inputs}
    inputs = list(tensors.values())
    builder = _Builder(analysis, plan._live)
    for call in analysis.needed_calls():
        if any(value in plan._vanished for value in call.outputs):
            continue
        read = analysis.inputs_left(call)
        left = [value for value in read if value not in plan._vanished]
        if len(left) == 1 and len(call.inputs) > 1:
            made = tensors[left[0]]  # of a concatenation, one branch
        elif len(left) < len(call.inputs):
            made = builder.made_by(call, [tensors[value] for value in left])
        else:
            resolved = {value: tensors[analysis.resolve(value)] for value in call.inputs}
            args, kwargs = call.arguments(resolved)
            made = builder.made_by(call, *args, **kwargs)
        for value, tensor in zip(call.outputs, keras.tree.flatten(made), strict=True):
            tensors[value] = tensor
        builder.fill(call)
    outputs = [tensors[analysis.resolve(value)] for value in analysis.graph.outputs]
    pack_inputs, pack_outputs = analysis.graph.pack_inputs, analysis.graph.pack_outputs
    return keras.Model(pack_inputs(inputs), pack_outputs(outputs), name=model.name)


def check_same_output(model: keras.Model, shrunk: keras.Model, samples: Any) -> None:
    """Raise `ShrinkError` unless two models give the same outputs.

    Sums of up to thousands of float32 terms are taken in another order, so outputs
    may differ by `TOLERANCE` of the largest one: about 1,000 roundings.

    Args:
        model: A `keras.Model`; with several outputs, each is compared by itself.
        shrunk: The other.
        samples: `(count, …)` inputs, in the structure that the models take.
    """
    outputs = [keras.tree.flatten(m(samples, training=False)) for m in (model, shrunk)]
    if len(outputs[0]) != len(outputs[1]):
        raise ShrinkError(
            f"Expected {len(outputs[0])} outputs once channels are gone. "
            f"Received: {len(outputs[1])}"
        )
    for number, pair in enumerate(zip(*outputs, strict=True), start=1):
        expected, received = (keras.ops.convert_to_numpy(x).astype("float64") for x in pair)
        which = f" of output {number}" if len(outputs[0]) > 1 else ""
        if expected.shape != received.shape:
            raise ShrinkError(
                f"Expected the shape{which} to stay {expected.shape} once channels are gone. "
                f"Received: {received.shape}"
            )
        finite = np.isfinite(expected)
        odd = not np.array_equal(expected[~finite], received[~finite], equal_nan=True)
        largest = float(np.max(np.abs(expected[finite]), initial=0.0))
        difference = float(np.max(np.abs(expected - received)[finite], initial=0.0))
        if odd or not difference <= TOLERANCE * largest:
            raise ShrinkError(
                f"Expected the same values{which} once channels are gone. Received: a "
                f"difference of {difference:.3g}, for values up to {largest:.3g}"
                + (", and others that are not finite" if odd else "")
            )


class _Builder:
    """Makes each layer once, at its new size, and fills in its weights."""

    def __init__(self, analysis: Analysis, live: Array) -> None:
        self.changes = LayerChanges(analysis, live)
        self.made: dict[int, Any] = {}
        self.filled: set[int] = set()

    def operation(self, call: Call) -> Any:
        """A call's layer, at its new size."""
        key = id(call.operation)
        if key not in self.made:
            changes = self.changes.settings(call)
            if self.changes.adds_bias(call):
                changes["use_bias"] = True
            if not self.changes.keeps_all_weights(call):
                # Made for the old shape, and all weights are assigned below.
                changes |= dict.fromkeys(held_arrays(call.operation), "zeros")
            try:
                self.made[key] = copy_operation(call.operation, call.name, **changes)
            except CopyError as error:
                raise ShrinkError(str(error)) from None
        return self.made[key]

    def made_by(self, call: Call, *args: Any, **kwargs: Any) -> Any:
        """What the layer at its new size makes of new tensors; builds it."""
        operation = self.operation(call)
        try:
            return operation(*args, **kwargs)
        except Exception as error:  # Keras and layers of others raise many kinds
            raise ShrinkError(
                f"{call.name}: expected a layer that its config can make anew. Received: "
                f"{call.kind}, which cannot ({' '.join(str(error).split())[:200]})"
            ) from None

    def fill(self, call: Call) -> None:
        """Give a layer that was just built its weights, by their place in it."""
        key, layer = id(call.operation), call.operation
        if key in self.filled or not getattr(layer, "variables", None):
            return
        self.filled.add(key)
        new = self.made[key]
        if self.changes.weights_become_settings(call):
            return
        try:
            copy_weights(layer, new, *self.changes.values(call))
        except CopyError as error:
            raise ShrinkError(str(error)) from None
        settle(new)

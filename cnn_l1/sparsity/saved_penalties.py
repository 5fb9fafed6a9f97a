"""Penalties as plain data, by the place of their variables: what an optimizer's config keeps.

Keras saves neither `variable.regularizer` nor groups of variables. The optimizer's
config is saved with a compiled model, and the optimizer is built from it with the same
variables in the same order.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from cnn_l1.graph.coupling import ChannelSpace, Member
from cnn_l1.sparsity import misuse
from cnn_l1.sparsity.attaching import is_decided
from cnn_l1.sparsity.groups import ChannelShare, CoupledGroupL1
from cnn_l1.sparsity.penalty import Penalty


def penalties_config(variables: Sequence[Any]) -> dict[str, Any]:
    """What the regularizers of `variables` are, as data for JSON.

    Args:
        variables: The trainable variables of a model, in its order.

    Returns:
        `{"shapes": ..., "penalties": ..., "groups": ...}`, for `restore_penalties`.
    """
    place = {id(variable): number for number, variable in enumerate(variables)}
    groups: dict[int, Any] = {}
    records: list[dict[str, Any]] = []
    for number, variable in enumerate(variables):
        penalty = getattr(variable, "regularizer", None)
        if not isinstance(penalty, Penalty):
            continue
        record: dict[str, Any] = {"variable": number, "in_gradient": penalty.in_gradient}
        if penalty.groups:
            shared = [g for g in penalty.groups if all(id(v) in place for v in g.variables)]
            if len(shared) < len(penalty.groups):
                _not_saved(variable, "a variable of its channel group is not trained")
                continue
            groups |= {id(group): group for group in shared}
            record["groups"] = [list(groups).index(id(group)) for group in shared]
        else:
            record["penalty"] = _serialized(variable, penalty)
            if record["penalty"] is None:
                continue
        if penalty.beside is not None:
            record["beside"] = _serialized(variable, penalty.beside)
        records.append(record)
    return {
        "shapes": [list(variable.shape) for variable in variables],
        "penalties": records,
        "groups": [_group_config(group, place) for group in groups.values()],
    }


def _serialized(variable: Any, regularizer: Any) -> Any:
    try:
        return keras.saving.serialize_keras_object(regularizer)
    except NotImplementedError:
        kind = type(regularizer).__name__
        _not_saved(variable, f"expected {kind} to have a method `get_config`")
        return None


def _not_saved(variable: Any, reason: str) -> None:
    misuse.warn(f"The penalty on {variable.path!r} is not saved: {reason}")


def _group_config(group: CoupledGroupL1, place: dict[int, int]) -> dict[str, Any]:
    return {
        "size": int(group.space.size),
        "l1_strength": float(group.l1_strength),
        "l1_ratio": float(group.l1_ratio),
        "shape": group.shape,
        "scale": group.scale,
        "members": [
            {
                "variable": place[id(member.variable)],
                "axis": int(member.axis),
                "index": [int(i) for i in member.index],
                "layer": member.layer,
            }
            for member in group.space.members
        ],
    }


def restore_penalties(
    config: dict[str, Any], variables: Sequence[Any], custom_objects: Any = None
) -> None:
    """Put saved penalties back on the variables of the same model, made anew.

    Penalties that `attach` has put on these variables since are newer, and stay.

    Args:
        config: What `penalties_config` gave.
        variables: The trainable variables, in the same order.
        custom_objects: `{name: class}` of penalties that are not registered with Keras.
    """
    if any(is_decided(variable) for variable in variables):
        return
    shapes = [list(variable.shape) for variable in variables]
    if shapes != config["shapes"]:
        if config["penalties"]:
            misuse.warn(
                "The penalties that were saved with the optimizer are not restored: expected "
                f"the model that it was saved with, of {len(config['shapes'])} trainable "
                f"variables. Received: {len(shapes)}, or other shapes. Call `attach` again"
            )
        return
    groups = [_group(record, variables) for record in config["groups"]]
    kept = {record["variable"]: record for record in config["penalties"]}
    for number, variable in enumerate(variables):
        own = getattr(variable, "regularizer", None)
        own = own.beside if isinstance(own, Penalty) else own
        record = kept.get(number)
        if record is None:
            variable.regularizer = own
            continue
        if "groups" in record:
            penalty = ChannelShare(variable, [groups[i] for i in record["groups"]])
        else:
            penalty = keras.saving.deserialize_keras_object(record["penalty"], custom_objects)
        if not record["in_gradient"]:
            penalty.in_gradient = False
        if record.get("beside") is not None:
            penalty.beside = keras.saving.deserialize_keras_object(record["beside"], custom_objects)
        variable.regularizer = penalty


def _group(record: dict[str, Any], variables: Sequence[Any]) -> CoupledGroupL1:
    members = tuple(
        Member(variables[m["variable"]], m["axis"], np.array(m["index"]), m["layer"])
        for m in record["members"]
    )
    settings = {key: record[key] for key in ("l1_strength", "l1_ratio", "shape", "scale")}
    return CoupledGroupL1(ChannelSpace(record["size"], members), **settings)

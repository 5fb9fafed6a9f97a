"""Train Keras CNNs under L1 to exact zeros, shrink and export them, measure the files.

The names below load on first use, so that `import cnn_l1` alone does not import
TensorFlow and a bad flag is answered at once.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from cnn_l1.callbacks import (
        Reweight,
        SparsityMonitor,
        StrengthRamp,
        Threshold,
        apply_threshold,
    )
    from cnn_l1.errors import CnnL1Error
    from cnn_l1.export import export_tflite, plain_copy
    from cnn_l1.fold import fold_batch_norm
    from cnn_l1.fused import fused_batch_norm
    from cnn_l1.groups import attach_groups, attach_slimming
    from cnn_l1.layer_kinds import Kernel, LayerKind, register_layer_kind
    from cnn_l1.load import load_model
    from cnn_l1.loss_check import gives_logits
    from cnn_l1.macs import count_macs
    from cnn_l1.measure import measure_tflite
    from cnn_l1.misuse import MisuseWarning
    from cnn_l1.optimizers import HoldZeros, Proximal
    from cnn_l1.penalties import L1, L1L2, Concave, GroupL1, ReweightedL1, attach, soft_threshold
    from cnn_l1.shrink import apply_shrink, plan_shrink
    from cnn_l1.sparsity import count
    from cnn_l1.targets import TargetSparsity

__version__ = "0.1.0"

_MODULES = {
    "CnnL1Error": "errors",
    "L1": "penalties",
    "L1L2": "penalties",
    "Concave": "penalties",
    "GroupL1": "penalties",
    "ReweightedL1": "penalties",
    "attach_groups": "groups",
    "attach_slimming": "groups",
    "plan_shrink": "shrink",
    "apply_shrink": "shrink",
    "fold_batch_norm": "fold",
    "fused_batch_norm": "fused",
    "load_model": "load",
    "count_macs": "macs",
    "gives_logits": "loss_check",
    "Kernel": "layer_kinds",
    "LayerKind": "layer_kinds",
    "register_layer_kind": "layer_kinds",
    "soft_threshold": "penalties",
    "attach": "penalties",
    "HoldZeros": "optimizers",
    "Proximal": "optimizers",
    "Reweight": "callbacks",
    "SparsityMonitor": "callbacks",
    "StrengthRamp": "callbacks",
    "Threshold": "callbacks",
    "apply_threshold": "callbacks",
    "TargetSparsity": "targets",
    "count": "sparsity",
    "plain_copy": "export",
    "export_tflite": "export",
    "measure_tflite": "measure",
    "MisuseWarning": "misuse",
}

__all__ = [
    "CnnL1Error",
    "L1",
    "L1L2",
    "Concave",
    "GroupL1",
    "HoldZeros",
    "Kernel",
    "LayerKind",
    "MisuseWarning",
    "Proximal",
    "Reweight",
    "ReweightedL1",
    "SparsityMonitor",
    "StrengthRamp",
    "TargetSparsity",
    "Threshold",
    "apply_shrink",
    "apply_threshold",
    "attach",
    "attach_groups",
    "attach_slimming",
    "count",
    "count_macs",
    "export_tflite",
    "fold_batch_norm",
    "fused_batch_norm",
    "gives_logits",
    "load_model",
    "measure_tflite",
    "plain_copy",
    "plan_shrink",
    "register_layer_kind",
    "soft_threshold",
]


def __getattr__(name):
    if name not in _MODULES:
        raise AttributeError(f"module 'cnn_l1' has no attribute {name!r}")
    found = getattr(importlib.import_module(f"cnn_l1.{_MODULES[name]}"), name)
    _make_known_to_keras()
    return found


def __dir__():
    return sorted(__all__)


def _make_known_to_keras(_module: Any = None) -> None:
    """Import the classes that saved models may need, once Keras is there.

    So that `import cnn_l1` alone is enough for `keras.models.load_model`.
    """
    own = [module for name, module in sys.modules.items() if name.startswith("cnn_l1.")]
    if "keras" in sys.modules and not any(_is_being_imported(module) for module in own):
        importlib.import_module("cnn_l1.optimizers")


def _is_being_imported(module: Any) -> bool:
    return getattr(getattr(module, "__spec__", None), "_initializing", False)


wrapt.register_post_import_hook(_make_known_to_keras, "keras")

"""Train Keras CNNs under L1 to exact zeros, shrink and export them, measure the files.

The names below load on first use, so that `import cnn_l1` alone does not import
TensorFlow and a bad flag is answered at once.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

import wrapt

if TYPE_CHECKING:
    from cnn_l1.errors import CnnL1Error
    from cnn_l1.export.file_costs import TargetSparsity, int8_costs
    from cnn_l1.export.tflite import export_tflite, plain_copy
    from cnn_l1.graph.layer_kinds import Kernel, LayerKind, register_layer_kind
    from cnn_l1.graph.loss_check import gives_logits
    from cnn_l1.graph.macs import count_macs
    from cnn_l1.measure.measurement import measure_tflite
    from cnn_l1.models.fused import fused_batch_norm
    from cnn_l1.models.saved import load_model
    from cnn_l1.shrink.fold import fold_batch_norm
    from cnn_l1.shrink.planning import plan_shrink
    from cnn_l1.shrink.removal import apply_shrink
    from cnn_l1.sparsity.attaching import attach
    from cnn_l1.sparsity.callbacks import Reweight, SparsityMonitor, StrengthRamp
    from cnn_l1.sparsity.counting import count
    from cnn_l1.sparsity.groups import attach_groups, attach_slimming
    from cnn_l1.sparsity.hold_zeros import HoldZeros
    from cnn_l1.sparsity.misuse import MisuseWarning
    from cnn_l1.sparsity.optimizers import Proximal
    from cnn_l1.sparsity.penalties import L1, L1L2, Concave, GroupL1, ReweightedL1
    from cnn_l1.sparsity.proximal_operators import soft_threshold
    from cnn_l1.sparsity.thresholding import Threshold, apply_threshold
    from cnn_l1.tflite.encoding import decode_zeros, encode_zeros
    from cnn_l1.train.api import prune, sparsify, verify

__version__ = "0.1.0"

_MODULES = {
    "CnnL1Error": "errors",
    "L1": "sparsity.penalties",
    "L1L2": "sparsity.penalties",
    "Concave": "sparsity.penalties",
    "GroupL1": "sparsity.penalties",
    "ReweightedL1": "sparsity.penalties",
    "attach_groups": "sparsity.groups",
    "attach_slimming": "sparsity.groups",
    "plan_shrink": "shrink.planning",
    "apply_shrink": "shrink.removal",
    "fold_batch_norm": "shrink.fold",
    "fused_batch_norm": "models.fused",
    "load_model": "models.saved",
    "count_macs": "graph.macs",
    "gives_logits": "graph.loss_check",
    "Kernel": "graph.layer_kinds",
    "LayerKind": "graph.layer_kinds",
    "register_layer_kind": "graph.layer_kinds",
    "soft_threshold": "sparsity.proximal_operators",
    "attach": "sparsity.attaching",
    "HoldZeros": "sparsity.hold_zeros",
    "Proximal": "sparsity.optimizers",
    "Reweight": "sparsity.callbacks",
    "SparsityMonitor": "sparsity.callbacks",
    "StrengthRamp": "sparsity.callbacks",
    "Threshold": "sparsity.thresholding",
    "apply_threshold": "sparsity.thresholding",
    "TargetSparsity": "export.file_costs",  # it measures files
    "int8_costs": "export.file_costs",
    "count": "sparsity.counting",
    "plain_copy": "export.tflite",
    "export_tflite": "export.tflite",
    "measure_tflite": "measure.measurement",
    "MisuseWarning": "sparsity.misuse",
    "decode_zeros": "tflite.encoding",
    "encode_zeros": "tflite.encoding",
    "sparsify": "train.api",
    "prune": "train.api",
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
    "decode_zeros",
    "encode_zeros",
    "export_tflite",
    "fold_batch_norm",
    "fused_batch_norm",
    "gives_logits",
    "int8_costs",
    "load_model",
    "measure_tflite",
    "plain_copy",
    "plan_shrink",
    "register_layer_kind",
    "prune",
    "soft_threshold",
    "sparsify",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name == "verify":  # a command's module, which is also a function
        return importlib.import_module("cnn_l1.verify")
    if name not in _MODULES:
        raise AttributeError(f"module 'cnn_l1' has no attribute {name!r}")
    found = getattr(importlib.import_module(f"cnn_l1.{_MODULES[name]}"), name)
    _make_known_to_keras()
    return found


def __dir__() -> list[str]:
    return sorted(__all__)


def _make_known_to_keras(_module: Any = None) -> None:
    """Import the classes that saved models may need, once Keras is there.

    So that `import cnn_l1` alone is enough for `keras.models.load_model`.
    """
    own = [module for name, module in sys.modules.items() if name.startswith("cnn_l1.")]
    if "keras" in sys.modules and not any(_is_being_imported(module) for module in own):
        importlib.import_module("cnn_l1.sparsity.optimizers")


def _is_being_imported(module: Any) -> bool:
    return getattr(getattr(module, "__spec__", None), "_initializing", False)


wrapt.register_post_import_hook(_make_known_to_keras, "keras")

"""Optimizer wrapper that holds exact zeros, and the base of `Proximal`.

It wraps any Keras optimizer and acts inside its update, in the compiled step:
gradient clipping, weight decay, schedules, gradient accumulation, loss scaling
and `steps_per_execution` stay the inner optimizer's own.
"""

import functools
import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from cnn_l1.graph.layer_kinds import is_kernel
from cnn_l1.process import keras_internals
from cnn_l1.sparsity import misuse
from cnn_l1.sparsity.attaching import built_optimizers
from cnn_l1.sparsity.callback_states import CallbackStates
from cnn_l1.sparsity.penalty import PACKAGE, Penalty
from cnn_l1.sparsity.saved_penalties import penalties_config, restore_penalties
from cnn_l1.sparsity.tensorflow_only import can_fuse, compiled, outside_of_traces

STATE = "state."  # before the names of callbacks' states in a saved optimizer
FUSE_FROM_WEIGHTS = 16_384  # below, a call costs more than the passes it saves


@keras.saving.register_keras_serializable(package=PACKAGE)
class HoldZeros(keras.optimizers.Optimizer):
    """Wrap an optimizer so that weights that are exactly zero stay zero.

    `w_new = where(w_old == 0, 0, inner_update(w_old))`. A weight is held because it is
    zero: there is no mask to store or save, and momentum cannot move a held weight.

    **Saving.** `model.save` writes the optimizer with the penalties that `attach` and
    `attach_groups` put on the model, its state, and that of `TargetSparsity` and
    `BestWeights`; after `keras.models.load_model`, `fit(initial_epoch=...)` goes on as if
    it had not been interrupted. To load such a model compiled, `cnn_l1` must be
    imported; `load_model(path, compile=False)` loads it anywhere.

    Args:
        inner_optimizer: Any `keras.optimizers.Optimizer`, not yet built and
            without `use_ema` (an average of weights has no exact zeros).
        hold_zeros: Whether zeros are held from the start. Default `True`.
            Change it at any time with `optimizer.hold_zeros.assign(...)`.
        include: `"kernels"` (default) holds zeros in kernels, `"all"` in every
            trainable variable.
        name: Name of the optimizer.

    Raises:
        ValueError: If `inner_optimizer` or `include` is not one of the above.

    Example:
        >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
        >>> model.layers[0].set_weights([np.eye(2), np.zeros(2)])
        >>> model.compile(cnn_l1.HoldZeros(keras.optimizers.Adam()), "mse")
        >>> history = model.fit(np.ones((8, 2)), np.ones((8, 2)), verbose=0)
        >>> cnn_l1.count(model).zeros
        2
    """

    is_wrapper = True  # for `misuse`, which cannot know this class

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer,
        hold_zeros: bool = True,
        include: str = "kernels",
        name: str | None = None,
    ) -> None:
        if isinstance(inner_optimizer, dict):
            inner_optimizer = keras.optimizers.deserialize(inner_optimizer)
        check_inner(type(self).__name__, inner_optimizer)
        if include not in ("kernels", "all"):
            raise ValueError(f"`include` must be 'kernels' or 'all'. Received: include={include!r}")
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = inner_optimizer
        self.include = include
        self._hold_zeros_at_start = bool(hold_zeros)
        # Variables, so that a callback can change them under a compiled step,
        # and here rather than in `build`, which may run inside a trace.
        self.hold_zeros = self._control("hold_zeros", float(bool(hold_zeros)))
        self.states = CallbackStates()
        self._held_keys: set[Any] = set()
        self._fused: dict[Any, Any] = {}
        self._can_fuse = False
        self._bound: tuple | None = None  # the regularizers that the step is made of
        self._use_is_checked = False
        self._models: weakref.WeakSet = weakref.WeakSet()
        self._saved_penalties: functools.partial | None = None
        self._waiting: tuple | None = None
        # `variables` has the inner optimizer's, so they are loaded with the wrapper's.
        inner_optimizer.load_own_variables = lambda store: None
        self._hook()

    def _control(
        self, name: str, value: Any, shape: tuple[int, ...] | None = None
    ) -> keras.Variable:
        variable = keras.Variable(
            value,
            shape=shape,
            dtype="float32",
            trainable=False,
            name=name,
            aggregation="only_first_replica",
        )
        keras_internals.track(self, variable)
        return variable

    def _hook(self) -> None:
        """Put `_after_update` after the inner optimizer's own update.

        `update_step` runs once an update, after accumulation, clipping and
        all-reduce. PyTorch's optimizers update all variables in one call.
        """
        inner = self.inner_optimizer

        def around(update_all: keras_internals.UpdateAll) -> keras_internals.UpdateAll:
            def hooked_parallel(grads: Any, variables: Any, learning_rate: Any) -> None:
                was_zero = [ops.equal(v, 0) for v in variables]
                update_all(grads, variables, learning_rate)
                for zero, variable in zip(was_zero, variables, strict=True):
                    self._after_update(zero, variable, learning_rate)

            return hooked_parallel

        if keras_internals.hook_parallel_update(inner, around):
            return
        update_step = inner.update_step

        def hooked(gradient: Any, variable: Any, learning_rate: Any) -> Any:
            if not self._acts_on(variable):
                return update_step(gradient, variable, learning_rate)

            def update(gradient: Any, learning_rate: Any) -> None:
                gradient = self.transform_late(gradient, variable)
                # Compared now: TensorFlow's `variable` would be the updated one later.
                was_zero = ops.equal(variable, 0)
                update_step(gradient, variable, learning_rate)
                self._after_update(was_zero, variable, learning_rate)

            key, weights = self._key(variable), math.prod(variable.shape)
            return self._in_one_pass(key, weights, update, gradient, learning_rate)

        inner.update_step = hooked

    def _key(self, variable: Any) -> Any:
        """What the inner optimizer knows a variable by."""
        return keras_internals.variable_key(self.inner_optimizer, variable)

    def _acts_on(self, variable: Any) -> bool:
        return self._key(variable) in self._held_keys

    def _after_update(self, was_zero: Any, variable: Any, learning_rate: Any) -> None:
        if not self._acts_on(variable):
            return
        value = self.transform_update(variable, learning_rate)
        held = ops.logical_and(was_zero, ops.greater(self.hold_zeros, 0))
        self.inner_optimizer.assign(variable, ops.where(held, 0.0, value))

    def _in_one_pass(
        self, key: Any, weights: int, update: Callable[..., None], *arguments: Any
    ) -> None:
        """Make an update, compiled into one loop over memory where that pays.

        On a CPU every operation on a large kernel is a pass through memory. Fused,
        Adam and the proximal step after it cost less than Adam alone otherwise.
        """
        if not self._can_fuse or weights < FUSE_FROM_WEIGHTS:
            update(*arguments)
            return
        if key not in self._fused:
            self._fused[key] = compiled(update)
        self._fused[key](*arguments)

    def transform_update(self, variable: Any, learning_rate: Any) -> Any:
        """What becomes of the updated value, before zeros are held."""
        return ops.convert_to_tensor(variable)

    def transform_late(self, gradient: Any, variable: Any) -> Any:
        """What becomes of a gradient just before the update that uses it."""
        return gradient

    def build(self, variables: Sequence[Any]) -> None:
        # Keras builds an optimizer from an .h5 file without variables: there are none yet.
        if self.built or not variables:
            return
        self.inner_optimizer.build(variables)
        super().build(variables)
        self._can_fuse = can_fuse()
        self._make_variables(variables)
        if self._saved_penalties is not None:
            self._saved_penalties(variables)
            self._saved_penalties = None
        self._bind_penalties(variables)
        built_optimizers.add(self)
        if self._waiting is not None:
            with outside_of_traces():
                super().load_own_variables(dict(self._waiting))
            self._waiting = None

    def _make_variables(self, variables: Sequence[Any]) -> None:
        """Make the optimizer's own variables that hang on the model's."""

    def _bind_penalties(self, variables: Sequence[Any]) -> None:
        """Read the variables' penalties, of which the next step is made."""
        self._bound = tuple(v.regularizer for v in variables)
        self._fused = {}
        self._use_is_checked = False
        self._held_keys = {
            self._key(v)
            for v in variables
            if self.include == "all" or is_kernel(v) or isinstance(v.regularizer, Penalty)
        }

    def penalties_changed(self, model: keras.Model) -> None:
        """Read the penalties again, and have the models' steps compiled again.

        Args:
            model: The model whose penalties `attach` has changed.
        """
        try:
            self._bind_penalties(keras_internals.optimized_variables(self))
        except ValueError:
            self._bound = None  # said when the optimizer is used again, if it is
        for user in {id(m): m for m in (model, *self._models)}.values():
            if misuse.unwrapped(getattr(user, "optimizer", None)) is not self:
                continue
            if user.train_function is not None:
                user.make_train_function(force=True)
            if user.test_function is not None:
                user.make_test_function(force=True)

    def _before_step(self) -> None:
        """Where a step is traced (or run eagerly): penalties set by hand, and misuse."""
        now = [v.regularizer for v in keras_internals.optimized_variables(self)]
        bound = self._bound
        if bound is None or any(a is not b for a, b in zip(bound, now, strict=True)):
            self._bind_penalties(keras_internals.optimized_variables(self))
        if not self._use_is_checked:
            self._use_is_checked = True
            model = misuse.model_in_training()
            if model is not None:
                self._models.add(model)
            self._check_use(keras_internals.optimized_variables(self))

    def _check_use(self, variables: Sequence[Any]) -> None:
        """Warn of variables that look penalised, and are not."""

    @property
    def variables(self) -> list[Any]:
        return keras_internals.own_variables(self) + self.inner_optimizer.variables

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        if not self.built:
            if trainable_variables is None:
                raise ValueError(
                    f"{type(self).__name__}.apply expects `trainable_variables` on its "
                    "first call, or a built optimizer. Received: neither."
                )
            trainable_variables = list(trainable_variables)
            with keras.name_scope(self.name):
                self.build(trainable_variables)
        if trainable_variables is None:
            trainable_variables = keras_internals.optimized_variables(self)
        trainable_variables = list(trainable_variables)
        self._before_step()
        grads = self.transform_gradients(list(grads), trainable_variables)
        self.inner_optimizer.apply(grads, trainable_variables)

    def transform_gradients(self, grads: list[Any], trainable_variables: list[Any]) -> list[Any]:
        """What becomes of the gradients, before the inner optimizer sees them."""
        return grads

    @property
    def learning_rate(self) -> Any:
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self) -> Any:
        return self.inner_optimizer.iterations

    def scale_loss(self, loss: Any) -> Any:
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list: Any) -> None:
        self.inner_optimizer.finalize_variable_values(var_list)

    def save_own_variables(self, store: Any) -> None:
        super().save_own_variables(store)
        for name, value in self.states.arrays().items():
            store[STATE + name] = value

    def load_own_variables(self, store: Any) -> None:
        values = {name: store[name] for name in store.keys()}  # noqa: SIM118, no mapping
        states = {name: np.array(values.pop(name)) for name in list(values) if STATE in name}
        self.states.load({name.removeprefix(STATE): value for name, value in states.items()})
        if self.built or not values:
            super().load_own_variables(values)
        else:  # loaded into an optimizer that is built later
            self._waiting = tuple((name, np.array(value)) for name, value in values.items())

    def set_weights(self, weights: Sequence[Any]) -> None:
        """Set all variables, the inner optimizer's too; `.h5` files are loaded by this."""
        if not self.built:
            self._waiting = tuple((str(i), np.array(w)) for i, w in enumerate(weights))
            return
        for variable, weight in zip(self.variables, weights, strict=True):
            variable.assign(weight)

    def get_config(self) -> dict[str, Any]:
        config = {
            "name": self.name,
            "inner_optimizer": keras.saving.serialize_keras_object(self.inner_optimizer),
            "hold_zeros": self._hold_zeros_at_start,
            "include": self.include,
        }
        penalties = self._penalties_config()
        if penalties is not None:
            config["penalties"] = penalties
        return config

    def _penalties_config(self) -> dict[str, Any] | None:
        if self.built:
            return penalties_config(keras_internals.optimized_variables(self))
        if self._saved_penalties is not None:
            return self._saved_penalties.args[0]
        model = misuse.model_being_saved(self)
        if model is None or not model.built:
            return None
        return penalties_config(model.trainable_variables)

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> "HoldZeros":
        config = dict(config)
        penalties = config.pop("penalties", None)
        config["inner_optimizer"] = keras.saving.deserialize_keras_object(
            config["inner_optimizer"], custom_objects=custom_objects
        )
        optimizer = cls(**config)
        if penalties is not None:
            optimizer._saved_penalties = functools.partial(
                restore_penalties, penalties, custom_objects=custom_objects
            )
        return optimizer


def check_inner(wrapper: str, inner: Any) -> None:
    """Raise unless `inner` is an optimizer that can be wrapped."""
    if not isinstance(inner, keras.optimizers.Optimizer):
        raise ValueError(
            f"`inner_optimizer` of {wrapper} must be a keras.optimizers.Optimizer. "
            f"Received: inner_optimizer={inner!r} (of type {type(inner).__name__})"
        )
    if isinstance(inner, (HoldZeros, keras.optimizers.LossScaleOptimizer)):
        raise ValueError(
            f"`inner_optimizer` of {wrapper} must be a plain optimizer; a "
            "LossScaleOptimizer goes around the wrapper, not into it. "
            f"Received: inner_optimizer={type(inner).__name__}"
        )
    if inner.built:
        raise ValueError(
            f"`inner_optimizer` of {wrapper} must not be built yet. Received one with "
            f"{len(inner.variables)} variables; make a new {type(inner).__name__}."
        )
    if inner.use_ema:
        raise ValueError(
            f"`inner_optimizer` of {wrapper} must have use_ema=False, for an average of "
            "weights has no exact zeros. Received: use_ema=True"
        )


def wrapped_optimizer(model: Any, kind: type, callback: str) -> Any:
    """The model's optimizer as a `kind`, or a `ValueError` that names the callback."""
    optimizer = model.optimizer
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = optimizer.inner_optimizer
    if not isinstance(optimizer, kind):
        raise ValueError(
            f"{callback} expects an optimizer wrapped in cnn_l1.{kind.__name__}. "
            f"Received: optimizer={type(optimizer).__name__}. "
            f"Compile with cnn_l1.{kind.__name__}(your_optimizer)."
        )
    return optimizer


def built_optimizer(model: Any, kind: type, callback: str) -> Any:
    """`wrapped_optimizer`, with its variables made: `fit` makes them only in its first step."""
    optimizer = wrapped_optimizer(model, kind, callback)
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    return optimizer

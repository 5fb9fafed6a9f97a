"""Optimizer wrappers: hold exact zeros, and shrink after the inner update.

Both wrap any Keras optimizer and act inside its update, in the compiled step:
gradient clipping, weight decay, schedules, gradient accumulation, loss scaling
and `steps_per_execution` stay the inner optimizer's own.
"""

import keras
from keras import ops

from cnn_l1.penalties import PACKAGE, Penalty, is_kernel


@keras.saving.register_keras_serializable(package=PACKAGE)
class HoldZeros(keras.optimizers.Optimizer):
    """Wrap an optimizer so that weights that are exactly zero stay zero.

    `w_new = where(w_old == 0, 0, inner_update(w_old))`: the zeros themselves
    are the mask, so there is none to store, save or keep in step, and momentum
    cannot move a held weight.

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
    """

    def __init__(self, inner_optimizer, hold_zeros=True, include="kernels", name=None):
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
        self._held_keys = set()
        self._hook()

    def _control(self, name, value):
        variable = keras.Variable(
            value, dtype="float32", trainable=False, name=name, aggregation="only_first_replica"
        )
        self._track_variable(variable)
        return variable

    def _hook(self):
        """Put `after_update` behind the inner optimizer's own update.

        `update_step` runs once an update, after accumulation, clipping and
        all-reduce. PyTorch's optimizers update all variables in one call.
        """
        inner = self.inner_optimizer
        if hasattr(inner, "_parallel_update_step"):
            parallel_update_step = inner._parallel_update_step

            def hooked_parallel(grads, variables, learning_rate):
                was_zero = [ops.equal(v, 0) for v in variables]
                parallel_update_step(grads, variables, learning_rate)
                for zero, variable in zip(was_zero, variables, strict=True):
                    self._after_update(zero, variable, learning_rate)

            inner._parallel_update_step = hooked_parallel
            return
        update_step = inner.update_step

        def hooked(gradient, variable, learning_rate):
            if not self._acts_on(variable):
                return update_step(gradient, variable, learning_rate)
            # Compared now: TensorFlow's `variable` would be the updated one later.
            was_zero = ops.equal(variable, 0)
            update_step(gradient, variable, learning_rate)
            return self._after_update(was_zero, variable, learning_rate)

        inner.update_step = hooked

    def _acts_on(self, variable):
        return self.inner_optimizer._var_key(variable) in self._held_keys

    def _after_update(self, was_zero, variable, learning_rate):
        if not self._acts_on(variable):
            return
        value = self.transform_update(variable, learning_rate)
        held = ops.logical_and(was_zero, ops.greater(self.hold_zeros, 0))
        self.inner_optimizer.assign(variable, ops.where(held, 0.0, value))

    def transform_update(self, variable, learning_rate):
        """What becomes of the updated value, before zeros are held."""
        return ops.convert_to_tensor(variable)

    def build(self, variables):
        if self.built:
            return
        self.inner_optimizer.build(variables)
        super().build(variables)
        self._held_keys = {
            self.inner_optimizer._var_key(v)
            for v in variables
            if self.include == "all" or is_kernel(v) or isinstance(v.regularizer, Penalty)
        }

    @property
    def variables(self):
        return self._variables[:] + self.inner_optimizer.variables

    def apply(self, grads, trainable_variables=None):
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
            trainable_variables = self._trainable_variables
        trainable_variables = list(trainable_variables)
        grads = self.transform_gradients(list(grads), trainable_variables)
        self.inner_optimizer.apply(grads, trainable_variables)

    def transform_gradients(self, grads, trainable_variables):
        """What becomes of the gradients, before the inner optimizer sees them."""
        return grads

    @property
    def learning_rate(self):
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate):
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self):
        return self.inner_optimizer.iterations

    def scale_loss(self, loss):
        return self.inner_optimizer.scale_loss(loss)

    def finalize_variable_values(self, var_list):
        self.inner_optimizer.finalize_variable_values(var_list)

    def get_config(self):
        return {
            "name": self.name,
            "inner_optimizer": keras.saving.serialize_keras_object(self.inner_optimizer),
            "hold_zeros": self._hold_zeros_at_start,
            "include": self.include,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        config["inner_optimizer"] = keras.saving.deserialize_keras_object(
            config["inner_optimizer"], custom_objects=custom_objects
        )
        return cls(**config)


@keras.saving.register_keras_serializable(package=PACKAGE)
class Proximal(HoldZeros):
    """Proximal gradient descent around any Keras optimizer: exact zeros.

    For every variable whose `regularizer` is a `cnn_l1` penalty, one update is

        w ← inner_update(w, gradient of the data loss)
        w ← prox of (strength_scale · penalty), with the update's own step

    The penalty stays in the reported loss; its gradient is taken out again
    before the inner optimizer sees it.

    **Step.** With `threshold="scaled"` the step is the inner optimizer's own,
    element by element: `η / (1 − momentum)` for SGD, `η / (√v̂ + ε)` for Adam,
    AdamW, Nadam, Adamax, and likewise for RMSprop and Adagrad (the exact proximal
    step in their metric: ProxGen, Yun, Lozano and Yang, 2021, eq. 2). With
    `threshold="decoupled"` it is the scalar `η / (1 − momentum)`.

    **Fixed point.** A scaled step stands still exactly where
    `0 ∈ ∇data_loss(w) + strength_scale · ∂penalty(w)` (plus the weight decay's
    term, if there is one): the minimiser of the loss that is reported, whatever
    the learning rate, the momentum or the preconditioner. The factor
    `1 / (1 − momentum)` belongs to it: at rest the momentum carries
    `−η∇ / (1 − momentum)` each step. A decoupled step around Adam stands still
    at `0 ∈ ∇data_loss(w) / (√v̂ + ε) + ∂penalty(w)` instead: a problem whose
    strength is scaled, weight by weight, by the size of past gradients.

    Args:
        inner_optimizer: Any `keras.optimizers.Optimizer`, not yet built and
            without `use_ema`.
        threshold: `"auto"` (default: scaled where the inner optimizer is known,
            decoupled otherwise), `"scaled"` or `"decoupled"`.
        hold_zeros: Whether zeros, once there, are held. Default `False`.
        include: Where zeros are held: `"kernels"` (default) or `"all"`.
            Variables with a penalty are held in any case.
        penalty_in_loss: Whether the gradients handed over contain the penalty's,
            as `fit` gives them. Default `True`. Set it to `False` in a training
            loop of your own that does not add `model.losses`.
        name: Name of the optimizer.

    Attributes:
        strength_scale: Variable, 1.0 at the start, by which every penalty's
            proximal step is multiplied; `StrengthRamp` moves it.

    Raises:
        ValueError: If an argument is not one of the above, or `"scaled"` is
            asked for around an optimizer whose metric is not known.
    """

    def __init__(
        self,
        inner_optimizer,
        threshold="auto",
        hold_zeros=False,
        include="kernels",
        penalty_in_loss=True,
        name=None,
    ):
        super().__init__(inner_optimizer, hold_zeros=hold_zeros, include=include, name=name)
        if threshold not in ("auto", "scaled", "decoupled"):
            raise ValueError(
                "`threshold` must be 'auto', 'scaled' or 'decoupled'. "
                f"Received: threshold={threshold!r}"
            )
        if threshold == "scaled" and metric_of(self.inner_optimizer) is None:
            raise ValueError(
                "`threshold='scaled'` expects an inner optimizer with a known metric "
                f"({', '.join(sorted(m.__name__ for m in METRICS))}). "
                f"Received: inner_optimizer={type(self.inner_optimizer).__name__}"
            )
        self.threshold = threshold
        self.penalty_in_loss = bool(penalty_in_loss)
        self.strength_scale = self._control("strength_scale", 1.0)
        self._penalties = {}

    def build(self, variables):
        if self.built:
            return
        super().build(variables)
        self._penalties = {
            self.inner_optimizer._var_key(v): v.regularizer
            for v in variables
            if isinstance(v.regularizer, Penalty)
        }

    def transform_gradients(self, grads, trainable_variables):
        if not self.penalty_in_loss:
            return grads
        # The loss, and so the penalty in it, was scaled where these are set.
        scale = (self.inner_optimizer.loss_scale_factor or 1.0) / replica_count()
        data_grads = []
        for grad, variable in zip(grads, trainable_variables, strict=True):
            penalty = self._penalties.get(self.inner_optimizer._var_key(variable))
            if penalty is not None and grad is not None:
                own = penalty.gradient(ops.convert_to_tensor(variable)) * scale
                grad = ops.convert_to_tensor(grad)  # an embedding's may be sparse
                grad = grad - ops.cast(own, grad.dtype)
            data_grads.append(grad)
        return data_grads

    def transform_update(self, variable, learning_rate):
        value = ops.convert_to_tensor(variable)
        penalty = self._penalties.get(self.inner_optimizer._var_key(variable))
        if penalty is None:
            return value
        step = self.step_size(variable, learning_rate)
        return penalty.prox(value, step * ops.cast(self.strength_scale, value.dtype))

    def step_size(self, variable, learning_rate):
        """The step of the update just made: a scalar, or of the variable's shape."""
        inner = self.inner_optimizer
        metric = None if self.threshold == "decoupled" else metric_of(inner)
        step = ops.cast(learning_rate, variable.dtype)
        step = step / (1.0 - float(getattr(inner, "momentum", 0.0) or 0.0))
        return step if metric is None else step / metric(inner, variable)

    def get_config(self):
        config = super().get_config()
        config.update(threshold=self.threshold, penalty_in_loss=self.penalty_in_loss)
        return config


def check_inner(wrapper, inner):
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


def replica_count():
    """How many replicas the loss was divided by (1 outside tf.distribute)."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


# How each optimizer divides its gradient, read from its update in Keras 3.15.
# Each takes (optimizer, variable) after the update and returns what the step
# `learning_rate` was divided by: a scalar or an array of the variable's shape.


def _sgd(inner, variable):
    return ops.ones((), dtype=variable.dtype)


def _adam(inner, variable):
    index = inner._get_variable_index(variable)
    velocities = inner._velocity_hats if getattr(inner, "amsgrad", False) else inner._velocities
    velocity = ops.convert_to_tensor(velocities[index])
    # Keras adds epsilon before the bias correction: (√v + ε) / √(1 − β₂ᵗ).
    local_step = ops.cast(inner.iterations + 1, variable.dtype)
    correction = ops.sqrt(1.0 - ops.power(ops.cast(inner.beta_2, variable.dtype), local_step))
    return (ops.sqrt(velocity) + inner.epsilon) / correction


def _nadam(inner, variable):
    velocity = ops.convert_to_tensor(inner._velocities[inner._get_variable_index(variable)])
    local_step = ops.cast(inner.iterations + 1, variable.dtype)
    correction = 1.0 - ops.power(ops.cast(inner.beta_2, variable.dtype), local_step)
    return ops.sqrt(velocity / correction) + inner.epsilon


def _adamax(inner, variable):
    norm = ops.convert_to_tensor(inner._u[inner._get_variable_index(variable)])
    return norm + inner.epsilon


def _rmsprop(inner, variable):
    index = inner._get_variable_index(variable)
    velocity = ops.convert_to_tensor(inner._velocities[index])
    if inner.centered:
        velocity = velocity - ops.square(ops.convert_to_tensor(inner._average_gradients[index]))
    return ops.sqrt(velocity + inner.epsilon)


def _adagrad(inner, variable):
    index = inner._get_variable_index(variable)
    return ops.sqrt(ops.convert_to_tensor(inner._accumulators[index]) + inner.epsilon)


METRICS = {
    keras.optimizers.SGD: _sgd,
    keras.optimizers.Adam: _adam,
    keras.optimizers.AdamW: _adam,
    keras.optimizers.Nadam: _nadam,
    keras.optimizers.Adamax: _adamax,
    keras.optimizers.RMSprop: _rmsprop,
    keras.optimizers.Adagrad: _adagrad,
}


def metric_of(inner):
    """The function that gives an optimizer's metric, or `None` if unknown.

    By exact class name up the inheritance: PyTorch's and users' subclasses of a
    known optimizer share its update, unrelated optimizers never match.
    """
    for known in type(inner).__mro__:
        if known in METRICS:
            return METRICS[known]
    return None

"""Proximal gradient descent around any Keras optimizer: what makes exact zeros."""

import functools
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from cnn_l1.process import keras_internals
from cnn_l1.sparsity import misuse
from cnn_l1.sparsity.attaching import keras_strengths, was_frozen
from cnn_l1.sparsity.groups import CoupledGroupL1
from cnn_l1.sparsity.hold_zeros import HoldZeros
from cnn_l1.sparsity.penalty import PACKAGE, Penalty
from cnn_l1.sparsity.step_sizes import METRICS, metric_of
from cnn_l1.sparsity.tensorflow_only import replica_count

__all__ = ["HoldZeros", "Proximal"]


@keras.saving.register_keras_serializable(package=PACKAGE)
class Proximal(HoldZeros):
    """Wrap an optimizer so that penalties of `cnn_l1` make exact zeros.

    After each update of the optimizer, weights that do not help enough are set to
    exactly 0 (proximal gradient descent). For every variable whose `regularizer` is a
    `cnn_l1` penalty, one update is

        w ← inner_update(w, gradient of the data loss)
        w ← prox of (strength_scale · penalty), with the update's own step

    The penalty stays in the reported loss; its gradient is taken out again
    before the inner optimizer sees it. Penalties over several variables
    (`attach_groups`) act once all of these are updated, with the step of each.

    **Step.** The larger the step, the more a penalty of the same strength takes off.
    With `threshold="scaled"` the step is the inner optimizer's own,
    element by element: `η / (1 − momentum)` for SGD, `η / (√v̂ + ε)` for Adam,
    AdamW, Nadam, Adamax, and likewise for RMSprop and Adagrad (the exact proximal
    step in their metric: ProxGen, Yun, Lozano and Yang, 2021, eq. 2). With
    `threshold="decoupled"` it is the scalar `η / (1 − momentum)`.

    **Where training rests.** With a scaled step, exactly where
    `0 ∈ ∇data_loss(w) + strength_scale · ∂penalty(w)` (plus the weight decay's
    term, if there is one): where the reported loss has no slope. So λ means the same
    whatever the optimizer, the learning rate and the momentum. The factor
    `1 / (1 − momentum)` belongs to it: at rest the momentum carries
    `−η∇ / (1 − momentum)` each step. With a decoupled step around Adam, training rests
    at `0 ∈ ∇data_loss(w) / (√v̂ + ε) + ∂penalty(w)` instead: a problem whose
    strength is scaled, weight by weight, by the size of past gradients. The norm in
    `GroupL1` and `CoupledGroupL1` takes one step a group: exact for SGD, and for the
    others what `GroupL1` says.

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
        variable_scales: Whether each variable's penalty can be scaled on its own,
            with `set_variable_scale`. Default `False`, which costs nothing.
        name: Name of the optimizer.

    Attributes:
        strength_scale: Variable, 1.0 at the start, by which every penalty's
            proximal step is multiplied; `StrengthRamp` and `TargetSparsity` move it.
        variable_scales: Variable with one scale a trainable variable, all 1.0 at the
            start, once the optimizer is built; `None` unless asked for.

    Raises:
        ValueError: If an argument is not one of the above, or `"scaled"` is
            asked for around an optimizer whose metric is not known; on use, if a
            penalty over several variables meets not all of them, or more than one
            replica.

    Example:
        >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
        >>> attached = cnn_l1.attach(model, cnn_l1.L1(10.0))
        >>> model.compile(cnn_l1.Proximal(keras.optimizers.SGD(0.1)), "mse")
        >>> history = model.fit(np.ones((8, 4)), np.ones((8, 3)), epochs=2, verbose=0)
        >>> cnn_l1.count(model).sparsity
        1.0
    """

    def __init__(
        self,
        inner_optimizer: keras.optimizers.Optimizer,
        threshold: str = "auto",
        hold_zeros: bool = False,
        include: str = "kernels",
        penalty_in_loss: bool = True,
        variable_scales: bool = False,
        name: str | None = None,
    ) -> None:
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
        if threshold == "auto" and metric_of(self.inner_optimizer) is None:
            kind = type(self.inner_optimizer).__name__
            misuse.warn(
                f"Proximal does not know by which step {kind} moves a weight, and shrinks by "
                "learning_rate · strength alone, 10 to 1000 times less than around Adam: "
                "strengths made for Adam may do nothing. Expected one of "
                f"{', '.join(sorted(m.__name__ for m in METRICS))}, or threshold='decoupled' "
                f"with a strength found by trying. Received: inner_optimizer={kind}"
            )
        self.threshold = threshold
        self.penalty_in_loss = bool(penalty_in_loss)
        self.strength_scale = self._control("strength_scale", 1.0)
        self.variable_scales: keras.Variable | None = None
        self._has_variable_scales = bool(variable_scales)
        self._penalties: dict[Any, Any] = {}
        self._factors: dict[Any, Any] = {}
        self._groups: tuple[CoupledGroupL1, ...] = ()

    def _hook(self) -> None:
        super()._hook()

        def around(update_all: keras_internals.UpdateAll) -> keras_internals.UpdateAll:
            def hooked(grads: Any, trainable_variables: Any, learning_rate: Any) -> None:
                update_all(grads, trainable_variables, learning_rate)
                self._step_groups(trainable_variables, learning_rate)

            return hooked

        keras_internals.hook_backend_update(self.inner_optimizer, around)

    def _make_variables(self, variables: Sequence[Any]) -> None:
        if self._has_variable_scales:
            self.variable_scales = self._control("variable_scales", "ones", (len(variables),))

    def _bind_penalties(self, variables: Sequence[Any]) -> None:
        super()._bind_penalties(variables)
        self._penalties = {
            self._key(v): v.regularizer for v in variables if isinstance(v.regularizer, Penalty)
        }
        self._bind_factors(variables)
        shared = [group for penalty in self._penalties.values() for group in penalty.groups]
        self._groups = tuple(dict.fromkeys(shared))
        for group in self._groups:
            apart = [v.path for v in group.variables if group not in self._groups_of(v)]
            if apart:
                raise ValueError(
                    "Proximal expects to train all variables of a channel group, each with the "
                    f"penalty that `attach_groups` gave it. Received: {group.name!r} without "
                    f"{', '.join(apart)}"
                )

    def _bind_factors(self, variables: Sequence[Any]) -> None:
        """One variable of factors for each one whose penalty has some, in their order."""
        key = self._key
        wanted = {
            key(variable): (number, variable)
            for number, variable in enumerate(variables)
            if isinstance(variable.regularizer, Penalty) and variable.regularizer.has_factors
        }
        before = dict(self._factors)
        if wanted.keys() == before.keys():
            return
        for factors in before.values():
            keras_internals.untrack(self, factors)
        self._factors = {}
        for name, (number, variable) in wanted.items():
            # The optimizer's own, so that a compiled step on JAX sees them change too.
            if name in before:
                keras_internals.track(self, before[name])
                self._factors[name] = before[name]
            else:
                shape = tuple(variable.shape)
                self._factors[name] = self._control(f"factors_{number}", "ones", shape)

    def _check_use(self, variables: Sequence[Any]) -> None:
        l1 = [v.path for v in variables if keras_strengths(v.regularizer)[0] > 0]
        if l1:
            misuse.warn(
                f"Keras' own L1 regularizer makes no exact zeros, under Proximal neither. "
                f"Expected cnn_l1.L1(...) in its place. Received: it on {names(l1)}"
            )
        elif not self._penalties:
            misuse.warn(
                "Proximal expected variables under a penalty: call cnn_l1.attach(model, "
                "cnn_l1.L1(1e-3)), or give kernel_regularizer=cnn_l1.L1(1e-3) to the layers. "
                "Received: none, so nothing is shrunk"
            )
        frozen = [v.path for v in variables if was_frozen(v) and not self._is_penalised(v)]
        if frozen and self._penalties:
            misuse.warn(
                "Proximal expected penalties that were attached to the layers that it trains; "
                "call `attach` again after unfreezing layers. Received: no penalty on "
                f"{names(frozen)}, frozen when it was called"
            )

    def _is_penalised(self, variable: Any) -> bool:
        return isinstance(variable.regularizer, Penalty)

    def _groups_of(self, variable: Any) -> tuple:
        penalty = self._penalties.get(self._key(variable))
        return () if penalty is None else penalty.groups

    def transform_gradients(self, grads: list[Any], trainable_variables: list[Any]) -> list[Any]:
        if self._groups and replica_count() > 1:
            raise ValueError(
                "Proximal expects one replica for channel groups (`attach_groups`). "
                f"Received: {replica_count()} replicas"
            )
        # A variable that the data loss leaves out is under its group's penalty all the same.
        grads = [
            ops.zeros(variable.shape, variable.dtype)
            if grad is None and self._groups_of(variable)
            else grad
            for grad, variable in zip(grads, trainable_variables, strict=True)
        ]
        if not self.penalty_in_loss:
            return grads
        # The loss, and so the penalty in it, was scaled where this is set.
        scale = (self.inner_optimizer.loss_scale_factor or 1.0) / replica_count()
        if not self._takes_out_late():
            pairs = zip(grads, trainable_variables, strict=True)
            grads = [self._data_gradient(grad, variable, scale) for grad, variable in pairs]
        return self._without_groups(grads, trainable_variables, scale)

    def transform_late(self, gradient: Any, variable: Any) -> Any:
        if not self.penalty_in_loss or not self._takes_out_late():
            return gradient
        return self._data_gradient(gradient, variable, 1.0)

    def _takes_out_late(self) -> bool:
        """Whether the penalty's gradient can go in the fused update, not before it.

        Clipping and accumulation must see the data gradient alone.
        """
        inner = self.inner_optimizer
        clips = inner.clipnorm or inner.clipvalue or inner.global_clipnorm
        return self._can_fuse and not clips and not inner.gradient_accumulation_steps

    def _data_gradient(self, grad: Any, variable: Any, scale: float) -> Any:
        penalty = self._penalties.get(self._key(variable))
        if penalty is None or penalty.groups or grad is None or not penalty.in_gradient:
            return grad
        own = penalty.gradient(ops.convert_to_tensor(variable))
        return subtract_gradient(grad, own * scale)

    def _without_groups(
        self, grads: list[Any], trainable_variables: list[Any], scale: float
    ) -> list[Any]:
        """Take out the groups' gradients: always early, while no variable is updated."""
        key = self._key
        position = {key(variable): i for i, variable in enumerate(trainable_variables)}
        for group in self._groups:
            # The group's value is in the loss through its first variable.
            if not self._penalties[key(group.variables[0])].in_gradient:
                continue
            for variable, own in zip(group.variables, group.gradients(), strict=True):
                i = position.get(key(variable))
                if i is not None:
                    grads[i] = subtract_gradient(grads[i], own * scale)
        return grads

    def transform_update(self, variable: Any, learning_rate: Any) -> Any:
        value = ops.convert_to_tensor(variable)
        penalty = self._penalties.get(self._key(variable))
        if penalty is None or penalty.groups:
            return value
        return penalty.prox(value, self._penalty_step(variable, learning_rate))

    def _step_groups(self, trainable_variables: Sequence[Any], learning_rate: Any) -> None:
        updated = {self._key(v) for v in trainable_variables}
        for number, group in enumerate(self._groups):
            missing = [v.path for v in group.variables if self._key(v) not in updated]
            if len(missing) == len(group.variables):
                continue
            if missing:
                raise ValueError(
                    "Proximal expects the gradients of all variables of a channel group in one "
                    f"call. Received: {group.name!r} without {', '.join(missing)}"
                )
            step = functools.partial(self._step_group, group)
            self._in_one_pass(f"group_{number}", group.sizes.sum(), step, learning_rate)

    def _step_group(self, group: CoupledGroupL1, learning_rate: Any) -> None:
        """The proximal step of a group, on all of its variables together."""
        steps = [self._penalty_step(v, learning_rate) for v in group.variables]
        stepped = group.prox_all(group.values(), steps)
        for variable, value in zip(group.variables, stepped, strict=True):
            self.inner_optimizer.assign(variable, value)

    def _penalty_step(self, variable: Any, learning_rate: Any) -> Any:
        step = self.step_size(variable, learning_rate)
        scale = ops.cast(self.strength_scale, variable.dtype)
        if self.variable_scales is not None:
            index = keras_internals.variable_index(self, variable)
            scale = scale * ops.cast(self.variable_scales, variable.dtype)[index]
        factors = self._factors.get(self._key(variable))
        if factors is not None:
            scale = scale * ops.cast(factors, variable.dtype)
        return step * scale

    def reweight(self) -> int:
        """Refresh the factors of every weight under `ReweightedL1`: see `Reweight`.

        Returns:
            How many variables have such weights.
        """
        for variable in keras_internals.optimized_variables(self):
            key = self._key(variable)
            if key in self._factors:
                self._factors[key].assign(self._penalties[key].factors(variable))
        return len(self._factors)

    def variable_scale(self, variable: Any) -> float:
        """What one variable's penalty is multiplied by next to `strength_scale`, a float."""
        if self.variable_scales is None:
            return 1.0
        index = keras_internals.variable_index(self, variable)
        return float(ops.convert_to_numpy(self.variable_scales)[index])

    def set_variable_scale(self, variable: keras.Variable, scale: float) -> None:
        """Multiply one variable's penalty by `scale`, next to `strength_scale`.

        Args:
            variable: A trainable variable that the optimizer is built for.
            scale: Float, 0 or more; 1.0 at the start.

        Raises:
            ValueError: If the optimizer was not made with `variable_scales=True`, or
                is not built.
        """
        if self.variable_scales is None:
            raise ValueError(
                "`set_variable_scale` expects a built Proximal(variable_scales=True). "
                f"Received: variable_scales={self._has_variable_scales}, built={self.built}"
            )
        scales = ops.convert_to_numpy(self.variable_scales).copy()
        scales[keras_internals.variable_index(self, variable)] = scale
        self.variable_scales.assign(scales)

    def step_size(self, variable: Any, learning_rate: Any) -> Any:
        """The step of the update just made: a scalar, or of the variable's shape."""
        inner = self.inner_optimizer
        metric = None if self.threshold == "decoupled" else metric_of(inner)
        step = ops.cast(learning_rate, variable.dtype)
        step = step / (1.0 - float(getattr(inner, "momentum", 0.0) or 0.0))
        if metric is None:
            return step
        correction, denominator = metric(inner, variable)
        return step * correction / denominator  # scalars first: one division a weight

    def get_config(self) -> dict[str, Any]:
        config = super().get_config()
        config.update(
            threshold=self.threshold,
            penalty_in_loss=self.penalty_in_loss,
            variable_scales=self._has_variable_scales,
        )
        return config


def names(paths: Sequence[str]) -> str:
    """A few paths, for a message."""
    more = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return ", ".join(paths[:5]) + more


def subtract_gradient(grad: Any, own: Any) -> Any:
    """A gradient without a part of it, in the gradient's dtype."""
    grad = ops.convert_to_tensor(grad)  # an embedding's may be sparse
    return grad - ops.cast(own, grad.dtype)

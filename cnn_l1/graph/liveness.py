"""Which channels the outputs of a model depend on, and why others stay."""

import copy
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from keras import layers

from cnn_l1.graph.channel_labels import Analysis, Array
from cnn_l1.graph.kernel_rules import WeightedLayer
from cnn_l1.graph.reading import Call, Value


@dataclasses.dataclass(frozen=True)
class ReadingLayer:
    """A weighted layer, and which of its output channels depend on which input channels.

    Attributes:
        call: The first of its calls.
        inputs: `(in_channels,)` labels that it reads.
        outputs: `(out_channels,)` labels that it makes.
        needs: `(in_channels, out_channels)` booleans: the output depends on the input,
            which is no constant that the layer can take into its bias.
        blocked: `(in_channels,)` booleans: a constant that it cannot take into its bias.
    """

    call: Call
    inputs: Array
    outputs: Array
    needs: Array
    blocked: Array


class Liveness:
    """The labels that the outputs depend on, and why they stay.

    Attributes:
        live: For each label, whether it stays; final after `settle`.
        reasons: `{label: why it stays}`, `""` where a live channel reads it.
        vanished: Values without a channel, which go as a whole.
        calls: The calls that the outputs depend on.
        readers: The weighted layers among them, from the outputs backwards.
    """

    def __init__(self, analysis: Analysis) -> None:
        self.analysis = analysis
        self.calls = analysis.needed_calls()
        self.live = np.zeros(analysis.count, bool)
        self.reasons: dict[int, str] = {}
        self.vanished: set[Value] = set()
        for labels, reason in analysis.pins:
            self.mark(labels, reason)
        self.readers = self._readers()

    def mark(self, labels: Array, reason: str) -> None:
        """Keep labels, for a reason."""
        for label in labels[~self.live[labels]]:
            self.reasons.setdefault(int(label), reason)
        self.live[labels] = True

    def without(self, labels: Array) -> "Liveness":
        """Liveness as it was before `settle`, of a network in which these channels are zero.

        Args:
            labels: The channels' labels. All layers can do without them.
        """
        alive = np.ones(self.analysis.count, bool)
        alive[labels] = False
        found = copy.copy(self)
        found.live, found.reasons = self.live.copy(), {}
        found.readers = [
            dataclasses.replace(
                reader, needs=reader.needs & alive[reader.inputs][:, None] & alive[reader.outputs]
            )
            for reader in self.readers
        ]
        return found

    def _readers(self) -> list[ReadingLayer]:
        analysis = self.analysis
        by_layer: dict[int, list] = {}
        for call in self.calls:
            rule = analysis.rules[call]
            if isinstance(rule, WeightedLayer) and rule.reads and analysis.has_labels(call):
                by_layer.setdefault(id(call.operation), []).append(call)
        readers = []
        for calls in by_layer.values():
            call, layer = calls[0], calls[0].operation
            rule = weighted_rule(analysis, call)
            read, own = (analysis.layer_labels[id(layer), role] for role in ("read", "own"))
            table = rule.table(layer)
            constants = folded_constants(analysis, calls)
            folds = rule.foldable(layer, constants)
            needs = (table != 0) & ~folds[:, None]
            blocked = np.isfinite(constants) & ~folds
            readers.append(ReadingLayer(call, read, own, needs, blocked))
        return readers[::-1]  # from the outputs backwards

    def spread(self) -> None:
        """Mark all that live channels read, until nothing is new."""
        counted: dict[int, int] = {}
        changed = True
        while changed:
            changed = False
            for position, reader in enumerate(self.readers):
                read, blocked = reader.inputs, reader.blocked
                alive = self.live[reader.outputs]
                if counted.get(position) == alive.sum():
                    continue
                counted[position] = alive.sum()
                needed = reader.needs[:, alive].any(axis=1)
                new = needed & ~self.live[read]
                if new.any():
                    changed = True
                    name = reader.call.name
                    pads = f"a constant that {name}, which pads, cannot take into its bias"
                    self.mark(read[new & blocked], pads)
                    self.mark(read[new & ~blocked], "")

    def settle(self, round_to: int, allow_empty: bool) -> None:
        """Spread, then keep what must stay for other reasons than being read."""
        self.spread()
        while True:
            self.vanished = self._vanishing() if allow_empty else set()
            if not (self._keep_one() or self._round(round_to)):
                return
            self.spread()

    def _making(self) -> Iterator[ReadingLayer]:
        """The layers that make channels and do not vanish."""
        for reader in self.readers:
            if reader.call.outputs[0] not in self.vanished:
                yield reader

    def _keep_one(self) -> bool:
        """Keep one channel of a layer that has none left; whether there was one."""
        for reader in self._making():
            if not self.live[reader.outputs].any():
                self.mark(self._cheapest(reader)[:1], "the last channel of a layer stays")
                return True
        return False

    def _round(self, round_to: int) -> bool:
        """Keep more channels, until their counts are multiples; whether any was added."""
        added = False
        for reader in self._making():
            own = reader.outputs
            distinct = sorted(set(own.tolist()))
            alive = [label for label in distinct if self.live[label]]
            # A label may stand for several channels of the layer: count channels.
            while int(self.live[own].sum()) % round_to and len(alive) < len(distinct):
                chosen = self._cheapest(reader)[:1]
                self.mark(chosen, f"channel counts stay multiples of {round_to}")
                alive.append(int(chosen[0]))
                added = True
        return added

    def _cheapest(self, reader: ReadingLayer) -> Array:
        """Labels that are gone, those first that read nothing themselves."""
        own = reader.outputs
        gone = ~self.live[own]
        reads = np.any(reader.needs, axis=0)
        order = np.argsort(reads[gone], kind="stable")
        return own[gone][order]

    def _vanishing(self) -> set[Value]:
        """Values without a channel that only concatenations read, which drop them."""
        shared: dict[int, int] = {}
        for call in self.calls:
            shared[id(call.operation)] = shared.get(id(call.operation), 0) + 1
        staying: set[int] = set()
        while True:
            vanished = self._vanishing_but(staying)
            gone: dict[int, int] = {}
            for call in self.calls:
                key = id(call.operation)
                gone[key] = gone.get(key, 0) + (call.outputs[0] in vanished)
            # A layer vanishes with all of its calls or with none.
            torn = {key for key, count in gone.items() if 0 < count < shared[key]}
            if not torn:
                return vanished
            staying |= torn

    def _vanishing_but(self, staying: set[int]) -> set[Value]:
        """`_vanishing`, where the layers `staying` by id stay."""
        vanished: set[Value] = set()
        analysis = self.analysis
        outputs = {analysis.resolve(value) for value in analysis.graph.outputs}
        readers: dict = {}
        for call in self.calls:
            for value in analysis.inputs_left(call):
                readers.setdefault(value, []).append(call)

        def empty(value: Value) -> bool:
            return not self.live[analysis.labels[value]].any()

        for call in reversed(self.calls):
            value = call.outputs[0]
            stays = id(call.operation) in staying or value in outputs
            if len(call.outputs) > 1 or not empty(value) or stays:
                continue
            if all(
                reader.outputs[0] in vanished
                or (type(reader.operation) is layers.Concatenate and not empty(reader.outputs[0]))
                for reader in readers.get(value, ())
            ):
                vanished.add(value)
        return vanished


def weighted_rule(analysis: Analysis, call: Call) -> WeightedLayer:
    """The rule of a call of a weighted layer."""
    rule = analysis.rules[call]
    assert isinstance(rule, WeightedLayer)
    return rule


def folded_constants(analysis: Analysis, calls: Sequence[Call]) -> Array:
    """The constant that each input channel of a layer has in all of its calls."""
    rule = weighted_rule(analysis, calls[0])
    found = [
        analysis.constants_along(call.inputs[0], rule.axis(call.operation, call.inputs[0]))
        for call in calls
    ]
    constants = found[0]
    for others in found:
        constants = np.where(constants == others, constants, np.nan)
    return constants

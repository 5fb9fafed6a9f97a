"""Which channels the outputs of a model depend on, and why others stay."""

import numpy as np
from keras import layers


class Liveness:
    """The labels that the outputs depend on, and why they stay."""

    def __init__(self, analysis):
        self.analysis = analysis
        self.calls = analysis.needed_calls()
        self.live = np.zeros(analysis.count, bool)
        self.reasons: dict[int, str] = {}
        self.vanished: set = set()
        for labels, reason in analysis.pins:
            self.mark(labels, reason)
        self.readers = self._readers()

    def mark(self, labels, reason):
        for label in labels[~self.live[labels]]:
            self.reasons.setdefault(int(label), reason)
        self.live[labels] = True

    def _readers(self):
        """`(call, read labels, own labels, needs, blocked)` of each reading layer.

        `needs[i, o]`: output `o` depends on input `i`, which cannot be folded.
        """
        analysis = self.analysis
        by_layer: dict[int, list] = {}
        for call in self.calls:
            rule = analysis.rules[call]
            if rule is not None and rule.reads and analysis.has_labels(call):
                by_layer.setdefault(id(call.operation), []).append(call)
        readers = []
        for calls in by_layer.values():
            call, layer = calls[0], calls[0].operation
            rule = analysis.rules[call]
            read, own = (analysis.layer_labels[id(layer), role] for role in ("read", "own"))
            table = rule.table(layer)
            constants = folded_constants(analysis, calls)
            folds = rule.foldable(layer, constants)
            needs = (table != 0) & ~folds[:, None]
            blocked = np.isfinite(constants) & ~folds
            readers.append((call, read, own, needs, blocked))
        return readers[::-1]  # from the outputs backwards

    def spread(self):
        """Mark all that live channels read, until nothing is new."""
        counted: dict[int, int] = {}
        changed = True
        while changed:
            changed = False
            for position, (call, read, own, needs, blocked) in enumerate(self.readers):
                alive = self.live[own]
                if counted.get(position) == alive.sum():
                    continue
                counted[position] = alive.sum()
                needed = needs[:, alive].any(axis=1)
                new = needed & ~self.live[read]
                if new.any():
                    changed = True
                    pads = f"a constant that {call.name}, which pads, cannot take into its bias"
                    self.mark(read[new & blocked], pads)
                    self.mark(read[new & ~blocked], "")

    def settle(self, round_to, allow_empty):
        """Spread, then keep what must stay for other reasons than being read."""
        self.spread()
        while True:
            self.vanished = self._vanishing() if allow_empty else set()
            if not (self._keep_one() or self._round(round_to)):
                return
            self.spread()

    def _own(self):
        """`(call, own labels)` of needed layers that make channels."""
        for call, _, own, _, _ in self.readers:
            if call.outputs[0] not in self.vanished:
                yield call, own

    def _keep_one(self):
        """Keep one channel of a layer that has none left; whether there was one."""
        for call, own in self._own():
            if not self.live[own].any():
                self.mark(self._cheapest(call, own)[:1], "the last channel of a layer stays")
                return True
        return False

    def _round(self, round_to):
        added = False
        for call, own in self._own():
            distinct = sorted(set(own.tolist()))
            alive = [label for label in distinct if self.live[label]]
            # A label may stand for several channels of the layer: count channels.
            while int(self.live[own].sum()) % round_to and len(alive) < len(distinct):
                chosen = self._cheapest(call, own)[:1]
                self.mark(chosen, f"channel counts stay multiples of {round_to}")
                alive.append(int(chosen[0]))
                added = True
        return added

    def _cheapest(self, call, own):
        """Labels that are gone, those first that read nothing themselves."""
        gone = ~self.live[own]
        reads = next(needs for c, _, _, needs, _ in self.readers if c is call).any(axis=0)
        order = np.argsort(reads[gone], kind="stable")
        return own[gone][order]

    def _vanishing(self):
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

    def _vanishing_but(self, staying):
        """`_vanishing`, where the layers `staying` by id stay."""
        vanished: set = set()
        analysis = self.analysis
        outputs = {analysis.resolve(value) for value in analysis.graph.outputs}
        readers: dict = {}
        for call in self.calls:
            for value in analysis.inputs_left(call):
                readers.setdefault(value, []).append(call)

        def empty(value):
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


def folded_constants(analysis, calls):
    """The constant that each input channel of a layer has in all of its calls."""
    rule, constants = analysis.rules[calls[0]], None
    for call in calls:
        value = call.inputs[0]
        found = analysis.constants_along(value, rule.axis(call.operation, value))
        if constants is None:
            constants = found
        constants = np.where(constants == found, constants, np.nan)
    return constants

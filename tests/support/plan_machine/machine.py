"""Random plans on a whole, its parts and groups, against a reference that knows only the rules.

The reference: of the plans over a parameter the latest that has a rule for it decides; where none
has, the flag is the one that somebody else last wrote. A norm holds still while a plan covers it
and all its own parameters are frozen.
"""

from __future__ import annotations

import random
from collections import Counter

import unifreeze as uf
from unifreeze._plan.document import read_document
from unifreeze.errors import FrozenDriftError, UnifreezeError

REFUSED = "refused"


class Plan:
    """A plan in force, as the reference sees it: decisions by identity, phase by phase.

    Attributes:
        made: When it was applied.
        decisions: What its rules say, by identity.
        known: Identities of the parameters in its target.
        norms: Identities of the norms it covers.
        modules: Identities of the modules in its target when it was last written.
    """

    def __init__(self, machine, handle, target, phases, made):
        self.handle, self.target, self.phases = handle, target, phases
        self.phase, self.made = 0, made
        self.look(machine)

    def look(self, machine):
        """Read the rules against the target as it is now."""
        paths, decisions = machine.paths(self.target), {}
        everything = set().union(*paths.values())
        for verb, path in self.phases[self.phase]:
            if verb == "only":
                decisions |= dict.fromkeys(everything, False)
            keys = everything if path == "all" else paths.get(path, set())
            decisions |= dict.fromkeys(keys, verb != "freeze")
        self.decisions, self.known = decisions, {id(t) for t in machine.tensors(self.target)}
        self.norms = set(map(id, machine.norms(self.target)))
        self.modules = machine.structure(self.target)


class Machine:
    """Carries out random operations, and compares flags and statistics after each."""

    def __init__(self, side, seed):
        self.side, self.random = side, random.Random(seed)
        self.whole, self.other = side.whole(), side.part()
        self.plans, self.clock, self.done = [], 0, Counter()
        self.found, self.written, self.held = {}, {}, {}
        self.alive = []
        """Every norm there has been, so that no identity is given out again."""
        self.all = {}
        """Every parameter there has been, by identity."""
        self._meet()

    # What there is ---------------------------------------------------------------------------

    def models(self):
        return self.whole, self.other

    def parameters(self, model, prefix=""):
        """Each parameter with its path, in a model."""
        return {
            ".".join(filter(None, (prefix, path, leaf))): tensor
            for path, module in self.side.modules(model).items()
            for leaf, tensor in self.side.own(module).items()
        }

    def norms(self, target):
        return [
            module
            for model in self.members(target)
            for path, module in self.side.modules(model).items()
            if path.rpartition(".")[2] == "norm"
        ]

    def structure(self, target):
        return [id(m) for model in self.members(target) for m in self.side.modules(model).values()]

    def tensors(self, target):
        return [t for model in self.members(target) for t in self.parameters(model).values()]

    def targets(self):
        whole, other = self.whole, self.other
        return {
            "whole": whole,
            "low": whole.low,
            "high": whole.high,
            "first": whole.low.first,
            "whole and other": {"one": whole, "two": other},
            "low and other": {"one": whole.low, "two": other},
            "whole by name": {"one": whole},
            "other": other,
        }

    def paths(self, target):
        """Paths of all modules and parameters of a target, with what is under each."""
        found = {}
        for prefix, model in self.prefixed(target):
            for path, tensor in self.parameters(model, prefix).items():
                pieces = path.split(".")
                for end in range(1, len(pieces) + 1):
                    found.setdefault(".".join(pieces[:end]), set()).add(id(tensor))
        return found

    @staticmethod
    def prefixed(target):
        return list(target.items()) if isinstance(target, dict) else [("", target)]

    def members(self, target):
        if isinstance(target, tuple):
            return list(target)
        return list(target.values()) if isinstance(target, dict) else [target]

    def roots(self, target):
        return frozenset(map(id, self.members(target)))

    def _meet(self):
        """Take in parameters and norms that the reference has not seen."""
        for tensor in self.tensors(self.models()):
            if id(tensor) not in self.found:
                self.all[id(tensor)] = tensor
                self.found[id(tensor)] = self.written[id(tensor)] = self.side.get(tensor)
        for norm in self.norms(self.models()):
            if id(norm) not in self.held:
                self.alive.append(norm)
                self.held[id(norm)] = False

    # The reference ---------------------------------------------------------------------------

    def decider(self, key):
        latest_first = sorted(self.plans, key=lambda plan: -plan.made)
        return next((plan for plan in latest_first if key in plan.decisions), None)

    def decision(self, key):
        plan = self.decider(key)
        return self.found[key] if plan is None else plan.decisions[key]

    def write(self, target, departed=frozenset()):
        """A plan over a target has been written, or ended; what had left it is let go."""
        for key in {*map(id, self.tensors(target)), *departed}:
            self.written[key] = self.decision(key)
            self.touched.add(key)
        for norm in self.norms(target):
            covered = any(id(norm) in plan.norms for plan in self.plans)
            own = self.side.own(norm).values()
            self.held[id(norm)] = covered and not any(self.decision(id(t)) for t in own)

    def notice(self, target, plan=None):
        """What others have written since is as found; returns what has left a plan's target."""
        present = set(map(id, self.tensors(target)))
        departed = plan.known - present if plan else frozenset()
        for key in present | departed:
            if self.flags_before[key] != self.written[key]:
                self.found[key] = self.flags_before[key]
        return departed

    # The operations --------------------------------------------------------------------------

    def rules(self, target):
        paths = ["all", *self.paths(target)]
        count = self.random.choice((1, 1, 2, 3))
        verbs = ("freeze", "train", "only")
        return [(self.random.choice(verbs), self.random.choice(paths)) for _ in range(count)]

    def document(self, phases, target):
        def written(rules):
            texts = [
                (then, path if path == "all" else f'path:"{path}"')
                for verb, named in rules
                for then, path in [(verb, named), *self.one_by_one(verb, named, target)]
            ]
            return [{verb: text, "optional": True} for verb, text in texts]

        if len(phases) == 1:
            return {"unifreeze": 1, "rules": written(phases[0])}
        made = [{"name": f"p{n}", "rules": written(rules)} for n, rules in enumerate(phases)]
        for number in range(1, len(made)):
            made[number]["at"] = {"epoch": number}
        return {"unifreeze": 1, "phases": made}

    def one_by_one(self, verb, named, target):
        """What a rule trains, each parameter once more by its own name.

        A parameter that was found frozen on its own may be a constant of the network, which only a
        rule about it trains; constants have tests of their own.
        """
        if verb == "freeze":
            return []
        names = {
            f"{prefix}.{path}".lstrip(".")
            for prefix, model in self.prefixed(target)
            for path in self.parameters(model)
        }
        return [
            ("train", n) for n in sorted(names) if named in ("all", n) or n.startswith(f"{named}.")
        ]

    def apply(self):
        name, target = self.random.choice(list(self.targets().items()))
        phases = [self.rules(target) for _ in range(self.random.choice((1, 1, 1, 2)))]
        plan = read_document(self.document(phases, target), source="test")
        try:
            handle = plan.apply(target)
        except UnifreezeError:
            return REFUSED
        roots = self.roots(target)
        old = next((plan for plan in self.plans if self.roots(plan.target) == roots), None)
        departed = self.notice(target, old)
        self.clock += 1
        self.plans = [plan for plan in self.plans if plan is not old]
        self.plans.append(Plan(self, handle, target, phases, self.clock))
        self.write(target, departed)
        return f"apply to {name}"

    def remove(self):
        if not self.plans:
            return REFUSED
        plan = self.plans.pop(self.random.randrange(len(self.plans)))
        departed = self.notice(plan.target, plan)
        plan.handle.remove()
        self.write(plan.target, departed)
        return "remove"

    def advance(self):
        phased = [p for p in self.plans if p.phase + 1 < len(p.phases)]
        if not phased:
            return REFUSED
        plan = self.random.choice(phased)
        try:
            plan.handle.optimizer(self.side.sgd, lr=0.1)
            plan.handle.step(epoch=0)
            plan.handle.step(epoch=plan.phase + 1)
        except UnifreezeError:
            return REFUSED
        plan.phase += 1
        return self._written_again(plan, "next phase")

    def reapply(self):
        if not self.plans:
            return REFUSED
        plan = self.random.choice(self.plans)
        try:
            plan.handle.reapply()
        except UnifreezeError:
            return REFUSED
        return self._written_again(plan, "reapply")

    def _written_again(self, plan, what):
        departed = self.notice(plan.target, plan)
        plan.look(self)
        self.write(plan.target, departed)
        return what

    def replace(self):
        part = self.random.choice((self.whole.low, self.whole.high, self.other))
        if self.random.random() < 0.5:
            part.first = self.side.linear()
        else:
            part.norm = self.side.part().norm
        self._meet()
        return "layer replaced"

    def flip(self):
        tensor = self.random.choice(self.tensors(self.models()))
        self.side.put(tensor, not self.side.get(tensor))
        return "flag flipped by hand"

    def train(self):
        """An optimizer moves whatever trains; what was thawed by hand is another test's."""
        for tensor in self.tensors(self.models()):
            if self.side.get(tensor) and self.decision(id(tensor)):
                self.side.nudge(tensor)
        return "trained"

    def copy(self):
        """A copy is a model of its own, with the flags and the held norms of the original."""
        for other in self.side.copies(self.whole):
            flags = [self.side.get(tensor) for tensor in self.tensors(other)]
            assert flags == [self.side.get(tensor) for tensor in self.tensors(self.whole)]
            held = [self.held[id(norm)] for norm in self.norms(self.whole)]
            assert self.still(other) == held
            handle = uf.FreezePlan().train("all").apply(other)
            assert not any(self.still(other))
            handle.remove()
            assert flags == [self.side.get(tensor) for tensor in self.tensors(other)]
            assert self.still(other) == held
        return "copy"

    # The comparison --------------------------------------------------------------------------

    def flags(self):
        return {key: self.side.get(tensor) for key, tensor in self.all.items()}

    def step(self):
        weights = {
            self.apply: 6, self.remove: 3, self.advance: 2, self.reapply: 1, self.flip: 2,
            self.train: 1, self.copy: 0.3, self.replace: 0.5,
        }  # fmt: skip
        operation = self.random.choices(list(weights), list(weights.values()))[0]
        self.flags_before, self.touched = self.flags(), set()
        done = operation()
        self.done[done] += 1
        if operation != self.flip:
            self.check_flags(done)
            self.check_statistics(done)
        self.check_verify(done)

    def check_flags(self, done):
        """A flag is as the plans written just now have it, or else as it was."""
        now = self.flags()
        for key, flag in now.items():
            known = self.written if key in self.touched else self.flags_before
            assert flag == known.get(key, flag), (done, key)

    def still(self, target):
        """For each norm, whether a forward pass in training mode leaves its statistics alone."""
        norms = self.norms(target)
        before = [self.side.statistics(norm) for norm in norms]
        for model in self.members(target):
            self.side.forward(model)
        return [self.side.statistics(n) == was for n, was in zip(norms, before, strict=True)]

    def check_statistics(self, done):
        held = [self.held[id(norm)] for norm in self.norms(self.models())]
        assert self.still(self.models()) == held, done

    def check_verify(self, done):
        """Each plan finds exactly what it answers for and somebody has thawed."""
        for plan in self.plans:
            if plan.modules != self.structure(plan.target):
                continue  # a layer was replaced: that is told, too, but not counted here
            frozen = [t for t in self.tensors(plan.target) if self.answers(plan, id(t))]
            thawed = [t for t in frozen if self.side.get(t)]
            switched = [t for t in self.tensors(plan.target) if self.is_switched_off(plan, t)]
            checked, kinds = self.verified(plan)
            assert checked == len(frozen), done
            wanted = ["thawed"] * len(thawed) + ["switched off"] * len(switched)
            assert sorted(kinds) == sorted(wanted), done

    def is_switched_off(self, plan, tensor):
        """Tell whether somebody has frozen what a plan trains, and no other plan has a say."""
        decided = self.decider(id(tensor)) in (None, plan)
        return decided and self.written[id(tensor)] and not self.side.get(tensor)

    @staticmethod
    def verified(plan):
        """What a plan's verification says: how many it checked, and each kind of drift."""
        checked = len(plan.handle._in_force.baseline.parameters)
        try:
            assert plan.handle.verify().parameters == checked
        except FrozenDriftError as error:
            return checked, [drift.kind for drift in error.drifts]
        return checked, []

    def answers(self, plan, key):
        """Tell whether a plan has a parameter frozen, and no other plan has a say."""
        decider = self.decider(key)
        if decider is None:
            return not self.found[key]
        return decider is plan and not plan.decisions[key]

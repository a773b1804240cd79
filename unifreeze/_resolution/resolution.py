"""What a plan decides for one model: every parameter, and the rule that decided it."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unifreeze._arguments import checked_methods
from unifreeze._pictures import freeze_map, html_of
from unifreeze._plan import FreezePlan
from unifreeze._resolution.held_by import Grounds
from unifreeze._resolution.table_rows import TrainedRows
from unifreeze._structure import Mask, ModelSpec
from unifreeze._tables import one_line
from unifreeze.errors import ResolveError, UnmatchedSelectorError, counted, nearest

if TYPE_CHECKING:
    from unifreeze._pictures import Picture


class RuleEffect(NamedTuple):
    """What one rule did.

    Attributes:
        text: The rule as written.
        matched: How many parameters it matched.
        decided: Of those, how many no later rule overruled.
        values: How many values the decided ones hold.
    """

    text: str
    matched: int
    decided: int
    values: int


@checked_methods
@dataclass(frozen=True, eq=False)
class Resolution:
    """A plan resolved against a model; the model is not touched.

    Arrays run over the spec's parameters, in order of registration.

    Attributes:
        plan: The plan.
        spec: The model's description.
        trainable: The decision for each parameter.
        rule: For each parameter, the number of the rule that decided, -1 where none matched.
        effects: What each rule did.
        held: Numbers of modules whose statistics and other training-time state hold still.
        quiet: Numbers of modules that run in inference mode because `dropout` is off.
        lr_scale: For each parameter, the factor on its learning rate.
        weight_decay: For each parameter, its weight decay, NaN for the optimizer's own.
        notices: What the user should know though it is not a mistake.
        covered: For each module, whether a plan in force covers it; None where every module is.
        rows: Tables of which only some rows train; the tables themselves count as trainable.

    >>> plan.resolve(model)
    <unifreeze.Resolution: 2 of 14 parameters of torch trainable under FreezePlan().only("head")>
    >>> print(plan.resolve(model))
    trainable params: 21 || all params: 213 || trainable%: 9.8592
    2 of 14 parameters trainable, 2 layers hold their statistics and other state
      rule 1  only: head: matches 2, decides 14 (213 values)
    """

    plan: FreezePlan
    spec: ModelSpec
    trainable: Mask
    rule: NDArray[np.intp]
    effects: tuple[RuleEffect, ...]
    held: tuple[int, ...]
    quiet: tuple[int, ...]
    lr_scale: NDArray[np.float64]
    weight_decay: NDArray[np.float64]
    notices: tuple[str, ...]
    covered: Mask | None = None
    rows: tuple[TrainedRows, ...] = ()

    @classmethod
    def without_plan(cls, spec: ModelSpec) -> Resolution:
        """Return the resolution of a model that no plan covers: all of it stays as found."""
        count, modules = len(spec), len(spec.tree.paths)
        return cls(
            FreezePlan(),
            spec,
            spec.found,
            np.full(count, -1, np.intp),
            (),
            (),
            (),
            np.ones(count),
            np.full(count, np.nan),
            (),
            np.zeros(modules, np.bool_),
        )

    @cached_property
    def decided(self) -> Mask:
        """For each parameter, whether a rule decided it."""
        return np.asarray(self.rule >= 0, np.bool_)

    @cached_property
    def frozen_paths(self) -> tuple[str, ...]:
        """Native paths of the frozen parameters.

        >>> plan.resolve(model).frozen_paths[0]
        'blocks.0.first.weight'
        """
        return self._paths(~self.trainable)

    @cached_property
    def kept_paths(self) -> tuple[str, ...]:
        """Native paths of the frozen parameters whose bits stay as they are."""
        return self._paths(~self.trainable & ~self.written)

    @cached_property
    def written(self) -> Mask:
        """For each parameter, whether its layer writes to it during training, though it is frozen.

        Code books are an example: constants that no rule decides, in a layer whose state moves.
        """
        written = np.zeros(len(self.spec), np.bool_)
        moving = {state.owner for state in self.spec.states if state.moves}.difference(self.held)
        if not moving:
            return written
        grounds = Grounds(self.spec, self.trainable, self.decided)
        for owner in moving:
            written[self.spec.tensor_of[grounds.constants_of(owner)]] = True
        return written

    @cached_property
    def trainable_paths(self) -> tuple[str, ...]:
        """Native paths of the trainable parameters.

        >>> plan.resolve(model).trainable_paths
        ('head.weight', 'head.bias')
        """
        return self._paths(self.trainable)

    def _paths(self, mask: Mask) -> tuple[str, ...]:
        return tuple(self.spec.paths_of(np.flatnonzero(mask)))

    @cached_property
    def frozen_names(self) -> tuple[str, ...]:
        """Canonical names of the frozen parameters, in canonical order.

        >>> plan.resolve(model).frozen_names[0]
        'blocks.0/linear.0/weight'
        """
        return self._canonical(~self.trainable)

    @cached_property
    def trainable_names(self) -> tuple[str, ...]:
        """Canonical names of the trainable parameters, in canonical order.

        >>> plan.resolve(model).trainable_names
        ('head/linear.0/weight', 'head/linear.0/bias')
        """
        return self._canonical(self.trainable)

    def _canonical(self, mask: Mask) -> tuple[str, ...]:
        spec = self.spec
        order = spec.canonical_order
        return tuple(spec.canonical[spec.first_names[n]] for n in order[mask[order]])

    def counts(self) -> tuple[int, int]:
        """Return the number of trainable values, and of all.

        >>> plan.resolve(model).counts()
        (21, 213)
        """
        counts = self.spec.counts
        return int(counts[self.trainable].sum()), int(counts.sum())

    def why(self, pattern: str) -> list[str]:
        """Say which rule decided each parameter whose native or canonical name matches a glob.

        Raises:
            UnmatchedSelectorError: No name matches.

        >>> plan.resolve(model).why("head.bias")
        ['head.bias  head/linear.0/bias  trainable by rule 1 (only: head)']
        """
        lines = []
        for number in self.spec.canonical_order:
            parameter = self.spec.parameters[number]
            names = (parameter.name, parameter.path, *parameter.aliases)
            if any(fnmatchcase(name, pattern) for name in names):
                lines.append(f"{parameter.path}  {parameter.name}  {self.reason(number)}")
        if not lines:
            known = [*self.spec.tree.names, *self.spec.canonical]
            close = nearest(pattern, known, limit=1)
            example = close[0] if close else "head.*"
            raise UnmatchedSelectorError(
                f"no parameter matches {pattern!r}",
                hint=f'a glob over native or canonical names, such as "{example}"',
            )
        return lines

    def reason(self, number: int) -> str:
        """Say what was decided for a parameter, and by what.

        Raises:
            ResolveError: There is no parameter of that number.

        >>> plan.resolve(model).reason(0)
        'frozen by rule 1 (only: head)'
        """
        if not 0 <= number < len(self.spec):
            raise ResolveError(
                f"there is no parameter {number}: the model has {len(self.spec)}",
                hint='by name: resolution.why("head.*")',
            )
        decision = "trainable" if self.trainable[number] else "frozen"
        fixed = self.spec.tensors[number].fixed
        if fixed and not self.trainable[number]:
            return f"frozen: {fixed}"
        rule = int(self.rule[number])
        if rule < 0:
            return f"{decision}: as found"
        text = f"{decision} by rule {rule + 1} ({self.effects[rule].text})"
        rows = [rows for rows in self.rows if rows.number == number]
        return f"{text}, rows {rows[0].start}:{rows[0].stop} of {rows[0].total}" if rows else text

    def to_svg(self, *, since: Resolution | None = None) -> Picture:
        """Draw it as a freeze map: modules as nested boxes, their area by number of values.

        Args:
            since: What held in the phase before; what has begun to train since then is marked.

        >>> plan.resolve(model).to_svg().save(folder / "map.svg")
        """
        return freeze_map(self, since)

    _repr_html_ = html_of

    def __repr__(self) -> str:
        trainable, spec = int(self.trainable.sum()), self.spec
        counts = f"{trainable} of {counted(len(spec), 'parameter')} of {spec.framework} trainable"
        return one_line(self, f"{counts} under {self.plan!r}")

    def __str__(self) -> str:
        trainable, total = self.counts()
        share = 100 * trainable / total if total else 0.0
        lines = [
            f"trainable params: {trainable:,} || all params: {total:,} || trainable%: {share:.4f}",
            f"{int(self.trainable.sum())} of {counted(len(self.spec), 'parameter')} trainable, "
            f"{counted(len(self.held), 'layer holds its', 'layers hold their')} statistics and "
            "other state",
        ]
        for number, effect in enumerate(self.effects, start=1):
            lines.append(
                f"  rule {number}  {effect.text}: matches {effect.matched}, "
                f"decides {effect.decided} ({counted(effect.values, 'value')})"
            )
        for part in self.plan.structure:
            lines.append(f"  structure  {part.name}: {', '.join(part.texts(self.spec.framework))}")
        lines += [f"  rows  {rows}" for rows in self.rows]
        left = int((self.rule < 0).sum())
        if left:
            lines.append(f"  left as found: {left}")
        return "\n".join([*lines, *(f"  note: {notice}" for notice in self.notices)])

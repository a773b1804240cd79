"""All errors that unifreeze raises, as one tree, and the helpers that write their messages.

    UnifreezeError
    ├── ArgumentError              a public function cannot use what it is called with
    ├── UnknownNameError           unifreeze has no public name that is spelled so
    ├── PlanError                  the plan itself cannot be used
    │   ├── SelectorSyntaxError    an expression does not parse
    │   ├── PlanFileError          a plan file has mistakes, all of them listed
    │   └── PlanVersionError       a plan file is written in another format version
    ├── ResolveError               the plan does not fit this model
    │   ├── UnmatchedSelectorError   a rule, or a path in it, matches nothing
    │   ├── UndecidedRuleError       a rule matches, but later rules overrule all of it
    │   ├── SelectorRangeError       an index or a slice goes past the end
    │   ├── SelectorScopeError       a word has no single meaning in this model
    │   ├── TieConflictError         one tensor, two names, two decisions
    │   ├── FusedTensorError         a rule would split one tensor
    │   ├── FixedParameterError      a rule would train what cannot be trained
    │   ├── OrderError               layers run in another order than they are registered
    │   ├── StructureError           a plan says of the structure what cannot be so
    │   ├── CapturedPlanError        a captured plan decides something else on this model
    │   └── TrivialPlanError         nothing, or everything, ends up frozen unsaid
    ├── BackendError               a framework cannot be used, or cannot do it
    │   ├── UnknownFrameworkError    no backend claims the model, or two do
    │   ├── MissingFrameworkError    the backend is there, its framework is not
    │   ├── DescriptionError         a model cannot be described, or not the whole of it
    │   ├── UnsupportedPlanError     this framework would get this plan wrong
    │   ├── OptimizerError           this optimizer cannot keep the promise
    │   └── WriteError               a flag or a value was not written
    ├── ScheduleError              a schedule cannot go on from here
    ├── RanksError                 processes that train together do not do the same
    ├── FrozenDriftError           what was frozen has changed
    ├── CacheError                 outputs of frozen modules cannot be kept, or are not right
    ├── ParityError                two runs do not show the same
    ├── PairingError               two models are not the same network, or a pairing is wrong
    ├── PortError                  weights cannot be carried over as they are
    ├── RecordError                a record file is cut, foreign or of another version
    ├── WeightFileError            a weight file is broken, hostile, or cannot be written
    ├── KindError                  a layer is taught in a way that cannot be right
    └── TargetError                a model, batch or device named on the command line

Every message is *fact*, then *context* (what was there instead), then *hint* (what to write).
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice

from unifreeze._brief_values import brief as brief
from unifreeze._brief_values import cut as cut
from unifreeze._short_traceback import short_traceback

LONGEST_LINE = 400
"""Characters of one line of a message; what is longer is cut in its middle."""
_MOST_COMPARED, _LONGEST_COMPARED = 20_000, 300
"""Names, and letters of a word, that are looked at for a likely spelling."""
MOST_MISTAKES = 100
"""Mistakes of a plan file that its message shows."""


class UnifreezeError(Exception):
    """Base of every error that unifreeze raises.

    Args:
        fact: What is wrong, with the names involved.
        context: What was found or available instead; may span lines.
        hint: The line that would cure it.

    >>> try:
    ...     plan.freeze("bakbone").resolve(model)
    ... except UnifreezeError as error:
    ...     print(type(error).__name__)
    UnmatchedSelectorError
    """

    def __init__(self, fact: str, *, context: str = "", hint: str = "") -> None:
        self.fact, self.context, self.hint = fact, context, hint
        lines = [*fact.splitlines(), *context.splitlines()]
        if hint:
            lines.append(f"hint: {hint}")
        super().__init__("\n  ".join(cut(line, LONGEST_LINE) for line in lines))

    def _render_traceback_(self) -> list[str]:
        """Return what IPython shows in place of all frames of the library."""
        return short_traceback(self)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(
    kind: type[UnifreezeError], args: tuple[object, ...], state: dict[str, object]
) -> UnifreezeError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class UnifreezeWarning(UserWarning):
    """Base of every warning that unifreeze issues."""


class ArgumentError(UnifreezeError, TypeError):
    """A public function cannot use what it is called with."""


class UnknownNameError(UnifreezeError, AttributeError):
    """There is no public name that is spelled so."""


class PlanError(UnifreezeError):
    """The plan itself cannot be used."""


class SelectorSyntaxError(PlanError):
    """A selector expression does not parse."""


class PlanFileError(PlanError):
    """A plan file has mistakes; all of them are listed.

    Args:
        source: The file, or what stands for it.
        mistakes: One line each: place, what is wrong, what to write.
        hint: A line that would be right.
    """

    def __init__(self, source: str, mistakes: Iterable[str], *, hint: str = "") -> None:
        self.mistakes = tuple(mistakes)
        left_out = len(self.mistakes) - MOST_MISTAKES
        more = [f"… ({left_out:,} more)"] if left_out > 0 else []
        super().__init__(
            f"{source}: {counted(len(self.mistakes), 'mistake')}",
            context="\n".join([*self.mistakes[:MOST_MISTAKES], *more]),
            hint=hint,
        )


class PlanVersionError(PlanError):
    """A plan file is written in a format version that this release does not read."""


class ResolveError(UnifreezeError):
    """The plan does not fit this model."""


class UnmatchedSelectorError(ResolveError):
    """A rule, or a path in it, matches no parameter.

    Attributes:
        part: The part of the selector that matches nothing; None if the whole matches nothing.
    """

    part: object = None


class UndecidedRuleError(ResolveError):
    """A rule matches, but later rules overrule all of it."""


class SelectorRangeError(ResolveError):
    """An index or a slice goes past the end."""


class SelectorScopeError(ResolveError):
    """A word has no single meaning in this model."""


class TieConflictError(ResolveError):
    """One tensor has two names, and they end with different decisions."""


class FusedTensorError(ResolveError):
    """A rule would freeze one part of a tensor and train another."""


class FixedParameterError(ResolveError):
    """A rule would train a parameter that cannot be trained."""


class OrderError(ResolveError):
    """A plan counted layers as they are registered, and would decide otherwise as they run."""


class StructureError(ResolveError):
    """A plan says of the model's structure what cannot be so."""


class CapturedPlanError(ResolveError):
    """A captured plan would decide something else on this model than where it was captured."""


class TrivialPlanError(ResolveError):
    """Nothing, or everything, ends up frozen, and the plan does not say so."""


class BackendError(UnifreezeError):
    """A framework cannot be used, or cannot do what the plan asks."""


class UnknownFrameworkError(BackendError):
    """No backend claims the model, or more than one does."""


class MissingFrameworkError(BackendError):
    """A framework is asked for that is not installed."""


class DescriptionError(BackendError):
    """A model cannot be described, or its description would miss parameters that it has."""


class UnsupportedPlanError(BackendError):
    """The framework would get this plan wrong; nothing was written."""


class OptimizerError(BackendError):
    """An optimizer cannot keep frozen parameters frozen, or does not know its settings."""


class WriteError(BackendError):
    """A flag did not read back as it was written, or a value was refused; all was restored."""


class ScheduleError(UnifreezeError):
    """A schedule cannot go on: a metric is missing, time goes back, or a state does not fit."""


class RanksError(UnifreezeError):
    """Processes that train one model together do not do the same, or one does nothing in time."""


class FrozenDriftError(UnifreezeError):
    """What was frozen has changed.

    Attributes:
        drifts: One entry per tensor that changed, with how.

    >>> handle = plan.apply(model)
    >>> model.load_state_dict(make_model().state_dict())
    <All keys matched successfully>
    >>> try:
    ...     handle.verify()
    ... except FrozenDriftError as error:
    ...     print(len(error.drifts) > 0)
    True
    """

    drifts: tuple[object, ...] = ()


class CacheError(UnifreezeError):
    """Outputs of frozen modules cannot be kept and given back, or what was kept is not right."""


class ParityError(UnifreezeError, AssertionError):
    """Two runs of one plan do not show the same."""


class PairingError(UnifreezeError):
    """Two models do not compute the same function, or a pairing of their tensors is wrong."""


class PortError(UnifreezeError):
    """Weights cannot be carried over: some are missing, extra, misshaped or of another dtype."""


class RecordError(UnifreezeError):
    """A record file is cut short, foreign, or of another format version."""


class WeightFileError(UnifreezeError):
    """A weight file is broken, asks for more than weights need, or cannot be written."""


class KindError(UnifreezeError):
    """A layer is taught in a way that makes no sense, contradicts itself, or is not so."""


class TargetError(UnifreezeError):
    """A model, batch or device named on the command line cannot be used."""


def nearest(word: str, candidates: Iterable[str], *, limit: int = 3) -> list[str]:
    """Return the candidates spelled most like `word`, best first."""
    few = list(islice(candidates, _MOST_COMPARED))
    return get_close_matches(word[:_LONGEST_COMPARED], few, n=limit, cutoff=0.6)


def quoted(text: str) -> str:
    r"""Put a selector into quotes that it does not contain, so that it can be copied.

    >>> quoted("head"), quoted('type:"LayerNorm"')
    ('"head"', '\'type:"LayerNorm"\'')
    """
    return f'"{text}"' if '"' not in text else f"'{text}'"


def listing(names: Iterable[str], *, limit: int = 6) -> str:
    """Join names for a message, cut after `limit` with the number left out."""
    items = list(names)
    shown = ", ".join(items[:limit])
    return shown if len(items) <= limit else f"{shown}, … ({len(items) - limit} more)"


def counted(count: int, singular: str, plural: str = "") -> str:
    """Write a number with its noun in singular or plural, and its verb if both forms are given.

    >>> counted(1, "tensor"), counted(2, "batch"), counted(1, "tensor differs", "tensors differ")
    ('1 tensor', '2 batches', '1 tensor differs')
    >>> counted(2, "epoch"), counted(1200, "value")
    ('2 epochs', '1,200 values')
    """
    hisses = singular.endswith(("s", "x", "ch", "sh")) and not singular.endswith("epoch")
    plural = plural or singular + ("es" if hisses else "s")
    return f"{count:,} {singular if count == 1 else plural}"

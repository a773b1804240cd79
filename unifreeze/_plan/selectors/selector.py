"""Selectors as Python values, which users combine by the same operators as in text."""

from __future__ import annotations

from unifreeze._arguments import checked_methods
from unifreeze._plan.selectors.expression import (
    Both,
    Either,
    Expression,
    OtherThan,
    Within,
    Without,
    check_operands,
)
from unifreeze._plan.selectors.parse import parse
from unifreeze._plan.selectors.rows import check_alone
from unifreeze.errors import SelectorSyntaxError, brief


@checked_methods
class Selector:
    """An expression whose value over a model is a set of parameters.

    Selectors form a set algebra: `|`, `&`, `-` and `~` mean the same in Python as in text, and
    either side of an operator may be text.

    Args:
        text: The expression, or a selector.

    Raises:
        SelectorSyntaxError: The text does not parse.

    >>> Selector("head") | "blocks[-2:]"
    Selector('head | blocks[-2:]')
    """

    __slots__ = ("expression",)

    expression: Expression

    def __init__(self, text: str | Selector) -> None:
        if isinstance(text, Selector):
            expression = text.expression
        elif isinstance(text, str):
            expression = parse(text)
        else:
            raise SelectorSyntaxError(
                f"a selector is text, not {brief(text)}",
                hint='for example "head | blocks[-2:]"',
            )
        object.__setattr__(self, "expression", expression)

    @classmethod
    def _of(cls, expression: Expression) -> Selector:
        check_operands(expression)
        check_alone(expression)
        selector = cls.__new__(cls)
        object.__setattr__(selector, "expression", expression)
        return selector

    def within(self, place: str) -> Selector:
        """Read this selector as if the submodule or tower at `place` were the whole model.

        Args:
            place: Path of the submodule, or the word for a tower, such as `vision`.

        >>> Selector("blocks[-1]").within("student")
        Selector('blocks[-1] in student')
        """
        return self._of(Within(self.expression, place))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Selector cannot be changed (tried to set {name})")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a Selector cannot be changed (tried to delete {name})")

    def __or__(self, other: str | Selector) -> Selector:
        return self._of(Either(self.expression, Selector(other).expression))

    def __and__(self, other: str | Selector) -> Selector:
        return self._of(Both(self.expression, Selector(other).expression))

    def __sub__(self, other: str | Selector) -> Selector:
        return self._of(Without(self.expression, Selector(other).expression))

    def __ror__(self, other: str) -> Selector:
        return Selector(other) | self

    def __rand__(self, other: str) -> Selector:
        return Selector(other) & self

    def __rsub__(self, other: str) -> Selector:
        return Selector(other) - self

    def __invert__(self) -> Selector:
        return self._of(OtherThan(self.expression))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Selector) and self.expression == other.expression

    def __hash__(self) -> int:
        return hash(self.expression)

    def __str__(self) -> str:
        return str(self.expression)

    def __repr__(self) -> str:
        return f"Selector({str(self)!r})"

    def __reduce__(self) -> tuple[type[Selector], tuple[str]]:
        return Selector, (str(self),)

"""Conditions over a configuration, such as ``optimizer == 'lamb' and batch < 256``: parsed, never run as code."""

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from optbench.config import name_of
from optbench.errors import UserError, nearest
from optbench.moved import current_key, say

_ACCEPTED = (
    "accepted: keys such as batch or optimizer.momentum, numbers, 'text', lists, and, or, not, in, not in, "
    "== != < <= > >=, + - * / // %"
)
# As YAML and the command line spell them.
_WORDS = {"true": True, "false": False, "null": None}

_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, container: item in container,
    ast.NotIn: lambda item, container: item not in container,
}
_ORDERINGS = (ast.Lt, ast.LtE, ast.Gt, ast.GtE)
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}


class _Known(dict[str, Any]):
    """The values of some keys of a configuration."""


class _OpenError(Exception):
    """The value of an expression depends on keys whose values are not known."""


@dataclass(frozen=True)
class Expression:
    """One parsed expression; make it with `Expression.parse`.

    The value of a group (``optimizer``) is the name of its choice ("lamb"). The value of a dotted name
    (``optimizer.learning_rate``) is that of the option, or None if the choice has no such option. None is neither less nor
    greater than any value, contains nothing, and arithmetic with it gives None.
    """

    text: str
    where: str
    _tree: ast.expr

    @classmethod
    def parse(cls, text: str, where: str = "") -> "Expression":
        """Parse ``text``; ``where``: its place, for messages.

        Raises UserError if it is not an expression of this small language.
        """
        try:
            if not isinstance(text, str):
                raise SyntaxError("an expression is text")
            # The lines of a YAML block are one expression.
            tree = ast.parse(" ".join(text.splitlines()).strip(), mode="eval").body
            expression = cls(text, where, tree)
            expression._check(tree)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            why = error.msg if isinstance(error, SyntaxError) else "too long or not text"
            raise UserError(f"{cls._place(text, where)}: cannot be read ({why}); {_ACCEPTED}") from error
        return expression

    def holds(self, config: Mapping[str, Any]) -> bool:
        """True if the expression holds for ``config``; raises UserError as `__call__` does."""
        return bool(self(config))

    def __call__(self, config: Mapping[str, Any]) -> Any:
        """The value of the expression for ``config``.

        Raises UserError for a key that ``config`` does not have, and for operands of incompatible types.
        """
        return self._value(self._tree, config)

    def decided(self, known: Mapping[str, Any]) -> bool | None:
        """As `holds` for every configuration with the values ``known`` of some keys; None if other keys may matter.

        known: by keys without a dot, the value of a group is the name of its choice.
        """
        try:
            return bool(self._value(self._tree, _Known(known)))
        except (_OpenError, UserError):  # the whole configuration tells an error
            return None

    @property
    def paths(self) -> set[str]:
        """The keys that the expression names, under the names of today."""
        nodes = [self._tree]
        found = set()
        while nodes:
            node = nodes.pop()
            if isinstance(node, ast.Name | ast.Attribute):
                found.add(current_key(".".join(self._path(node))))
            else:
                nodes += [part for part in ast.iter_child_nodes(node) if isinstance(part, ast.expr)]
        return found

    @staticmethod
    def _place(text: object, where: str) -> str:
        return f"{where}: {text}" if where else f"{text}"

    def _error(self, message: str) -> UserError:
        return UserError(f"{self._place(self.text, self.where)}: {message}")

    # ---- reading ----------------------------------------------------------------------------------------------------

    def _check(self, node: ast.expr) -> None:
        match node:
            case ast.Constant(value=None | bool() | int() | float() | str()):
                parts: list[ast.expr] = []
            case ast.Name() | ast.Attribute():
                self._path(node)
                parts = []
            case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.BoolOp(values=parts):
                pass
            case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
                parts = [operand]
            case ast.BinOp(left=left, op=sign, right=right) if type(sign) in _ARITHMETIC:
                parts = [left, right]
            case ast.Compare(left=left, ops=signs, comparators=rest) if all(type(s) in _COMPARISONS for s in signs):
                parts = [left, *rest]
            case _:
                raise SyntaxError(f"{ast.unparse(node)} is not allowed")
        for part in parts:
            self._check(part)

    def _path(self, node: ast.expr) -> tuple[str, ...]:
        match node:
            case ast.Name(id=name):
                return (name,)
            case ast.Attribute(value=ast.Name() | ast.Attribute() as owner, attr=name):
                return (*self._path(owner), name)
        raise SyntaxError(f"{ast.unparse(node)} is not allowed")

    # ---- evaluating -------------------------------------------------------------------------------------------------

    def _value(self, node: ast.expr, config: Mapping[str, Any]) -> Any:
        match node:
            case ast.Constant(value=value):
                return value
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return [self._value(item, config) for item in items]
            case ast.BoolOp(op=sign, values=parts):
                return self._either_or_all(parts, config, decisive=isinstance(sign, ast.Or))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                return not self._value(operand, config)
            case ast.UnaryOp(operand=operand):
                return self._arithmetic(node, operator.sub, 0, self._value(operand, config))
            case ast.BinOp(left=left, op=sign, right=right):
                function = _ARITHMETIC[type(sign)]
                return self._arithmetic(node, function, self._value(left, config), self._value(right, config))
            case ast.Compare():
                return self._comparison(node, config)
        return self._look_up(self._path(node), config)

    def _either_or_all(self, parts: list[ast.expr], config: Mapping[str, Any], decisive: bool) -> Any:
        value: Any = None
        is_open = False
        for part in parts:
            try:
                value = self._value(part, config)
            except _OpenError:
                is_open = True
                continue
            if bool(value) is decisive:
                return value
        if is_open:
            raise _OpenError
        return value

    def _arithmetic(self, node: ast.expr, function: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
        if left is None or right is None:
            return None
        # Only numbers: a text times a large number would fill the memory.
        if not (isinstance(left, int | float) and isinstance(right, int | float)):
            raise self._error(f"{ast.unparse(node)} needs numbers, and has {left!r} and {right!r}")
        try:
            return function(left, right)
        except ArithmeticError as error:
            raise self._error(f"{ast.unparse(node)}: {error}") from error

    def _comparison(self, node: ast.Compare, config: Mapping[str, Any]) -> bool:
        left = self._value(node.left, config)
        for sign, comparator in zip(node.ops, node.comparators, strict=True):
            right = self._value(comparator, config)
            if not self._compares(node, sign, left, right):
                return False
            left = right
        return True

    def _compares(self, node: ast.Compare, sign: ast.cmpop, left: Any, right: Any) -> bool:
        if isinstance(sign, _ORDERINGS) and (left is None or right is None):
            return False
        if isinstance(sign, ast.In | ast.NotIn) and right is None:
            return isinstance(sign, ast.NotIn)
        if isinstance(sign, ast.Eq | ast.NotEq) and any(isinstance(side, Mapping) for side in (left, right)):
            raise self._error(
                f"{ast.unparse(node)}: a group of several choices; accepted: 'NAME' in {ast.unparse(node.left)}"
            )
        try:
            return bool(_COMPARISONS[type(sign)](left, right))
        except TypeError as error:
            raise self._error(f"{ast.unparse(node)} cannot compare {left!r} and {right!r}") from error

    def _look_up(self, path: tuple[str, ...], config: Mapping[str, Any]) -> Any:
        if (now := current_key(".".join(path))) != ".".join(path):
            say(".".join(path))
            path = tuple(now.split("."))
        key = path[0]
        if isinstance(config, _Known) and (len(path) > 1 or key not in config):
            if len(path) == 1 and key in _WORDS:
                return _WORDS[key]
            raise _OpenError
        if key not in config:
            if len(path) == 1 and key in _WORDS:
                return _WORDS[key]
            raise self._error(f"{key}: unknown key; {nearest(key, config)} (a name is written in quotes: '{key}')")
        value: Any = config[key]
        for depth, name in enumerate(path[1:], start=1):
            if value is None:
                return None
            if not isinstance(value, Mapping):
                raise self._error(f"{'.'.join(path)}: {'.'.join(path[:depth])} is {value!r}, which has no options")
            value = value.get(name)
        if len(path) == 1 and isinstance(value, Mapping) and "name" in value:
            return name_of(value)
        return value

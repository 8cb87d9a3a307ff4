"""Check the text of a `$` expression against a small grammar, without evaluating any of it.

The text that is checked is the one that MONAI hands to `eval`: with its references put in place of their ids.
"""

from __future__ import annotations

import ast

from monai.bundle.reference_resolver import ReferenceResolver

from medldm.bundle_sandbox.errors import refuse
from medldm.bundle_sandbox.rules import ATTRIBUTES, FUNCTIONS, MAX_EXPRESSION, METHODS

REFERENCES = "__local_refs"
"""The mapping from ids to values that MONAI puts in the place of references."""

_OPERATORS = "Add Sub Mult Div FloorDiv USub UAdd Not And Or Eq NotEq Lt LtE Gt GtE Is IsNot In NotIn"
_PLAIN = "Expression BinOp UnaryOp BoolOp Compare IfExp List Tuple Subscript Slice Load"
"""Nodes whose parts are checked, and that do nothing beyond them."""
_METHODS = "these may be called: " + ", ".join(f"{name} with {count}" for name, count in METHODS.items())


def parse_expression(text: str, *, key: str) -> ast.Expression:
    """Parse and check the text of an expression.

    Args:
        text: begins with "$".
        key: where it stands, for the error.

    Raises:
        ConfigRefused: naming the first part that is outside the grammar.
    """
    if len(text) > MAX_EXPRESSION:
        raise refuse(key, f"an expression of {len(text)} characters; {MAX_EXPRESSION} are read")
    ids = ReferenceResolver.match_refs_pattern(text)
    source = str(ReferenceResolver.update_refs_pattern(text, dict.fromkeys(ids)))[1:]
    try:
        tree = ast.parse(source, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise refuse(key, f"{text!r} is not an expression of values and references") from error
    problem = _first_problem(tree)
    if problem is not None:
        raise refuse(key, f"{text!r} {problem}")
    return tree


def reference_of(node: ast.AST) -> str | None:
    """Return the id that a node refers to; None if it is no reference."""
    if (
        isinstance(node, ast.Subscript)
        and isinstance(node.value, ast.Name)
        and node.value.id == REFERENCES
        and isinstance(node.slice, ast.Constant)
        and isinstance(node.slice.value, str)
    ):
        return node.slice.value
    return None


def _first_problem(node: ast.AST) -> str | None:
    if reference_of(node) is not None or _is_one_of(node, _OPERATORS):
        return None
    if isinstance(node, ast.Constant):
        is_plain = node.value is None or isinstance(node.value, (str, int, float))
        return None if is_plain else f"holds a value of type {type(node.value).__name__}"
    if isinstance(node, ast.Attribute):
        if node.attr not in ATTRIBUTES:
            return f"reads the attribute {node.attr!r}; {', '.join(sorted(ATTRIBUTES))} may be read"
        return _first_problem(node.value)
    if isinstance(node, ast.Call):
        return _problem_of_call(node)
    if isinstance(node, ast.Name):
        return f"names {node.id!r}; only references (@key) may be named"
    if not _is_one_of(node, _PLAIN):
        return f"holds a {type(node).__name__}, which is outside the grammar of expressions"
    return next(filter(None, map(_first_problem, ast.iter_child_nodes(node))), None)


def _is_one_of(node: ast.AST, names: str) -> bool:
    return type(node).__name__ in names.split()


def _problem_of_call(node: ast.Call) -> str | None:
    called = node.func
    if node.keywords or any(isinstance(argument, ast.Starred) for argument in node.args):
        return "calls with keywords or stars; plain arguments may be given"
    if isinstance(called, ast.Attribute):
        if len(node.args) > METHODS.get(called.attr, -1):
            return f"calls the method {called.attr!r} with {len(node.args)} arguments; {_METHODS}"
        parts: list[ast.AST] = [called.value, *node.args]
    elif isinstance(called, ast.Name):
        if called.id not in FUNCTIONS:
            return f"calls {called.id!r}; {', '.join(sorted(FUNCTIONS))} may be called"
        parts = list(node.args)
    elif reference_of(called) is not None and not node.args:
        parts = []
    else:
        return "calls something that is neither a reference without arguments nor a known function"
    return next(filter(None, map(_first_problem, parts)), None)

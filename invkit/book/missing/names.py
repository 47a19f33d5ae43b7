"""The names that a cell's statements read, give and change, from their syntax alone."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from typing import Any

MAGIC = re.compile(r"^(\s*)[%!].*$", re.M)


def tree_of(source: str) -> ast.Module:
    """The syntax of a cell; lines for IPython alone become ``pass``, and what is no Python is an empty cell."""
    try:
        return ast.parse(MAGIC.sub(r"\1pass", source))
    except SyntaxError:
        return ast.Module(body=[], type_ignores=[])


def called(call: ast.Call) -> str:
    """The last name of what is called."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")


class Reads(ast.NodeVisitor):
    """The names of a statement: those it reads before it gives them itself, and those that it gives or changes."""

    def __init__(self, bound: Iterable[str] = ()) -> None:
        self.bound, self.reads, self.changes = set(bound), set[str](), set[str]()
        self.later: dict[str, set[str]] = {}  # what functions read when they are called

    def visit_Name(self, node: ast.Name) -> None:
        """A name that is read or given."""
        if not isinstance(node.ctx, ast.Load):
            self.bound.add(node.id)
        elif node.id not in self.bound:
            self.reads.add(node.id)

    def generic_visit(self, node: ast.AST) -> None:
        """Parts in the order in which Python comes to them: what is given a value comes after the value."""
        parts = list(ast.iter_fields(node))
        parts.sort(key=lambda part: (part[0] == "body") + 2 * (part[0] == "orelse") - (part[0] in ("value", "iter")))
        for _, part in parts:
            for item in part if isinstance(part, list) else [part]:
                if isinstance(item, ast.AST):
                    self.visit(item)

    def visit_Expr(self, node: ast.Expr) -> None:
        """A call for its effect, as in ``rows.append(1)``, changes what it is called on."""
        self.generic_visit(node)
        if isinstance(node.value, ast.Call) and isinstance(node.value.func, ast.Attribute):
            self.changes |= root_of(node.value)

    def visit_Subscript(self, node: ast.Subscript) -> None:
        """A part that is given a value changes the whole."""
        self.generic_visit(node)
        if not isinstance(node.ctx, ast.Load):
            self.changes |= root_of(node)

    visit_Attribute = visit_Subscript  # type: ignore[assignment]

    def visit_AugAssign(self, node: ast.AugAssign) -> None:
        """``x += 1`` reads what it changes."""
        self.visit(node.value)
        if isinstance(node.target, ast.Name):
            self.reads |= {node.target.id} - self.bound
            self.changes.add(node.target.id)
        else:
            self.visit(node.target)

    def comprehension(self, node: Any) -> None:
        """The names of a comprehension are its own."""
        outside = set(self.bound)
        for part in (*node.generators, *(getattr(node, name, None) for name in ("key", "value", "elt"))):
            if part is not None:
                self.visit(part)
        self.bound = outside

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = comprehension

    def visit_Assign(self, node: ast.Assign) -> None:
        """A name for a lambda is that of a function."""
        if isinstance(node.value, ast.Lambda) and isinstance(node.targets[0], ast.Name):
            self.later[node.targets[0].id] = free(node.value)
            self.bound.add(node.targets[0].id)
        else:
            self.generic_visit(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        """A lambda may be called at once."""
        self.visit(node.args)
        self.reads |= free(node) - self.bound

    def function(self, node: Any) -> None:
        """What a function or a class reads counts where it is used."""
        for part in (*node.decorator_list, *getattr(node, "bases", []), getattr(node, "args", None)):
            if part is not None:
                self.visit(part)
        self.later[node.name] = free(node)
        self.bound.add(node.name)

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = function

    def visit_alias(self, node: ast.alias) -> None:
        """An import."""
        self.bound.add((node.asname or node.name).partition(".")[0])


def free(node: Any) -> set[str]:
    """The names that a function or a class takes from outside.

    >>> sorted(free(tree_of("def f(a):\\n    b = a + c\\n    return g(b)").body[0]))
    ['c', 'g']
    """
    body = node.body if isinstance(node.body, list) else [node.body]
    inside = [part for item in body for part in ast.walk(item)]
    own = {part.id for part in inside if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}
    if args := getattr(node, "args", None):
        own |= {part.arg for part in ast.walk(args) if isinstance(part, ast.arg)}
    visitor = Reads(own)
    for item in body:
        visitor.visit(item)
    nested = set[str]().union(*visitor.later.values())
    return visitor.reads | nested - visitor.bound


def root_of(node: ast.expr) -> set[str]:
    """The name at the start of ``name.part[0].method()``."""
    while not isinstance(node, ast.Name):
        inner = getattr(node, "func", None) or getattr(node, "value", None)
        if not isinstance(inner, ast.expr):
            return set()
        node = inner
    return {node.id}

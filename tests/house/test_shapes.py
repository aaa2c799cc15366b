"""Shapes stand in the types: a public function that takes or returns tensors says of which shape, so that tests check it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import jaxtyping
import pytest

PACKAGE = Path(__file__).parents[2] / "score_sde_analytic"
#: The modules beside the rooms are those of ".".
ROOMS = [".", *sorted(path.parent.name for path in PACKAGE.glob("*/__init__.py"))]
#: Float[, Int64[, Shaped[, ..: whatever kind of elements an array is declared to hold.
DTYPES = {name for name, kind in vars(jaxtyping).items() if issubclass(type(kind), type(jaxtyping.AbstractDtype))}
#: "room/file.py function" whose tensors have no shape to declare, and why.
EXCEPTIONS: dict[str, str] = {}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def bare(annotation: ast.AST) -> bool:
    """Whether it mentions `Tensor` or `torch.Tensor` outside a jaxtyping type."""
    if isinstance(annotation, ast.Subscript) and getattr(annotation.value, "id", "") in DTYPES:
        return False
    if isinstance(annotation, ast.Name | ast.Attribute):
        return getattr(annotation, "id", getattr(annotation, "attr", "")) == "Tensor"
    return any(bare(part) for part in ast.iter_child_nodes(annotation))


def public(name: str) -> bool:
    return not name.startswith("_") or (name.startswith("__") and name.endswith("__"))


def functions(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, Function]]:
    """Public functions by name, and public methods of public classes as Class.method."""
    for child in node.body:
        if isinstance(child, Function) and public(child.name):
            yield prefix + child.name, child
        elif isinstance(child, ast.ClassDef) and public(child.name):
            yield from functions(child, f"{prefix}{child.name}.")


def annotations(function: Function) -> Iterator[ast.expr]:
    given = function.args
    parameters = [*given.posonlyargs, *given.args, *given.kwonlyargs, given.vararg, given.kwarg]
    yield from (parameter.annotation for parameter in parameters if parameter and parameter.annotation)
    if function.returns:
        yield function.returns


def unshaped(source: str) -> list[str]:
    return [name for name, function in functions(ast.parse(source)) if any(map(bare, annotations(function)))]


@pytest.mark.parametrize(
    ("signature", "seen"),
    [
        ("(x: Tensor)", True),
        ("(x: torch.Tensor | None = None)", True),
        ("(*x: Tensor)", True),
        ("(f: Callable[[Tensor], float])", True),
        ("() -> tuple[Float[Tensor, ' n'], Tensor]", True),
        ("(x: Float[Tensor, ' n'] | None, y: float) -> list[Int64[Tensor, ' _']]", False),
        ("(x: TensorDataset, d: torch.device)", False),
    ],
)
def test_a_tensor_without_a_shape_is_seen(signature, seen):
    assert bool(unshaped(f"def f{signature}: ...")) == seen
    assert unshaped(f"class A:\n    def f{signature}: ...") == ["A.f"] * seen
    assert unshaped(f"class _A:\n    def f{signature}: ...\ndef _f{signature}: ...") == []


@pytest.mark.parametrize("room", ROOMS)
def test_tensors_have_shapes(room):
    names = {path: unshaped(path.read_text()) for path in sorted((PACKAGE / room).glob("*.py"))}
    places = {f"{path.relative_to(PACKAGE)} {name}" for path in names for name in names[path]}
    assert places == {name for name in EXCEPTIONS if Path(name).parent == Path(room)}

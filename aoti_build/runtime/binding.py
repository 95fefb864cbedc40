"""Binds the arguments of a call to the exported parameters, and flattens them.

This runs at every call. No torch is imported here: nested structures are flattened by the function
that each `Parameter` has.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from typing import Any

from aoti_build.errors import InputError
from aoti_build.runtime.leaves import Leaf, Parameter


class Binding:
    """Turns the arguments of calls into leaves.

    Positional parameters come first in `parameters`. `leaves` are those of all parameters.
    """

    def __init__(
        self,
        target: str,
        parameters: Sequence[Parameter],
        leaves: Sequence[Leaf],
    ) -> None:
        self.target = target
        self.parameters = parameters
        self._leaves = leaves
        self._names = tuple(parameter.name for parameter in parameters)
        self._name_set = frozenset(self._names)
        self._most_positional = sum(not parameter.keyword for parameter in parameters)
        self._has_structures = any(parameter.flatten for parameter in parameters)

    def leaves_of(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Sequence[Any]:
        """Every leaf of a call in order. Raises `InputError` for other arguments."""
        count = len(args)
        is_complete = count + len(kwargs) == len(self._names) and count <= self._most_positional
        if not is_complete:
            return self._bind(args, kwargs)
        values: Sequence[Any] = args
        if kwargs:
            try:
                values = [*args, *[kwargs[name] for name in self._names[count:]]]
            except KeyError:
                return self._bind(args, kwargs)  # it says which name is wrong
        if not self._has_structures:
            return values
        leaves: list[Any] = []
        for parameter, value in zip(self.parameters, values, strict=True):
            if parameter.flatten is None:
                leaves.append(value)
            else:
                leaves += self._flattened(parameter, value)
        return leaves

    def form(self) -> str:
        """The exported call, such as ``model(x, *, mask)``."""
        words = []
        has_keywords = False
        for parameter in self.parameters:
            if parameter.keyword and not has_keywords:
                has_keywords = True
                words.append("*")
            words.append(parameter.name)
        return f"model({', '.join(words)})"

    def _bind(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> list[Any]:
        """Every leaf of any call in order.

        Positional parameters may be passed by keyword. Parameters that consist of constants may be
        omitted.
        """
        if len(args) > self._most_positional:
            raise self._misuse(f"{len(args)} positional arguments were given")
        # Positional names come first, and a call may pass fewer arguments.
        bound = dict(zip(self._names, args, strict=False))
        for name, value in kwargs.items():
            if name in bound:
                raise self._misuse(f"{name} was given twice")
            if name not in self._name_set:
                raise self._unknown_name(name)
            bound[name] = value
        values: list[Any] = []
        for parameter in self.parameters:
            values += self._leaves_of(parameter, bound, len(values))
        return values

    def _leaves_of(
        self,
        parameter: Parameter,
        bound: Mapping[str, Any],
        start: int,
    ) -> list[Any]:
        """The leaves of a parameter, which has those from `start` on."""
        if parameter.name not in bound:
            return self._constants_of(parameter, start)
        return self._flattened(parameter, bound[parameter.name])

    def _flattened(self, parameter: Parameter, value: Any) -> list[Any]:
        """The leaves of an argument."""
        if parameter.flatten is None:
            return [value]
        try:
            return parameter.flatten(value)
        except ValueError as error:
            # Its message is enough: the traceback ends inside of pytree.
            message = f"{parameter.name} has another structure"
            raise self._misuse(message, cause=str(error)) from None

    def _constants_of(self, parameter: Parameter, start: int) -> list[Any]:
        """The compiled-in values of a parameter that was omitted."""
        leaves = self._leaves[start : start + parameter.leaves]
        if any(leaf.constant is None for leaf in leaves):
            raise self._misuse(f"{parameter.name} is missing")
        return [_CompiledIn(str(leaf.constant)) for leaf in leaves]

    def _unknown_name(self, name: str) -> InputError:
        hint = None
        matches = difflib.get_close_matches(name, self._names, n=1)
        if matches:
            hint = f"did you mean {matches[0]}?"
        return self._misuse(f"there is no argument {name}", hint)

    def _misuse(
        self,
        message: str,
        hint: str | None = None,
        cause: str | None = None,
    ) -> InputError:
        if hint is None:
            hint = f"it is called as {self.form()}"
        return InputError(
            message,
            target=self.target,
            cause=cause,
            hint=hint,
        )


class _CompiledIn:
    """Stands for a constant that a call omitted: its repr is that of the compiled-in value."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text

"""A list of lines, as the catalog's YAML or as JSON writes them: of a rate card, of discounts.

JSON is what programs copy, and what is kept; who writes a line by hand writes it as in the catalog.
"""

import json
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.forms.fields import InvalidJSONInput

from aforo_admin.yaml_nodes import Mapping, Node, Scalar, UnreadableYamlError, compose


class LinesField(forms.JSONField):
    """Lines to be read and edited by people; blank: none."""

    example = ""  # A line that is read. Empty: none is shown.

    def prepare_value(self, value: Any) -> Any:
        if isinstance(value, InvalidJSONInput):
            return value
        return json.dumps(value, indent=2, ensure_ascii=False) if value else ""

    def bound_data(self, data: Any, initial: Any) -> Any:
        """Show what was typed as it was typed."""
        return initial if self.disabled or data is None else InvalidJSONInput(data)

    def to_python(self, value: Any) -> Any:
        if self.disabled or isinstance(value, (list, dict)):
            return value
        text = str(value or "").strip()
        if not text:
            return []
        lines = self._read(text)
        if isinstance(lines, dict):
            lines = [lines]
        if not isinstance(lines, list) or not all(isinstance(each, dict) for each in lines):
            raise self._unread("is no list of lines")
        return lines

    def has_changed(self, initial: Any, data: Any) -> bool:
        try:
            return bool(self.to_python(data) != (initial or []))
        except ValidationError:
            return True

    def _read(self, text: str) -> Any:
        try:
            # Figures of JSON keep their digits: as numbers they would be no exact amounts.
            return json.loads(text, parse_float=str)
        except (ValueError, RecursionError):
            pass  # It is written as in the catalog, or not at all.
        try:
            root, wrong = compose(text.encode())
        except UnreadableYamlError as error:
            wrong, root = error.faults, None
        if root is None or wrong:
            line, why = wrong[0]
            raise self._unread(f"can't be read (line {line}: {why})")
        return self._plain(root)

    def _plain(self, node: Node) -> Any:
        if isinstance(node, Scalar):
            if node.is_null:
                raise self._unread(f"line {node.line}: a field has no value")
            return node.text
        if isinstance(node, Mapping):
            return {name: self._plain(each) for name, (_, each) in node.entries.items()}
        return [self._plain(each) for each in node.items]

    def _unread(self, what: str) -> ValidationError:
        like = f", like {self.example}" if self.example else ""
        return ValidationError(f"{what}: write a line for each{like}", code="invalid")

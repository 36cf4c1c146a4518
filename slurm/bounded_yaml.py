"""YAML that people wrote, read within bounds: nesting, aliases and size are limited before anything is built.

Site profiles and search spaces are read here and nowhere else; it stands in this package because that is the
only one which both may import. Scalars are PyYAML's, but for sexagesimal numbers and dates: those are text.
"""

from typing import Any

import yaml
from yaml.resolver import Resolver

LONGEST = 1_000_000  # characters of a text
DEEPEST = 50  # levels; a search space has 6
MOST = 20_000  # values, those that aliases repeat counted each time; about a second's reading
Lines = dict[tuple[Any, ...], int]


class BadYaml(ValueError):
    """Not YAML, or more than the bounds. line: where, from 1; None: nobody can tell."""

    def __init__(self, text: str, line: int | None = None) -> None:
        super().__init__(text)
        self.line = line

    def at(self, file: object) -> str:
        """The message with its place in a file."""
        return f"{file}:{self.line}: {self}" if self.line else f"{file}: {self}"


def read_yaml(text: str) -> tuple[Any, Lines]:
    """The one document of a text, and the line of every key: ("students", 0, "width") -> 7. None if empty.

    Raises BadYaml, also for a key given twice, of which YAML would keep the last.
    """
    if len(text) > LONGEST:
        raise BadYaml(f"{len(text):,} characters, more than {LONGEST:,}: make it shorter")
    lines: Lines = {}
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None, lines
        _lines(root, (), lines)
        return loader.construct_document(root), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        said = ", ".join(part for part in (error.context, error.problem) if part)
        raise BadYaml(f"not YAML: {said}", mark.line + 1 if mark else None) from None
    except yaml.YAMLError as error:  # characters that YAML doesn't take
        raise BadYaml(f"not YAML: {' '.join(str(error).split())}") from None


class _Loader(yaml.SafeLoader):
    """Counts while nodes are composed, so that no bomb is ever built."""

    # without 1:30 -> 90 and 2026-01-01 -> a date, which no key here means
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in known if tag != "tag:yaml.org,2002:timestamp"]
        for first, known in Resolver.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._sizes: dict[Any, int] = {}  # of finished collections, aliases counted each time
        self._composed = 0

    def fetch_flow_collection_start(self, token: Any) -> None:
        """Here too: the scanner looks a thousand characters ahead, in time that grows with the depth."""
        if self.flow_level >= DEEPEST:
            raise BadYaml(f"nested deeper than {DEEPEST} levels: write it flatter", self.line + 1)
        super().fetch_flow_collection_start(token)

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        tag = super().resolve(kind, value, implicit)
        sexagesimal = kind is yaml.ScalarNode and ":" in (value or "") and tag.endswith((":int", ":float"))
        return "tag:yaml.org,2002:str" if sexagesimal and implicit[0] else tag

    def compose_node(self, parent: Any, index: Any) -> Any:
        mark = self.peek_event().start_mark
        alias = self.check_event(yaml.AliasEvent)
        before, self._depth = self._composed, self._depth + 1
        if self._depth > DEEPEST:
            raise BadYaml(f"nested deeper than {DEEPEST} levels: write it flatter", mark.line + 1)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if alias and isinstance(node, yaml.CollectionNode) and node not in self._sizes:
            raise BadYaml("an alias stands inside what it names: write the values out", mark.line + 1)
        self._composed += self._sizes.get(node, 1) if alias else 1
        if self._composed > MOST:
            raise BadYaml(f"more than {MOST:,} values, aliases counted each time: write less", mark.line + 1)
        if not alias:
            self._sizes[node] = self._composed - before
        if isinstance(node, yaml.ScalarNode) and any("\ud800" <= c <= "\udfff" for c in node.value):
            raise BadYaml("half a character (a surrogate): no text has that", mark.line + 1)
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
            if isinstance(value, int) and value.bit_length() > 1024:  # no float could hold it
                raise OverflowError
        except BadYaml:
            raise
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError):  # PyYAML's constructors
            kind = node.tag.rpartition(":")[2]
            what = repr(node.value)[:40] if isinstance(node, yaml.ScalarNode) else "this"
            raise BadYaml(f"{what} can't be read as {kind}: quote it", node.start_mark.line + 1) from None
        return value


def _lines(node: yaml.Node, key: tuple[Any, ...], lines: Lines) -> None:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            line = name.start_mark.line + 1
            if not isinstance(name, yaml.ScalarNode):
                raise BadYaml("a key is one word: write key: value", line)
            sub = (*key, name.value)
            if sub in lines:
                dotted = ".".join(map(str, sub))
                raise BadYaml(
                    f"{dotted if dotted.isprintable() else ascii(dotted)} is given twice: remove one", line
                )
            lines[sub] = line
            _lines(value, sub, lines)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            lines[(*key, i)] = value.start_mark.line + 1
            _lines(value, (*key, i), lines)

"""The figures as parts of the page: shared letters and marks, colours that follow the theme, and nothing but shapes.

An SVG is read as data and written anew from the elements and attributes that are known here; whatever else it holds is left out.
"""

import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from markupsafe import escape

from bench.errors import UserError
from bench.page.colour import on_dark

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_PATH = re.compile(r"[MmLlHhVvCcSsQqTtAaZz]|[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_TRANSFORM = re.compile(r"(translate|scale|rotate|matrix)\(([^()]*)\)")
_COLOUR = re.compile(r"#[0-9a-fA-F]{6}")
_PROPERTIES = {
    *("fill", "stroke", "stroke-width", "stroke-linecap", "stroke-linejoin", "stroke-dasharray", "stroke-dashoffset"),
    *("fill-opacity", "stroke-opacity", "opacity", "fill-rule", "stroke-miterlimit"),
}
_WORD = re.compile(r"(?:none|butt|round|square|miter|bevel|nonzero|evenodd|[\d.\s,eE+-]+)")
_LINK = "{http://www.w3.org/1999/xlink}href"
_MOST = 8 << 20  # bytes of a file
_DEEP = 64  # elements in one another; matplotlib's figures have six
_LONG = 60  # letters and numbers of a path that is data, not a mark


class Shapes:
    """What all figures of a page share: definitions and classes by their content, colours by their name."""

    def __init__(self) -> None:
        self.definitions: dict[str, str] = {}
        self.classes: dict[str, str] = {}
        self.colours: set[str] = {"#ffffff", "#000000"}

    def drawn(self, path: Path, label: str, made_by: str = "python -m bench report") -> str:
        """The figure in a file, `made_by` a command, as an element with its text alternative; UserError where it holds none."""
        try:
            if path.stat().st_size > _MOST:
                raise ValueError(f"larger than {_MOST >> 20} MiB")
            root = _parsed(path.read_bytes())
            box = [float(part) for part in root.get("viewBox", "").split()]
            if _name(root) != "svg" or len(box) != 4:
                raise ValueError("no drawing with a view box")
        except (OSError, ValueError, ElementTree.ParseError) as error:
            raise UserError(f"{path}: damaged figure ({error}); `{made_by}` makes it again") from error
        body = "".join(_Figure(self, root).children(root))
        view = " ".join(_short(part, 1) for part in box)
        return f'<svg role="img" aria-label="{escape(label)}" viewBox="{view}" class="drawing">{body}</svg>'

    def define(self, content: str) -> str:
        """The id of a shared definition."""
        return self.definitions.setdefault(content, f"d{len(self.definitions)}")

    def style(self, declarations: str) -> str:
        """The class of a style's known properties, colours as variables; empty where none is known."""
        known = []
        for declaration in declarations.split(";"):
            name, _, value = (part.strip() for part in declaration.partition(":"))
            if name not in _PROPERTIES:
                continue
            if _COLOUR.fullmatch(value):
                self.colours.add(value.lower())
                known.append(f"{name}:var(--c{value[1:].lower()})")
            elif _WORD.fullmatch(value):
                known.append(f"{name}:{value}")
        return self.classes.setdefault(";".join(known), f"s{len(self.classes)}") if known else ""

    def sheet(self) -> str:
        """The style sheet of all figures: each colour on light and on dark ground."""
        shown = sorted(self.colours - {"#ffffff"})
        pairs = "--cffffff:var(--surface);" + "".join(f"--c{c[1:]}:light-dark({c},{on_dark(c)});" for c in shown)
        rules = "".join(f".{name}{{{style}}}" for style, name in self.classes.items())
        return f":root{{{pairs}}}.drawing{{fill:var(--c000000)}}{rules}"

    def shared(self) -> str:
        """The definitions, as an element that shows nothing."""
        parts = (re.sub(r"^<(\w+)", rf'<\1 id="{name}"', content) for content, name in self.definitions.items())
        return f'<svg class="shared" aria-hidden="true" width="0" height="0"><defs>{"".join(parts)}</defs></svg>'


class _Figure:
    """One figure while it is written: its own ids, by what they define."""

    def __init__(self, shapes: Shapes, root: Element) -> None:
        self.shapes = shapes
        self.ids: dict[str, str] = {}
        for definitions in root.iter():
            if _name(definitions) == "defs":
                for element in definitions:
                    name = element.get("id")
                    content = self.definition(element)
                    if name and content:
                        self.ids[name] = shapes.define(content)

    def definition(self, element: Element) -> str:
        if _name(element) == "path":
            return f"<path{self.attributes(element, 2)}/>"
        if _name(element) == "clipPath":
            return f"<clipPath>{''.join(self.children(element))}</clipPath>"
        return ""

    def children(self, element: Element) -> Iterator[str]:
        for child in element:
            name = _name(child)
            if name == "g":
                yield self.group(child)
            elif name in ("path", "rect", "use"):
                written = self.attributes(child, 1)
                if name != "use" or "href=" in written:
                    yield f"<{name}{written}/>"

    def group(self, element: Element) -> str:
        """A group; a word is one definition, however often it is written."""
        inner = "".join(self.children(element))
        attributes = self.attributes(element, 2)
        uses = [child for child in element if _name(child) != "defs"]
        if not inner:
            return ""
        if len(uses) > 1 and all(_name(child) == "use" and "style" not in child.attrib for child in uses):
            return f'<use href="#{self.shapes.define(f"<g>{inner}</g>")}"{attributes}/>'
        return f"<g{attributes}>{inner}</g>" if attributes else inner

    def attributes(self, element: Element, decimals: int) -> str:
        found = []
        link = (element.get(_LINK) or "").removeprefix("#")
        if link in self.ids:
            found.append(f'href="#{self.ids[link]}"')
        if style := self.shapes.style(element.get("style", "")):
            found.append(f'class="{style}"')
        clip = re.fullmatch(r"url\(#([\w.-]+)\)", element.get("clip-path", ""))
        if clip and clip[1] in self.ids:
            found.append(f'clip-path="url(#{self.ids[clip[1]]})"')
        if "d" in element.attrib:
            found.append(f'd="{_path(element.attrib["d"], decimals)}"')
        sizes = {name: element.get(name, "") for name in ("x", "y", "width", "height")}
        found += [f'{name}="{_short(float(size), 1)}"' for name, size in sizes.items() if _NUMBER.fullmatch(size)]
        if moved := _moved(element.get("transform", "")):
            found.append(moved)
        return "".join(f" {one}" for one in found)


def _parsed(content: bytes) -> Element:
    """The root of an XML text; ValueError as soon as elements lie deeper than any figure's."""
    root, depth = None, 0
    for event, element in ElementTree.iterparse(io.BytesIO(content), ("start", "end")):
        root = element if root is None else root
        depth += 1 if event == "start" else -1
        if depth > _DEEP:
            raise ValueError(f"more than {_DEEP} elements in one another")
    if root is None:
        raise ValueError("no element")
    return root


def _name(element: Element) -> str:
    return str(element.tag).rpartition("}")[2]


def _short(value: float, decimals: int) -> str:
    text = f"{value:.{decimals}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    sign, digits = ("-", text[1:]) if text.startswith("-") else ("", text)
    digits = digits[1:] if digits.startswith("0.") else digits
    return "0" if digits == "0" else sign + digits


def _path(commands: str, decimals: int) -> str:
    """A path's commands, rounded; one of straight lines step by step, which is shorter, from the rounded place before."""
    tokens = _PATH.findall(commands)
    if len(tokens) > _LONG:
        decimals = 1
    parts: list[tuple[str, list[float]]] = []
    for token in tokens:
        if token.isalpha():
            parts.append((token, []))
        elif parts:
            parts[-1][1].append(float(token))
    straight = all(letter in "MLz" and len(numbers) == (letter != "z") * 2 for letter, numbers in parts)
    return "".join(_steps(parts, decimals) if straight else (letter + _joined(n, decimals) for letter, n in parts))


def _steps(parts: Sequence[tuple[str, list[float]]], decimals: int) -> Iterator[str]:
    at = [0.0, 0.0]
    before = ""
    for letter, numbers in parts:
        there = [round(number, decimals) for number in numbers]
        if letter == "M":
            yield "M" + _joined(there, decimals)
        elif letter == "L":
            step = _joined([new - old for new, old in zip(there, at, strict=True)], decimals)
            yield step if before == "L" and step.startswith("-") else (" " if before == "L" else "l") + step
        else:
            yield "z"
        at, before = there or at, letter


def _joined(numbers: Sequence[float], decimals: int) -> str:
    """Numbers with no more between them than must be."""
    text = ""
    for number in numbers:
        word = _short(number, decimals)
        text += word if not text or word.startswith("-") else f" {word}"
    return text


def _moved(transform: str) -> str:
    """A transform of known kinds; a shift to the right alone is an x."""
    kinds = []
    for kind, numbers in _TRANSFORM.findall(transform):
        values = [float(number) for number in _NUMBER.findall(numbers)]
        decimals = 2 if kind == "translate" else 5
        kinds.append(f"{kind}({' '.join(_short(value, decimals) for value in values)})")
    return f'transform="{"".join(kinds)}"' if kinds else ""

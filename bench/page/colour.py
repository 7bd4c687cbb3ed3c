"""The colours of figures on a dark ground: a lightness that keeps their order, the same hue, and enough contrast.

Lightness and hue are Oklab's (Ottosson 2020, https://bottosson.github.io/posts/oklab/); contrast is WCAG 2's.
"""

import math

Triple = tuple[float, float, float]
_GREY = 0.012  # chroma below which a colour counts as grey
_PAPER, _INK = 0.205, 0.93  # lightness of what was white, and of what was black


def parse(colour: str) -> Triple:
    """`#rrggbb` as red, green and blue in [0, 1]."""
    return tuple(int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5))  # type: ignore[return-value]


def text(red: float, green: float, blue: float) -> str:
    """The inverse."""
    return "#" + "".join(f"{round(255 * min(1.0, max(0.0, part))):02x}" for part in (red, green, blue))


def _linear(part: float) -> float:
    return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4


def _encoded(part: float) -> float:
    return 12.92 * part if part <= 0.0031308 else 1.055 * part ** (1 / 2.4) - 0.055


def oklab(colour: str) -> Triple:
    """Lightness, a and b."""
    red, green, blue = map(_linear, parse(colour))
    long = math.cbrt(0.4122214708 * red + 0.5363325363 * green + 0.0514459929 * blue)
    medium = math.cbrt(0.2119034982 * red + 0.6806995451 * green + 0.1073969566 * blue)
    short = math.cbrt(0.0883024619 * red + 0.2817188376 * green + 0.6299787005 * blue)
    return (
        0.2104542553 * long + 0.7936177850 * medium - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * medium + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * medium - 0.8086757660 * short,
    )


def _rgb(lightness: float, a: float, b: float) -> Triple:
    """Red, green and blue, linear; outside of [0, 1] where no screen shows it."""
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    return (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )


def on_dark(colour: str) -> str:
    """The colour that stands for one of a figure on white: greys turn over, others are lifted into the upper half."""
    lightness, a, b = oklab(colour)
    if math.hypot(a, b) < _GREY:
        grey = _encoded((_INK - (_INK - _PAPER) * lightness) ** 3)
        return text(grey, grey, grey)
    lifted, share = 0.46 + 0.42 * lightness, 1.0
    while True:  # less colourful until a screen can show it
        found = _rgb(lifted, share * a, share * b)
        if share < 0.05 or all(-1e-4 <= part <= 1 + 1e-4 for part in found):
            return text(*(_encoded(min(1.0, max(0.0, part))) for part in found))
        share -= 0.02


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, 1 to 21."""
    first, second = sorted((_luminance(one), _luminance(other)))
    return (second + 0.05) / (first + 0.05)


def _luminance(colour: str) -> float:
    red, green, blue = map(_linear, parse(colour))
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue

"""Names and texts of a policy, which may be anybody's, as C: none of them ends a comment, or shadows another name."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sb3_clanker.display import printable

_LONGEST = 40
"""Characters of a name: with what is added to it, within the 63 that C99 tells apart."""
_LONGEST_TEXT = 400

_KEYWORDS = """
alignas alignof and and_eq asm atomic auto bitand bitor bool break case catch char class compl complex concept const
constexpr continue decltype default delete do double dynamic_cast else enum explicit export extern false float for
friend goto if imaginary import inline int long module mutable namespace new noexcept not not_eq nullptr operator or
or_eq private protected public register reinterpret_cast requires restrict return short signed sizeof static
static_assert static_cast struct switch template this thread_local throw true try typedef typeid typename typeof
typeof_unqual union unsigned using virtual void volatile wchar_t while xor xor_eq
"""
"""Of C and of C++."""
_MACROS = """
assert errno far fpclassify huge i386 interface isfinite isgreater isgreaterequal isinf isless islessequal
islessgreater isnan isnormal isunordered linux main max min near offsetof pascal signbit small stderr stdin stdout unix
"""
"""Of compilers and their headers."""
_FUNCTIONS = """
ceil ceilf cos cosf erf erff exp expf expm1 expm1f fabs fabsf floor floorf fmod fmodf log log1p log1pf logf nan pow powf
rint rintf sin sinf sqrt sqrtf tanh tanhf
"""
_VARIABLES = """
best bias c_next cell count factor gate h_next hidden largest lost mean part row scale top total variance
"""
"""Within the function that is generated, beside those of one letter."""
_TAKEN = frozenset(f"{_KEYWORDS}{_MACROS}{_FUNCTIONS}{_VARIABLES}".split())
"""What no parameter can be called."""
_LOCAL = re.compile(r"[a-z]\d*|.*_t")
"""Names of the variables within a function that is generated; and of types."""


def prefix_of(stem: str) -> str:
    """What all names of a header begin with, from the name of its file without the suffix."""
    words = re.sub(r"[^A-Za-z0-9]+", "_", stem).strip("_")[:_LONGEST].rstrip("_")
    return words if words[:1].isalpha() else f"policy_{words}".rstrip("_")


def parameters(names: Iterable[str], prefix: str) -> dict[str, str]:
    """An identifier for each input and output, unlike any other name in the header of a prefix."""
    found: dict[str, str] = {}
    for name in names:
        words = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")[:_LONGEST].rstrip("_")
        if not words[:1].isalpha() or words.isupper() or words.startswith(prefix):
            words = f"in_{words}".rstrip("_")  # capitals alone are what macros are called
        if words.lower() in _TAKEN or _LOCAL.fullmatch(words):
            words += "_"
        unique, number = words, 1
        while unique in found.values():
            number += 1
            unique = f"{words}_{number}"
        found[name] = unique
    return found


def comment(text: str) -> str:
    """A text for within a comment: on one line, without what would end it, or begin another."""
    text = text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}..."
    return re.sub(r"(?<=\*)(?=/)|(?<=/)(?=\*)|(?<=\?)(?=\?)", " ", printable(text))  # two of ? begin a trigraph

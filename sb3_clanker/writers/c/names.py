"""Names and texts of a policy, which may be anybody's, as C: nothing of them leaves its identifier, comment or string."""

from __future__ import annotations

import re
from collections.abc import Iterable

from sb3_clanker.display import printable

_LONGEST = 40
"""Characters of a name: with what is added to it, within the 63 that C99 tells apart."""
_LONGEST_TEXT = 400

_TAKEN = frozenset(
    # C and C++
    "alignas alignof and and_eq asm atomic auto bitand bitor bool break case catch char class compl complex concept "
    "const constexpr continue decltype default delete do double dynamic_cast else enum explicit export extern false "
    "float for friend goto if imaginary import inline int long module mutable namespace new noexcept not not_eq "
    "nullptr operator or or_eq private protected public register reinterpret_cast requires restrict return short "
    "signed sizeof static static_assert static_cast struct switch template this thread_local throw true try typedef "
    "typeid typename typeof typeof_unqual union unsigned using virtual void volatile wchar_t while xor xor_eq "
    # macros of compilers and their headers
    "assert errno far fpclassify huge i386 interface isfinite isgreater isgreaterequal isinf isless islessequal "
    "islessgreater isnan isnormal isunordered linux main max min near offsetof pascal signbit small stderr stdin stdout "
    "unix "
    # what stands within a function that is generated
    "best cell cases column count failed forget gate hidden index largest left mean memcpy memset nan output row sum "
    "top total variance window "
    "exp expf expm1 expm1f log logf log1p log1pf sqrt sqrtf tanh tanhf pow powf fabs fabsf floor floorf ceil ceilf rint "
    "rintf erf erff sin sinf cos cosf".split()
)
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
    text = printable(text).replace("??", "? ?")  # no trigraph
    return re.sub(r"(?<=\*)(?=/)|(?<=/)(?=\*)", " ", text)


def string(text: str) -> str:
    """A text as a string literal."""
    return '"' + "".join(char if char.isalnum() and char.isascii() or char in " :.,_-" else _octal(char) for char in text) + '"'


def _octal(char: str) -> str:
    return "".join(f"\\{byte:03o}" for byte in char.encode("utf-8", "surrogatepass"))

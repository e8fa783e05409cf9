"""Small functions in C that operators call, and what ``math.h`` does not do as a policy needs it.

``fmaxf`` and ``fminf`` give the other number where one is not a number; these give what is not a number.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

HELPERS = {
    "larger": """\
static inline float @larger(float a, float b)
{
    return a != a || a > b ? a : b;
}""",
    "smaller": """\
static inline float @smaller(float a, float b)
{
    return a != a || a < b ? a : b;
}""",
    "larger_double": """\
static inline double @larger_double(double a, double b)
{
    return a != a || a > b ? a : b;
}""",
    "smaller_double": """\
static inline double @smaller_double(double a, double b)
{
    return a != a || a < b ? a : b;
}""",
    "sigmoid": """\
static inline float @sigmoid(float a)
{
    return 1.0f / (1.0f + expf(-a));
}""",
    "softplus": """\
static inline float @softplus(float a)
{
    return a > 0.0f ? a + log1pf(expf(-a)) : log1pf(expf(a));
}""",
    "integer": """\
static inline int64_t @integer(double a)
{
    return a >= -9223372036854775808.0 && a < 9223372036854775808.0 ? (int64_t)a : -INT64_C(9223372036854775807) - 1;
}""",
}
"""By name; ``@`` stands for the prefix of the header."""


def definitions(names: Collection[str], prefix: str) -> Iterator[str]:
    """The functions of these names, in a header of a prefix."""
    for name, definition in HELPERS.items():
        if name in names:
            yield definition.replace("@", f"{prefix}_")
            yield ""

"""Steps that start from a dictionary of counts."""

from eco.tasks.generate.primitive import steps
from eco.tasks.generate.primitives.strings import LETTERS

_SMALL = range(1, 16)

STEPS = (
    *steps(
        "counts",
        "counts",
        ("keep only the entries with a value greater than $a", "{k: v for k, v in $x.items() if v > $a}", _SMALL),
        ("keep only the entries with a value less than $a", "{k: v for k, v in $x.items() if v < $a}", _SMALL),
        ("keep only the entries with an even value", "{k: v for k, v in $x.items() if v % 2 == 0}"),
        ("keep only the entries with an odd value", "{k: v for k, v in $x.items() if v % 2 == 1}"),
        ("remove the entries whose key contains $a", "{k: v for k, v in $x.items() if $a not in k}", LETTERS),
        ("keep only the entries whose key contains $a", "{k: v for k, v in $x.items() if $a in k}", LETTERS),
        (
            "keep only the entries whose key is longer than $a",
            "{k: v for k, v in $x.items() if len(k) > $a}",
            range(2, 6),
        ),
        ("add $a to each value", "{k: v + $a for k, v in $x.items()}", range(1, 50)),
        ("subtract $a from each value", "{k: v - $a for k, v in $x.items()}", range(1, 50)),
        ("multiply each value by $a", "{k: v * $a for k, v in $x.items()}", range(2, 30)),
        ("multiply each value by $a and add $b", "{k: v * $a + $b for k, v in $x.items()}", range(2, 10), range(1, 30)),
        ("replace each value below $a by $a", "{k: max(v, $a) for k, v in $x.items()}", _SMALL),
        ("replace each value above $a by $a", "{k: min(v, $a) for k, v in $x.items()}", _SMALL),
        ("replace each value by its remainder of division by $a", "{k: v % $a for k, v in $x.items()}", range(2, 15)),
        ("add the length of the key to each value", "{k: v + len(k) for k, v in $x.items()}"),
        ("make each key upper case", "{k.upper(): v for k, v in $x.items()}"),
        ("append $a to each key", "{k + $a: v for k, v in $x.items()}", ("s", "!", "_x", "-", "1", "er")),
    ),
    *steps(
        "counts",
        "number",
        ("count the entries", "len($x)"),
        ("take the sum of the values", "sum($x.values())"),
        ("take the sum of the values and add $a", "sum($x.values()) + $a", range(1, 50)),
        ("take the sum of the values and multiply it by $a", "sum($x.values()) * $a", range(2, 20)),
        ("take the sum of the values greater than $a", "sum(v for v in $x.values() if v > $a)", _SMALL),
        ("count the values greater than $a", "sum(v > $a for v in $x.values())", _SMALL),
        ("take the largest value, or $a if there is none", "max($x.values(), default=$a)", range(10)),
        ("take the smallest value, or $a if there is none", "min($x.values(), default=$a)", range(10)),
    ),
    *steps(
        "counts",
        "numbers",
        ("list the values in ascending order", "sorted($x.values())"),
        ("list the values in descending order", "sorted($x.values(), reverse=True)"),
        ("list the values in the order of the sorted keys", "[$x[k] for k in sorted($x)]"),
    ),
    *steps(
        "counts",
        "words",
        ("list the keys in alphabetical order", "sorted($x)"),
        (
            "list the keys by ascending value, and alphabetically where values are equal",
            "sorted($x, key=lambda k: ($x[k], k))",
        ),
        (
            "list, in alphabetical order, the keys with a value greater than $a",
            "sorted(k for k, v in $x.items() if v > $a)",
            _SMALL,
        ),
    ),
    *steps(
        "counts",
        "text",
        ("join the keys, in alphabetical order, with $a", "$a.join(sorted($x))", ("-", ", ", "", "+", "/", "_")),
    ),
    *steps(
        "counts",
        "truth",
        ("check whether any value is greater than $a", "any(v > $a for v in $x.values())", range(8, 18)),
        ("check whether the sum of the values is greater than $a", "sum($x.values()) > $a", range(8, 30)),
    ),
)

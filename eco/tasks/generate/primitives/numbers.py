"""Steps that start from a number."""

from eco.tasks.generate.primitive import steps

STEPS = (
    *steps(
        "number",
        "number",
        ("add $a", "$x + $a", range(1, 100)),
        ("subtract $a", "$x - $a", range(1, 100)),
        ("subtract it from $a", "$a - $x", range(1, 100)),
        ("multiply by $a", "$x * $a", range(2, 50)),
        ("multiply by $a and add $b", "$x * $a + $b", range(2, 20), range(1, 50)),
        ("multiply by $a and subtract $b", "$x * $a - $b", range(2, 20), range(1, 50)),
        ("add $a and multiply by $b", "($x + $a) * $b", range(1, 20), range(2, 20)),
        ("divide by $a, rounding down", "$x // $a", range(2, 30)),
        ("take the remainder of division by $a", "$x % $a", range(2, 60)),
        ("square it", "$x * $x"),
        ("take the absolute value", "abs($x)"),
        ("change the sign", "-$x"),
        ("take the distance from $a", "abs($x - $a)", range(2, 60)),
        ("replace it by $a if it is smaller than $a", "max($x, $a)", range(1, 60)),
        ("replace it by $a if it is larger than $a", "min($x, $a)", range(10, 80)),
        ("round it down to a multiple of $a", "$x // $a * $a", range(2, 30)),
        ("add $a if it is odd", "$x + $a if $x % 2 == 1 else $x", range(1, 50)),
        ("double it if it is smaller than $a", "$x * 2 if $x < $a else $x", range(5, 60)),
        ("take the sum of its digits, without the sign", "sum(int(c) for c in str(abs($x)))"),
        ("count its digits, without the sign", "len(str(abs($x)))"),
    ),
    *steps(
        "number",
        "numbers",
        ("list its digits, without the sign", "[int(c) for c in str(abs($x))]"),
        ("list its remainders of division by 2 to $a", "[$x % d for d in range(2, $a + 1)]", range(3, 8)),
        ("list the first $a multiples of it", "[$x * i for i in range(1, $a + 1)]", range(2, 8)),
        ("list it and the $a whole numbers after it", "[$x + i for i in range($a + 1)]", range(2, 8)),
    ),
    *steps(
        "number",
        "text",
        ("write it in decimal", "str($x)"),
        ("write its absolute value in binary", "format(abs($x), 'b')"),
        ("write it between $a and $b", "$a + str($x) + $b", ("<", "(", "[", "a", "no. "), (">", ")", "]", "z", ".")),
    ),
    *steps(
        "number",
        "truth",
        ("check whether it is greater than $a", "$x > $a", range(5, 60)),
        ("check whether it is at most $a", "$x <= $a", range(5, 60)),
        ("check whether it is divisible by $a", "$x % $a == 0", range(2, 6)),
        ("check whether its last digit is greater than $a", "abs($x) % 10 > $a", range(1, 8)),
    ),
)

"""The texts that the tokenisers of this folder are held to: written for the purpose, and drawn from
pools of characters with a fixed seed."""

import random

WRITTEN = [
    "", " ", "  ", "\n", "\n\n", " \n \n", "\t", "\t\t\n", "a", " a", "a ", "  a  b   c", "Hello, world!",
    "Hello\nWorld\n\n\nagain\r\n\r\nend", "Once upon a time there was a small dog.  It had a red ball.",
    "I'll say we've DON'T won't IT'S they'RE 'tis rock'n'roll ''quoted'' o'clock", "it\u2019s a curly one\u2026",
    "1 12 123 1234 12345 123456 1234567 3.14159 1,000,000 2\u00b2 \u00bd \u2167 \u0663\u0664\u0665",
    "fn main() {\n    let x = \"a\\n\";\n\tif x != y && z <= 3 { return; } // done\n}\n", "a_b-c+d=e<f>g^h~i|j`k@l#m$n%o&p*q",
    "caf\u00e9 cafe\u0301 na\u00efve \u0130stanbul Stra\u00dfe \ufb01ne \u01c5", "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0395\u03bb\u03bb\u03ac\u03b4\u03b1",
    "\u65e5\u672c\u8a9e\u306e\u6587\u7ae0\u3068\u30ab\u30bf\u30ab\u30ca\u3002\uff01\uff1f\u4e2d\u6587\uff0c\u5b57\u3000\u5168\u89d2", "\ud55c\uad6d\uc5b4 \ubb38\uc7a5", "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22 \u1780\u17b6\u1793\u17cb \u0928\u092e\u0938\u094d\u0924\u0947 \u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd",
    "\U0001f642\U0001f999 \U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f3f3\ufe0f\u200d\U0001f308 \U0001f1e9\U0001f1ea", "zero\u200bwidth\u00a0no\u2009thin\u3000wide\u0085nel\u2028line",
    "\u2581\u2581a\u2581b \u2581", "\u0000\u0007\ufffd\ufeff\u00ad", "  leading and trailing  ", "CamelCaseHTTPServer iPhone XMLHttpRequest2 ABCdef",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "=========== -------- ........", "a\n b\n  c\n\n   d", "x \n\t y",
    "<s> </s> <unk> [CLS] [SEP] <|endoftext|> <mask> <0x0A>", "foo<s>bar</s>baz <mask>qux<|endoftext|>", "http://example.org/a?b=c&d=e#f me@example.org",
    "The quick brown fox jumps over the lazy dog, twice; then it sleeps: (zzz) [zz] {z}.",
    "\u00b5\u03bc\u2126\u03a9 \u212a\u00c5\u212b \uff21\uff22\uff43 \u1d2c\u2460\u338f", "\U0001d518\U0001d52b\U0001d526 \U00010400\U00010428", "\u0915\u094d\u0937\u093f\u200d \u0ba8\u0bbf",
]

POOLS = [
    "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHIJKLM", "0123456789", "\u00b2\u00bd\u0663\u09ea\u2163", " \t\n\r", "\u00a0\u3000\u2009\u2028\x0b\x0c\x85",
    "'\u2019.,!?\u2026-_=+<>^~|$%&*()[]{}#@/\\\"`;:", "\u00e9\u00fc\u00f1\u00df\u00f8\u00c5\u03a3\u03c3\u03c2\u0414\u0436\u0449\u0401", "\u65e5\u672c\u8a9e\u6f22\u5b57\u304b\u306a\u30ab\u30ca\ud55c\uad6d\u3002\u3001\uff01",
    "\U0001f642\U0001f999\u200d\ufe0f", "\u0e01\u0e47\u0e31\u0e48\u1780\u17d2\u0928\u092e\u0938\u094d\u0924\u0947", "\u0301\u0308\u20dd\u200b\ufeff\u00ad\ufffd", "\u0627\u0644\u0639\u0631\u0628\u05e2\u05d1\u05e8",
]
WORDS = ["I'll", "we've", "THE", "don't", "'RE", "'s", "'S", "1234567", "3.14", "foo_bar", "hello", "World", " the", "\r\n", "\n\n", "    ", "Once upon", " a time", "x=1;", "ABCdef", "1,000"]


def texts(count=60):
    draw = random.Random(11)
    drawn = []
    for _ in range(count):
        parts = []
        for _ in range(draw.randint(1, 12)):
            if draw.random() < 0.4:
                parts.append(draw.choice(WORDS))
            else:
                pool = draw.choice(POOLS)
                parts.append("".join(draw.choice(pool) for _ in range(draw.randint(1, 5))))
            if draw.random() < 0.3:
                parts.append(" ")
        drawn.append("".join(parts))
    return WRITTEN + drawn

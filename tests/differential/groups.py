"""What is compared with Redis, by family of commands.

Left out on purpose: draws at random (only what does not depend on the draw is here), deadlines a few ms
away, and OBJECT ENCODING of values that Redis stores differently for how they came to be (a hash that lost its long
field stays a hashtable).
"""

from __future__ import annotations

from tests.differential.grammar import Group

_KEYS = (b"a", b"b", b"c", b"d", b"{a}1", b"\x00\xff bin", b"")
_INTEGERS = (
    b"0", b"1", b"-1", b"5", b"10", b"-10", b"100", b"9223372036854775807", b"-9223372036854775808", b"9223372036854775808",
    b"9223372036854775800", b"007", b"+1", b" 1", b"1 ", b"1.5", b"abc", b"", b"-0",
)  # fmt: skip
_FLOATS = (
    b"0", b"1", b"-1", b"0.1", b"0.2", b"1.5", b"-2.25", b"3.0", b"1e3", b"5.0e-3", b"1e17", b"1e-17", b"123456789.123456789",
    b"inf", b"-inf", b"+inf", b"nan", b"1e400", b"1e-400", b"1e5000", b"0x1p3", b"0x10", b".5", b"5.", b".", b"", b" 1", b"1 ", b"abc",
    b"1e", b"infinity", b"-0", b"0.30000000000000004", b"9007199254740993", b"3.14159265358979323846",
)  # fmt: skip
_VALUES = (
    b"", b"x", b"hello", b"hello world", b"10", b"-5", b"3.5", b"9223372036854775807", b"\x00\x01\xff\r\n", b"v" * 44, b"v" * 45,
    b"ohmytext", b"mynewtext", b"0", b"abab" * 5,
)  # fmt: skip
_INDEXES = (b"0", b"1", b"-1", b"2", b"-2", b"3", b"-3", b"5", b"-100", b"100", b"abc", b"9223372036854775807", b"")

_SECONDS = (
    b"100",
    b"1000",
    b"100000",
    b"0",
    b"-1",
    b"abc",
    b"9223372036854775807",
    b"9223372036854776",
    b"9223372036854775",
    b"",
)
_MILLISECONDS = (b"100000", b"10000000", b"0", b"-1", b"1.5", b"9223372036854775807", b"-9223372036854775808")
_UNIX_SECONDS = (b"4102444800", b"4102444900", b"1", b"0", b"-1", b"9223372036854775807", b"9223372036854775", b"x")
_UNIX_MILLISECONDS = (b"4102444800123", b"4102444900500", b"1", b"0", b"-5", b"9223372036854775807", b"x")

_TIME_POOLS = {
    "seconds": _SECONDS, "milliseconds": _MILLISECONDS, "unix": _UNIX_SECONDS, "unix_ms": _UNIX_MILLISECONDS,
}  # fmt: skip
_ANY_TYPE = ("LPUSH <key> <value>+", "SADD <key> <value>+", "HSET <key> <value> <value>", "ZADD <key> 1 <value>")
"""So that wrong types are met."""

STRINGS = Group(
    "strings",
    (
        "GET <key>", "GET <key>", "SET <key> <value>", "SET <key> <integer>", "SET <key> <float>",
        "SET <key> <value> [NX | XX] [GET] [EX <seconds> | PX <milliseconds> | EXAT <unix> | PXAT <unix_ms> | KEEPTTL]",
        "SET <key> <value> [EX 1000] [NX] [XX] [GET] [KEEPTTL] [PX 1000000] [PERSIST]",
        "SETNX <key> <value>", "SETEX <key> <seconds> <value>", "PSETEX <key> <milliseconds> <value>",
        "GETSET <key> <value>", "GETDEL <key>",
        "GETEX <key> [EX <seconds> | PX <milliseconds> | EXAT <unix> | PXAT <unix_ms> | PERSIST | NX | KEEPTTL]",
        "GETEX <key> [PERSIST] [EX 1000] [EX 2000]",
        "MGET <key>+", "MSET (<key> <value>)+", "MSETNX (<key> <value>)+", "MSET <key>+", "MSETNX <key>+",
        "APPEND <key> <value>", "STRLEN <key>", "GETRANGE <key> <index> <index>", "SUBSTR <key> <index> <index>",
        "SETRANGE <key> <offset> <value>",
        "INCR <key>", "DECR <key>", "INCRBY <key> <integer>", "DECRBY <key> <integer>", "INCRBYFLOAT <key> <float>",
        "INCRBYFLOAT <key> <float>", "INCRBYFLOAT <key> <float>",
        "LCS <key> <key> [LEN] [IDX] [MINMATCHLEN <index>] [WITHMATCHLEN]", "LCS <key> <key> IDX [WITHMATCHLEN]",
        "TTL <key>", "DEL <key>", "DEL <key>", "EXPIRE <key> 1000", *_ANY_TYPE,
    ),
    {
        "key": _KEYS, "value": _VALUES, "integer": _INTEGERS, "float": _FLOATS, "index": _INDEXES,
        "offset": (b"0", b"1", b"7", b"100", b"-1", b"abc", b"536870912", b"9223372036854775807"),
        **_TIME_POOLS,
    },
)  # fmt: skip

KEYS = Group(
    "keys",
    (
        "SET <key> <value>", "SET <key> <value>", "SET <key> <value> PXAT <future_ms>", *_ANY_TYPE,
        "DEL <key>+", "UNLINK <key>+", "EXISTS <key>+", "TOUCH <key>+", "TYPE <key>",
        "KEYS <pattern>", "SCAN <cursor> COUNT 100000 [MATCH <pattern>] [TYPE <type>]",
        "SCAN (0 | x | 18446744073709551616) COUNT (0 | -1 | x) [MATCH a*] [FOO]", "SCAN 0 FOO",
        "RENAME <key> <key>", "RENAMENX <key> <key>",
        "COPY <key> <key> [DB <db>] [REPLACE]", "COPY <key> <key> [REPLACE]", "MOVE <key> <db>", "SWAPDB <db> <db>",
        "SELECT (0 | 1)",
        "EXPIRE <key> <seconds> [NX] [XX] [GT] [LT]", "PEXPIRE <key> <milliseconds> [NX | XX | GT | LT | FOO]",
        "EXPIREAT <key> <unix> [NX | XX | GT | LT]", "PEXPIREAT <key> <unix_ms> [NX | XX | GT | LT]",
        "PEXPIREAT <key> <unix_ms> [GT | LT | XX GT | XX LT]",
        "EXPIREAT <key> 4102444800", "TTL <key>", "PTTL <key>", "EXPIRETIME <key>", "PEXPIRETIME <key>", "PERSIST <key>",
        "OBJECT ENCODING <key>", "OBJECT FREQ <key>", "OBJECT IDLETIME missing", "OBJECT FOO <key>", "OBJECT",
        "MEMORY USAGE missing [SAMPLES <index>]", "MEMORY FOO",
        "FLUSHDB [ASYNC | SYNC | FOO]", "FLUSHALL [FOO] [ASYNC]", "DBSIZE",
        "EVALSHA 0123456789012345678901234567890123456789 <index> <key>+",
        "EVALSHA c3f8721cbb97f72bc19e972846bd7aaf9190165 <index>", "SCRIPT EXISTS 0123456789012345678901234567890123456789",
        "NOSUCHCOMMAND <type>+", "NOSUCHCOMMAND <cut>+", "OBJECT <cut> <key>", "EXPIRE <key> 10 (wo\x00rd | \x00 | <type>)",
    ),
    {
        "key": _KEYS, "value": _VALUES, "index": _INDEXES, "future_ms": (b"4102444800123",), "cursor": (b"0",), "type": (b"string", b"HASH", b"list", b"nosuch"),
        "db": (b"0", b"1", b"2", b"15", b"16", b"-1", b"x", b"99999999999"),
        "pattern": (b"*", b"?", b"a", b"[a-c]", b"[^a]", b"{a}*", b"*1", b"**", b"", b"[", b"[a", b"\\a", b"\\", b"[]", b"[^]", b"*[a-]*", b"***", b"[\x80-b]", b"[b-\xff]*", b"[^\xff-\x00]*"),
        "cut": (b"", b"word", b"wo\x00rd", b"\x00", b"w" * 127, b"w" * 128, b"w" * 200 + b"\x00", b"two\r\nlines", b"'quoted'"),
        **_TIME_POOLS,
    },
)  # fmt: skip

_LIST_VALUES = (b"a", b"b", b"c", b"", b"x" * 70, b"1")
LISTS = Group(
    "lists",
    (
        "LPUSH <key> <value>+", "RPUSH <key> <value>+", "LPUSH <key> <value>+", "RPUSH <key> <value>+",
        "LPUSHX <key> <value>+", "RPUSHX <key> <value>+", "LPOP <key> [<index>]", "RPOP <key> [<index>]",
        "LLEN <key>", "LRANGE <key> <index> <index>", "LRANGE <key> 0 -1", "LINDEX <key> <index>",
        "LSET <key> <index> <value>", "LTRIM <key> <index> <index>", "LREM <key> <index> <value>",
        "LINSERT <key> (BEFORE | AFTER | FOO) <value> <value>",
        "LPOS <key> <value> [RANK <index>] [COUNT <index>] [MAXLEN <index>]",
        "LMPOP <numkeys> <key>+ (LEFT | RIGHT | x) [COUNT <index>]", "LMPOP 2 <key> <key> (LEFT | RIGHT) [COUNT 2]",
        "LMOVE <key> <key> (LEFT | RIGHT | x) (LEFT | RIGHT)", "RPOPLPUSH <key> <key>",
        "SET <key> <value>", "TYPE <key>", "DEL <key>", "EXISTS <key>", "OBJECT ENCODING <key>", "COPY <key> <key>",
        "RENAME <key> <key>",
    ),
    {"key": (b"k", b"l", b"m", b"n"), "value": _LIST_VALUES, "index": _INDEXES, "numkeys": (b"1", b"2", b"0", b"x", b"-1")},
)  # fmt: skip

SETS = Group(
    "sets",
    (
        "SADD <key> <value>+", "SADD <key> <value>+", "SADD <key> <value>+", "SREM <key> <value>+",
        "SISMEMBER <key> <value>", "SMISMEMBER <key> <value>+", "SMEMBERS <key>", "SCARD <key>",
        "SPOP <key> (0 | 1000 | -1 | abc)", "SRANDMEMBER <key> (0 | 1000 | abc | 9223372036854775808)",
        "SRANDMEMBER missing [5]", "SPOP missing [5]", "SRANDMEMBER <key> (1 | abc) (2 | WITHSCORES)",
        "SMOVE <key> <key> <value>", "SINTER <key>+", "SUNION <key>+", "SDIFF <key>+",
        "SINTERSTORE <key> <key>+", "SUNIONSTORE <key> <key>+", "SDIFFSTORE <key> <key>+",
        "SINTERCARD (1 <key> | 2 <key> <key> | 0 <key> | x <key> | 3 <key> <key>) [LIMIT <index>]",
        "SSCAN <key> 0 COUNT 100000 [MATCH <pattern>]", "SSCAN <key> (x | 0) [COUNT (0 | x)] [MATCH]",
        "SET <key> <value>", "TYPE <key>", "DEL <key>", "EXISTS <key>", "COPY <key> <key>", "RENAME <key> <key>",
    ),
    {
        "key": (b"s", b"t", b"u", b"w"), "value": (b"a", b"b", b"c", b"d", b"1", b"2", b"03", b"", b"x" * 70),
        "index": _INDEXES, "pattern": (b"*", b"a*", b"[ab]", b"?", b"x*"),
    },
)  # fmt: skip

HASHES = Group(
    "hashes",
    (
        "HSET <key> (<field> <value>)+", "HSET <key> (<field> <value>)+", "HMSET <key> (<field> <value>)+",
        "HSET <key> <field>+", "HMSET <key> <field>+", "HSETNX <key> <field> <value>",
        "HGET <key> <field>", "HMGET <key> <field>+", "HGETALL <key>", "HDEL <key> <field>+", "HLEN <key>",
        "HEXISTS <key> <field>", "HKEYS <key>", "HVALS <key>", "HSTRLEN <key> <field>",
        "HINCRBY <key> <field> <integer>", "HINCRBYFLOAT <key> <field> <float>", "HINCRBYFLOAT <key> <field> <float>",
        "HRANDFIELD <key> (0 | 1000 | abc) [WITHVALUES | FOO]", "HRANDFIELD missing [5] [WITHVALUES]",
        "HRANDFIELD <key> (-9223372036854775808 | 9223372036854775807) [WITHVALUES]",
        "HSCAN <key> 0 COUNT 100000 [MATCH <pattern>]", "HSCAN <key> (x | 0) [COUNT (0 | x)] [MATCH]",
        "SET <key> <value>", "TYPE <key>", "DEL <key>", "COPY <key> <key>", "RENAME <key> <key>",
    ),
    {
        "key": (b"h", b"i", b"j"), "field": (b"f", b"g", b"1", b"", b"n"), "value": _VALUES + _INTEGERS + _FLOATS,
        "integer": _INTEGERS, "float": _FLOATS, "pattern": (b"*", b"f", b"[fg]", b"?"),
    },
)  # fmt: skip

_SCORES = (
    b"0",
    b"1",
    b"2",
    b"3",
    b"-1",
    b"1.5",
    b"0.1",
    b"1e3",
    b"inf",
    b"-inf",
    b"+inf",
    b"nan",
    b"abc",
    b"",
    b"1e400",
    b"-0",
    b"3.3",
    b"1e17",
)
ZSETS = Group(
    "zsets",
    (
        "ZADD <key> (<score> <member>)+", "ZADD <key> (<plain> <member>)+", "ZADD <key> (<plain> <member>)+",
        "ZADD <key> (<plain> <member>)+", "ZADD <key> [NX | XX] [GT | LT] [CH] [INCR] <score> <member>",
        "ZADD <key> [XX] [GT | LT] [CH] (<plain> <member>)+", "ZINCRBY <key> <score> <member>",
        "ZREM <key> <member>+", "ZCARD <key>", "ZSCORE <key> <member>", "ZMSCORE <key> <member>+",
        "ZRANK <key> <member>", "ZREVRANK <key> <member>", "ZCOUNT <key> <bound> <bound>", "ZLEXCOUNT <key> <lex> <lex>",
        "ZRANGE <key> <index> <index> [REV] [WITHSCORES]", "ZRANGE <key> 0 -1 WITHSCORES",
        "ZRANGE <key> <bound> <bound> BYSCORE [REV] [LIMIT <index> <index>] [WITHSCORES]",
        "ZRANGE <key> <lex> <lex> BYLEX [REV] [LIMIT <index> <index>] [WITHSCORES]",
        "ZRANGESTORE <key> <key> <index> <index> [REV]", "ZRANGESTORE <key> <key> <bound> <bound> BYSCORE [LIMIT 0 2]",
        "ZREVRANGE <key> <index> <index> [WITHSCORES]",
        "ZRANGEBYSCORE <key> <bound> <bound> [WITHSCORES] [LIMIT <index> <index>]",
        "ZREVRANGEBYSCORE <key> <bound> <bound> [WITHSCORES] [LIMIT <index> <index>]",
        "ZRANGEBYLEX <key> <lex> <lex> [LIMIT <index> <index>]", "ZREVRANGEBYLEX <key> <lex> <lex> [LIMIT <index> <index>]",
        "ZREMRANGEBYRANK <key> <index> <index>", "ZREMRANGEBYSCORE <key> <bound> <bound>", "ZREMRANGEBYLEX <key> <lex> <lex>",
        "ZPOPMIN <key> [<index>]", "ZPOPMAX <key> [<index>]", "ZMPOP <numkeys> <key>+ (MIN | MAX | x) [COUNT <index>]",
        "ZRANDMEMBER <key> (0 | 1000 | abc) [WITHSCORES | FOO]", "ZRANDMEMBER missing [5] [WITHSCORES]",
        "ZUNION <numkeys> <key>+ [WEIGHTS <score>+] [AGGREGATE (SUM | MIN | MAX | x)] [WITHSCORES]",
        "ZINTER <numkeys> <key>+ [WEIGHTS <score>+] [AGGREGATE (SUM | MIN | MAX)] [WITHSCORES]",
        "ZUNION 2 <key> <key> WEIGHTS <plain> <plain> [AGGREGATE (SUM | MIN | MAX)] WITHSCORES",
        "ZINTER 2 <key> <key> WEIGHTS <plain> <plain> [AGGREGATE (SUM | MIN | MAX)] WITHSCORES",
        "ZDIFF <numkeys> <key>+ [WITHSCORES]", "ZUNIONSTORE <key> <numkeys> <key>+ [WEIGHTS <score>+]",
        "ZINTERSTORE <key> <numkeys> <key>+ [AGGREGATE (SUM | MIN | MAX)]", "ZDIFFSTORE <key> <numkeys> <key>+",
        "ZINTERCARD <numkeys> <key>+ [LIMIT <index>]",
        "ZSCAN <key> 0 COUNT 100000 [MATCH <pattern>]", "ZSCAN <key> (x | 0) [COUNT (0 | x)] [MATCH]",
        "SET <key> <member>", "SADD <key> <member>+", "TYPE <key>", "DEL <key>", "COPY <key> <key>",
        "RENAME <key> <key>",
    ),
    {
        "key": (b"y", b"z", b"zz", b"zzz"), "member": (b"a", b"b", b"c", b"d", b"e", b""), "score": _SCORES,
        "plain": (b"0", b"1", b"2", b"3", b"-1", b"1.5", b"0.1", b"1e3"), "index": _INDEXES, "numkeys": (b"1", b"2", b"3", b"0", b"x"),
        "bound": (b"-inf", b"+inf", b"(1", b"1", b"2", b"(2", b"(inf", b"abc", b"(", b"0", b"nan", b"(-inf"),
        "lex": (b"-", b"+", b"[a", b"(a", b"[c", b"(c", b"a", b"", b"[", b"(d"), "pattern": (b"*", b"a", b"[ab]", b"?"),
    },
)  # fmt: skip

_RELEASE, _EXTEND, _REACQUIRE = (
    "c3f8721cbb97f72bc19e972846bd7aaf91901658",
    "a4e8783852e6b949f9ef3a97212805108459a890",
    "1cac51482acf5858da00f6d685d68f886cd6b6b2",
)
LOCKS = Group(
    "locks",
    (
        "SET <key> <token> PX 100000 [NX]", "SET <key> <token>", "SADD <key> <token>", "DEL <key>", "GET <key>", "TTL <key>",
        f"EVALSHA {_RELEASE} 1 <key> <token>", f"EVALSHA {_EXTEND} 1 <key> <token> <milliseconds> (0 | 1)",
        f"EVALSHA {_REACQUIRE} 1 <key> <token> <milliseconds>", f"EVALSHA {_RELEASE} <count> <key>+",
        f"SCRIPT EXISTS {_RELEASE} {_EXTEND} {_REACQUIRE} x",
    ),
    {
        "key": (b"lock", b"other"), "token": (b"t1", b"t2"), "count": (b"x", b"-1", b"9"),
        "milliseconds": (b"50000", b"200000", b"-1000000", b"abc"),
    },
)  # fmt: skip

GROUPS = (STRINGS, KEYS, LISTS, SETS, HASHES, ZSETS, LOCKS)

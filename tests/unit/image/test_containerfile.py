"""Containerfiles: lines, instructions, errors with their places, variables, ignore files."""

from __future__ import annotations

import random

import pytest

from rl.errors import RlError, UsageError
from rl.image.containerfile import ContainerfileError, lint, parse, triggers
from rl.image.containerfile.expansion import Expander, ExpansionError
from rl.image.containerfile.ignore import Matcher, expression, patterns
from rl.image.containerfile.parser import FLAGS


def _only(text: str) -> list[tuple[str, str, list[str]]]:
    return [(one.keyword, one.rest, one.words) for one in parse(f"FROM a\n{text}".encode(), "C").stages[0].instructions]


def test_lines_directives_and_comments() -> None:
    file = parse(b"\xef\xbb\xbf# syntax=docker/dockerfile:1\n# escape=`\n# comment\n\nfrom a as Base\r\n"
                 b"RUN one `\n  # inside\n\n   two \\`\n three\nENV A=`\nb\n", "C")
    assert file.source.directives == {"syntax": "docker/dockerfile:1", "escape": "`"}
    stage = file.stages[0]
    assert (stage.name, stage.base, stage.number) == ("base", "a", 0)
    assert [one.text for one in stage.instructions] == ["RUN one    two \\ three", "ENV A=b"]
    assert file.source.notes == [(8, "an empty line inside of an instruction")]
    assert file.stage("BASE") is stage and file.stage("0") is stage and file.stage("1") is None


@pytest.mark.parametrize(("text", "words"), [
    ("ENV A=1 B=\"two words\" C='x y' D=e\\ f", ["A=1", 'B="two words"', "C='x y'", "D=e\\ f"]),
    ("ENV OLD the  rest", ["OLD=the  rest"]),
    ("LABEL a=1 \"b c\"=d", ["a=1", '"b c"=d']),
    ("ARG A B=1", ["A", "B=1"]),
    ("COPY [\"a b\", \"/c\"]", ["a b", "/c"]),
    ("COPY a b c/", ["a", "b", "c/"]),
    ("CMD ['a']", ["['a']"]),
    ("HEALTHCHECK --interval=1s CMD [\"x\", \"y\"]", ["CMD", "x", "y"]),
    ("HEALTHCHECK CMD x  y", ["CMD-SHELL", "x  y"]),
    ("HEALTHCHECK none", ["NONE"]),
    ("VOLUME /a /b", ["/a", "/b"]),
    ("ONBUILD RUN a", ["RUN a"]),
])
def test_operands(text: str, words: list[str]) -> None:
    assert _only(text)[0][2] == words


def test_heredocs() -> None:
    stage = parse(b"FROM a\nCOPY <<A <<-'B' /d/\none $x\nA\n\ttwo\n\tB\nRUN cat <<E | sh && cat <<F\n# no comment \\\nE\nf\nF\nRUN [\"<<X\"]\nENV a=<<b\n", "C").stages[0]
    copy, run, plain, env = stage.instructions
    assert [(one.name, one.text, one.expand, one.strip) for one in copy.heredocs] == [("A", "one $x\n", True, False), ("B", "two\n", False, True)]
    assert [one.text for one in run.heredocs] == ["# no comment \\\n", "f\n"] and (run.line.first, run.line.last) == (7, 11)
    assert plain.heredocs == [] and env.words == ["a=<<b"]


@pytest.mark.parametrize(("text", "line", "column", "said"), [
    ("", 1, 1, "no FROM"),
    ("RUN x", 1, 1, "no FROM before this"),
    ("FROM a\nRNU x", 2, 1, "unknown instruction RNU"),
    ("FROM a b", 1, 8, "one image"),
    ("FROM a AS 0x", 1, 11, "no name for a stage"),
    ("FROM a\nCOPY --frm=b c d", 2, 6, "no flag --frm"),
    ("FROM a\nCOPY --chown c d", 2, 6, "needs a value"),
    ("FROM a\nCOPY --link=maybe c d", 2, 6, "neither true nor false"),
    ("FROM a\nCOPY --chown=1 --chown=2 c d", 2, 16, "twice"),
    ("FROM a\nCOPY x", 2, 7, "needs more"),
    ("FROM a\nENV A=1 \\\n  B", 3, 3, "not name=value"),
    ("FROM a\nENV A", 2, 5, "no value"),
    ("FROM a\nLABEL a='x", 2, 9, "not closed"),
    ("FROM a\nRUN <<EOF\nx", 2, 5, "has no end"),
    ("FROM a\nRUN", 2, 4, "needs more"),
    ("FROM a\nSHELL /bin/sh", 2, 7, "list in JSON"),
    ("FROM a\nHEALTHCHECK FOO x", 2, 13, "FOO"),
    ("FROM a\nONBUILD FROM b", 2, 9, "not allowed"),
    ("FROM a\nONBUILD NOSUCH b", 2, 9, "unknown instruction NOSUCH"),
    ("# escape=x\nFROM a", 1, 10, "invalid escape"),
    ("# escape=`\n# escape=`\nFROM a", 2, 1, "twice"),
    ("FROM a\nRUN \0", 2, 1, "zero byte"),
])
def test_errors_have_their_place(text: str, line: int, column: int, said: str) -> None:
    with pytest.raises(ContainerfileError) as caught:
        parse(text.encode(), "File")
    error = caught.value
    assert (error.line, error.column) == (line, column), error
    shown = str(error).split("\n")
    assert shown[0].startswith(f"File:{line}:{column}: ") and said in shown[0] and shown[2].index("^") == 2 + min(column - 1, len(shown[1]) - 2)


def test_not_utf8() -> None:
    with pytest.raises(ContainerfileError, match="C:2:1: byte 0xff"):
        parse(b"FROM a\n\xff", "C")


def test_triggers() -> None:
    assert [one.keyword for one in triggers(["COPY . /app", "RUN make"], "base")] == ["COPY", "RUN"]
    with pytest.raises(ContainerfileError, match="base:1:1"):
        triggers(["NONSENSE"], "base")


@pytest.mark.parametrize("seed", range(40))
def test_anything_is_an_instruction_or_an_error(seed: int) -> None:
    """No text makes the parser fail in another way than by its own error."""
    randomly = random.Random(seed)
    pieces = ["FROM ", "RUN ", "COPY ", "ENV ", "\n", "\\\n", "--", "--from=", "--mount=", "<<E", "<<-'E'", "E\n", "\"", "'", "[", "]", "a", "=", "$", "${", " ",
              "#", "# escape=`\n", "`\n", "ONBUILD ", "HEALTHCHECK ", "CMD ", "ARG ", "\t", "\u00e4", "\r\n", "LABEL ", ",", "SHELL "]
    for _ in range(150):
        text = "".join(randomly.choice(pieces) for _ in range(randomly.randrange(30)))
        for prefix in ("", "FROM x\n"):
            try:
                parse((prefix + text).encode(), "C")
            except ContainerfileError as error:
                assert str(error).startswith("C:")


def test_flags_are_those_of_the_reference() -> None:
    assert sorted(FLAGS) == ["ADD", "COPY", "FROM", "HEALTHCHECK", "RUN"]


# ---- variables

_VARIABLES = {"A": "val", "EMPTY": "", "P": "/usr/lib/x.tar.gz", "S": "one two"}


@pytest.mark.parametrize(("word", "result"), [
    ("$A", "val"), ("${A}s", "vals"), ("$A_", ""), ("a$", "a$"), ("\\$A", "$A"), ("'$A'", "$A"), ('"$A x"', "val x"), ('"\\$A \\" \\x"', '$A " \\x'),
    ("${N:-d}", "d"), ("${EMPTY:-d}", "d"), ("${EMPTY-d}", ""), ("${N-}", ""), ("${A:+s}", "s"), ("${EMPTY:+s}", ""), ("${EMPTY+s}", "s"), ("${N:-${A}x}", "valx"),
    ("${N:-a b}", "a b"), ("${P#*/}", "usr/lib/x.tar.gz"), ("${P##*/}", "x.tar.gz"), ("${P%.*}", "/usr/lib/x.tar"), ("${P%%.*}", "/usr/lib/x"),
    ("${P/usr/opt}", "/opt/lib/x.tar.gz"), ("${P//\\//_}", "_usr_lib_x.tar.gz"), ("${A/?/X}", "Xal"), ("$1", ""), ("\\", "\\"), ("a\\ b", "a b"), ('""', ""),
])
def test_expansion(word: str, result: str) -> None:
    assert Expander(_VARIABLES).word(word) == result


@pytest.mark.parametrize(("text", "words"), [
    ("$S x", ["one", "two", "x"]), ('"$S" x', ["one two", "x"]), ("a$S", ["aone", "two"]), ("$N", []), ('""', [""]), ("$EMPTY$N a", ["a"]), ("80 $A", ["80", "val"]),
])
def test_words(text: str, words: list[str]) -> None:
    assert Expander(_VARIABLES).words(text) == words


@pytest.mark.parametrize("word", ["'a", '"a', "${", "${A", "${A:", "${A!x}", "${}", "${N:?}", "${A/x}"])
def test_words_that_are_none(word: str) -> None:
    with pytest.raises(ExpansionError):
        Expander(_VARIABLES).word(word)


def test_heredoc_text_keeps_quotes() -> None:
    assert Expander(_VARIABLES, raw=True).word("'$A' \"${N:-x}\" \\$A \\n") == "'val' \"x\" $A \\n"


def test_error_message_of_a_required_variable() -> None:
    with pytest.raises(ExpansionError, match="N: give it"):
        Expander(_VARIABLES).word("${N:?give it}")


# ---- ignore files

@pytest.mark.parametrize(("lines", "left_out", "kept"), [
    (["*.log"], ["a.log"], ["d/a.log", "a.logs"]),
    (["**/*.log"], ["a.log", "d/e/a.log"], ["a.txt"]),
    (["d"], ["d", "d/a", "d/e/f"], ["da", "x/d"]),
    (["/d/"], ["d/a"], ["e/d"]),
    (["*", "!a", "!d/e"], ["b", "d/f", "d"], ["a", "d/e", "d/e/f"]),
    (["d", "!d/keep", "d/keep/not"], ["d/x", "d/keep/not"], ["d/keep", "d/keep/y"]),
    (["a?c", "[x-z]*", "[^a]b"], ["abc", "xa", "zz", "cb"], ["ac", "a/c", "ab"]),
    (["a\\*"], ["a*"], ["ab"]),
    (["d/**/x"], ["d/x", "d/a/x", "d/a/b/x"], ["x", "d/y"]),
    (["**"], ["a", "a/b"], []),
])
def test_ignore(lines: list[str], left_out: list[str], kept: list[str]) -> None:
    matcher = Matcher(patterns("\n".join(["# comment", "", *lines]).encode()))
    assert [path for path in (*left_out, *kept) if matcher.excluded(path)] == left_out


@pytest.mark.parametrize("pattern", ["[", "[a", "a\\", "[]", "[z-a]"])
def test_patterns_that_are_none(pattern: str) -> None:
    with pytest.raises(UsageError):
        expression(pattern)


def test_ignore_files_may_be_anything() -> None:
    randomly = random.Random(7)
    for _ in range(300):
        data = bytes(randomly.choice(b"*?[]!/\\-^ab#\n .") for _ in range(12))
        try:
            Matcher(patterns(data)).excluded("a/b")
        except RlError:
            pass


def _lint(text: str, given: str | None = None) -> list[str]:
    file = parse(text.encode(), "C")
    return [f"{one.rule} {one.line}:{one.column}" for one in lint.check(file, lint.rules_of(file, given), {"TARGETARCH": "amd64"})]


@pytest.mark.parametrize(("text", "found"), [
    ("FROM a AS b\nWORKDIR /x\nWORKDIR y\nRUN x\nCMD [\"x\"]\nARG V=1\nENV PUBLIC_KEY=1 TOKENS=2\nEXPOSE 80/tcp 53/udp $P\nLABEL x=y", []),
    ("FROM a AS Build", ["StageNameCasing 1:11"]),
    ("FROM a as b", ["FromAsCasing 1:8"]),
    ("from a AS b", ["FromAsCasing 1:8"]),
    ("FROM a\nRUN x \\\n\n y", ["NoEmptyContinuation 3:1"]),
    ("FROM a\nRUN x\nenv A=1\nRun y", ["ConsistentInstructionCasing 3:1", "ConsistentInstructionCasing 4:1"]),
    ("from a\nrun x\nCMD [\"x\"]", ["ConsistentInstructionCasing 3:1"]),
    ("FROM a AS b\nFROM a AS b", ["DuplicateStageName 2:11"]),
    ("FROM a AS scratch\nFROM a AS context", ["ReservedStageName 1:11", "ReservedStageName 2:11"]),
    ("FROM a\nCMD x y", ["JSONArgsRecommended 2:1"]),
    ("FROM a\nENTRYPOINT x", ["JSONArgsRecommended 2:1"]),
    ("FROM a\nSHELL [\"/bin/sh\", \"-c\"]\nCMD x y", []),
    ("FROM a\nMAINTAINER me", ["MaintainerDeprecated 2:1"]),
    ("FROM a:$TAG", ["UndefinedArgInFrom 1:6"]),
    ("FROM a:${TAG:-1}", []),
    ("ARG TAG=1\nFROM a:$TAG-$TARGETARCH", []),
    ("ARG TAG\nFROM a:$TAG", ["InvalidDefaultArgInFrom 2:6"]),
    ("ARG BASE\nFROM $BASE", ["InvalidDefaultArgInFrom 2:6"]),
    ("ARG TAG\nFROM a:x${TAG}", []),
    ("FROM a\nWORKDIR y", ["WorkdirRelativePath 2:9"]),
    ("FROM a\nWORKDIR $HOME\nWORKDIR y", []),
    ("FROM a AS b\nWORKDIR /x\nFROM b\nWORKDIR y", []),
    ("FROM a\nCMD [\"x\"]\nCMD [\"y\"]\nHEALTHCHECK NONE\nHEALTHCHECK CMD x", ["MultipleInstructionsDisallowed 2:1", "MultipleInstructionsDisallowed 4:1"]),
    ("FROM a\nCMD [\"x\"]\nFROM a\nCMD [\"y\"]", []),
    ("FROM a\nENV A b\nLABEL c d", ["LegacyKeyValueFormat 2:1", "LegacyKeyValueFormat 3:1"]),
    ("FROM --platform=$TARGETPLATFORM a", ["RedundantTargetPlatform 1:6"]),
    ("FROM --platform=linux/arm64 a", ["FromPlatformFlagConstDisallowed 1:6"]),
    ("FROM --platform=linux/arm64 a AS build-arm64\nFROM --platform=$BUILDPLATFORM a", []),
    ("ARG API_KEY\nFROM a\nENV A=1 password=x\nARG GITHUB_TOKEN", ["SecretsUsedInArgOrEnv 1:5", "SecretsUsedInArgOrEnv 3:9", "SecretsUsedInArgOrEnv 4:5"]),
    ("FROM a\nEXPOSE 80/TCP 127.0.0.1:80:80", ["ExposeProtoCasing 2:8", "ExposeInvalidFormat 2:15"]),
    ("FROM a\nEXPOSE ${P:-80}", []),
    ("# check=skip=JSONArgsRecommended, maintainerdeprecated\nFROM a\nMAINTAINER me\nCMD x", []),
    ("# check=skip=all;error=true\nFROM a\nMAINTAINER me\nCMD x", []),
    ("FROM a \\\n AS B", ["StageNameCasing 2:5"]),
])
def test_lint(text: str, found: list[str]) -> None:
    assert _lint(text) == found


def test_rules_of_lint() -> None:
    assert _lint("# check=skip=all\nFROM a\nCMD x", "error=true") == ["JSONArgsRecommended 3:1"], "the argument stands for it"
    assert lint.Rules("error=TRUE; skip=A").error and not lint.Rules("").error and lint.Rules("experimental=all").skip == set()
    with pytest.raises(ContainerfileError) as caught:
        _lint("# escape=\\\n#check = skip=A;foo=1\nFROM a")
    assert (caught.value.line, caught.value.column) == (2, 10) and "'foo=1'" in str(caught.value)
    for text in ("error=maybe", "skip", "experimental"):
        with pytest.raises(UsageError):
            lint.Rules(text)

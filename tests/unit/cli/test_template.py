"""Go templates: what text/template prints for the same template and data."""

from __future__ import annotations

from typing import Any

import pytest

from rl.cli.template import Template, TemplateError

DATA: dict[str, Any] = {
    "Name": "web",
    "Pid": 42,
    "Empty": "",
    "Zero": 0,
    "No": False,
    "Yes": True,
    "Nil": None,
    "Half": 0.5,
    "State": {"ExitCode": 0, "Running": True, "Health": None, "Error": ""},
    "Labels": {"b": "2", "a": "1", "Com.Example": "x"},
    "Env": ["A=1", "B=2", "C=3"],
    "Mounts": [{"Source": "/a", "RW": True}, {"Source": "/b", "RW": False}],
    "None": [],
    "Map": {},
    "Label": lambda name="": {"a": "1"}.get(name, ""),
    "Now": lambda: "noon",
}

GOOD = [
    ("plain", "plain"),
    ("{{.Name}}", "web"),
    ("{{ .Name }}-{{.Pid}}", "web-42"),
    ("{{.State.ExitCode}}", "0"),
    ("{{.State.Running}} {{.No}}", "true false"),
    ("{{.Nil}}", "<no value>"),
    ("{{.State.Health}}", "<no value>"),
    ("{{.Labels}}", "map[Com.Example:x a:1 b:2]"),
    ("{{.Labels.a}} {{.Labels.nope}} {{.Labels.Nope}}", "1 <no value> <no value>"),
    ("{{.Env}}", "[A=1 B=2 C=3]"),
    ("{{.Mounts}}", "[{/a true} {/b false}]"),
    ("{{.State}}", "{0 true <nil> }"),
    ("{{.Map}} {{.None}}", "map[] []"),
    ("{{json .State}}", '{"ExitCode":0,"Running":true,"Health":null,"Error":""}'),
    ("{{json .Name}} {{.Env | json}}", '"web" ["A=1","B=2","C=3"]'),
    ('{{json "a\\"<b>ü"}}', '"a\\"<b>ü"'),
    ("{{range .Env}}[{{.}}]{{end}}", "[A=1][B=2][C=3]"),
    ("{{range .None}}x{{else}}nothing{{end}}", "nothing"),
    ("{{range $i, $e := .Env}}{{$i}}={{$e}};{{end}}", "0=A=1;1=B=2;2=C=3;"),
    ("{{range $e := .Env}}{{$e}},{{end}}", "A=1,B=2,C=3,"),
    ("{{range $k, $v := .Labels}}{{$k}}:{{$v}} {{end}}", "Com.Example:x a:1 b:2 "),
    ("{{range .Mounts}}{{.Source}}{{if .RW}}+{{end}} {{end}}", "/a+ /b "),
    ("{{range .Env}}{{.}}{{break}}{{end}}", "A=1"),
    ('{{range .Env}}{{if eq . "B=2"}}{{continue}}{{end}}{{.}} {{end}}', "A=1 C=3 "),
    ("{{range 3}}{{.}}{{end}}", "012"),
    ("{{range .Mounts}}{{$.Name}} {{end}}", "web web "),
    ("{{if .Yes}}a{{end}}{{if .No}}b{{end}}{{if .Empty}}c{{else}}d{{end}}", "ad"),
    ("{{if .Zero}}a{{else if .Pid}}b{{else}}c{{end}}", "b"),
    ("{{if .Nil}}a{{else if .Empty}}b{{else}}c{{end}}", "c"),
    ("{{with .State}}{{.ExitCode}}{{end}}", "0"),
    ("{{with .Empty}}x{{else}}none{{end}}", "none"),
    ("{{with $x := .Name}}{{$x}}{{.}}{{end}}", "webweb"),
    ("{{with .Empty}}x{{else with .Name}}{{.}}{{end}}", "web"),
    ("{{$x := 1}}{{$x}}{{$x = 2}}{{$x}}", "12"),
    ("{{$n := 0}}{{range .Env}}{{$n = .}}{{end}}{{$n}}", "C=3"),
    ("{{$s := .State}}{{$s.ExitCode}}", "0"),
    ("{{(index .Mounts 1).Source}}", "/b"),
    ('{{index .Env 1}} {{index .Labels "a"}} {{index .Labels "nope"}}|', "B=2 1 |"),
    ('{{(index .Mounts 0).RW}} {{index .Labels "Com.Example"}}', "true x"),
    ('{{len .Env}} {{len .Name}} {{len .Labels}} {{len "ü"}}', "3 3 3 2"),
    ("{{slice .Name 1}} {{slice .Name 0 1}} {{slice .Env 1 2}}", "eb w [B=2]"),
    ('{{printf "%s is %d" .Name .Pid}}', "web is 42"),
    (
        '{{printf "%5s|%-5s|%05d|%x|%q|%v|%t|%%" "a" "b" 7 255 "q" .Env true}}',
        '    a|b    |00007|ff|"q"|[A=1 B=2 C=3]|true|%',
    ),
    ('{{printf "%.2f %6.2f %e %g" 3.14159 2.5 1.5 1.5}}', "3.14   2.50 1.500000e+00 1.5"),
    ('{{printf "%d %s" "x" 3}}', "%!d(string=x) %!s(int=3)"),
    ('{{printf "%d"}} {{printf "a" 1}} {{printf "%*d" 4 7}}', "%!d(MISSING) a%!(EXTRA int=1)    7"),
    ('{{print 1 2 "a" "b" 3}}', "1 2ab3"),
    ("{{println .Name .Pid}}", "web 42\n"),
    (
        '{{eq 1 1}} {{eq 1 2 3 1}} {{ne "a" "b"}} {{lt 1 2}} {{le 2 2}} {{gt "b" "a"}} {{ge 1 2}}',
        "true true true true true true false",
    ),
    ('{{and 1 0}} {{and 1 2}} {{or 0 "x"}} {{or 0 0}} {{not 0}} {{not .Name}}', "0 2 x 0 true false"),
    ("{{if and .Yes (eq .Pid 42)}}both{{end}}", "both"),
    ("{{or .Empty .Name}}", "web"),
    ("{{and .No (index .Env 99)}}", "false"),
    ('{{.Name | upper | printf "%s-%s" "x"}}', "x-WEB"),
    ('{{upper .Name}} {{lower "ABC"}} {{title "foo-bar baz_x o\'neil"}}', "WEB abc Foo-Bar Baz_x O'Neil"),
    ('{{join .Env ", "}} {{split "a:b" ":"}}', "A=1, B=2, C=3 [a b]"),
    ('{{pad "x" 2 3}}| {{pad "" 2 2}}| {{truncate "abcdef" 3}} {{truncate "a" 3}}', "  x   | | abc a"),
    ('{{html "<a&\\">"}} {{js "a\'b\\n<"}} {{urlquery "a b/c"}}', "&lt;a&amp;&#34;&gt; a\\'b\\u000A\\u003C a+b%2Fc"),
    ("{{/* nothing */}}a{{- /* trims */ -}} b", "ab"),
    ("a {{- .Pid -}} b {{.Pid -}}   c", "a42b 42c"),
    ("{{\"tab\\there\\u00fc\\x41\\101\"}} {{`raw\\n`}} {{'a'}}", "tab\thereüAA raw\\n 97"),
    ('{{.Label "a"}} {{.Label}}| {{.Now}}', "1 | noon"),
    ("{{true}} {{1.5}} {{-3}} {{0x10}} {{1_000}} {{1e2}}", "true 1.5 -3 16 1000 100"),
    (
        "{{1000000.0}} {{1234567.0}} {{0.00001}} {{123456.0}} {{2.0}} {{1e21}} {{0.0001}}",
        "1e+06 1.234567e+06 1e-05 123456 2 1e+21 0.0001",
    ),
    ("{{.Half}} {{.}}", None),
    ("{{ range $i, $m := .Mounts }}{{ if $i }}, {{ end }}{{ $m.Source }}{{ end }}", "/a, /b"),
    ("{{if not (eq .State.ExitCode 0)}}failed{{else}}fine{{end}}", "fine"),
    ("{{range .Labels}}{{.}}{{end}}", "x12"),
    ('}} {{"{{"}} "', '}} {{ "'),
    ("{{print true nil}}", "true <nil>"),
]


@pytest.mark.parametrize(("text", "expected"), GOOD, ids=[text for text, _ in GOOD])
def test_renders(text: str, expected: str | None) -> None:
    rendered = Template(text).render(DATA)
    assert rendered == expected if expected is not None else rendered.startswith("0.5 {web 42 ")


BAD = [
    ("{{", "1:1: unclosed action"),
    ("a\nb{{.Name", "2:2: unclosed action"),
    ("{{.Name}", "unexpected '}'"),
    ("{{}}", "missing value for command"),
    ("{{if}}x{{end}}", "missing value for if"),
    ("{{if .Name}}x", "unclosed {{if}}"),
    ("{{range .Env}}", "unclosed {{range}}"),
    ("{{end}}", "unexpected {{end}}"),
    ("{{else}}", "unexpected {{else}}"),
    ("{{nonsense}}", "function 'nonsense' not defined"),
    ("{{.Nonsense}}", "can't evaluate field Nonsense"),
    ("{{.State.Nonsense}}", "can't evaluate field Nonsense"),
    ("{{.Name.First}}", "can't evaluate field First in string"),
    ("{{.State.Health.Status}}", "nil has no field Status"),
    ("{{$x}}", "undefined variable '$x'"),
    ("{{index .Env 9}}", "index out of range: 9"),
    ("{{index .Pid 1}}", "can't index item of type int"),
    ('{{eq 1 "a"}}', "incompatible types for comparison"),
    ("{{len 3}}", "len of type int"),
    ("{{eq 1}}", "wrong number of args for eq"),
    ("{{range .Name}}{{end}}", "range can't iterate over web"),
    ("{{break}}", "outside {{range}}"),
    ('{{"open}}', "unterminated quoted string"),
    ('{{"\\q"}}', "unknown escape"),
    ("{{/* open}}", "unclosed comment"),
    ("{{(.Name}}", "unclosed left paren"),
    ("{{.Name | }}", "missing value for command"),
    ("{{nil}}", "nil is not a command"),
    ("{{1 2}}", "non-function"),
    ("{{.Name | 3}}", "only a function"),
    ('{{template "x"}}', "not supported"),
    ("{{.Name 3}}", "Name has arguments but is not a method"),
    ("{{ # }}", "unexpected '#'"),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=[text for text, _ in BAD])
def test_errors_say_where(text: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        Template(text).render(DATA)
    assert message in caught.value.message
    assert caught.value.message.startswith("template ")


def test_unknown_field_lists_the_known() -> None:
    with pytest.raises(TemplateError) as caught:
        Template("{{.State.Exitcode}}").render(DATA)
    assert "ExitCode" in caught.value.hint


def test_fields_with_json_names() -> None:
    from rl.cli.template import tagged

    data = tagged({"host": {"idMappings": {"uidmap": None}, "cpus": 2, "registries": {}}})
    text = "{{.Host.CPUs}} {{.host.cpus}} {{json .Host.IDMappings}} {{.Host.IDMappings}}"
    assert Template(text).render(data) == '2 2 {"uidmap":null} {<nil>}'
    with pytest.raises(TemplateError):
        Template("{{.Host.Nonsense}}").render(data)

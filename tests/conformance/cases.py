"""Containerfiles that rl and Buildah must make the same image of.

``setup`` is a shell script run in the empty context. ``peer`` is the same build in words that Buildah 1.28 knows, where
the case uses an instruction of later versions (heredocs, ``COPY --link``, ``--parents``, ``--exclude``): the image must be
the one Buildah makes of the longer form. ``options`` go to both.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Case:
    name: str
    containerfile: str
    setup: str = ""
    options: tuple[str, ...] = ()
    peer: str = ""
    #: fields of the image's configuration that differ, with the reason in the case's comment
    differs: frozenset[str] = field(default_factory=frozenset)
    #: directories for mounts that Buildah leaves behind, and rl does not
    leaves: tuple[str, ...] = ()
    #: compare the times of regular files, too (what is copied keeps its own)
    times: bool = False


_TREE = """
mkdir -p d/sub/deep d/empty; echo one > one.txt; echo two > two.txt; echo a > d/a; echo b > d/sub/b; echo c > d/sub/deep/c.md
ln -s a d/link; ln -s ../one.txt d/up; chmod 600 d/a; chmod 750 d/sub; printf '#!/bin/sh\\necho hello\\n' > tool; chmod 755 tool
echo x > 'with space'; echo h > .hidden; echo r > README.md; mkdir logs; echo l > logs/x.log; echo k > logs/keep.log
find . -exec touch -h -d 2020-02-02T02:02:02Z {} +
"""

CASES = (
    # ---- FROM
    Case("from-scratch", "FROM scratch\nCOPY one.txt /\n", _TREE),
    Case("from-image", "FROM busybox\n"),
    Case("from-arg", "ARG BASE=nothing\nARG TAG=latest\nFROM ${BASE}:${TAG:-x}\nRUN echo 1 > /f\n", options=("--build-arg", "BASE=busybox")),
    Case("from-as-case", "from busybox as Build\nrun echo a > /a\nFROM busybox AS final\ncopy --from=build /a /b\n",
         peer="FROM busybox AS build\nRUN echo a > /a\nFROM busybox\nCOPY --from=build /a /b\n", differs=frozenset(("history",))),
    Case("from-stage", "FROM busybox AS base\nENV A=1\nWORKDIR /w\nRUN echo a > a\nFROM base\nENV B=$A$A\nRUN echo $B > b\n"),
    Case("stage-by-number", "FROM busybox\nRUN mkdir /out && echo 0 > /out/f\nFROM busybox\nCOPY --from=0 /out /in\n"),
    Case("target", "FROM busybox AS one\nRUN echo 1 > /1\nFROM busybox AS two\nRUN echo 2 > /2\nFROM busybox\nRUN false\n", options=("--target", "two")),
    Case("unused-stage", "FROM busybox AS never\nRUN false\nFROM busybox\nRUN echo y > /y\n", options=("--skip-unused-stages",)),
    Case("copy-from-image", "FROM scratch\nCOPY --from=busybox /etc/passwd /etc/group /e/\n"),
    Case("diamond", "FROM busybox AS a\nRUN echo a > /a\nFROM a AS b\nRUN echo b > /b\nFROM a AS c\nRUN echo c > /c\nFROM scratch\n"
         "COPY --from=b /a /b /out/\nCOPY --from=c /c /out/\n"),
    Case("platform-arg", "FROM --platform=$BUILDPLATFORM busybox\nARG TARGETARCH\nARG TARGETOS\nRUN echo $TARGETOS/$TARGETARCH > /p\n"),
    Case("from-option", "FROM nothing-such\nRUN echo f > /f\n", options=("--from", "busybox")),
    # ---- directives, lines
    Case("escape-directive", "# escape=`\nFROM busybox\nRUN echo one `\n  two > /f && echo 'C:\\dir\\' > /g\n"),
    Case("syntax-directive", "# syntax=docker/dockerfile:1\nFROM busybox\nENV A=b\n"),
    Case("continuations", "FROM busybox\n# comment\nRUN echo a \\\n  # comment inside\n\n  b \\\n  c > /f\n\n  # indented comment\nENV X=1 \\\n    Y=2\n"),
    Case("lowercase", "from busybox\nenv a=b\nlabel c=d\nworkdir /x\nrun pwd > f\ncmd [\"f\"]\n"),
    Case("crlf", "FROM busybox\r\nENV A=b\r\nRUN echo $A > /f\r\nCMD [\"x\"]\r\n"),
    Case("tabs", "FROM\tbusybox\nENV\tA=1\n\tRUN\techo $A > /f\n"),
    # ---- ARG and ENV
    Case("arg-default", "FROM busybox\nARG V=1\nARG W\nRUN echo \"$V-$W\" > /f\nENV K=$V\n"),
    Case("arg-given", "FROM busybox\nARG V=1\nARG W=2\nRUN echo \"$V-$W\" > /f\nLABEL l=${V}${W}\n", options=("--build-arg", "V=9", "--build-arg", "W=")),
    Case("arg-scope", "ARG G=global\nFROM busybox\nRUN echo \"[$G]\" > /no\nARG G\nRUN echo \"[$G]\" > /yes\n"),
    Case("arg-stage-scope", "FROM busybox AS a\nARG X=1\nFROM busybox\nRUN echo \"[$X]\" > /f\n"),
    Case("arg-env", "FROM busybox\nARG V=arg\nENV V=env\nARG V=again\nRUN echo $V > /f\n", options=("--build-arg", "V=option")),
    Case("arg-from-env", "FROM busybox\nARG FROM_HOST\nRUN echo \"$FROM_HOST\" > /f\n", options=("--build-arg", "FROM_HOST"),
         differs=frozenset(("history",))),  # Buildah counts the words of the values, not the arguments
    Case("env-forms", "FROM busybox\nENV OLD form with  spaces\nENV A=1 B=\"two words\" C='$A' D=esc\\ aped E=$A\nRUN env | grep -E '^(OLD|[A-E])=' | sort > /f\n"),
    Case("env-same-line", "FROM busybox\nENV A=old\nENV A=new B=$A\n"),
    Case("env-path", "FROM busybox\nENV PATH=/opt/bin:$PATH\nRUN echo $PATH > /f\n"),
    Case("env-expansion", "FROM busybox\nENV A=val\nENV B=${A:-x} C=${N:-dflt} D=${A:+set} E=${N:+set} F=\"a${A}b\" G=\\$A H=${A}_$A\n"),
    Case("env-options", "FROM busybox\nENV A=1\nENV B=2\n", options=("--env", "C=3", "--unsetenv", "A")),
    Case("unicode", "FROM busybox\nENV Ä=ü\nLABEL größe=\"10 €\"\nRUN echo 'größer' > /ü\n"),
    # ---- configuration
    Case("cmd-shell", "FROM busybox\nCMD echo $HOME && exit\n"),
    Case("cmd-json", "FROM busybox\nCMD [\"echo\", \"a b\", \"$X\"]\n"),
    Case("cmd-bad-json", "FROM busybox\nCMD ['echo', 'a']\n"),
    Case("entrypoint-cmd", "FROM busybox\nENTRYPOINT [\"/bin/echo\"]\nCMD [\"a\"]\n"),
    Case("entrypoint-resets-cmd", "FROM busybox AS a\nCMD [\"old\"]\nFROM a\nENTRYPOINT [\"/bin/echo\"]\n"),
    Case("cmd-before-entrypoint", "FROM busybox\nCMD [\"kept\"]\nENTRYPOINT [\"/bin/echo\"]\n"),
    Case("entrypoint-shell", "FROM busybox\nENTRYPOINT exec top -b\n"),
    Case("labels", "FROM busybox\nLABEL a=1 b=\"two words\" \"c d\"=e\nLABEL a=2\nLABEL multi=\"line \\\n  two\"\n"),
    Case("label-option", "FROM busybox\nLABEL a=1\n", options=("--label", "a=2", "--label", "b=3")),
    Case("expose", "FROM busybox\nARG P=99\nEXPOSE 80 443/tcp 53/udp $P\nEXPOSE 8000\n"),
    Case("volume", "FROM busybox\nVOLUME /data /other\nVOLUME [\"/json\", \"/with space\"]\n"),
    Case("user", "FROM busybox\nUSER app\nRUN id -u > /tmp/u; id -g > /tmp/g; echo $HOME > /tmp/h\nUSER 0:2000\nRUN id -u > /tmp/u2; id -g > /tmp/g2\nUSER 1000\n"),
    Case("workdir", "FROM busybox\nWORKDIR /a\nWORKDIR b\nARG C=c\nWORKDIR $C/d\nRUN pwd > f\n"),
    Case("workdir-exists", "FROM busybox\nRUN mkdir -m 700 /w && chown 1000:1000 /w\nWORKDIR /w\nWORKDIR /w/x/y\n"),
    Case("workdir-user", "FROM busybox\nUSER app\nWORKDIR /home/app/w\nRUN ls -ld . | cut -c1-10 > /tmp/l\n"),
    Case("stopsignal", "FROM busybox\nARG S=SIGQUIT\nSTOPSIGNAL $S\n"),
    Case("maintainer", "FROM busybox\nMAINTAINER Some One <one@example.com>\n"),
    Case("shell", "FROM busybox\nSHELL [\"/bin/sh\", \"-e\", \"-c\"]\nRUN echo $- > /f\nCMD echo x\n", options=("--format", "docker"),
         differs=frozenset(("Cmd",))),  # Buildah 1.28 gives CMD to /bin/sh, whatever SHELL says
    Case("healthcheck", "FROM busybox\nHEALTHCHECK --interval=5s --timeout=3s --start-period=1m --retries=4 CMD test -e /f\n", options=("--format", "docker")),
    Case("healthcheck-json", "FROM busybox\nHEALTHCHECK CMD [\"true\", \"a b\"]\n", options=("--format", "docker")),
    Case("healthcheck-none", "FROM busybox AS a\nHEALTHCHECK CMD true\nFROM a\nHEALTHCHECK NONE\n", options=("--format", "docker")),
    Case("onbuild", "FROM busybox\nONBUILD RUN echo x > /x\nONBUILD ENV A=b\n", options=("--format", "docker")),
    Case("docker-format", "FROM busybox\nENV A=1\nRUN echo a > /a\nCMD [\"x\"]\n", options=("--format", "docker")),
    Case("annotation", "FROM busybox\nRUN echo annotated > /a\n", options=("--annotation", "org.example.a=b")),
    Case("os-arch", "FROM busybox\nENV A=1\n", options=("--os", "linux", "--arch", "amd64")),
    # ---- RUN
    Case("run-json", "FROM busybox\nRUN [\"/bin/sh\", \"-c\", \"echo \\\"$0\\\" > /f\", \"arg\"]\n"),
    Case("run-removes", "FROM busybox\nRUN mkdir /d && echo a > /d/a && echo b > /d/b && ln /d/a /d/hard\nRUN rm /d/a && rm -r /home/app\n"),
    Case("run-opaque", "FROM busybox\nRUN mkdir -p /d/old && echo a > /d/old/a\nRUN rm -r /d && mkdir /d && echo n > /d/new\n"),
    Case("run-modes", "FROM busybox\nRUN touch /suid /sticky && chmod 4755 /suid && mkdir -m 1777 /t && mkfifo /fifo && chown 1000:2000 /sticky && ln -s nowhere /dangling\n"),
    Case("run-type-change", "FROM busybox\nRUN mkdir /x && touch /x/f && ln -s /etc /y\nRUN rm -r /x && echo file > /x && rm /y && mkdir /y && touch /y/z\n"),
    Case("run-mount-bind", "FROM busybox\nRUN --mount=type=bind,source=d,target=/m cat /m/a /m/sub/b > /f && ls /m | sort > /l\n", _TREE),
    Case("run-mount-from", "FROM busybox AS s\nRUN mkdir /o && echo o > /o/o\nFROM busybox\nRUN --mount=type=bind,from=s,source=/o,target=/m,ro cp /m/o /got\n"),
    Case("run-mount-tmpfs", "FROM busybox\nRUN --mount=type=tmpfs,target=/t sh -c 'echo x > /t/x && cat /t/x > /f'\n"),
    Case("run-mount-cache", "FROM busybox\nRUN --mount=type=cache,target=/c,id=rl-conformance echo x > /c/x && ls /c > /f\nRUN --mount=type=cache,target=/c,id=rl-conformance cat /c/x > /g\n"),
    Case("run-mount-secret", "FROM busybox\nRUN --mount=type=secret,id=s cat /run/secrets/s | wc -c > /f\nRUN --mount=type=secret,id=s,target=/t/s,mode=0444 cat /t/s | wc -c > /g\n",
         "echo hidden > secret\n", options=("--secret", "id=s,src=secret"), leaves=("/run/secrets", "/t")),
    Case("run-network-none", "FROM busybox\nRUN --network=none ls /sys/class/net > /f\n", peer="FROM busybox\nRUN echo lo > /f\n", differs=frozenset(("history",))),
    Case("run-heredoc", "FROM busybox\nARG A=1\nRUN <<EOF\necho \"$A\" > /f\necho two >> /f\nEOF\n",
         peer="FROM busybox\nARG A=1\nRUN echo \"$A\" > /f; echo two >> /f\n", differs=frozenset(("history",))),
    Case("run-add-host", "FROM busybox\nRUN grep -c example.test /etc/hosts > /f\n", options=("--add-host", "example.test:10.1.2.3")),
    Case("volume-option", "FROM busybox\nRUN cat /mnt/one.txt > /f\n", _TREE, options=("--volume", "@CONTEXT@:/mnt:ro"), leaves=("/mnt",)),
    # ---- COPY
    Case("copy-files", "FROM busybox\nCOPY one.txt two.txt /dst/\nCOPY one.txt /renamed\nCOPY tool /usr/bin/\n", _TREE, times=True),
    Case("copy-directory", "FROM busybox\nCOPY d /dst\nCOPY d /etc/\n", _TREE, times=True),
    Case("copy-all", "FROM busybox\nCOPY . /all/\n", _TREE),
    Case("copy-wildcard", "FROM busybox\nCOPY *.txt /t/\nCOPY [r-t]* R*.md /r/\nCOPY d/s?b /s/\n", _TREE),
    Case("copy-json", "FROM busybox\nCOPY [\"with space\", \"/dst/with space\"]\n", _TREE),
    Case("copy-workdir", "FROM busybox\nWORKDIR /w\nCOPY one.txt .\nCOPY one.txt sub/\nCOPY d ./d2\n", _TREE),
    Case("copy-chown", "FROM busybox\nCOPY --chown=app:extra one.txt /a\nCOPY --chown=1000 d /d\nCOPY --chown=5:6 d /new/deep/\n", _TREE),
    Case("copy-chmod", "FROM busybox\nCOPY --chmod=0640 one.txt /a\nCOPY --chmod=755 d /d\n", _TREE),
    Case("copy-user", "FROM busybox\nUSER app\nCOPY one.txt /tmp/a\nADD two.txt /tmp/b\n", _TREE),
    Case("copy-arg", "FROM busybox\nARG F=one\nENV D=/dst\nCOPY $F.txt ${D}/$F\n", _TREE),
    Case("copy-links", "FROM busybox\nCOPY d/link /a\nCOPY d/up /b\n", _TREE),
    Case("copy-over-link", "FROM busybox\nRUN mkdir /real && ln -s /real /ln\nCOPY one.txt /ln/\nCOPY d /ln/d\n", _TREE),
    Case("copy-overwrites", "FROM busybox\nCOPY one.txt /f\nCOPY two.txt /f\nCOPY d /x\nCOPY d/sub /x\n", _TREE),
    Case("copy-empty", "FROM busybox\nCOPY d/empty /e\nCOPY d/empty /e2/\n", _TREE),
    Case("copy-from-links", "FROM busybox AS a\nRUN mkdir /o && echo t > /o/t && ln -s t /o/l && ln -s /etc/passwd /o/abs && chown 1000:1000 /o/t\nFROM scratch\nCOPY --from=a /o /o\n"),
    Case("copy-from-chown", "FROM busybox AS a\nRUN mkdir /o && echo t > /o/t && chown 1000:1000 /o/t && chmod 4711 /o/t\nFROM busybox\nCOPY --from=a --chown=3:4 /o/t /t\nCOPY --from=a /o/t /same\n"),
    Case("copy-hidden", "FROM busybox\nCOPY .hidden /\nCOPY * /star/\n", _TREE),
    Case("copy-heredoc", "FROM busybox\nARG N=name\nCOPY <<EOF /etc/conf\nhello $N\nEOF\nCOPY --chmod=755 <<'A' <<-B /scripts/\n$raw\nA\n\ttabs\nB\n",
         "printf 'hello name\\n' > conf; printf '$raw\\n' > A; printf 'tabs\\n' > B\n",
         peer="FROM busybox\nARG N=name\nCOPY --chmod=644 conf /etc/conf\nCOPY --chmod=755 A B /scripts/\n", differs=frozenset(("history",))),
    Case("copy-link", "FROM busybox\nCOPY --link one.txt /l/one\nCOPY --link --chown=1:2 d /l/d/\n", _TREE,
         peer="FROM busybox\nCOPY one.txt /l/one\nCOPY --chown=1:2 d /l/d/\n", differs=frozenset(("history",))),
    Case("copy-parents", "FROM busybox\nCOPY --parents d/sub/b d/a /p/\n", _TREE,
         peer="FROM busybox\nCOPY --chmod=0755 d/empty /p/d\nCOPY d/a /p/d/a\nRUN mkdir -m 750 /p/d/sub\nCOPY d/sub/b /p/d/sub/b\n", differs=frozenset(("history",))),
    Case("copy-exclude", "FROM busybox\nCOPY --exclude=sub --exclude=*k d /x/\n", _TREE,
         peer="FROM busybox\nCOPY d/a d/up /x/\nCOPY d/empty /x/empty\nRUN rm /x/up && ln -s ../one.txt /x/up\n", differs=frozenset(("history",))),
    # ---- ignore files
    Case("ignore", "FROM busybox\nCOPY . /all/\n", _TREE + "printf '# comment\\n\\n*.log\\n**/*.md\\n!README.md\\nlogs\\n!logs/keep.log\\nd/sub/\\n/two.txt\\n' > .dockerignore\n"),
    Case("ignore-all-but", "FROM busybox\nCOPY . /all/\n", _TREE + "printf '*\\n!d/sub\\n!one.txt\\n' > .dockerignore\n"),
    Case("ignore-container", "FROM busybox\nCOPY . /all/\n", _TREE + "echo d > .containerignore; echo one.txt > .dockerignore\n"),
    Case("ignore-option", "FROM busybox\nCOPY . /all/\n", _TREE + "printf 'd\\n.*\\n' > other\n", options=("--ignorefile", "@CONTEXT@/other")),
    # ---- ADD
    Case("add-files", "FROM busybox\nADD one.txt /a/\nADD d /d\nADD *.txt /t/\n", _TREE),
    Case("add-archives", "FROM busybox\nADD plain.tar /plain/\nADD c.tar.gz /gz\nADD c.tar.bz2 /bz2/\nADD c.tar.xz /xz/\n",
         _TREE + "tar cf plain.tar --owner=5 --group=6 d; tar czf c.tar.gz --owner=0 --group=0 d one.txt; tar cjf c.tar.bz2 --owner=0 --group=0 tool; tar cJf c.tar.xz --owner=0 --group=0 d\n"),
    Case("add-not-archive", "FROM busybox\nADD fake.tar /x/\nADD one.gz /x/\n", "echo no archive > fake.tar; echo data | gzip -n > one.gz\n"),
    Case("add-chown-archive", "FROM busybox\nADD --chown=7:8 c.tar /c/\n", _TREE + "tar cf c.tar --owner=5 --group=6 d\n"),
    # ---- results
    Case("squash", "FROM busybox\nRUN echo a > /a\nRUN rm /a && echo b > /b\n", options=("--squash",), differs=frozenset(("history",))),
    Case("timestamp", "FROM busybox\nCOPY one.txt /\nRUN echo a > /a\n", _TREE, options=("--timestamp", "86400")),
    Case("no-cache", "FROM busybox\nRUN echo a > /a\n", options=("--no-cache",)),
    Case("layers", "FROM busybox\nENV A=1\nRUN echo a > /a\nCOPY one.txt /\nLABEL l=m\nWORKDIR /w\nCMD [\"c\"]\n", _TREE, options=("--layers",)),
    Case("no-layers", "FROM busybox\nENV A=1\nRUN echo a > /a\nRUN echo b > /b\n", options=("--layers=false",), differs=frozenset(("history",))),
    Case("args-file-order", "FROM busybox\nARG A\nARG B=$A-b\nENV C=$B\nRUN echo $A $B $C > /f\n", options=("--build-arg", "A=1")),
    Case("multi-file-names", "FROM busybox\nRUN echo f > /f\n", "mkdir x\n"),
    Case("sixty", "FROM busybox\n" + "".join(f"ENV E{n}={n}\nRUN echo {n} >> /log\nLABEL l{n}=\"{n}\"\n" for n in range(20))),
)

"""pasta and slirp4netns for real: in namespaces of the test's own, with real sockets on both sides."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import network_lab as lab
import pytest

from rl.kernel import mount as m
from rl.kernel import namespaces as ns
from rl.network import files, namespace, pasta, ports, settings, setup
from rl.network.ports import parse_publish

PROGRAMS = ("pasta", "slirp4netns")


@pytest.mark.parametrize("program", PROGRAMS)
def test_published_ports_reach_the_container(program: str, tmp_path: Any) -> None:
    lab.need(program)

    def scenario(box: lab.Lab) -> Any:
        mappings = parse_publish(["127.0.0.1:18080:80", "127.0.0.1:18081-18082:81-82", "127.0.0.1:18090:18090/udp"])
        net, result = box.network(program, mappings)
        box.serve(net, *[(lab.tcp_echo, "0.0.0.0", port) for port in (80, 81, 82)], (lab.udp_echo, "0.0.0.0", 18090))
        answers = [lab.tcp_ask("127.0.0.1", port).split()[:2] for port in (18080, 18081, 18082)]
        return result, answers, lab.udp_ask("127.0.0.1", 18090), os.listdir(box.run)

    result, answers, datagram, left = lab.run(tmp_path, scenario)
    assert result["mode"] == program
    assert result["pids"]
    assert result["ip"] and result["gateway"]
    assert answers == [["hi", "80"], ["hi", "81"], ["hi", "82"]]
    assert datagram == "hi 18090"
    assert sorted({*left} - {"containers-conf.json"}) == ["containers", "network.json", "userns.lock"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_published_on_every_address(program: str, tmp_path: Any) -> None:
    lab.need(program)

    def scenario(box: lab.Lab) -> Any:
        net, _ = box.network(program, parse_publish(["18080:80"]))
        box.serve(net, (lab.tcp_echo, "0.0.0.0", 80))
        return [lab.tcp_ask(address, 18080) for address in ("127.0.0.1", lab.HOST_IP)]

    answers = lab.run(tmp_path, scenario)
    assert [answer.split()[:2] for answer in answers] == [["hi", "80"]] * 2
    if program == "pasta":
        assert answers[1].split()[2] == lab.HOST_IP, "pasta keeps the client's address"


@pytest.mark.parametrize("program", PROGRAMS)
def test_udp_answers_arrive_whoever_asks(program: str, tmp_path: Any) -> None:
    """Different port numbers, every address: where both programs of Debian 12 lose answers by themselves."""
    lab.need(program)

    def scenario(box: lab.Lab) -> Any:
        net, result = box.network(program, parse_publish(["18053-18054:53-54/udp", "127.0.0.1:18055:55/udp"]))
        box.serve(net, *[(lab.udp_echo, "0.0.0.0", port) for port in (53, 54, 55)])
        asked = [("127.0.0.1", 18053), (lab.HOST_IP, 18053), ("::1", 18054), ("127.0.0.1", 18054), ("127.0.0.1", 18055)]
        return result, [lab.udp_ask(*one) for one in asked + asked], lab.udp_ask(lab.HOST_IP, 18055)

    result, answers, refused = lab.run(tmp_path, scenario)
    assert answers == ["hi 53", "hi 53", "hi 54", "hi 54", "hi 55"] * 2
    assert refused in ("ConnectionRefusedError", "TimeoutError")
    assert 1 <= len(result["pids"]) <= 2


def test_what_old_pasta_cannot_do_is_relayed() -> None:
    mappings = parse_publish(["18053:53/udp", "18054:18054/udp", "192.0.2.1:1:2/udp", "127.0.0.1:18055:55/udp"])
    old, new = frozenset(["--dns-forward"]), frozenset(["--map-guest-addr"])
    plan = pasta.plan([], mappings, old, False, False)
    assert [(ip, m["host_port"]) for ip, m in plan.relayed] == [
        ("127.0.0.1", 18053),
        ("::1", 18053),
        ("127.0.0.1", 18055),
    ]
    assert "18053:53" in plan.arguments and "127.0.0.1/18055:55" not in plan.arguments
    plan = pasta.plan([], mappings, new, False, False)
    assert plan.relayed == [] and "127.0.0.1/18055:55" in plan.arguments


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_host_is_reached_by_its_name_and_its_loopback_is_not(program: str, tmp_path: Any) -> None:
    lab.need(program)

    def scenario(box: lab.Lab) -> Any:
        box.serve(-1, (lab.tcp_echo, "0.0.0.0", 7001), (lab.tcp_echo, "127.0.0.1", 7002))
        net, result = box.network(program)
        address = result["host_containers_internal"]
        hosts = files.render({}, result, "h", "n", {})["hosts"]
        asked = [address, result["gateway"], lab.HOST_IP]
        return (
            address, hosts, box.inside(net, lab.tcp_ask, address, 7001),
            [box.inside(net, lab.tcp_ask, one, 7002, 0.7) for one in asked],
        )  # fmt: skip

    address, hosts, answer, loopback = lab.run(tmp_path, scenario)
    assert address
    assert f"{address}\thost.containers.internal host.docker.internal\n" in hosts
    assert answer.startswith("hi 7001")
    assert all("Error" in one or one == "timeout" for one in loopback), loopback


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_resolver_on_the_hosts_loopback_is_forwarded(program: str, tmp_path: Any) -> None:
    lab.need(program)

    def scenario(box: lab.Lab) -> Any:
        box.serve(-1, (lab.udp_echo, "127.0.0.1", 53))
        net, result = box.network(program)
        text = files.render({}, result, "h", "n", {})["resolv.conf"]
        server = text.split()[1]
        return text, server, box.inside(net, lab.udp_ask, server, 53)

    text, server, answer = lab.run(tmp_path, scenario, resolver="127.0.0.1")
    assert text == f"nameserver {server}\n"
    assert not server.startswith("127.")
    assert answer == "hi 53"


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_network_owned_by_a_nested_user_namespace(program: str, tmp_path: Any) -> None:
    lab.need(program)

    def scenario(box: lab.Lab) -> Any:
        with open("/proc/self/uid_map") as file:
            size = sum(int(line.split()[2]) for line in file)
        if size < 2:
            pytest.skip("no subordinate ids for a nested user namespace")
        maps = ([(0, 1, 1), (1, 0, 1)], [(0, 1, 1), (1, 0, 1)])
        user, net = namespace.create(maps)
        request = {"mode": program, "ports": parse_publish(["127.0.0.1:18080:80"])}
        setup.start(request, net, run_dir=box.run).ready()
        box.serve(net, (lab.tcp_echo, "0.0.0.0", 80))
        import fcntl

        owner = fcntl.ioctl(net, ns.NS_GET_USERNS)
        return os.path.samestat(os.fstat(owner), os.fstat(user)), lab.tcp_ask("127.0.0.1", 18080)

    owned, answer = lab.run(tmp_path, scenario)
    assert owned
    assert answer.startswith("hi 80")


def test_only_a_nested_user_namespace(tmp_path: Any) -> None:
    def scenario(box: lab.Lab) -> Any:
        user, net = namespace.create(([(0, 0, 1)], [(0, 0, 1)]), network=False)
        return user >= 0, net

    assert lab.run(tmp_path, scenario) == [True, -1]


def test_lo_is_up_and_root_may_ping(tmp_path: Any) -> None:
    def scenario(box: lab.Lab) -> Any:
        user, net = namespace.create()

        def look() -> Any:
            import socket

            with open("/proc/sys/net/ipv4/ping_group_range") as file:
                group = file.read().split()
            with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
                return group

        return user, os.get_inheritable(net), box.inside(net, look)

    assert lab.run(tmp_path, scenario) == [-1, False, ["0", "0"]]


@pytest.mark.parametrize("kind", ["tcp", "udp"])
def test_a_port_in_use_is_named_with_its_user(kind: str, tmp_path: Any) -> None:
    lab.need("pasta")

    def scenario(box: lab.Lab) -> Any:
        box.serve(-1, (lab.tcp_echo if kind == "tcp" else lab.udp_echo, "127.0.0.1", 18080))
        box.network("default", parse_publish([f"18080:80/{kind}"]))

    with pytest.raises(lab.LabError) as caught:
        lab.run(tmp_path, scenario)
    assert caught.value.name == "ConflictError"
    assert f"18080/{kind}" in caught.value.message
    assert "address already in use by " in caught.value.message
    assert "sport = :18080" in caught.value.hint


def test_a_second_container_on_the_same_port(tmp_path: Any) -> None:
    lab.need("pasta")

    def scenario(box: lab.Lab) -> Any:
        box.network("pasta", parse_publish(["18080:80"]))
        box.network("pasta", parse_publish(["18080:81"]))

    with pytest.raises(lab.LabError, match=r"ConflictError.*18080/tcp: address already in use by passt"):
        lab.run(tmp_path, scenario)


def test_an_address_the_host_does_not_have(tmp_path: Any) -> None:
    lab.need("pasta")
    with pytest.raises(lab.LabError, match=r"UnsupportedError.*no such address"):
        lab.run(tmp_path, lambda box: box.network("pasta", parse_publish(["198.51.100.77:18080:80"])))


def test_a_privileged_port_names_the_sysctl() -> None:
    """In the host's own network namespace, where even this test's root is nobody."""
    with open("/proc/sys/net/ipv4/ip_unprivileged_port_start") as file:
        if int(file.read()) <= 81:
            pytest.skip("this host lets everybody serve port 81")

    def attempt() -> None:
        if os.getuid() == 0:
            ns.unshare(ns.CLONE_NEWUSER)
        ports.check_free(parse_publish(["127.0.0.1:81:80"]))

    with pytest.raises(lab.LabError) as caught:
        lab._forked(attempt)
    assert caught.value.name == "UnsupportedError"
    assert "only root may serve ports below" in caught.value.message
    assert "net.ipv4.ip_unprivileged_port_start=81" in caught.value.hint


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_killed_monitor_takes_its_program_with_it(program: str, tmp_path: Any) -> None:
    lab.need(program)

    def scenario(box: lab.Lab) -> Any:
        read_end, write_end = os.pipe()
        monitor = os.fork()
        if monitor == 0:
            _, result = box.network(program, parse_publish(["127.0.0.1:18080:80"]))
            os.write(write_end, str(result["pids"][0]).encode())
            time.sleep(30)
            os._exit(0)
        pid = int(os.read(read_end, 20))
        fd = os.pidfd_open(pid)
        os.kill(monitor, signal.SIGKILL)
        os.waitpid(monitor, 0)
        import select

        return bool(select.select([fd], [], [], 3)[0])

    assert lab.run(tmp_path, scenario) is True


def test_without_a_tap_device_the_host_is_the_last_rung(tmp_path: Any) -> None:
    def scenario(box: lab.Lab) -> Any:
        m.mount("tmpfs", "/dev/net", "tmpfs")
        request = {"mode": "default", "ports": parse_publish(["18080:80"])}
        mode = setup.effective_mode(request, box.run)
        result = setup.start(request, -1, run_dir=box.run).ready()
        probes = setup.probes(box.run)
        return mode, result, probes

    if not os.path.isdir("/dev/net"):
        pytest.skip("this host has no /dev/net to hide")
    mode, result, probes = lab.run(tmp_path, scenario)
    assert mode == result["mode"] == "host"
    assert result["pids"] == []
    assert "/dev/net/tun" in result["warnings"][0]
    assert "18080->80/tcp" in result["warnings"][0]
    assert [probe["usable"] for probe in probes] == [False, False, True]
    assert "modprobe tun" in probes[0]["hint"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_asked_by_name_must_work(program: str, tmp_path: Any) -> None:
    def scenario(box: lab.Lab) -> Any:
        m.mount("tmpfs", "/dev/net", "tmpfs")
        box.network(program)

    if not os.path.isdir("/dev/net"):
        pytest.skip("this host has no /dev/net to hide")
    with pytest.raises(lab.LabError, match=f"UnsupportedError: --network={program}: open /dev/net/tun"):
        lab.run(tmp_path, scenario)


def test_a_host_without_network(tmp_path: Any) -> None:
    """Old pasta refuses; the next rung serves the host's loopback all the same."""
    lab.need(*PROGRAMS)

    def scenario(box: lab.Lab) -> Any:
        net, result = box.network("default", parse_publish(["127.0.0.1:18080:80"]))
        box.serve(net, (lab.tcp_echo, "0.0.0.0", 80))
        return result, lab.tcp_ask("127.0.0.1", 18080)

    result, answer = lab.run(tmp_path, scenario, interface=False)
    assert answer.startswith("hi 80")
    if result["mode"] == "slirp4netns":
        assert "trying slirp4netns" in result["warnings"][0]


@pytest.mark.parametrize(
    ("program", "options", "error"),
    [
        ("pasta", ["--no-such-option"], "UsageError: pasta: .*no-such-option"),
        ("pasta", ["-a", "nowhere"], "Error: pasta: .*nowhere"),
        ("slirp4netns", ["cidr=10.0.2.0/31"], "UsageError: slirp4netns option cidr"),
        ("slirp4netns", ["outbound_addr=no.such.address"], "UsageError: slirp4netns option outbound_addr"),
    ],
)
def test_refused_options_leave_nothing_behind(program: str, options: list[str], error: str, tmp_path: Any) -> None:
    lab.need(program)
    with pytest.raises(lab.LabError, match=error) as caught:
        lab.run(tmp_path, lambda box: box.network(program, options=options))
    assert "Usage" not in caught.value.message
    left = {*os.listdir(tmp_path / "run")} - {"containers-conf.json"}  # which this host may have or not
    assert sorted(left) == ["containers", "network.json", "userns.lock"]


def test_addresses_of_the_users_own(tmp_path: Any) -> None:
    lab.need("pasta")

    def scenario(box: lab.Lab) -> Any:
        net, result = box.network("pasta", options=["-a", "10.9.8.7", "-n", "16", "-g10.9.0.1", "--ns-ifname=up0"])

        def look() -> Any:
            from rl.network import host

            found = host.ipv4()
            assert found is not None
            return [found.ip, found.prefix, found.gateway, found.interface]

        return result, box.inside(net, look)

    result, seen = lab.run(tmp_path, scenario)
    assert seen == [result["ip"], result["prefix"], result["gateway"], result["interface"]]
    assert seen == ["10.9.8.7", 16, "10.9.0.1", "up0"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_report_says_what_is_inside(program: str, tmp_path: Any) -> None:
    lab.need(program)

    def scenario(box: lab.Lab) -> Any:
        net, result = box.network(program)

        def look() -> Any:
            from rl.network import host

            found = host.ipv4()
            assert found is not None
            return [found.ip, found.prefix, found.gateway, found.interface]

        return result, box.inside(net, look)

    result, seen = lab.run(tmp_path, scenario)
    assert seen == [result["ip"], result["prefix"], result["gateway"], result["interface"]]


def test_slirp4netns_options(tmp_path: Any) -> None:
    lab.need("slirp4netns")

    def scenario(box: lab.Lab) -> Any:
        box.serve(-1, (lab.tcp_echo, "127.0.0.1", 7002))
        net, result = box.network("slirp4netns", options=["cidr=10.77.0.0/24", "allow_host_loopback=true", "mtu=1400"])
        with_mtu = box.inside(net, lambda: open("/proc/net/route").read().split()[11:12])
        return result, box.inside(net, lab.tcp_ask, result["host_containers_internal"], 7002), with_mtu

    result, answer, _ = lab.run(tmp_path, scenario)
    assert (result["ip"], result["gateway"], result["dns"]) == ("10.77.0.100", "10.77.0.2", ["10.77.0.3"])
    assert answer.startswith("hi 7002")


def test_what_a_program_can_is_asked_once(tmp_path: Any) -> None:
    program = tmp_path / "pasta"
    program.write_text('#!/bin/sh\necho x >> "$0.calls"\necho "  -D, --dns-forward ADDR  text"\necho " --quiet" >&2\n')
    program.chmod(0o755)
    calls = tmp_path / "pasta.calls"
    for _ in range(2):
        memory = settings.remembered(str(tmp_path))
        assert memory.program(str(program)) == {"--dns-forward", "--quiet"}
        memory.save()
    assert calls.read_text() == "x\n"
    os.utime(program, (1, 1))
    settings.remembered(str(tmp_path)).program(str(program))
    assert calls.read_text() == "x\nx\n"


def test_containers_conf_chooses_the_rung(tmp_path: Any, monkeypatch: Any) -> None:
    lab.need(*PROGRAMS)
    conf = tmp_path / "containers.conf"
    conf.write_text('[network]\ndefault_rootless_network_cmd = "slirp4netns"\n')
    monkeypatch.setenv("CONTAINERS_CONF", str(conf))
    assert setup.effective_mode({}, str(tmp_path)) == "slirp4netns"
    conf.write_text('[network]\ndefault_rootless_network_cmd = "pasta"\n# changed\n')
    assert setup.effective_mode({"mode": "private"}, str(tmp_path)) == "pasta"
    assert setup.effective_mode({"mode": "none"}, str(tmp_path)) == "none"


@pytest.mark.parametrize(
    ("text", "error"), [("[network\n", "read .*containers.conf"), ("[network]\npasta_options = 7\n", "pasta_options")]
)
def test_a_bad_containers_conf_is_named(text: str, error: str, tmp_path: Any) -> None:
    from rl.config import containersconf
    from rl.errors import RlError

    conf = tmp_path / "containers.conf"
    conf.write_text(text)
    with pytest.raises(RlError, match=error):
        containersconf.parse([str(conf)])

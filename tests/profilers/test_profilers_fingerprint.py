from __future__ import annotations

from hwnas_profilers import fingerprint, protocol

X86 = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 143
model name\t: Intel(R) Xeon(R) Platinum 8480+
flags\t\t: fpu sse4_2 avx avx2 fma avx512f avx512_vnni amx_tile amx_int8 hypervisor

processor\t: 1
model name\t: another core
flags\t\t: fpu
"""
ARM = """processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b

Hardware\t: BCM2835
Model\t\t: Raspberry Pi 5 Model B Rev 1.0
"""


def test_an_x86_processor_is_named_with_the_flags_that_matter() -> None:
    model, flags = fingerprint.parse_cpuinfo(X86)
    assert model == "Intel(R) Xeon(R) Platinum 8480+ (GenuineIntel family 6 model 143)"
    assert flags == ["amx_int8", "amx_tile", "avx", "avx2", "avx512_vnni", "avx512f", "fma", "sse4_2"]


def test_an_arm_processor_is_named_by_board_and_part() -> None:
    model, flags = fingerprint.parse_cpuinfo(ARM)
    assert model == "Raspberry Pi 5 Model B Rev 1.0 (implementer 0x41 part 0xd0b)"
    assert flags == ["asimd", "asimddp"]


def test_nothing_known_gives_nothing_invented() -> None:
    assert fingerprint.parse_cpuinfo("") == ("", [])


def test_identity_is_stable_and_context_is_apart_from_it() -> None:
    assert fingerprint.identity() == fingerprint.identity()
    assert fingerprint.identity()["protocol"] == protocol.VERSION
    assert fingerprint.identity()["cpu_model"]
    context = fingerprint.context()
    assert {"kernel", "governor", "memory_bytes", "container", "python", "cores", "allowed_cores"} <= context.keys()
    assert not context.keys() & fingerprint.identity().keys()
    assert context["memory_bytes"] > 0


def test_the_simulated_identity_is_the_same_on_every_machine() -> None:
    assert fingerprint.identity(simulated=True) == {
        "cpu_model": "simulated",
        "isa": [],
        "arch": "simulated",
        "protocol": protocol.VERSION,
    }

import random

import pytest

from rowmesh.hw.descriptor import Engine
from rowmesh.hw.program import MAGIC, MAX_COUNT, STARTABLE, Command, Op, Program, engine_mask


def test_words():
    program = Program().write(1, {7: 70, 5: 50, 6: 60, 9: 90}).start(1, Engine.STEP).wait(Engine.STORE).end()
    assert program.words == [
        MAGIC,
        11,
        0x1803_0005,
        50,
        60,
        70,
        0x1801_0009,
        90,
        0x2800_0040,
        0x3000_0100,
        0x0000_0000,
    ]


def test_image_is_padded():
    program = Program().write(0, {0: 1}).end()
    image = program.to_bytes(8, 16)
    assert len(image) == 128
    assert image[:20] == b"".join(word.to_bytes(4, "little") for word in program.words)
    assert not any(image[20:])
    assert len(program.to_bytes(8)) == 24
    long = Program().write(0, dict.fromkeys(range(100), 0xFFFFFFFF)).end()
    assert len(long.to_bytes(8, 16)) == 52 * 8


def test_long_runs_are_split():
    program = Program().write(0, {100 + k: k for k in range(MAX_COUNT + 2)}).end()
    headers = [Command(Op.WRITE, 0, 100, tuple(range(MAX_COUNT)))]
    headers.append(Command(Op.WRITE, 0, 100 + MAX_COUNT, (MAX_COUNT, MAX_COUNT + 1)))
    assert Program.decode(program.words) == [*headers, Command(Op.END)]


@pytest.mark.parametrize("seed", range(5))
def test_decode_returns_what_was_built(seed):
    rng = random.Random(seed)
    program = Program()
    written: dict[int, dict[int, int]] = {0: {}, 1: {}}
    actions = []
    for _ in range(10):
        bank = rng.randrange(2)
        engines = rng.sample(STARTABLE, rng.randint(1, 4))
        words = {rng.randrange(60): rng.getrandbits(32) for _ in range(20)}
        written[bank] |= words
        program.write(bank, words).start(bank, *engines).wait(*engines)
        actions += [(Op.START, bank, engine_mask(engines)), (Op.WAIT, 0, engine_mask(engines))]
    got: dict[int, dict[int, int]] = {0: {}, 1: {}}
    seen = []
    for command in Program.decode(program.end().words):
        if command.op is Op.WRITE:
            got[command.bank] |= {command.address + k: word for k, word in enumerate(command.words)}
        elif command.op is not Op.END:
            seen.append((command.op, command.bank, command.address))
    assert got == written
    assert seen == actions


def test_refuses_what_cannot_be_encoded():
    with pytest.raises(ValueError, match="word address must fit 16 bits, not 0x10000"):
        Program().write(0, {1 << 16: 0})
    with pytest.raises(ValueError, match="word at 0x1 must fit 32 bits"):
        Program().write(0, {1: 1 << 32})
    with pytest.raises(ValueError, match="bank must be 0 or 1, not 2"):
        Program().write(2, {1: 1})
    with pytest.raises(ValueError, match="must be one of"):
        Program().start(0, Engine.ARRAY)
    with pytest.raises(ValueError, match="WAIT must come before END"):
        Program().end().wait(Engine.STORE)
    with pytest.raises(ValueError, match="must end with END"):
        Program().to_bytes(8)


@pytest.mark.parametrize(
    "words",
    [
        [],
        [MAGIC + 1, 3, 0],
        [MAGIC, 4, 0],
        [MAGIC, 3, 0x4000_0000],
        [MAGIC, 4, 0x2000_0001, 0],
        [MAGIC, 4, 0x1002_0000, 0],
        [MAGIC, 3, 0x2000_0002],
    ],
)
def test_decode_refuses_what_the_hardware_refuses(words):
    with pytest.raises(ValueError, match="must"):
        Program.decode(words)

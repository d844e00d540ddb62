"""The engine's codecs against the reference's, bit for bit."""

import numpy as np
import pytest
from tiny._reference import reference

formats = reference.formats


@pytest.mark.parametrize("scale", [0, 1, 100, 127, 130, 253, 254])
def test_mxfp4_decode_every_byte(core, scale):
    packed = np.arange(256, dtype=np.uint8).reshape(16, 16)
    scales = np.full((16, 1), scale, np.uint8)
    got = np.frombuffer(core.mxfp4_decode(packed.tobytes(), scales.tobytes()), np.float32)
    want = formats.decode_mxfp4(packed, scales)
    np.testing.assert_array_equal(got.view(np.uint32), want.reshape(-1).view(np.uint32))


def test_mxfp4_encode_rounds_alike(core):
    rng = np.random.default_rng()
    x = (rng.standard_normal((4000, 32)) * np.exp2(rng.integers(-130, 120, (4000, 1)))).astype("f4")
    x[0], x[1], x[2] = 0, np.finfo(np.float32).max, np.float32(2.0**-149)
    # Halves of a power of two hit every tie of the grid.
    x[3:600] = np.ldexp(rng.integers(-15, 16, (597, 32)) / 2, rng.integers(-9, 9, (597, 1)))
    x[600:900] = np.ldexp(rng.integers(-31, 32, (300, 32)) / 4, rng.integers(-9, 9, (300, 1)))
    nibbles, scales = core.mxfp4_encode(x.tobytes())
    packed, want = formats.encode_mxfp4(x)
    np.testing.assert_array_equal(np.frombuffer(scales, np.uint8), want.reshape(-1))
    np.testing.assert_array_equal(np.frombuffer(nibbles, np.uint8), packed.reshape(-1))


def test_fp8_decode_every_code(core):
    got = np.frombuffer(core.fp8_decode(bytes(range(256))), np.float32)
    np.testing.assert_array_equal(got, formats.E4M3)


def test_committed_encodings(core, golden):
    tensors = reference.checkpoint.read_safetensors(golden / "codec.safetensors")
    nibbles, scales = core.mxfp4_encode(tensors["mxfp4.x"].data.tobytes())
    assert nibbles == tensors["mxfp4.weight"].data.tobytes()
    assert scales == tensors["mxfp4.weight_scale"].data.tobytes()

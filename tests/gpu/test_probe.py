"""The way from the embedded image to an exact result on the GPU."""

import pytest

from kilotok import _core

pytestmark = pytest.mark.gpu


def test_every_embedded_kernel_fits_some_gpu_here(gpu):
    families = {image["family"] for image in gpu["kernels"]["images"]}
    assert "probe" in families
    for device in gpu["devices"]:
        assert set(device["runs"]) == families


def test_the_probe_kernel_is_exact_on_every_gpu(gpu):
    for device in gpu["devices"]:
        target = device["runs"]["probe"]
        if target is None:
            continue
        run = _core.run_gpu_probe(device["index"])
        assert run["device"]["name"] == device["name"]
        assert run["num_elements"] > 10_000_000
        assert run["cooperative"], "every GPU since 6.0 launches cooperatively"
        assert run["num_launches"] == 6
        # The code that ran is the code that the report promised.
        major, minor = device["capability"]
        if target.startswith("sm_"):
            assert run["arch"] == 10 * int("".join(c for c in target[3:] if c.isdigit()))
            assert (run["arch_family"] != 0) == target.endswith(("a", "f"))
        assert run["arch"] <= 100 * major + 10 * minor
        assert run["num_sms_seen"] >= device["num_sms"]
        assert run["local_bytes"] == 0


@pytest.mark.usefixtures("gpu")
def test_the_probe_kernel_moves_memory_at_a_plausible_rate():
    run = _core.run_gpu_probe(0)
    # Slower than PCIe or faster than any memory: then the clock or the byte count is wrong.
    assert 50 < run["gbytes_per_s"] < 20_000
    assert 100 < run["clock_mhz"] < 5_000


def test_a_gpu_that_is_not_there_is_an_error_that_names_it(gpu):
    count = len(gpu["devices"])
    with pytest.raises(Exception, match=rf"no GPU {count}\b") as caught:
        _core.run_gpu_probe(count)
    assert type(caught.value).__name__ != "PanicException"


def test_the_memory_that_may_be_taken_is_a_share_of_what_is_free(gpu):
    for device in gpu["devices"]:
        memory = _core.gpu_memory(device["index"], 0.5)
        assert 0 < memory["budget"] <= memory["free"] / 2
        assert memory["free"] <= memory["total"] == device["memory_bytes"]
    with pytest.raises(ValueError, match="fraction"):
        _core.gpu_memory(0, 1.5)

"""A program of somebody else, on links of a known rate, in a class of traffic: 20 lines."""

import sys

import pytest

FETCH = "import sys, urllib.request as u; print(len(u.urlopen(sys.argv[1]).read()))"


@pytest.mark.experiment("1p1d")
def test_a_download_keeps_to_its_class_and_its_link(fabric, tmp_path):
    (tmp_path / "weights.bin").write_bytes(bytes(5_000_000))
    fabric.mark(8000, "MODEL")  # http.server cannot mark its packets; the fabric can
    fabric.link("pe0-buf:snic").set(rate="100Mbps")
    fabric.popen("store0", [sys.executable, "-m", "http.server", "8000", "-d", str(tmp_path)])
    fabric.wait_listening("store0", 8000)

    url = f"http://{fabric.address('store0', 'snic')}:8000/weights.bin"
    got = fabric.run("pe0-buf", [sys.executable, "-c", FETCH, url])

    assert got.stdout == "5000000\n"
    fabric.ledger.assert_class("pe0-buf:snic", "MODEL", at_least=5_000_000, others_at_most=0)

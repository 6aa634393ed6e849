"""`ray job submit` on a real cluster of one node, with data and storage in an object store: the way of a company.

The cluster is started by `ray start`, the checkout travels as the job's working directory, the object store is moto's
S3 server, and the recipe lies in the store too far from any node to be anything but an address.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import yaml

from deshi.jobs.evidence.schema import Evidence
from deshi.serve.run import free_port
from tests.jobs.test_poc import RECIPE

pytestmark = [pytest.mark.timeout(1200), pytest.mark.whole]

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def store() -> Iterator[dict[str, str]]:
    """The environment of an S3 server with an empty bucket `deshi`."""
    from moto.server import ThreadedMotoServer

    port = free_port()
    server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
    server.start()
    env = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    request = urllib.request.Request(f"{env['AWS_ENDPOINT_URL']}/deshi", method="PUT")
    with urllib.request.urlopen(request, timeout=10) as reply:
        assert reply.status == 200
    yield env
    server.stop()


@pytest.fixture(scope="module")
def bucket(store) -> pafs.FileSystem:
    return pafs.S3FileSystem(
        endpoint_override=store["AWS_ENDPOINT_URL"], access_key="testing", secret_key="testing", region="us-east-1"
    )


@pytest.fixture(scope="module")
def cluster(store) -> Iterator[dict[str, str]]:
    """The environment in which `ray job submit` finds a cluster of one node."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # short: Ray's sockets lie below it
    gcs, dashboard = free_port(), free_port()
    env = os.environ | store | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0", "HOME": folder}
    env.pop("RAY_ADDRESS", None)
    head = subprocess.Popen(
        [
            *(BIN / "ray", "start", "--head", "--block", f"--port={gcs}", f"--dashboard-port={dashboard}"),
            *("--num-cpus=3", f"--temp-dir={folder}", f"--ray-client-server-port={free_port()}"),
            f"--dashboard-agent-listen-port={free_port()}",
        ],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    address = f"http://127.0.0.1:{dashboard}"
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{address}/api/version", timeout=5):
                break
        except OSError:
            time.sleep(0.5)
    yield env | {"RAY_API_SERVER_ADDRESS": address, "PATH": f"{BIN}:{env['PATH']}"}
    head.terminate()
    try:
        head.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(head.pid, 9)
    shutil.rmtree(folder, ignore_errors=True)


def submitted(cluster: dict[str, str], recipe: Path) -> tuple[int, str]:
    command = ["ray", "job", "submit", "--working-dir", ".", "--runtime-env", "cluster/runtime_env.yaml", "--"]
    done = subprocess.run(
        [*command, "deshi", "poc", str(recipe)], cwd=ROOT, env=cluster, capture_output=True, text=True, timeout=900
    )
    return done.returncode, done.stdout + done.stderr


def test_a_submitted_job_reads_and_writes_an_object_store(
    tmp_path: Path, cluster, bucket, tiny_rows: Callable, tiny_model: Callable
):
    tiny_model(tmp_path / "teacher", labels=2)
    for name, rows in (("train", tiny_rows(260, seed=1, unlabelled=200)), ("test", tiny_rows(150, seed=2))):
        with bucket.open_output_stream(f"deshi/rows/{name}.parquet") as stream:
            pq.write_table(rows.drop_columns("row"), stream)
    targets = [*RECIPE["targets"], {"name": "onprem", "threads": 2, "price_per_hour": 15, "server": "ray"}]
    recipe = RECIPE | {
        "storage": "s3://deshi/runs",
        "data": {"train": "s3://deshi/rows/train.parquet", "test": "s3://deshi/rows/test.parquet", "max_length": 32},
        "teacher": RECIPE["teacher"] | {"model": str(tmp_path / "teacher")},
        "targets": targets,
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))

    code, said = submitted(cluster, path)
    assert code == 0, said[-6000:]
    assert "s3://deshi/runs/tiny" in said
    with bucket.open_input_stream("deshi/runs/tiny/evidence.json") as stream:
        evidence = Evidence.model_validate_json(stream.read())
    assert {place.target for row in evidence.models for place in row.targets} >= {"edge", "onprem"}
    verified = subprocess.run(
        [BIN / "deshi", "verify", "s3://deshi/runs/tiny"], env=cluster, capture_output=True, text=True, timeout=120
    )
    assert verified.returncode == 0, verified.stderr
    assert "unchanged" in verified.stdout


def test_storage_inside_the_upload_is_refused_before_work(cluster):
    code, said = submitted(cluster, Path("examples/trec/recipe.yaml"))
    assert code != 0
    assert "temporary upload" in said
    assert "Traceback" not in said
